"""FLD: its likelihood is SciPy's, its slope that of differences, copies and shifts cost, independent samples do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from fdr.errors import InputError
from fdr.metrics import Context, Score, load_metrics
from fdr.metrics.fld import Mixture, _Distances

NAMES = ("fld", "fld_gap")
CPU = torch.device("cpu")


def draw(seed: int, count: int, dim: int = 6, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, dim)) + shift).astype(np.float32)


def scores(samples: np.ndarray, reference: np.ndarray, training: np.ndarray, memory: int = 1 << 30) -> dict[str, Score]:
    context = Context(training=training, memory=memory)
    return dict(next(iter(load_metrics(NAMES).values())).scores(samples, reference, context))


def test_the_likelihood_is_that_of_scipys_gaussians() -> None:
    mixture, images = Mixture(draw(0, 7), CPU), draw(1, 9)
    mixture.log_variances = torch.linspace(-1, 1, 7, dtype=torch.float64)
    logs = [
        multivariate_normal(centre, math.exp(log)).logpdf(images)
        for centre, log in zip(mixture.centres, mixture.log_variances.tolist(), strict=True)
    ]
    np.testing.assert_allclose(mixture.surprise(images), -(logsumexp(logs, axis=0) - math.log(7)) / 6, rtol=1e-12)


def test_the_slope_is_that_of_differences() -> None:
    mixture, images = Mixture(draw(2, 5), CPU), draw(3, 11)
    source, logs = _Distances(mixture, images, with_mean=True), torch.linspace(-1, 1, 6, dtype=torch.float64)
    slope = mixture._loss(source, slice(0, 11), logs)[1]
    for place in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[place] = 1e-5
        up, down = (mixture._loss(source, slice(0, 11), logs + sign * step)[0] for sign in (1, -1))
        assert float(slope[place]) == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-9)


def surprise_by_autograd(centres: np.ndarray, fitted: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """-log p / D of `judged` under Gaussians fitted to `fitted` by torch's Adam and autograd, in float64."""
    c, x, y = (torch.from_numpy(each).double() for each in (centres, fitted, judged))
    dim, spread = c.shape[1], math.log(2 * math.pi)
    own, mean = torch.cdist(x, c) ** 2, 0.81 * (x - x.mean(0)).square().sum(1, keepdim=True)
    logs = ((own.amin(0) + 1e-3) / dim).log().requires_grad_()
    of_mean = torch.zeros((), dtype=torch.float64, requires_grad=True)
    adam, losses = torch.optim.Adam([logs, of_mean], lr=0.5), []
    for _ in range(50):
        adam.zero_grad()
        near = -own / 2 / logs.exp() - dim / 2 * (logs + spread) - math.log(len(c))
        far = -mean / 2 / of_mean.exp() - dim / 2 * (of_mean + spread)
        loss = -torch.cat([near, far], 1).logsumexp(1).mean() / dim
        loss.backward()
        adam.step()
        losses.append(loss.item())
        if len(losses) > 6 and max(losses[-5:]) - min(losses[-5:]) < 5e-4:
            break
    fixed = logs.detach()
    near = -(torch.cdist(y, c) ** 2) / 2 / fixed.exp() - dim / 2 * (fixed + spread) - math.log(len(c))
    return (-near.logsumexp(1) / dim).numpy()


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_gap_is_that_of_autograd(shift: float) -> None:
    samples, test, training = draw(20, 40, shift=shift), draw(21, 50), draw(22, 60)
    mean, deviation = test.mean(0, dtype=np.float64), test.std(0, ddof=1, dtype=np.float64)
    c, y, x = (((each - mean) / deviation).astype(np.float32) for each in (samples, test, training))
    expected = 100 * (surprise_by_autograd(c, x, x).mean() - surprise_by_autograd(c, x, y).mean())
    assert scores(samples, test, training)["fld_gap"].value == pytest.approx(expected, rel=1e-4)


def test_independent_samples_score_near_zero_and_others_do_not() -> None:
    training, test = draw(6, 400), draw(7, 200)
    same = scores(draw(8, 200), test, training)
    shifted = scores(draw(9, 200, shift=1.0), test, training)
    copies = scores(training[:200] + draw(10, 200) * np.float32(1e-3), test, training)
    assert abs(same["fld"].value) < 6 and same["fld"].stderr < 3
    assert shifted["fld"].value > 2 * abs(same["fld"].value) + 3
    assert copies["fld"].value > 20
    assert copies["fld_gap"].value < -20 < same["fld_gap"].value
    assert same["fld"].details["centres"] == 200


def test_exact_copies_are_noted() -> None:
    training = draw(11, 100)
    found = scores(training[:80].copy(), draw(12, 60), training)["fld"]
    assert (
        math.isfinite(found.value) and found.value > 1000 and found.notes[0].startswith("an FLD above 1000 is a sign")
    )


def test_each_alone_memory_and_repetition_change_nothing() -> None:
    sets = draw(13, 60), draw(14, 70), draw(15, 90)
    both = scores(*sets)
    assert {name: one.value for name, one in both.items()} == {
        name: load_metrics(name)[name].scores(*sets[:2], Context(training=sets[2]))[name].value for name in NAMES
    }
    small = scores(*sets, memory=1)
    for name in NAMES:
        assert small[name].value == pytest.approx(both[name].value, abs=1e-3)


def test_bad_input_gives_one_sentence() -> None:
    with pytest.raises(InputError, match="fld needs more than 3 training images"):
        scores(draw(0, 9), draw(1, 9), draw(2, 3))
    with pytest.raises(InputError, match="All 9 reference images have the same features"):
        scores(draw(0, 9), np.ones((9, 6), np.float32), draw(2, 9))
