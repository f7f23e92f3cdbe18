"""Names of metrics: in any case, with what other tools call them; what is known of each metric."""

from __future__ import annotations

import math

import pytest

from fdr.errors import InputError
from fdr.metrics import DERIVED, METRICS, Metric, load_metrics, mean_of, metric_info, peer_name
from fdr.metrics.names import PEER_NAMES
from fdr.metrics.registry import OF_AUTOENCODERS

UNBIASED_KID = {
    "": "", ":ustat": " (U-statistic)", ":all": " (all pairs)", ":rbf": " (RBF)", ":rbf_ustat": " (RBF, U-statistic)",
    ":rbf_all": " (RBF, all pairs)",
}  # fmt: skip
# label, lower is better, smallest and largest value, as the literature defines each
KNOWN = {
    "fd": ("FD", True, 0, math.inf), "sfid": ("sFID", True, 0, math.inf),
    "fd_debiased": ("FD (debiased)", True, -math.inf, math.inf),
    "precision": ("Precision", False, 0, 1), "recall": ("Recall", False, 0, 1),
    "precision:prdc": ("Precision (prdc)", False, 0, 1), "recall:prdc": ("Recall (prdc)", False, 0, 1),
    "density": ("Density", False, 0, math.inf), "coverage": ("Coverage", False, 0, 1),
    "realism": ("Realism", False, 0, math.inf),
    "authpct": ("AuthPct", False, 0, 100), "ct": ("C_T", False, -math.inf, math.inf),
    "fld": ("FLD", True, -math.inf, math.inf), "fld_gap": ("FLD gap", False, -math.inf, math.inf),
    "prd_f8": ("PRD F_8", False, 0, 1), "prd_f1_8": ("PRD F_1/8", False, 0, 1),
    "precision:adm": ("Precision (ADM)", False, 0, 1), "recall:adm": ("Recall (ADM)", False, 0, 1),
    **{f"kid{end}": (f"KD{text}", True, -math.inf, math.inf) for end, text in UNBIASED_KID.items()},
    "clip_score": ("CLIPScore", False, 0, 100), "clip_score:paper": ("CLIPScore (w = 2.5)", False, 0, 2.5),
    "cmmd": ("CMMD", True, 0, math.inf), "mind": ("MIND", True, 0, math.inf), "mind_k": ("MIND^k", True, 0, math.inf),
    "mind_k:trained": ("MIND^k trained on", True, 0, math.inf), "sw2": ("SW2", True, 0, math.inf),
    "mind_k:held_out": ("MIND^k held out", True, 0, math.inf), "sw_approx": ("SW2 (approximate)", True, 0, math.inf),
    **{f"vendi{end}": (f"Vendi{text}", False, 1, math.inf) for end, text in {
        "": "", ":0.5": " (q = 0.5)", ":2": " (q = 2)", ":inf": " (q = inf)", ":class": " (mean of classes)"}.items()},
    "kid:biased": ("KD (biased)", True, 0, math.inf), "kid:rbf_biased": ("KD (RBF, biased)", True, 0, math.inf),
    "fd_per_class": ("FD per class", True, 0, math.inf),
    "fd_per_class_debiased": ("Debiased FD per class", True, -math.inf, math.inf),
    "fd_conditional": ("Conditional FD", True, -math.inf, math.inf), "fd_joint": ("Joint FD", True, 0, math.inf),
    "fd_conditional_debiased": ("Conditional FD (debiased)", True, -math.inf, math.inf),
    "class_accuracy": ("Class accuracy", False, 0, 1),
    "class_accuracy_linear": ("Class accuracy (linear)", False, 0, 1),
    "cas_linear": ("Linear feature CAS", False, 0, 1), "cas_knn": ("k-NN feature CAS", False, 0, 1),
    "is": ("IS", False, 1, math.inf), "is:adm": ("IS (ADM)", False, 1, math.inf),
    "is:fdeval": ("IS (fd_evaluator)", False, 1, math.inf),
    "fd_inf": ("FD_inf", True, -math.inf, math.inf), "is_inf": ("IS_inf", False, -math.inf, math.inf),
    "fdr": ("FDr", True, 0, math.inf), "fdr_k": ("FDr^k", True, 0, math.inf),
    "fdr_k:trained": ("FDr^k trained on", True, 0, math.inf),
    "fdr_k:held_out": ("FDr^k held out", True, 0, math.inf),
    "fdr_debiased": ("FDr (debiased)", True, -math.inf, math.inf),
    "fdr_debiased_k": ("FDr^k (debiased)", True, -math.inf, math.inf),
    "fdr_debiased_k:trained": ("FDr^k trained on (debiased)", True, -math.inf, math.inf),
    "fdr_debiased_k:held_out": ("FDr^k held out (debiased)", True, -math.inf, math.inf),
    "ifd": ("iFD", True, 0, math.inf), "rfd": ("rFD", True, 0, math.inf), "nfd": ("neighbour FD", True, 0, math.inf),
    "psnr": ("PSNR (dB)", False, -math.inf, math.inf), "ssim": ("SSIM", False, -1, 1),
    "ms_ssim": ("MS-SSIM", False, -1, 1), "lpips": ("LPIPS", True, 0, math.inf),
}  # fmt: skip


def test_what_is_known_of_each_metric() -> None:
    tables = METRICS | DERIVED | OF_AUTOENCODERS
    found = {name: (info.label, info.lower_is_better, info.low, info.high) for name, info in tables.items()}
    assert found == KNOWN
    assert all(metric_info(name) is info for name, info in tables.items())
    assert metric_info("ifd:0.25") == metric_info("ifd") and metric_info("new") is None


def test_every_line_of_the_registry_leads_to_a_metric() -> None:
    loaded = load_metrics(list(METRICS))
    assert list(loaded) == list(METRICS)
    for name, metric in loaded.items():
        assert isinstance(metric, Metric) and name in metric.names


def test_names_in_any_case() -> None:
    assert list(load_metrics("FD, Is:ADM,FDr")) == ["fd", "is:adm"]
    assert list(load_metrics("FDr_k,is")) == ["fd", "is"]
    assert list(load_metrics("fdr_k:held_out,is")) == ["fd", "is"]


def test_what_a_metric_is_the_mean_of() -> None:
    means = {name: mean_of(name) for name in METRICS | DERIVED | OF_AUTOENCODERS}
    ratios = (("fdr_k", "fdr"), ("fdr_debiased_k", "fdr_debiased"), ("mind_k", "mind"))
    assert {name: of for name, of in means.items() if of} == {
        f"{mean}{group}": of for mean, of in ratios for group in ("", ":trained", ":held_out")
    }
    assert mean_of("fdr_k:6") is None and mean_of("new") is None


@pytest.mark.parametrize("name, sentence", [
    ("kid50k_full", "it is the metric kid"),
    ("ppl", "it is not offered yet. Known: .*, fd, .*, is,"),
    ("FID", r"it is the metric fd of the encoder inception \(metrics='fd' encoders='inception'"),
    ("Clean-FID", "encoder inception:clean"),
    ("clip_mmd", "it is the metric cmmd, of the encoder clip:cmmd"),
    ("MIND6", "it is mind_k, which comes with mind of several encoders"),
    ("PRDC", "stands for several metrics: precision, recall, density, coverage"),
    ("CLIPScore", "it is the metric clip_score, with (--)?prompts"),
    ("ImageReward", "it is not offered; clip_score compares images with their prompts"),
    ("LPIPS", "an autoencoder; fdr ifid and fdr recon measure it"),
    ("precisoin", "did you mean 'precision'"),
    ("xyz", "; known: .*, fd, .*, is,"),
])  # fmt: skip
def test_the_names_of_other_tools(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=f"Unknown metric '{name}'.*{sentence}") as caught:
        load_metrics(name)
    assert "sfid'" not in str(caught.value)


def test_the_table_of_other_names_is_looked_up_as_it_is_written() -> None:
    assert all(peer_name(name) == text for name, text in PEER_NAMES.items() if name not in METRICS)


def test_a_name_that_fdr_offers_is_not_that_of_another_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peer_name("PPL") is not None
    monkeypatch.setitem(METRICS, "ppl", metric_info("fd"))
    assert peer_name("PPL") is None


def test_the_distances_and_their_names_with_inception() -> None:
    tables = METRICS | DERIVED | OF_AUTOENCODERS
    assert {name for name, info in tables.items() if info.is_distance} == {
        "fd", "sfid", "fd_debiased", "ifd", "rfd", "nfd",
    }  # fmt: skip
    assert {name: info.inception_label for name, info in tables.items() if info.inception_label} == {
        "fd": "FID", "fd_debiased": "FID (debiased)", "fd_inf": "FID_inf", "ifd": "iFID", "rfd": "rFID",
        "nfd": "neighbour FID",
        "fd_per_class": "FID per class", "fd_per_class_debiased": "Debiased FID per class",
        "fd_conditional": "Conditional FID", "fd_joint": "Joint FID",
        "fd_conditional_debiased": "Conditional FID (debiased)",
        **{name: label.replace("KD", "KID") for name, (label, *_) in KNOWN.items() if name.startswith("kid")},
    }  # fmt: skip
