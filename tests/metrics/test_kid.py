"""KID: torch-fidelity as the oracle of subsets, NumPy for all pairs, and standard errors against repeated draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fdr.errors import InputError
from fdr.metrics import Context, Score, load_metrics
from fdr.metrics import kernels as kernel_sums
from fdr.metrics import kid as module
from fdr.metrics.kernels import Gaussian, polynomial

DRAWN = ("kid", "kid:biased", "kid:ustat", "kid:rbf", "kid:rbf_biased", "kid:rbf_ustat")


def draw(seed: int, count: int, dim: int = 16, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, dim)) + shift).astype(np.float32)


def score(name: str, samples: np.ndarray, reference: np.ndarray, context: Context | None = None) -> Score:
    return load_metrics(name)[name].scores(samples, reference, context or Context())[name]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subsets of 40, and blocks that do not divide the sets."""
    for owner, name, value in (
        (module, "SUBSETS", 12), (module, "SUBSET_SIZE", 40), (kernel_sums, "STRIP_ROWS", 17),
        (kernel_sums, "BLOCK_COLUMNS", 23), (kernel_sums, "NORM_ROWS", 9),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, value)


def poly_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x.astype(float) @ y.T.astype(float) / x.shape[1] + 1) ** 3


def rbf_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.exp(-((x[:, None].astype(float) - y[None]) ** 2).sum(-1) / 200)


def mmd(x: np.ndarray, y: np.ndarray, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray], estimate: str) -> float:
    """By the definitions of Gretton et al. 2012."""
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    if estimate == "biased":
        return xx.mean() + yy.mean() - 2 * xy.mean()
    n, m = len(x), len(y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return within - 2 * ((xy.sum() - np.trace(xy)) / (n * (n - 1)) if estimate == "ustat" else xy.mean())


@pytest.mark.parametrize("kernel", ["poly", "rbf"])
@pytest.mark.parametrize("counts", [(60, 50), (200, 90)], ids=["from all pairs", "subset by subset"])
def test_equals_torch_fidelity(small: None, kernel: str, counts: tuple[int, int]) -> None:
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = draw(0, counts[0]), draw(1, counts[1], shift=0.3)
    theirs = kid.kid_features_to_metric(
        torch.from_numpy(x).double(), torch.from_numpy(y).double(), kid_subsets=12, kid_subset_size=40,
        kid_kernel=kernel, rng_seed=2020, verbose=False,
    )  # fmt: skip
    ours = score("kid" if kernel == "poly" else "kid:rbf", x, y)
    assert ours.value == pytest.approx(theirs[kid.KEY_METRIC_KID_MEAN], rel=2e-6)
    assert ours.details["subset_std"] == pytest.approx(theirs[kid.KEY_METRIC_KID_STD], rel=2e-6)
    assert ours.details == {"subset_std": ours.details["subset_std"], "subsets": 12, "subset_size": 40}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("counts", [(60, 50), (200, 90)], ids=["from all pairs", "subset by subset"])
def test_each_estimate_is_that_of_its_definition(small: None, name: str, counts: tuple[int, int]) -> None:
    x, y = draw(2, counts[0]), draw(3, counts[1], shift=0.2)
    random = np.random.RandomState(2020)
    subsets = [(random.choice(len(x), 40, False), random.choice(len(y), 40, False)) for _ in range(12)]
    kernel = rbf_of if "rbf" in name else poly_of
    estimate = next((end for end in ("biased", "ustat") if name.endswith(end)), "")
    expected = [mmd(x[rows], y[columns], kernel, estimate) for rows, columns in subsets]
    assert score(name, x, y).value == pytest.approx(np.mean(expected), rel=3e-6)


@pytest.mark.parametrize(("name", "kernel"), [("kid:all", poly_of), ("kid:rbf_all", rbf_of)])
def test_all_pairs_are_those_of_the_definition(small: None, name: str, kernel: Callable[..., np.ndarray]) -> None:
    x, y = draw(4, 61), draw(5, 47, shift=0.1)
    assert score(name, x, y).value == pytest.approx(mmd(x, y, kernel, ""), rel=2e-6, abs=3e-9)


@pytest.mark.filterwarnings("ignore")
def test_all_pairs_equal_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = draw(10, 70), draw(11, 70, shift=0.1)
    theirs = float(poly_mmd(torch.from_numpy(y).double(), torch.from_numpy(x).double()))
    assert score("kid:all", x, y).value == pytest.approx(theirs, rel=2e-6)


def test_several_names_share_their_subsets(small: None) -> None:
    x, y = draw(6, 60), draw(7, 50)
    together = load_metrics("kid,kid:biased,kid:ustat")["kid"].scores(x, y, Context())
    assert {name: found.value for name, found in together.items()} == {
        name: score(name, x, y).value for name in ("kid", "kid:biased", "kid:ustat")
    }


def test_the_same_images_are_near_zero_and_equal_distributions_below_or_above() -> None:
    x, y = draw(8, 300), draw(9, 300)
    assert score("kid:all", x, x).value < 0, "pairs of an image with itself count in xy only"
    found = score("kid:all", x, y)
    assert abs(found.value) < 4 * found.stderr  # type: ignore[operator]


@pytest.mark.parametrize("shift", [0.0, 0.4])
@pytest.mark.parametrize(
    ("name", "count", "reference"), [("kid:all", 60, 80), ("kid", 60, 80), ("kid:rbf_all", 50, 50)]
)
def test_the_standard_error_is_the_spread_over_draws(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int, reference: int, shift: float
) -> None:
    monkeypatch.setattr(module, "SUBSETS", 10)
    monkeypatch.setattr(module, "SUBSET_SIZE", 20)
    drawn = [score(name, draw(2 * i, count, 4, shift), draw(2 * i + 1, reference, 4)) for i in range(1000, 1150)]
    spread = np.std([found.value for found in drawn], ddof=1)
    stated = np.sqrt(np.mean([found.stderr**2 for found in drawn]))  # type: ignore[operator]
    assert 0.85 < stated / spread < 1.3, "somewhat too large for few equal images, as negative estimates count as 0"


def test_the_spread_over_subsets_is_no_standard_error() -> None:
    """Divided by √100 it misses what the subsets share; undivided it is that of a single subset."""
    x, y = draw(10, 1000), draw(11, 1000, shift=0.2)
    found = score("kid", x, y)
    assert found.details["subset_std"] < 1e-6 < found.stderr  # type: ignore[operator]


def test_the_constants_of_the_definitions_are_in_the_settings() -> None:
    loaded = load_metrics([*DRAWN, "kid:all", "kid:rbf_all"])
    drawn = {"subsets": "100x1000", "seed": "2020"}
    for name, metric in loaded.items():
        kernel = {"kernel": "rbf10" if "rbf" in name else "poly3"}
        assert metric.settings == kernel | ({} if name.endswith("all") else drawn), name


def test_too_few_images_are_refused() -> None:
    x, y = draw(12, 1000), draw(13, 999)
    with pytest.raises(
        InputError, match=r"kid draws subsets of 1,000 images, and there are only 999 reference images: "
    ):
        score("kid", x, y)
    with pytest.raises(
        InputError, match=r"only 999 samples: measure more of them, or ask for kid:rbf_all, which takes"
    ):
        score("kid:rbf_ustat", y, x)
    for name in ("kid:all", "kid:rbf_all"):
        assert np.isfinite(score(name, x[:4], y[:4]).value)
        with pytest.raises(InputError, match="needs at least 4 samples; got 3"):
            score(name, x[:3], y)


def test_no_constant_of_the_kernel_and_no_common_factor_of_rounding() -> None:
    """k − 1 near 0 keeps its digits: features that are all nearly equal."""
    x, y = draw(14, 30) * 1e-4 + 0.01, draw(15, 30) * 1e-4 + 0.01
    assert score("kid:rbf_all", x, y).value == pytest.approx(mmd(x, y, rbf_of, ""), rel=2e-3)


def test_kernels_are_those_of_their_formulas() -> None:
    x, y = torch.from_numpy(draw(16, 5)), torch.from_numpy(draw(17, 7))
    norms = [side.square().sum(1) for side in (x, y)]
    products = x @ y.T
    poly = polynomial(products.clone(), norms[0][:, None], norms[1], 16).numpy()
    rbf = Gaussian(10.0)(products.clone(), norms[0][:, None], norms[1], 16).numpy()
    assert poly + 1 == pytest.approx(poly_of(x.numpy(), y.numpy()), rel=1e-6, abs=2e-7)
    assert rbf + 1 == pytest.approx(rbf_of(x.numpy(), y.numpy()), rel=1e-6)
