"""The metrics that a run asks for on its encoders, and what they need of the samples, the reference and others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fdr.encoders import ROWS, AbstractEncoder
from fdr.errors import InputError
from fdr.evaluation.labels import check_labelled
from fdr.evaluation.measurement import Needs
from fdr.images import ImageSource
from fdr.metrics import Metric, Need, Side


@dataclass(frozen=True)
class Requested:
    """Metrics by name, and encoders."""

    metrics: Mapping[str, Metric]
    encoders: Sequence[AbstractEncoder]

    def check_apply(self) -> None:
        """Raise `InputError` for a metric that reads an output which no encoder gives."""
        applied = {name for encoder in self.encoders for name, _, _ in self.applied(encoder)}
        for name, metric in self.metrics.items():
            if name not in applied and metric.prompt:
                raise _no_text_tower(name, self.encoders)
            if name not in applied:
                encoders = ", ".join(encoder.spec.name for encoder in self.encoders)
                example = next((row.name for row in ROWS if row.output == metric.output), "inception")
                raise InputError(
                    f"Metric {name!r} needs the output {metric.output!r}, which {encoders} does not give; use an "
                    f"encoder that gives it, such as {example}."
                )

    def applied(self, encoder: AbstractEncoder, side: Side = "samples") -> Iterator[tuple[str, Metric, Need]]:
        """The metrics that apply to an encoder and read this side, by name, with what each needs of it."""
        for name, metric in self.metrics.items():
            need = metric.need(encoder.spec.output, encoder.outputs, side)
            reads_texts = not metric.prompt or encoder.load_texts is not None
            if need is not None and metric.needs(side) and reads_texts:
                yield name, metric, need

    def needs(self, side: Side = "samples") -> Needs:
        """The needs of the metrics for each encoder, on one side."""
        return {
            encoder.spec.name: list(dict.fromkeys(need for *_, need in self.applied(encoder, side)))
            for encoder in self.encoders
        }

    def check_labelled(self, side: Side, source: ImageSource | None) -> None:
        """Raise `InputError` if a metric needs the classes of this side, and the images have none."""
        for name, metric in self.metrics.items():
            if source is not None and side in metric.labels:
                check_labelled(source, side, name)


def _no_text_tower(metric: str, encoders: Sequence[AbstractEncoder]) -> InputError:
    names = ", ".join(encoder.spec.name for encoder in encoders)
    return InputError(
        f"Metric {metric!r} needs an encoder with a text tower, and {names} has none; use one of CLIP, such as "
        "openclip:ViT-B-32-quickgelu/openai or hf:openai/clip-vit-large-patch14."
    )


def without_stderr(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """The metrics without the features that they want for standard errors alone, so that moments may come from a cache.

    Metrics that were one object are one object again.
    """
    plain = {metric: replace(metric, rows="") for metric in metrics.values() if metric.rows == "wanted"}
    return {name: plain.get(metric, metric) for name, metric in metrics.items()}


def need_of(metric: Metric, encoder: AbstractEncoder, side: Side) -> Need:
    """What a metric that applies to an encoder needs of one side."""
    need = metric.need(encoder.spec.output, encoder.outputs, side)
    assert need is not None
    return need
