"""The conditional term: against all pairs of samples in plain torch; in chunks, resumed, refused; and what it is for.

`Oracle` imports nothing of fdr: it keeps every sample of the population with its weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from covariances import features as drawn_features
from loss_worlds import (
    DIM,
    NUM_CLASSES,
    ClassGenerator,
    drawn,
    encoder,
    encoders,
    gradient_of,
    labelled_references,
    labels_of_step,
    make_conditional_loss,
    make_loss,
    noise,
)
from torch import Tensor

import fdr
from fdr.errors import InputError
from fdr.frechet import LabelledMoments
from fdr.loss.class_target import ClassTarget
from fdr.loss.class_term import ClassTerm, decay_of
from fdr.loss.terms import TermValue
from fdr.loss.transport import Diagnostics

BETA, RATIO = 0.8, 0.5


class Oracle:
    """C as the mean over all pairs of different samples of each class, weighted by the products of their weights."""

    def __init__(self, rows: Tensor, labels: Tensor) -> None:
        self.means = torch.stack([rows[labels == c].mean(0) for c in range(NUM_CLASSES)])
        self.shares = torch.stack([(labels == c).double().mean() for c in range(NUM_CLASSES)])
        centred = rows - self.means[labels]
        dof, dim = len(rows) - NUM_CLASSES, rows.shape[1]
        within = centred.T @ centred / dof
        trace, square = float(within.trace()), float((within @ within).trace())
        rho = (square + trace**2) / ((dof + 1) * (square - trace**2 / dim))  # Chen et al. 2010, OAS
        self.precision = torch.linalg.inv((1 - rho) * within + rho * trace / dim * torch.eye(dim).double())
        self.rows, self.labels = rows[:0], labels[:0]
        self.weights = torch.empty(0, dtype=torch.float64)

    def fill(self, rows: Tensor, labels: Tensor) -> None:
        self.rows, self.labels, self.weights = (
            rows,
            labels,
            torch.full((len(rows),), 1 / len(rows), dtype=torch.float64),
        )

    def step(self, rows: Tensor, labels: Tensor, beta: float) -> tuple[float, Tensor]:
        """C with the batch in the population, and its gradient in the batch by autograd."""
        batch = rows.clone().requires_grad_()
        everyone, self.labels = torch.cat([self.rows, batch]), torch.cat([self.labels, labels])
        self.weights = torch.cat(
            [beta * self.weights, torch.full((len(rows),), (1 - beta) / len(rows), dtype=torch.float64)]
        )
        total = batch.new_zeros(())
        for c in range(NUM_CLASSES):
            own = (self.labels == c) & (self.weights > 0)
            x, pairs = everyone[own] - self.means[c], torch.outer(self.weights[own], self.weights[own])
            pairs = pairs - pairs.diag().diag()
            if own.sum() > 1:
                total = total + self.shares[c] * ((x @ self.precision @ x.T) * pairs).sum() / pairs.sum()
        self.rows = everyone.detach()
        return float(total.detach()), torch.autograd.grad(total, batch)[0]


def reference_rows(count: int = 90) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count).remainder(7).remainder(NUM_CLASSES)
    return torch.from_numpy(drawn_features(count, DIM, 3)) + labels[:, None], labels


def class_term(population: Any) -> ClassTerm:
    rows, labels = reference_rows()
    return ClassTerm(ClassTarget.of(LabelledMoments.from_features(rows, labels)), RATIO, population)


@pytest.mark.parametrize(
    ("population", "beta", "is_filled"),
    [
        (fdr.EmaPopulation(BETA), BETA, True),
        (fdr.EmaPopulation(BETA), BETA, False),
        (fdr.QueuePopulation(27), 0.5, True),
        (fdr.BatchPopulation(), 0.0, True),
    ],
)
def test_value_gradient_and_scale(population: Any, beta: float, is_filled: bool) -> None:
    """Batches of 9 without the last class in every other one; the gradient has the ratio to the marginal one."""
    oracle, term, squares = Oracle(*reference_rows()), class_term(population), [0.0, 0.0]
    if is_filled:
        rows, labels = drawn(1, 40, DIM), torch.arange(40).remainder(NUM_CLASSES)
        oracle.fill(rows, labels)
        term.fill(rows[:15], labels[:15])
        term.fill(rows[15:], labels[15:])
    for step in range(4):
        rows, labels = drawn(2 + step, 9, DIM), torch.arange(9).remainder(NUM_CLASSES - step % 2)
        marginal = drawn(50 + step, 9, DIM)
        value, gradient = oracle.step(rows, labels, beta)
        found = term.joined(TermValue(torch.zeros(()), marginal, Diagnostics("")), rows, labels)
        squares = [0.9 * a + 0.1 * float(b.square().sum()) for a, b in zip(squares, (marginal, gradient), strict=True)]
        scale = RATIO * (squares[0] / squares[1]) ** 0.5
        assert found.classes is not None
        assert (found.classes.value, found.classes.scale) == pytest.approx((value, scale), rel=1e-9)
        torch.testing.assert_close(found.gradient - marginal, scale * gradient, rtol=1e-9, atol=1e-12)
        if step == 0:
            norms = [float(rows.norm()) for rows in (found.gradient - marginal, marginal)]
            assert norms[0] == pytest.approx(RATIO * norms[1])
        term.commit()


def test_samples_of_the_reference_have_neither_value_nor_gradient_in_the_mean() -> None:
    """Without bias: with two samples a class the plug-in estimate would be d / 2, and pull every sample inwards."""
    rows, labels = reference_rows(3000)
    term = ClassTerm(ClassTarget.of(LabelledMoments.from_features(rows, labels)), 1.0, fdr.BatchPopulation())
    draw, values, pull = torch.Generator().manual_seed(0), [], []
    order = [torch.nonzero(labels == c)[:, 0] for c in range(NUM_CLASSES)]
    for _ in range(2000):
        chosen = torch.cat([own[torch.randint(len(own), (2,), generator=draw)] for own in order])
        found = term.joined(
            TermValue(torch.zeros(()), torch.ones(6, DIM).double(), Diagnostics("")), rows[chosen], labels[chosen]
        )
        assert found.classes is not None
        values.append(found.classes.value)
        x = rows[chosen] - term.target.means[labels[chosen]]
        pull.append(float(((found.gradient - 1) * x).sum() / found.classes.scale))
    for numbers in (values, pull):
        assert abs(np.mean(numbers)) < 4 * np.std(numbers) / len(numbers) ** 0.5
        assert np.std(numbers) > 0.1


def test_the_total_is_differentiable_and_its_gradient_is_the_sum() -> None:
    """Against the same loss without the term, with the factor of an encoder, 1 / (F + eps)."""
    net = ClassGenerator()
    labels = labels_of_step(0)
    found, plain = make_conditional_loss(1), make_conditional_loss(1, conditional=None)
    out, before = found(net(noise(0), labels), labels), plain(net(noise(0), labels))
    assert out.fd == pytest.approx(before.fd) and before.class_distance == {} == before.conditional_scale
    objective = out.fd["e0"] + out.conditional_scale["e0"] * out.class_distance["e0"]
    assert float(out.total.detach()) == pytest.approx(objective / (out.fd["e0"] + 0.01))
    (g,), (h,) = (torch.autograd.grad(o.total, net.table.weight) for o in (out, before))
    assert float((g - h).norm()) > 0.1 * float(h.norm())


def terms_of(loss: fdr.FDLoss) -> dict[str, dict[str, Tensor]]:
    """The populations of its state."""
    return {name: entry["term"] for name, entry in loss.state_dict()["encoders"].items()}


def test_chunks_are_the_whole_batch() -> None:
    net, labels = ClassGenerator(), labels_of_step(0)
    whole, parts = make_conditional_loss(), make_conditional_loss()
    expected = whole(net(noise(0), labels), labels)
    expected.total.backward()
    gradient = gradient_of(net)

    def generate(i: int) -> tuple[Tensor, Tensor]:
        own = slice(10 * i, 10 * i + 10)
        return net(noise(0)[own], labels[own]), labels[own]

    out = parts.accumulate(generate, 3)
    torch.testing.assert_close(gradient_of(net), gradient, rtol=1e-10, atol=1e-13)
    assert out.class_distance == pytest.approx(expected.class_distance)
    assert float(out.total) == pytest.approx(float(expected.total.detach()))
    torch.testing.assert_close(terms_of(parts), terms_of(whole), rtol=1e-10, atol=1e-13)


def test_chunks_with_other_labels_the_second_time_are_refused() -> None:
    net, calls = ClassGenerator(), iter(range(9))
    with pytest.raises(InputError, match=r"generate\(0\) gave other labels the second time"):
        make_conditional_loss().accumulate(lambda i: (net(noise(0), labels_of_step(0)), labels_of_step(next(calls))), 1)


@pytest.mark.parametrize("solver", ["exact", "fast", "local"])
def test_a_resumed_run_is_the_same_bit_for_bit(solver: str) -> None:
    def steps(loss: fdr.FDLoss, net: ClassGenerator, numbers: range) -> None:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        for step in numbers:
            optimizer.zero_grad()
            loss(net(noise(step), labels_of_step(step)), labels_of_step(step)).total.backward()
            optimizer.step()

    net, loss = ClassGenerator(), make_conditional_loss(solver=solver)
    loss.fill([(net(noise(9), labels_of_step(9)), labels_of_step(9))])
    steps(loss, net, range(3))
    other, again = ClassGenerator(), make_conditional_loss(solver=solver)
    other.load_state_dict(net.state_dict())
    again.load_state_dict(loss.state_dict())
    steps(loss, net, range(3, 6))
    steps(again, other, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    for name, entry in loss.state_dict()["encoders"].items():
        theirs = again.state_dict()["encoders"][name]["term"]
        assert all(torch.equal(theirs[key], value) for key, value in entry["term"].items())
        assert {"classes.marginal", "classes.shifts"} <= entry["term"].keys()


def test_a_batch_that_is_discarded_changes_nothing() -> None:
    net, loss = ClassGenerator(), make_conditional_loss()
    loss.fill([(net(noise(9), labels_of_step(9)), labels_of_step(9))])
    before = terms_of(loss)
    loss(net(noise(0), labels_of_step(0)), labels_of_step(0))
    loss.discard()
    torch.testing.assert_close(terms_of(loss), before, rtol=0, atol=0)
    loss(net(noise(0), labels_of_step(0)), labels_of_step(0)).total.backward()
    assert int(loss.state_dict()["encoders"]["e0"]["term"]["classes.num_steps"]) == 1


@pytest.mark.parametrize("change", [{"conditional": 2.0}, {"conditional": None}])
def test_the_state_of_another_conditional_term_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"was saved with another conditional term \(ratio 1\.0, classes"):
        make_conditional_loss(**change).load_state_dict(make_conditional_loss().state_dict())


def test_a_state_from_before_there_were_conditional_terms_is_read() -> None:
    loss = make_conditional_loss(conditional=None)
    state = loss.state_dict()
    for entry in state["encoders"].values():
        del entry["conditional"]
    loss.load_state_dict(state)
    with pytest.raises(InputError, match=r"another conditional term \(none; here ratio"):
        make_conditional_loss().load_state_dict(state)


def test_a_population_is_the_window_of_the_class_means() -> None:
    assert decay_of(fdr.EmaPopulation(0.99), 7) == 0.99
    assert decay_of(fdr.QueuePopulation(1900), 100) == pytest.approx(0.9)  # 100 (1 + .9) / (1 - .9) = 1900
    assert decay_of(fdr.QueuePopulation(50), 100) == decay_of(fdr.BatchPopulation(), 7) == 0


class Swapped(torch.nn.Module):
    """Two classes of points in the plane; the labels of the start are exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor([[0.7, 0.0], [0.3, 0.0]], dtype=torch.float64))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        points = self.table[labels] + 0.05 * noise[:, :2]
        return points[:, :, None, None].expand(-1, -1, 2, 2).repeat(1, 2, 1, 1)[:, :3]


def swapped_loss(**options: Any) -> fdr.FDLoss:
    labels = torch.arange(4000) % 2
    points = torch.tensor([[0.3, 0.0], [0.7, 0.0]], dtype=torch.float64)[labels] + 0.05 * drawn(1, 4000, 2)
    reference = {"points": LabelledMoments.from_features(points, labels)}
    encode: dict[str, Callable[[Tensor], Tensor]] = {"points": lambda images: images[:, :2, 0, 0]}
    return fdr.FDLoss(encode, reference, fdr.EmaPopulation(0.9), fdr.LossOptions("exact"), **options)


def test_the_marginal_loss_cannot_exchange_labels_and_the_conditional_one_does() -> None:
    """The marginal gradient of the table is noise. On the way the classes pass through each other, against the marginal
    gradient, which wants them apart: so the ratio has to be above 1."""
    tables = {}
    for conditional in (None, 3.0):
        net, loss = Swapped(), swapped_loss(conditional=conditional)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.004)
        for step in range(300):
            labels = torch.arange(64) % 2
            images = net(drawn(step, 64, 2), labels)
            optimizer.zero_grad()
            (loss(images) if conditional is None else loss(images, labels)).total.backward()
            optimizer.step()
        tables[conditional] = net.table.detach()
    torch.testing.assert_close(tables[None][:, 0], torch.tensor([0.7, 0.3]).double(), atol=0.1, rtol=0)
    torch.testing.assert_close(tables[3.0][:, 0], torch.tensor([0.3, 0.7]).double(), atol=0.1, rtol=0)


def test_lag_correction_leaves_the_class_means_alone() -> None:
    net, found = ClassGenerator(), []
    for population in (fdr.EmaPopulation(0.9), fdr.EmaPopulation(0.9, lag_correction=True)):
        loss = make_conditional_loss(population=population)
        for step in range(2):
            images = net(noise(step), labels_of_step(step))
            more = {"previous": 0.99 * images.detach()} if step and population.lag_correction else {}
            out = loss(images, labels_of_step(step), **more)
            loss.commit()
        found.append(out)
    assert found[0].class_distance == pytest.approx(found[1].class_distance)
    assert found[0].fd != found[1].fd


def test_watched_encoders_have_the_value_and_no_gradient() -> None:
    net, labels = ClassGenerator(), labels_of_step(0)
    loss = make_conditional_loss(weights={"e1": 0.0})
    out = loss(net(noise(0), labels), labels)
    assert set(out.class_distance) == {"e0", "e1"}
    out.total.backward()
    together = gradient_of(net)
    make_conditional_loss(1)(net(noise(0), labels), labels).total.backward()
    torch.testing.assert_close(together, gradient_of(net), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (None, "labels of the images are missing"),
        (torch.zeros(24), "one whole number for each image"),
        (torch.zeros(24, 1, dtype=torch.int64), "one whole number for each image"),
        (torch.zeros(7, dtype=torch.int64), "7 labels for 24 images"),
        (torch.full((24,), 3), "from 3 to 3, and the reference has the classes 0 to 2"),
        (torch.full((24,), -1), "from -1 to -1"),
    ],
)
def test_labels_that_are_refused(labels: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make_conditional_loss()(ClassGenerator()(noise(0), labels_of_step(0)), labels)


def test_labels_without_a_conditional_term_are_refused() -> None:
    with pytest.raises(InputError, match="this loss has no conditional term"):
        make_loss()(ClassGenerator()(noise(0), labels_of_step(0)), labels_of_step(0))


def test_a_fill_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="labels of the images are missing"):
        make_conditional_loss().fill(ClassGenerator()(noise(0), labels_of_step(0)))


@pytest.mark.parametrize("ratio", [0, -1.0, float("nan"), True, "off"])
def test_ratios_that_are_refused(ratio: Any) -> None:
    with pytest.raises(InputError, match="the ratio of the conditional gradient to that of FD, a number above 0"):
        make_conditional_loss(conditional=ratio)


def rows_of(labels: Tensor) -> LabelledMoments:
    return LabelledMoments.from_features(drawn(1, len(labels), DIM), labels)


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (rows_of(torch.arange(50) % 3).total, "has no classes, which a conditional loss needs"),
        (rows_of(torch.tensor([0, 1] * 20 + [2])), r"1 classes of the reference have one image \(2\)"),
        (rows_of(torch.zeros(40, dtype=torch.int64)), "has one class"),
        (LabelledMoments.from_features(torch.ones(20, DIM), torch.arange(20) % 2), "have the same features"),
    ],
)
def test_references_that_are_refused(reference: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        fdr.FDLoss({"e0": encoder(0)}, {"e0": reference}, conditional=1.0)


def test_references_of_other_classes_are_refused() -> None:
    references = labelled_references() | {
        "e1": LabelledMoments.from_features(drawn(1, 50, DIM + 1), torch.arange(50) % 2)
    }
    with pytest.raises(InputError, match=r"'e1' has 2 classes \(0, 1\), that of 'e0' has 3"):
        fdr.FDLoss(encoders(), references, conditional=1.0)
