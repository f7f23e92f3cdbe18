"""The results of an interpolated FID, with their provenance, as rows of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fdr.encoders import AbstractEncoder
from fdr.evaluation import PlannedResult, Provenance
from fdr.frechet import Moments
from fdr.ifid.autoencoders.base import AutoencoderSpec
from fdr.ifid.decoded import NEIGHBOURS, RECONSTRUCTIONS, between
from fdr.ifid.options import IfidOptions
from fdr.images import ImageSource
from fdr.metrics import Context, Score, fd_score
from fdr.reports import Origin, Result, images_signature

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Scores:
    """The provenance that all results of a run share."""

    images: ImageSource
    neighbours: ImageSource
    autoencoder: AutoencoderSpec
    options: IfidOptions
    count: int

    @property
    def policy(self) -> Mapping[str, str]:
        """The image policy of decoded images: cropped as the originals, with their own quantisation."""
        return {**self.images.policy, "quantize": self.options.quantize}

    @property
    def origin(self) -> Origin:
        """The origin of the reference moments: the originals."""
        return Origin(self.images.name, self.images.digest or "", self.count)

    def decoding(self) -> dict[str, str]:
        """Settings that decide reconstructions."""
        return decoding_of(self.autoencoder, self.options.clamp)

    def pairing(self) -> dict[str, str]:
        """Settings that decide the neighbours."""
        digest = self.neighbours.digest
        options = self.options
        return {
            "nb": f"{self.neighbours.name}:{digest[:8]}" if digest else self.neighbours.name,
            "by": options.distance + ("-same-class" if options.same_class else ""),
            "k": str(options.top_k),
            "draw": str(options.seed),
            "lat": options.latent_dtype,
        }


def decoding_of(autoencoder: AutoencoderSpec, is_clamped: bool) -> dict[str, str]:
    """Fields of a signature that say how images were reconstructed."""
    posterior = {"sample": f"sample-{autoencoder.seed}", "mean": "mean"}.get(autoencoder.posterior)
    return {
        "ae": f"{autoencoder.name}:{autoencoder.hash[:8]}",
        **({} if posterior is None else {"z": posterior}),
        "clamp": "yes" if is_clamped else "no",
    }


def results(
    scores: Scores,
    encoders: Mapping[str, AbstractEncoder],
    moments: Mapping[str, Mapping[str, Moments]],
    qualities: Mapping[str, np.ndarray],
    device: torch.device,
) -> Iterator[Result]:
    """For each encoder, iFD at every alpha and FD of reconstructions and of decoded neighbours; then the qualities."""
    context = Context(device=str(device) if device.type == "cuda" else None)
    for name, encoder in encoders.items():
        for variant, label, settings in _variants(scores):
            score = fd_score(moments[variant][name], moments["originals"][name], context)
            spec = encoder.spec
            provenance = Provenance(spec, spec.output, scores.policy, scores.count, scores.origin, settings)
            yield provenance.row(label).result(score)
    compat = {} if scores.options.compat is None else {"compat": scores.options.compat}
    yield from quality_results(qualities, scores.policy, scores.origin, {**scores.decoding(), **compat})


def quality_results(
    qualities: Mapping[str, np.ndarray], policy: Mapping[str, str], origin: Origin, settings: Mapping[str, str]
) -> Iterator[Result]:
    """The mean over the images of each quality [N], with its standard error."""
    settings = {**settings, "ref": f"{origin.name}:{origin.digest[:8]}"}
    for name, values in qualities.items():
        signature = images_signature(name, policy, len(values), settings)
        mean, spread = values.mean(dtype=np.float64), values.std(ddof=1, dtype=np.float64)
        score = Score(float(mean), float(spread) / len(values) ** 0.5)
        yield PlannedResult(name, None, None, len(values), signature).result(score)


def _variants(scores: Scores) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield (name of the decoded images, metric, settings) for each FD."""
    options, decoding = scores.options, scores.decoding()
    pairing = {**decoding, **scores.pairing()}
    for alpha in (options.alpha, *sorted(options.alphas[:-1])):
        label = "ifd" if alpha == options.alpha else f"ifd:{alpha:g}"
        yield between(alpha), label, {**pairing, "mix": f"{options.mode}-{options.used_alpha(alpha):g}"}
    yield RECONSTRUCTIONS, "rfd", decoding
    yield NEIGHBOURS, "nfd", pairing
