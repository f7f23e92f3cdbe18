"""`compute_metrics` of fd_evaluator, the evaluator of DiffusionBench: the same call and keys, computed by fdr.

    from fdr.compat.fd_evaluator import compute_metrics  # was: from fd_evaluator import compute_metrics

docs/fd-evaluator.md says what is the same, to which tolerance, and what was not verified.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fdr.compat.nanogen_statistics import find_statistics, load_statistics
from fdr.encoders import AbstractEncoder, EncoderOptions, load_encoders
from fdr.errors import InputError, unknown
from fdr.evaluation import Measurement, measure, outputs_of
from fdr.features import Extraction, ExtractionOptions
from fdr.frechet import Moments, frechet_distance
from fdr.images import ImageSource, open_images
from fdr.metrics import CollectedFeatures, Context, Need, load_metrics, mind_score
from fdr.references import registry
from fdr.runtime import Progress, as_path, as_progress, named_arguments, path_in_environment

EXTRACTORS = {
    "inception": "inception",
    "convnext": "convnext",
    "dinov2_cls": "dinov2",
    "mae_cls": "mae",
    "siglip_cls": "siglip",
    "clip_cls": "clip",
}
"""The encoders by the names that fd_evaluator gives them, in its order."""
BUNDLES = {"fdr6": "fdr", "mind6": "mind"}
"""Its bundles, and the number of each encoder that each has."""
NORMALISERS = "imagenet256"
"""The reference of fdr with the published validation FDs, by which FD is divided."""
REFERENCE_IMAGES = "NANOGEN_EVALS_REF_IMAGES"
"""The environment variable with the reference images for MIND."""
FID_REFERENCE = "imagenet_256_fid_stats"
_INCEPTION_SCORE = "is:fdeval"


def list_extractors() -> list[str]:
    """The encoders that a metric may name."""
    return list(EXTRACTORS)


def list_bundles() -> list[str]:
    """The metrics that stand for one number of each encoder."""
    return list(BUNDLES)


@named_arguments
def compute_metrics(
    images: Any,
    metrics: Sequence[str],
    *,
    fid_reference: str | os.PathLike[str] = FID_REFERENCE,
    reference_images: Any = None,
    device: str | None = None,
    batch_size: int = 64,
    num_projections: int = 1000,
    rng_seed: int = 2020,
    feature_cache_dir: str | os.PathLike[str] | None = None,
    feature_cache_key: str | None = None,
    reference_feature_cache_key: str | None = None,
    verbose: bool = True,
) -> dict[str, float]:
    """The numbers that `fd_evaluator.compute_metrics` gives for a sample set, by its names.

    `images` is uint8 [N, H, W, 3], the path of an .npz file, or anything else that `fdr.open_images` reads. `metrics`
    are "fid", "inception_score", "fdr6" (the FDr of six encoders and their mean), "mind6" (the MIND of six encoders),
    "fdr_NAME" and "mind_NAME" for a single encoder; "fd_NAME" is "fdr_NAME", as there. MIND needs `reference_images`,
    or their path in `NANOGEN_EVALS_REF_IMAGES`. `fid_reference` is a name that `list_references` gives, or the path of
    a statistics file. `num_projections` and `rng_seed` belong to MIND. `device` None is a GPU if there is one.

    Features are kept in `feature_cache_dir` if the key of the set (`feature_cache_key`, `reference_feature_cache_key`)
    is given. They are found again by the content of the images, so no key can bring back those of other images.

    Raises `InputError` for anything unusable, before an image is encoded.
    """
    asked = _Asked.of(metrics)
    shown = as_progress(verbose)
    folder = None if feature_cache_dir is None else as_path(feature_cache_dir, "the feature cache")
    source = open_images(images)
    real = _reference_images(reference_images) if asked.mind else None
    statistics = {key: find_statistics(name) for key, name in asked.statistics(fid_reference).items()}
    loaded = load_encoders([EXTRACTORS[name] for name in asked.encoders], EncoderOptions(device=device, progress=shown))
    encoders = dict(zip(asked.encoders, loaded, strict=True))
    references = {
        key: load_statistics(found, encoders["inception" if key == "fid" else key], shown)
        for key, found in statistics.items()
    }

    def options(key: str | None) -> ExtractionOptions:
        return ExtractionOptions(None if key is None else folder, batch_size, progress=shown)

    measured = _measured(source, encoders, asked.needs(encoders), options(feature_cache_key))
    features: dict[str, np.ndarray] = {}
    if real is not None:
        needs = {name: [_features(encoders[name])] for name in asked.mind}
        found = _measured(real, encoders, needs, options(reference_feature_cache_key))
        features = {name: found.of(encoders[name].spec.name, _features(encoders[name])) for name in asked.mind}
    mind = _Mind(num_projections, rng_seed, shown)
    return _Numbers(measured, encoders, references, features, mind).of(asked)


@dataclass(frozen=True)
class _Asked:
    """The numbers that a list of metrics asks for; encoders have the names of fd_evaluator and its order."""

    has_fid: bool
    has_score: bool
    has_mean: bool
    ratios: tuple[str, ...]
    """The encoders of which FDr is asked for."""
    mind: tuple[str, ...]

    @staticmethod
    def of(metrics: Sequence[str]) -> _Asked:
        """Raises `InputError` for a name that fd_evaluator does not know, which it would leave out."""
        names = [name.strip() for name in metrics.split(",")] if isinstance(metrics, str) else list(metrics)
        known = {"fid", "inception_score", *BUNDLES}
        known |= {f"{kind}_{name}" for kind in ("fdr", "fd", "mind") for name in EXTRACTORS}
        wrong = next((name for name in names if name not in known), None)
        if wrong is not None or not names:
            raise unknown("metric", str(wrong or ""), known)

        def of_kind(bundle: str, *kinds: str) -> tuple[str, ...]:
            return tuple(e for e in EXTRACTORS if bundle in names or any(f"{kind}_{e}" in names for kind in kinds))

        ratios, mind = of_kind("fdr6", "fdr", "fd"), of_kind("mind6", "mind")
        return _Asked("fid" in names, "inception_score" in names, "fdr6" in names, ratios, mind)

    @property
    def encoders(self) -> list[str]:
        """The encoders that are needed."""
        also = {"inception"} if self.has_fid or self.has_score else set()
        return [name for name in EXTRACTORS if name in {*self.ratios, *self.mind, *also}]

    def statistics(self, fid_reference: str | os.PathLike[str]) -> dict[str, str | Path]:
        """The statistics that are needed: by encoder for its FDr, and under "fid"."""
        rows = registry()[NORMALISERS].encoders
        found: dict[str, str | Path] = {name: Path(rows[EXTRACTORS[name]].alias).stem for name in self.ratios}
        if self.has_fid:
            found["fid"] = as_path(fid_reference, "fid_reference")
        return found

    def needs(self, encoders: Mapping[str, AbstractEncoder]) -> dict[str, list[Need]]:
        """The collected features and moments of the samples that the metrics need, by encoder."""
        found: dict[str, list[Need]] = {}
        for name, encoder in encoders.items():
            has_moments = name in self.ratios or (name == "inception" and self.has_fid)
            found[name] = [Need(encoder.spec.output)] if has_moments else []
            found[name] += [_features(encoder)] if name in self.mind else []
            found[name] += [_logits(encoder)] if name == "inception" and self.has_score else []
        return found


def _features(encoder: AbstractEncoder) -> Need:
    return Need(encoder.spec.output, CollectedFeatures)


def _logits(encoder: AbstractEncoder) -> Need:
    need = load_metrics(_INCEPTION_SCORE)[_INCEPTION_SCORE].need(encoder.spec.output, encoder.outputs)
    assert need is not None
    return need


def _measured(
    source: ImageSource,
    encoders: Mapping[str, AbstractEncoder],
    needs: Mapping[str, Sequence[Need]],
    options: ExtractionOptions,
) -> Measurement:
    """One pass over the images for all encoders that are needed."""
    wanted = {encoders[name].spec.name: list(of_one) for name, of_one in needs.items()}
    measured = measure(Extraction(source, [encoders[name] for name in needs], outputs_of(wanted), options), wanted)
    assert measured is not None
    return measured


def _reference_images(given: Any) -> ImageSource:
    images = path_in_environment(REFERENCE_IMAGES) if given is None else given
    if images is None:
        raise InputError(
            "MIND compares with images, not with statistics; give reference_images, such as imagenet-256-val.npz, or "
            f"set {REFERENCE_IMAGES} to its path."
        )
    return open_images(images)


@dataclass(frozen=True)
class _Mind:
    directions: int
    seed: int
    progress: Progress

    def of(self, samples: np.ndarray, reference: np.ndarray, encoder: AbstractEncoder) -> float:
        device = str(encoder.device) if encoder.device.type == "cuda" else None
        context = Context(names=(f"MIND {encoder.spec.name}",), device=device, stderr=False, progress=self.progress)
        return mind_score(samples, reference, context, directions=self.directions, seed=self.seed).value


@dataclass(frozen=True)
class _Numbers:
    """The numbers of one sample set; what was measured and loaded is by fd_evaluator's names of the encoders."""

    measured: Measurement
    encoders: Mapping[str, AbstractEncoder]
    references: Mapping[str, Moments]
    features: Mapping[str, np.ndarray]
    mind: _Mind

    def of(self, asked: _Asked) -> dict[str, float]:
        found: dict[str, float] = {}
        rows = registry()[NORMALISERS].encoders
        if asked.has_score:
            found["inception_score"] = self._score()
        for name in asked.encoders:
            if name in asked.ratios:
                below = rows[EXTRACTORS[name]].val_fd
                assert below is not None
                found[f"fdr_{name}"] = self._fd(name, name) / below.value
            if name == "inception" and asked.has_fid:
                found["fid"] = self._fd(name, "fid")
            if name in asked.mind:
                encoder = self.encoders[name]
                samples = self.measured.of(encoder.spec.name, _features(encoder))
                found[f"mind_{name}"] = self.mind.of(samples, self.features[name], encoder)
        if asked.has_mean:
            found["fdr6"] = sum(found[f"fdr_{name}"] for name in EXTRACTORS) / len(EXTRACTORS)
        return found

    def _fd(self, name: str, reference: str) -> float:
        encoder = self.encoders[name]
        samples = self.measured.of(encoder.spec.name, Need(encoder.spec.output))
        return frechet_distance(samples, self.references[reference], device=encoder.device)

    def _score(self) -> float:
        encoder = self.encoders["inception"]
        metric = load_metrics(_INCEPTION_SCORE)[_INCEPTION_SCORE]
        collected = self.measured.of(encoder.spec.name, _logits(encoder))
        return metric.scores(collected, None, Context())[_INCEPTION_SCORE].value


def format_results(results: Mapping[str, float]) -> str:
    """The numbers of `compute_metrics` as a table, with a line for each: FID and score, then FDr, then MIND."""
    width = max(map(len, results), default=0)
    parts = (
        [name for name in results if not name.startswith(("fdr", "mind"))],
        [name for name in results if name.startswith("fdr")],
        [name for name in results if name.startswith("mind")],
    )
    return "\n\n".join("\n".join(f"{name:<{width}}  {results[name]:10.4f}" for name in part) for part in parts if part)
