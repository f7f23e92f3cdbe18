"""Standard errors that metrics share, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from fdr.metrics.resampling import influence_stderr, jackknife_groups, jackknife_stderr, share_stderr


def test_the_mean_has_its_textbook_error() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 40))
    error = x.std(ddof=1) / np.sqrt(40)
    assert influence_stderr(x) == pytest.approx(error, rel=1e-12)
    assert influence_stderr(x + 7, y) == pytest.approx(np.hypot(error, y.std(ddof=1) / np.sqrt(40)), rel=1e-12)
    assert jackknife_stderr(np.array([np.delete(x, i).mean() for i in range(40)])) == pytest.approx(error, rel=1e-9)


def test_the_groups_are_a_partition_of_nearly_equal_parts() -> None:
    groups = jackknife_groups(87)
    assert len(groups) == 20 and {len(group) for group in groups} == {4, 5}
    assert sorted(np.concatenate(groups)) == list(range(87))
    assert [len(group) for group in jackknife_groups(3)] == [1, 1, 1]
    again = jackknife_groups(87)
    assert all((a == b).all() for a, b in zip(groups, again, strict=True)), "the same for every run"


def test_a_share_has_the_binomial_error() -> None:
    assert share_stderr(0.2, 100) == pytest.approx(0.04)
    assert share_stderr(0.0, 5) == share_stderr(1.0, 5) == 0
