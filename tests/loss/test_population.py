"""Every population under the solvers over full covariances: oracles, laws, hazards, states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from covariances import features, relu_features, transported
from oracles import autograd_fd, batch, ema, make_term, moments, moments_of, reference
from torch import Tensor

from fdr import frechet_distance
from fdr.errors import InputError, RunError
from fdr.frechet import Moments, linalg
from fdr.loss import BatchPopulation, EmaPopulation, QueuePopulation
from fdr.loss.transport import Target, frechet_loss, solve_by_factors, solve_exact, solve_newton_schulz

FULL = ("exact", "newton-schulz")
DIM, SIZE = 12, 40

Formula = Callable[[Tensor], tuple[Tensor, Tensor]]


def filled_queue(rows: Tensor, history: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The newest `size` rows, n - 1."""
    return moments_of(torch.cat([history, rows])[-size:], ddof=1)


def history(seed: int = 1, count: int = 100) -> Tensor:
    return batch(count, DIM, seed, offset=0.5).float().double()


def cases() -> list[Any]:
    past = history()
    first, second = past[:SIZE], past[SIZE : 2 * SIZE]
    return [
        pytest.param(BatchPopulation(), [], [], moments_of, id="batch"),
        pytest.param(EmaPopulation(0.9), [past], [], lambda x: ema([x], 0.9, past), id="ema-filled"),
        pytest.param(
            EmaPopulation(0.9), [], [first, second], lambda x: ema([first, second, x], 0.9), id="ema-debiased"
        ),
        pytest.param(QueuePopulation(100), [past], [], lambda x: filled_queue(x, past, 100), id="queue"),
        pytest.param(
            QueuePopulation(90), [], [first, second], lambda x: filled_queue(x, past[:80], 90), id="queue-wraps"
        ),
        pytest.param(QueuePopulation(500), [], [first], lambda x: filled_queue(x, first, 500), id="queue-unfilled"),
    ]


def prepared(population: Any, fills: list[Tensor], steps: list[Tensor], solver: str, **options: Any) -> Any:
    term = make_term(population, reference(DIM), solver, **options)
    for rows in fills:
        term.fill(rows[:30])
        term.fill(rows[30:])
    for rows in steps:
        term.evaluate(rows)
        term.commit()
    return term


@pytest.mark.parametrize("solver", FULL)
@pytest.mark.parametrize(("population", "fills", "steps", "formula"), cases())
def test_value_and_gradient_are_those_of_autograd(
    population: Any, fills: list[Tensor], steps: list[Tensor], formula: Formula, solver: str
) -> None:
    rows = batch(SIZE, DIM, 7).requires_grad_()
    expected = autograd_fd(*formula(rows), reference(DIM))
    (gradient,) = torch.autograd.grad(expected, rows)
    expected = expected.detach()
    value = prepared(population, fills, steps, solver).evaluate(rows)
    assert value.fd.dtype == torch.float64
    assert float(value.fd) == pytest.approx(float(expected), rel=1e-10)
    assert torch.linalg.norm(value.gradient - gradient) <= 1e-9 * torch.linalg.norm(gradient)


@pytest.mark.parametrize("solver", FULL)
@pytest.mark.parametrize(("population", "fills", "steps", "formula"), cases())
def test_the_value_is_the_one_frechet_distance(
    population: Any, fills: list[Tensor], steps: list[Tensor], formula: Formula, solver: str
) -> None:
    rows = batch(SIZE, DIM, 7)
    value = prepared(population, fills, steps, solver).evaluate(rows)
    expected = frechet_distance(moments(*formula(rows)), reference(DIM))
    assert float(value.fd) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("solver", FULL)
@pytest.mark.parametrize(("population", "fills", "steps", "formula"), cases())
def test_gradcheck(population: Any, fills: list[Tensor], steps: list[Tensor], formula: Formula, solver: str) -> None:
    term = prepared(population, fills, steps, solver)

    def fd(rows: Tensor) -> Tensor:
        value = term.evaluate(rows)
        return frechet_loss(rows, value.fd, value.gradient)

    assert torch.autograd.gradcheck(fd, batch(20, DIM, 7).requires_grad_(), atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize(("population", "fills", "steps", "formula"), cases())
def test_unit_gradient_is_divided_by_the_share_of_the_batch(
    population: Any, fills: list[Tensor], steps: list[Tensor], formula: Formula
) -> None:
    rows = batch(SIZE, DIM, 7)
    raw, unit = (prepared(population, fills, steps, "exact", gradient=g).evaluate(rows) for g in ("raw", "unit"))
    if isinstance(population, EmaPopulation):
        share = 0.1 if fills else 0.1 / (1 - 0.9**3)
    elif isinstance(population, QueuePopulation):
        share = SIZE / min(population.size, 100 if fills else SIZE * (len(steps) + 1))
    else:
        share = 1.0
    assert torch.allclose(raw.gradient, unit.gradient * share, rtol=1e-12, atol=0)
    assert torch.equal(raw.fd, unit.fd)


# --------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("solve", [solve_exact, solve_by_factors, solve_newton_schulz])
def test_the_map_takes_one_covariance_to_the_other(solve: Any) -> None:
    s_p, s_q, root = transported(30, 1e4)
    target = Target.of(Moments(np.zeros(30), s_p), torch.device("cpu"))
    sigma = torch.from_numpy(s_q)
    found = solve(target, sigma, torch.eye(30, dtype=torch.float64))
    assert float(found.root_trace) == pytest.approx(root, rel=1e-11)
    difference = found.moved @ sigma @ found.moved - torch.from_numpy(s_p)
    assert torch.linalg.norm(difference) <= 1e-10 * torch.linalg.norm(sigma)


def test_beta_zero_is_the_batch_alone() -> None:
    term = make_term(EmaPopulation(0.0), reference(DIM), "exact")
    for seed in (3, 4):
        rows = batch(SIZE, DIM, seed)
        expected = make_term(BatchPopulation(), reference(DIM), "exact").evaluate(rows)
        value = term.evaluate(rows)
        term.commit()
        assert float(value.fd) == pytest.approx(float(expected.fd), rel=1e-12)
        assert torch.allclose(value.gradient, expected.gradient, rtol=1e-10, atol=1e-14)


def test_the_first_step_of_an_unfilled_average_is_the_batch_alone() -> None:
    rows = batch(SIZE, DIM, 3)
    value = make_term(EmaPopulation(0.999), reference(DIM), "exact").evaluate(rows)
    assert float(value.fd) == pytest.approx(
        float(make_term(BatchPopulation(), reference(DIM), "exact").evaluate(rows).fd), rel=1e-12
    )


def test_equal_moments_have_distance_and_gradient_zero() -> None:
    rows = torch.from_numpy(features(400, DIM, 90))
    value = make_term(BatchPopulation(), Moments.from_features(rows.numpy(), ddof=0), "exact").evaluate(rows)
    assert abs(float(value.fd)) < 1e-12
    assert float(value.gradient.abs().max()) < 1e-12


def test_the_distance_falls_along_the_negative_gradient() -> None:
    rows, term = batch(200, DIM, 5), make_term(BatchPopulation(), reference(DIM), "exact")
    for _ in range(20):
        value = term.evaluate(rows)
        rows = rows - 0.5 * 200 / 2 * value.gradient
    assert float(term.evaluate(rows).fd) < 1e-3 * float(
        make_term(BatchPopulation(), reference(DIM)).evaluate(batch(200, DIM, 5)).fd
    )


def test_fill_does_not_depend_on_the_batches() -> None:
    past, rows = history(count=100), batch(SIZE, DIM, 7)
    for population in (EmaPopulation(0.9), QueuePopulation(100)):
        values = []
        for cuts in ([100], [1, 2, 97], [50, 50]):
            term = make_term(population, reference(DIM), "exact")
            for part in past.split(cuts):
                term.fill(part)
            values.append(float(term.evaluate(rows).fd))
        assert values == pytest.approx([values[0]] * 3, rel=1e-12)


def test_running_sums_equal_the_snapshot_after_many_turns_and_an_outlier() -> None:
    term = make_term(QueuePopulation(50), reference(DIM), "exact")
    for step in range(60):
        rows = batch(17, DIM, step, offset=100.0).float()
        term.evaluate(rows * (1e6 if step == 30 else 1))
        term.commit()
    rows = batch(17, DIM, 99, offset=100.0).float()
    ring = torch.cat([batch(17, DIM, step, offset=100.0).float() for step in range(50, 60)] + [rows])[-50:]
    mean, sigma = moments_of(ring.double(), ddof=1)
    expected = frechet_distance(moments(mean, sigma), reference(DIM))
    assert float(term.evaluate(rows).fd) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("size", [50, 53, 64])
def test_an_outlier_that_is_evicted_in_the_middle_of_a_turn_costs_no_digits(size: int) -> None:
    """Every step after it is compared with the ring itself, before the end of the ring can renew the sums."""
    term = make_term(QueuePopulation(size), reference(DIM), "exact")
    rows = [batch(10, DIM, step, offset=2.0).float() * (1e7 if step == 6 else 1) for step in range(15)]
    for step, newest in enumerate(rows):
        value = term.evaluate(newest)
        ring = torch.cat(rows[: step + 1])[-size:].double()
        if len(ring) == size and float(ring.abs().max()) < 1e3:
            expected = frechet_distance(moments(*moments_of(ring, ddof=1)), reference(DIM))
            assert float(value.fd) == pytest.approx(expected, rel=1e-9)
        term.commit()


def test_the_sums_of_a_queue_are_those_of_its_float32_rows() -> None:
    """float64 features are rounded when they are stored; the sums must not remember the digits that are gone."""
    term = make_term(QueuePopulation(50), reference(DIM), "exact")
    rows = [batch(20, DIM, step, offset=300.0) for step in range(4)]
    for newest in rows[:3]:
        term.evaluate(newest)
        term.commit()
    ring = torch.cat(rows[:3])[-50:].float().double()
    _, sigma = moments_of(ring, ddof=1)
    state = term.state_dict()
    shift = state["all_first"] / 50
    found = (state["all_second"] - 50 * torch.outer(shift, shift)) / 49
    torch.testing.assert_close(found, sigma, rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------------------------------------- commit and discard


def stateful() -> list[Any]:
    return [pytest.param(p, id=type(p).__name__) for p in (EmaPopulation(0.9), QueuePopulation(64))]


@pytest.mark.parametrize("solver", FULL)
@pytest.mark.parametrize("population", stateful())
def test_a_step_counts_when_committed_and_only_then(population: Any, solver: str) -> None:
    term, plain = (make_term(population, reference(DIM), solver) for _ in range(2))
    for seed in range(4):
        rows = batch(SIZE, DIM, seed).float()
        term.evaluate(rows * 5)  # replaced by the next
        value = term.evaluate(rows)
        expected = plain.evaluate(rows)
        assert torch.equal(value.fd, expected.fd) and torch.equal(value.gradient, expected.gradient)
        term.commit()
        plain.commit()
        term.commit()  # nothing is pending
        term.evaluate(rows * 9)
        term.discard()
        term.commit()
    assert all(torch.equal(a, plain.state_dict()[name]) for name, a in term.state_dict().items())


@pytest.mark.parametrize("population", stateful())
def test_state_goes_on_bit_for_bit(population: Any) -> None:
    term = make_term(population, reference(DIM), "exact")
    term.fill(history())
    for seed in range(3):
        term.evaluate(batch(SIZE, DIM, seed).float())
        term.commit()
    saved = {name: value.clone() for name, value in term.state_dict().items()}
    assert all(isinstance(value, Tensor) for value in saved.values())
    resumed = make_term(population, reference(DIM), "exact")
    resumed.load_state_dict(saved)
    for seed in range(3, 6):
        a, b = (x.evaluate(batch(SIZE, DIM, seed).float()) for x in (term, resumed))
        assert torch.equal(a.fd, b.fd) and torch.equal(a.gradient, b.gradient)
        term.commit()
        resumed.commit()
    assert all(torch.equal(a, resumed.state_dict()[name]) for name, a in term.state_dict().items())


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("count", [5, DIM])
@pytest.mark.parametrize("solver", ["fast", "exact", "newton-schulz"])
def test_a_reference_of_few_samples_has_its_own_divisor(solver: str, count: int, ddof: int) -> None:
    """FD by the singular values of the centred rows of both sides, in NumPy."""
    few, rows = features(count, DIM, 3), batch(200, DIM, 5)
    term = make_term(EmaPopulation(0.9), Moments.from_features(few, ddof=ddof), solver)
    a, b = (few - few.mean(0)) / np.sqrt(count - ddof), (rows - rows.mean(0)).numpy() / np.sqrt(200)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = np.square(few.mean(0) - rows.mean(0).numpy()).sum() + np.square(a).sum() + np.square(b).sum() - 2 * root
    assert float(term.evaluate(rows).fd) == pytest.approx(expected, rel=1e-10)


def test_a_batch_that_is_refused_drops_the_one_before() -> None:
    term = make_term(EmaPopulation(0.9), reference(DIM), "exact")
    before = {name: value.clone() for name, value in term.state_dict().items()}
    term.evaluate(batch(SIZE, DIM, 1))
    with pytest.raises(RunError, match="NaN"):
        term.evaluate(batch(SIZE, DIM, 1) * float("nan"))
    term.commit()
    assert all(torch.equal(value, before[name]) for name, value in term.state_dict().items())


@pytest.mark.parametrize("solver", ["fast", "exact"])
@pytest.mark.parametrize("population", stateful())
def test_what_is_pending_is_dropped_by_a_fill_and_by_a_loaded_state(population: Any, solver: str) -> None:
    """A commit afterwards must not bring the old batch back."""
    term, plain = (make_term(population, reference(DIM), solver) for _ in range(2))
    term.evaluate(batch(SIZE, DIM, 1) * 5)
    for one in (term, plain):
        one.fill(history())
    term.commit()
    saved = {name: value.clone() for name, value in plain.state_dict().items()}
    assert all(torch.equal(value, saved[name]) for name, value in term.state_dict().items())
    term.evaluate(batch(SIZE, DIM, 1) * 5)
    term.load_state_dict(saved)
    term.commit()
    assert all(torch.equal(value, saved[name]) for name, value in term.state_dict().items())


def test_a_saved_state_does_not_move_with_the_term_that_loaded_it() -> None:
    term = make_term(QueuePopulation(50), reference(DIM), "exact")
    term.fill(history())
    saved = {name: value.clone() for name, value in term.state_dict().items()}
    resumed = make_term(QueuePopulation(50), reference(DIM), "exact")
    resumed.load_state_dict(saved)
    copies = {name: value.clone() for name, value in saved.items()}
    resumed.evaluate(batch(SIZE, DIM, 0))
    resumed.commit()
    assert all(torch.equal(saved[name], copies[name]) for name in saved)


# ------------------------------------------------------------------------------------------------------------ hazards


def hazards() -> dict[str, tuple[Moments, Tensor]]:
    """Reference and batch of every case in which a naive gradient is NaN, infinite or noise."""
    relu = Moments.from_features(relu_features(900, 0))
    alive = torch.from_numpy(features(200, 16, 1))
    dead_here, dead_there = alive.clone(), features(200, 16, 2)
    dead_here[:, 3], dead_there[:, 5] = 0, 0
    full = Moments.from_features(features(300, 16, 2))
    return {
        "dead in both": (relu, torch.from_numpy(relu_features(300, 5))),
        "dead in the samples": (full, dead_here),
        "dead in the reference": (Moments.from_features(dead_there), alive),
        "dead on either side": (Moments.from_features(dead_there), dead_here),
        "all samples equal": (full, alive[:1].expand(50, 16)),
        "one sample": (full, alive[:1]),
        "fewer samples than features": (full, alive[:9]),
        "fewer reference samples than features": (Moments.from_features(features(9, 16, 2)), alive),
        "few on both sides": (Moments.from_features(features(9, 16, 2)), alive[:9]),
        "constant reference": (Moments(np.ones(16), np.zeros((16, 16))), alive),
        "collapse": (full, alive[:1] + 1e-9 * alive),
        "far away": (full, 1e6 * alive + 1e8),
    }


@pytest.mark.parametrize("solver", FULL)
@pytest.mark.parametrize(
    "population", [BatchPopulation(), EmaPopulation(0.9), QueuePopulation(400)], ids=["batch", "ema", "queue"]
)
@pytest.mark.parametrize("name", hazards())
def test_hazards_have_a_finite_value_and_gradient(name: str, population: Any, solver: str) -> None:
    target, rows = hazards()[name]
    if name == "one sample" and isinstance(population, QueuePopulation):
        return
    value = make_term(population, target, solver).evaluate(rows)
    ddof = 1 if isinstance(population, QueuePopulation) else 0
    if len(rows) > 1:
        expected = frechet_distance(Moments.from_features(rows.numpy(), ddof=ddof), target)
        scale = float(rows.square().sum(1).mean() + target.sigma.trace())
        assert float(value.fd) == pytest.approx(expected, rel=1e-9, abs=1e-12 * scale)
    assert bool(value.fd.isfinite()) and bool(value.gradient.isfinite().all())


@pytest.mark.parametrize("name", ["dead in both", "dead in the reference", "fewer reference samples than features"])
def test_the_gradient_is_right_where_the_reference_is_singular(name: str) -> None:
    """FD is smooth there as long as the samples' covariance is of full rank where the reference varies."""
    target, rows = hazards()[name]
    live = rows.std(0) > 0
    term = make_term(BatchPopulation(), target, "exact")
    value = term.evaluate(rows)
    direction = torch.from_numpy(np.random.default_rng(0).standard_normal(rows.shape)) * live
    step = 1e-5
    higher, lower = (float(term.evaluate(rows + sign * step * direction).fd) for sign in (1, -1))
    slope = float((value.gradient * direction).sum())
    assert (higher - lower) / (2 * step) == pytest.approx(slope, rel=1e-6)


def test_few_samples_have_the_value_and_the_gradient_of_the_nuclear_norm() -> None:
    """n < d: tr (S_p S_q)^{1/2} = |X_c F|_* / sqrt(n), whose gradient is U V^T F^T / sqrt(n) (Watson 1992)."""
    dim, n = 32, 12
    target, rows = reference(dim), batch(n, dim, 8)
    centred = rows - rows.mean(0)
    lower = torch.from_numpy(np.linalg.cholesky(target.sigma))
    left, roots, right = torch.linalg.svd(centred @ lower, full_matrices=False)
    pull = left[:, :-1] @ right[:-1] @ lower.T / n**0.5
    shift = rows.mean(0) - torch.from_numpy(np.array(target.mu))
    expected = 2 * (shift / n + centred / n - pull)
    value = make_term(BatchPopulation(), target, "exact").evaluate(rows)
    assert value.diagnostics.route == "thin"
    assert torch.linalg.norm(value.gradient - expected) < 1e-10 * torch.linalg.norm(expected)
    exact = float(shift.square().sum() + centred.square().sum() / n + target.sigma.trace() - 2 * roots.sum() / n**0.5)
    assert float(value.fd) == pytest.approx(exact, rel=1e-12)
    # the same state through its covariance
    average = make_term(EmaPopulation(0.9), target, "exact").evaluate(rows)
    assert average.diagnostics.route == "factors"
    assert float(average.fd) == pytest.approx(exact, rel=1e-9)
    assert torch.linalg.norm(average.gradient - expected) < 1e-8 * torch.linalg.norm(expected)


def test_newton_schulz_says_where_it_gave_up() -> None:
    good = make_term(BatchPopulation(), reference(DIM), "newton-schulz").evaluate(batch(SIZE, DIM, 1))
    assert good.diagnostics.route == "newton-schulz" and good.diagnostics.error_estimate < 1e-10
    target, rows = hazards()["dead in the samples"]
    assert make_term(BatchPopulation(), target, "newton-schulz").evaluate(rows).diagnostics.route == "factors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_has_the_dtype_of_the_features(dtype: torch.dtype) -> None:
    rows = batch(SIZE, DIM, 1).to(dtype)
    value = make_term(EmaPopulation(0.9), reference(DIM), "exact").evaluate(rows)
    assert value.gradient.dtype == torch.float32 and value.fd.dtype == torch.float64
    double = make_term(EmaPopulation(0.9), reference(DIM), "exact").evaluate(rows.double())
    assert torch.equal(value.fd, double.fd)
    assert torch.allclose(value.gradient.double(), double.gradient, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("beta", [1.0, -0.1, float("nan"), 2])
def test_beta_outside_its_range(beta: float) -> None:
    with pytest.raises(InputError, match="beta is"):
        EmaPopulation(beta)


@pytest.mark.parametrize("size", [1, 0, 2.5])
def test_a_queue_needs_a_size(size: Any) -> None:
    with pytest.raises(InputError, match="queue's size is"):
        QueuePopulation(size)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="Unknown solver 'fsat'; did you mean 'fast'"):
        make_term(BatchPopulation(), reference(), "fsat")
    with pytest.raises(InputError, match="Unknown gradient scale"):
        make_term(BatchPopulation(), reference(), gradient="row")
    with pytest.raises(InputError, match="is no population"):
        make_term("ema", reference())  # type: ignore[arg-type]


def test_features_that_are_none() -> None:
    term = make_term(EmaPopulation(), reference(DIM), "exact")
    for wrong in (
        torch.zeros(4, DIM + 1),
        torch.zeros(DIM),
        torch.zeros(0, DIM),
        torch.zeros(4, DIM, dtype=torch.long),
    ):
        with pytest.raises(InputError, match=r"expected \[B, 12\] in floating point"):
            term.evaluate(wrong)
    for bad in (float("nan"), float("inf"), 1e200):
        rows = batch(4, DIM, 0)
        rows[1, 2] = bad
        with pytest.raises(RunError, match="overflowed"):
            term.evaluate(rows)
    term.commit()
    assert int(term.state_dict()["num_steps"]) == 0


def test_misuse_of_a_queue() -> None:
    term = make_term(QueuePopulation(10), reference(DIM), "exact")
    with pytest.raises(InputError, match="A batch of 11 does not fit into a queue of 10"):
        term.evaluate(batch(11, DIM, 0))
    with pytest.raises(InputError, match="two samples"):
        term.evaluate(batch(1, DIM, 0))


@pytest.mark.parametrize("population", stateful())
def test_a_population_in_use_is_not_filled_again(population: Any) -> None:
    term = make_term(population, reference(DIM), "exact")
    term.evaluate(batch(SIZE, DIM, 0))
    term.commit()
    with pytest.raises(InputError, match="only be filled before the first"):
        term.fill(batch(SIZE, DIM, 0))


def test_the_state_of_another_population_is_refused() -> None:
    state = make_term(EmaPopulation(), reference(DIM), "exact").state_dict()
    for other in (make_term(EmaPopulation(), reference(8), "exact"), make_term(QueuePopulation(9), reference(DIM))):
        with pytest.raises(InputError, match="does not fit"):
            other.load_state_dict(state)
    with pytest.raises(InputError, match="absent"):
        make_term(BatchPopulation(), reference(DIM)).load_state_dict(state)
    queue = make_term(QueuePopulation(9), reference(DIM), "exact")
    with pytest.raises(InputError, match="holds 10 rows"):
        queue.load_state_dict({**queue.state_dict(), "count": torch.tensor(10)})


@pytest.mark.parametrize(("condition", "steps"), [(1e2, 15), (1e4, 20), (1e6, 25), (1e8, 30)])
def test_newton_schulz_takes_the_steps_that_the_condition_tells(condition: float, steps: int) -> None:
    """The smallest eigenvalue grows by 1.5^2 a step until it is of order 1, and then the residual is squared."""
    spectrum = torch.from_numpy(np.geomspace(1, 1 / condition, 64))
    basis = torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).standard_normal((64, 64))))[0]
    matrix = (basis * spectrum) @ basis.T
    assert linalg.newton_schulz(matrix, steps - 5, 1e-10) is None
    found = linalg.newton_schulz(matrix, steps + 1, 1e-10)
    assert found is not None
    assert float(found[0].trace()) == pytest.approx(float(spectrum.sqrt().sum()), rel=1e-9)
    assert torch.linalg.norm(found[0] @ found[1] - torch.eye(64)) < 1e-7
