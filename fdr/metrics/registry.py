"""The metrics by name, with what reports, limits and tables need to know of each; adding one is a line in `METRICS`.

Nothing here imports NumPy or torch before a metric is loaded, so reports and limits are checked without them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fdr.errors import InputError, unknown
from fdr.metrics.names import PEER_NAMES

if TYPE_CHECKING:
    from fdr.metrics.base import Metric


@dataclass(frozen=True)
class MetricInfo:
    """What is known of a metric without computing it."""

    label: str
    """The name that tables show."""
    target: str = ""
    """"module:name" of its `Metric`; metrics of one target are computed together. Empty if no `Metric` computes it."""
    lower_is_better: bool = True
    low: float = 0.0
    """The least possible value."""
    high: float = math.inf
    """The greatest possible value."""
    inception_label: str = ""
    """The name that tables show if the encoder is Inception, where it differs."""
    is_distance: bool = False
    """True for a Fréchet distance between moments."""
    is_size_free: bool = False
    """True if the expected value does not depend on the number of images, so that sets of different size compare."""
    ratio: str = ""
    """The metric that is this one divided by its value for the validation set, where the reference has that."""
    mean: str = ""
    """The metric that is the mean of this one over all encoders of the run."""

    @property
    def values(self) -> str:
        """The possible values in words: "0 or more", "0 to 1"."""
        return f"{self.low:g} or more" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


def _kid(name: str, variant: str, target: str, is_biased: bool = False) -> dict[str, MetricInfo]:
    """The line of a variant of KID; an unbiased one can be negative, and does not depend on the number of images."""
    target, low = f"fdr.metrics.kid:{target}", 0.0 if is_biased else -math.inf
    info = MetricInfo("KD" + variant, target, low=low, inception_label="KID" + variant, is_size_free=not is_biased)
    return {name: info}


_PRDC = "fdr.metrics.prdc:PRDC"

METRICS = {
    "fd": MetricInfo("FD", "fdr.metrics.fd:FD", inception_label="FID", is_distance=True, ratio="fdr"),
    "sfid": MetricInfo("sFID", "fdr.metrics.fd:SFID", is_distance=True),
    "fd_debiased": MetricInfo(
        "FD (debiased)",
        "fdr.metrics.debiased_fd:DEBIASED",
        low=-math.inf,
        inception_label="FID (debiased)",
        is_distance=True,
        is_size_free=True,
        ratio="fdr_debiased",
    ),
    "precision": MetricInfo("Precision", _PRDC, lower_is_better=False, high=1.0),
    "recall": MetricInfo("Recall", _PRDC, lower_is_better=False, high=1.0),
    "precision:prdc": MetricInfo("Precision (prdc)", _PRDC, lower_is_better=False, high=1.0),
    "recall:prdc": MetricInfo("Recall (prdc)", _PRDC, lower_is_better=False, high=1.0),
    "density": MetricInfo("Density", _PRDC, lower_is_better=False, is_size_free=True),
    "coverage": MetricInfo("Coverage", _PRDC, lower_is_better=False, high=1.0),
    "realism": MetricInfo("Realism", _PRDC, lower_is_better=False, is_size_free=True),
    "prd_f8": MetricInfo("PRD F_8", "fdr.metrics.prd:PRD", lower_is_better=False, high=1.0),
    "prd_f1_8": MetricInfo("PRD F_1/8", "fdr.metrics.prd:PRD", lower_is_better=False, high=1.0),
    "authpct": MetricInfo(
        "AuthPct", "fdr.metrics.copying:AUTHPCT", lower_is_better=False, high=100.0, is_size_free=True
    ),
    "fld": MetricInfo("FLD", "fdr.metrics.fld:FLD", low=-math.inf),
    "fld_gap": MetricInfo("FLD gap", "fdr.metrics.fld:FLD", lower_is_better=False, low=-math.inf),
    "ct": MetricInfo("C_T", "fdr.metrics.copying:CT", lower_is_better=False, low=-math.inf),
    "precision:adm": MetricInfo(
        "Precision (ADM)", "fdr.metrics.precision_recall:PRECISION_RECALL_ADM", lower_is_better=False, high=1.0
    ),
    "recall:adm": MetricInfo(
        "Recall (ADM)", "fdr.metrics.precision_recall:PRECISION_RECALL_ADM", lower_is_better=False, high=1.0
    ),
    "fd_inf": MetricInfo("FD_inf", "fdr.metrics.extrapolated:FD_INF", low=-math.inf, inception_label="FID_inf"),
    **_kid("kid", "", "KID"),
    **_kid("kid:biased", " (biased)", "KID", is_biased=True),
    **_kid("kid:ustat", " (U-statistic)", "KID"),
    **_kid("kid:all", " (all pairs)", "KID_ALL"),
    **_kid("kid:rbf", " (RBF)", "KID_RBF"),
    **_kid("kid:rbf_biased", " (RBF, biased)", "KID_RBF", is_biased=True),
    **_kid("kid:rbf_ustat", " (RBF, U-statistic)", "KID_RBF"),
    **_kid("kid:rbf_all", " (RBF, all pairs)", "KID_RBF_ALL"),
    "clip_score": MetricInfo(
        "CLIPScore", "fdr.metrics.clip_score:CLIP_SCORE", lower_is_better=False, high=100.0, is_size_free=True
    ),
    "clip_score:paper": MetricInfo(
        "CLIPScore (w = 2.5)",
        "fdr.metrics.clip_score:PAPER_CLIP_SCORE",
        lower_is_better=False,
        high=2.5,
        is_size_free=True,
    ),
    "cmmd": MetricInfo("CMMD", "fdr.metrics.cmmd:CMMD"),
    "mind": MetricInfo("MIND", "fdr.metrics.sliced:MIND", mean="mind_k"),
    "sw2": MetricInfo("SW2", "fdr.metrics.sliced:SW2"),
    "sw_approx": MetricInfo("SW2 (approximate)", "fdr.metrics.sliced:SW_APPROX"),
    "vendi": MetricInfo("Vendi", "fdr.metrics.vendi:VENDI", lower_is_better=False, low=1.0),
    "vendi:0.5": MetricInfo("Vendi (q = 0.5)", "fdr.metrics.vendi:VENDI", lower_is_better=False, low=1.0),
    "vendi:2": MetricInfo("Vendi (q = 2)", "fdr.metrics.vendi:VENDI", lower_is_better=False, low=1.0),
    "vendi:inf": MetricInfo("Vendi (q = inf)", "fdr.metrics.vendi:VENDI", lower_is_better=False, low=1.0),
    "vendi:class": MetricInfo(
        "Vendi (mean of classes)", "fdr.metrics.vendi:VENDI_PER_CLASS", lower_is_better=False, low=1.0
    ),
    "is": MetricInfo("IS", "fdr.metrics.inception_score:IS", lower_is_better=False, low=1.0),
    "is:adm": MetricInfo("IS (ADM)", "fdr.metrics.inception_score:IS_ADM", lower_is_better=False, low=1.0),
    "is:fdeval": MetricInfo(
        "IS (fd_evaluator)", "fdr.metrics.inception_score:IS_FDEVAL", lower_is_better=False, low=1.0
    ),
    "is_inf": MetricInfo("IS_inf", "fdr.metrics.extrapolated:IS_INF", lower_is_better=False, low=-math.inf),
    "fd_per_class": MetricInfo(
        "FD per class", "fdr.metrics.fd_per_class:FD_PER_CLASS", inception_label="FID per class"
    ),
    "fd_per_class_debiased": MetricInfo(
        "Debiased FD per class",
        "fdr.metrics.fd_per_class:FD_PER_CLASS",
        low=-math.inf,
        inception_label="Debiased FID per class",
        is_size_free=True,
    ),
    "fd_conditional": MetricInfo(
        "Conditional FD",
        "fdr.metrics.conditional_fd:CONDITIONAL",
        low=-math.inf,
        inception_label="Conditional FID",
    ),
    "fd_conditional_debiased": MetricInfo(
        "Conditional FD (debiased)",
        "fdr.metrics.conditional_fd:DEBIASED_CONDITIONAL",
        low=-math.inf,
        inception_label="Conditional FID (debiased)",
        is_size_free=True,
    ),
    "fd_joint": MetricInfo("Joint FD", "fdr.metrics.conditional_fd:JOINT", inception_label="Joint FID"),
    "class_accuracy": MetricInfo(
        "Class accuracy", "fdr.metrics.class_accuracy:CLASS_ACCURACY", lower_is_better=False, high=1.0
    ),
    "class_accuracy_linear": MetricInfo(
        "Class accuracy (linear)", "fdr.metrics.class_accuracy:CLASS_ACCURACY_LINEAR", lower_is_better=False, high=1.0
    ),
    "cas_linear": MetricInfo(
        "Linear feature CAS", "fdr.metrics.feature_cas:CAS_LINEAR", lower_is_better=False, high=1.0
    ),
    "cas_knn": MetricInfo("k-NN feature CAS", "fdr.metrics.feature_cas:CAS_KNN", lower_is_better=False, high=1.0),
}
"""The metrics that `--metrics` takes."""
GROUPS = ("trained", "held_out")
"""The encoders that the generator was trained on, and all others: a mean has a row of its own for each of the two."""
DERIVED = {
    "fdr": MetricInfo("FDr", mean="fdr_k"),
    "fdr_k": MetricInfo("FDr^k"),
    "fdr_k:trained": MetricInfo("FDr^k trained on"),
    "fdr_k:held_out": MetricInfo("FDr^k held out"),
    "mind_k": MetricInfo("MIND^k"),
    "mind_k:trained": MetricInfo("MIND^k trained on"),
    "mind_k:held_out": MetricInfo("MIND^k held out"),
    "fdr_debiased": MetricInfo("FDr (debiased)", low=-math.inf, is_size_free=True, mean="fdr_debiased_k"),
    "fdr_debiased_k": MetricInfo("FDr^k (debiased)", low=-math.inf, is_size_free=True),
    "fdr_debiased_k:trained": MetricInfo("FDr^k trained on (debiased)", low=-math.inf, is_size_free=True),
    "fdr_debiased_k:held_out": MetricInfo("FDr^k held out (debiased)", low=-math.inf, is_size_free=True),
}
"""Metrics that come with others by the rules `ratio` and `mean`; who asks for one asks for the metric that it is of."""
OF_AUTOENCODERS = {
    "ifd": MetricInfo("iFD", inception_label="iFID", is_distance=True),
    "rfd": MetricInfo("rFD", inception_label="rFID", is_distance=True),
    "nfd": MetricInfo("neighbour FD", inception_label="neighbour FID", is_distance=True),
    "psnr": MetricInfo("PSNR (dB)", lower_is_better=False, low=-math.inf),
    "ssim": MetricInfo("SSIM", lower_is_better=False, low=-1.0, high=1.0),
    "ms_ssim": MetricInfo("MS-SSIM", lower_is_better=False, low=-1.0, high=1.0),
    "lpips": MetricInfo("LPIPS"),
}
"""The metrics of `fdr ifid`; "ifd:0.25" is "ifd" at another alpha."""

OF_OTHER_TOOLS = {
    "geneval": MetricInfo("GenEval", lower_is_better=False, high=1.0, is_size_free=True),
    "dpg_bench": MetricInfo("DPG-Bench", lower_is_better=False, high=100.0, is_size_free=True),
    "hpsv3": MetricInfo("HPSv3", lower_is_better=False, low=-math.inf, is_size_free=True),
}
"""The benchmarks whose results `fdr report --add` reads; other tools measure them, on images of their own."""


def metric_info(metric: str) -> MetricInfo | None:
    """What is known of "fd", "is:adm" or "ifd:0.25"; None for a metric that this version does not know."""
    name = "ifd" if metric.startswith("ifd:") else metric
    return next((table[name] for table in (METRICS, DERIVED, OF_AUTOENCODERS, OF_OTHER_TOOLS) if name in table), None)


def ratio_of(metric: str) -> str | None:
    """The metric that this one is the ratio of ("fd" for "fdr"), or None."""
    return next((source for source, info in METRICS.items() if info.ratio == metric), None)


def mean_of(metric: str) -> str | None:
    """The metric that this one is the mean of over encoders ("fdr" for "fdr_k" and "fdr_k:held_out", "mind" for
    "mind_k"), or None.
    """
    name, _, group = metric.partition(":")
    if metric not in DERIVED or group not in ("", *GROUPS):
        return None
    return next((source for source, info in (METRICS | DERIVED).items() if info.mean == name), None)


def peer_name(name: str) -> str | None:
    """The rest of a sentence about a name that other tools have for a metric, in any case: "is not offered yet"; or
    None.
    """
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    return None if plain in METRICS else PEER_NAMES.get(plain)


def load_metrics(names: str | Sequence[str]) -> dict[str, Metric]:
    """The metrics for "fd,is" or a list of names, in any case. Names with one target share one object.

    Raises `InputError` with near matches.
    """
    split = names.split(",") if isinstance(names, str) else list(names)
    asked = [name.strip() for name in split if name.strip()]
    wanted = list(dict.fromkeys(_measured_with(name.lower()) or name for name in asked))
    if not wanted:
        raise InputError(f"No metric was named; known: {', '.join(METRICS)}.")
    by_target: dict[str, list[str]] = {}
    for name in wanted:
        if name not in METRICS:
            raise unknown("metric", name, METRICS, peers=peer_name)
        by_target.setdefault(METRICS[name].target, []).append(name)
    loaded = {target: replace(_import(target), names=tuple(names)) for target, names in by_target.items()}
    return {name: loaded[METRICS[name].target] for name in wanted}


def _measured_with(name: str) -> str | None:
    """The metric to compute for a name: itself, or the one that a derived metric comes with; None if unknown."""
    while name in DERIVED:
        name = name.partition(":")[0]
        name = next(source for source, info in (METRICS | DERIVED).items() if name in (info.ratio, info.mean))
    return name if name in METRICS else None


def _import(target: str) -> Metric:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
