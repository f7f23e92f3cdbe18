"""Labels, better direction and possible values of each metric by its name, and the names that other tools use.

This is data alone, so that reports and limits are checked without NumPy and torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricFacts:
    """A metric as tables write it, and which values it can have."""

    label: str
    lower_is_better: bool
    low: float = 0.0
    """The least possible value."""
    high: float = math.inf
    """The greatest possible value."""

    @property
    def values(self) -> str:
        """The possible values in words: "0 or more", "0 to 1"."""
        return f"{self.low:g} or more" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


FACTS = {
    "fd": MetricFacts("FD", True),
    "sfid": MetricFacts("sFID", True),
    "fdr": MetricFacts("FDr", True),
    "fdr_k": MetricFacts("FDr^k", True),
    "is": MetricFacts("IS", False, low=1.0),
    "is:adm": MetricFacts("IS (ADM)", False, low=1.0),
    "precision": MetricFacts("Precision", False, high=1.0),
    "recall": MetricFacts("Recall", False, high=1.0),
    "precision:adm": MetricFacts("Precision (ADM)", False, high=1.0),
    "recall:adm": MetricFacts("Recall (ADM)", False, high=1.0),
    "ifd": MetricFacts("iFD", True),
    "rfd": MetricFacts("rFD", True),
    "nfd": MetricFacts("neighbour FD", True),
    "psnr": MetricFacts("PSNR (dB)", False, low=-math.inf),
    "ssim": MetricFacts("SSIM", False, low=-1.0, high=1.0),
    "ms_ssim": MetricFacts("MS-SSIM", False, low=-1.0, high=1.0),
    "lpips": MetricFacts("LPIPS", True),
}
DISTANCES = frozenset({"fd", "sfid", "ifd", "rfd", "nfd"})
"""The metrics that are a Fréchet distance between moments; "ifd:0.25" is one of "ifd"."""
CALLED_FID = frozenset({"fd", "ifd", "rfd", "nfd"})
"""The distances that people call FID where the encoder is Inception."""


def metric_facts(metric: str) -> MetricFacts | None:
    """The facts of "fd", "is:adm" or "ifd:0.25"; None for a metric that this version does not know."""
    return FACTS.get("ifd" if metric.startswith("ifd:") else metric)


_OF_AUTOENCODERS = "is a number of an autoencoder; fdr ifid measures it"
_NOT_YET = "is not offered yet"
_FD = "is the metric fd"
_WITH_INCEPTION = f"{_FD} of the encoder inception (--metrics fd --reps inception, and fd:inception in limits)"
_NO_PROMPTS = "compares images with texts, and fdr measures images alone"

PEER_NAMES = {
    **dict.fromkeys(("fid", "fid50k", "fid10k", "fid5k", "fid50k_full", "frechet_inception_distance"), _WITH_INCEPTION),
    **dict.fromkeys(("frechet", "frechet_distance", "fad", "wasserstein"), _FD),
    **dict.fromkeys(("clean_fid", "fid_clean", "cleanfid"), f"{_FD} of the encoder inception:clean"),
    **dict.fromkeys(("pytorch_fid",), f"{_FD} of the encoder inception:pytorch-fid"),
    **dict.fromkeys(("fd_dino", "fd_dinov2", "dino_fd", "dinov2_fd", "dino_fid"), f"{_FD} of an encoder dinov2"),
    **dict.fromkeys(("clip_fid", "clip_fd", "fid_clip", "fd_clip"), f"{_FD} of an encoder clip (clip:clean-fid)"),
    **dict.fromkeys(
        ("fid_infinity", "fid_inf"), f"{_NOT_YET}; the metric fd is, at the number of samples that you give"
    ),
    **dict.fromkeys(("spatial_fid", "s_fid", "fd_spatial"), "is the metric sfid"),
    **dict.fromkeys(("isc", "inception_score", "inceptionscore", "inception"), "is the metric is"),
    **dict.fromkeys(
        ("fdr6", "fdr^6", "fdr^k", "fdrk"), "is fdr_k, which comes with fd of several encoders (--reps fdr6)"
    ),
    **dict.fromkeys(
        ("kid", "kid50k", "kid50k_full", "mmd", "kernel_inception_distance"), f"{_NOT_YET}; fd is the nearest"
    ),
    **dict.fromkeys(("cmmd", "clip_mmd", "jmmd"), f"{_NOT_YET}; fd of the encoder clip:cmmd is the nearest"),
    **dict.fromkeys(
        ("prdc", "prc", "pr", "pr50k3_full", "precision_recall", "precision_and_recall"),
        "stands for several metrics; precision and recall are offered, density and coverage are not yet",
    ),
    **dict.fromkeys(("density", "coverage"), f"{_NOT_YET}; precision and recall are"),
    **dict.fromkeys(
        ("clip", "clip_score", "clipscore", "image_reward", "imagereward", "pickscore", "hps"), _NO_PROMPTS
    ),
    **dict.fromkeys(("vqascore", "vqa_score", "geneval"), _NO_PROMPTS),
    **dict.fromkeys(("ppl", "ppl2_wend", "perceptual_path_length", "vendi", "vendi_score", "fld", "fls"), _NOT_YET),
    **dict.fromkeys(("authpct", "ct", "realism", "rarity", "topp&r", "swd", "gs", "nnd"), _NOT_YET),
    **dict.fromkeys(("ifd", "ifid", "rfd", "rfid", "nfd", "psnr", "ssim", "ms_ssim", "lpips"), _OF_AUTOENCODERS),
    **dict.fromkeys(("mse", "l1", "l2", "dists"), f"{_NOT_YET}; fdr ifid measures PSNR, SSIM, MS-SSIM and LPIPS"),
}
"""What other tools' names of metrics mean here, as the rest of a sentence; in lower case, with underscores."""


def peer_name(name: str) -> str | None:
    """The rest of a sentence about a metric that other tools know, in any case: "is not offered yet"; or None."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    return PEER_NAMES.get(plain)
