"""FDLoss on one process: its value and gradient, what enters the populations and when, state, bad input."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from loss_worlds import DIM, Recorded, distance, encoder, encoders, generator, gradient_of, make_loss, noise, references

import fdr
from fdr.errors import FdrWarning, InputError, NonFiniteError, RunError

BATCH = {"population": fdr.BatchPopulation()}


def oracle(net: torch.nn.Module, latents: torch.Tensor, weights: dict[str, float], eps: float) -> torch.Tensor:
    """The gradient of the parameters by autograd through every eigendecomposition."""
    images, total = net(latents), torch.zeros((), dtype=torch.float64)
    for name, encode in encoders().items():
        fd = distance(encode(images), references()[name])
        total = total + weights[name] * fd / (fd.detach() + eps)
    total.backward()
    return gradient_of(net)


class TestValue:
    def test_the_gradient_is_that_of_autograd(self) -> None:
        net, latents, weights = generator(), noise(0), {"e0": 1.0, "e1": 0.3}
        out = make_loss(weights=weights, eps=0.5, **BATCH)(net(latents))
        out.total.backward()
        found = gradient_of(net)
        expected = oracle(net, latents, weights, 0.5)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

    def test_values(self) -> None:
        net, latents = generator(), noise(0)
        out = make_loss(weights={"e1": 2.0}, eps=0.1, **BATCH)(net(latents))
        for name, encode in encoders().items():
            moments = fdr.Moments.from_features(encode(net(latents)).detach(), ddof=0)
            assert out.fd[name] == pytest.approx(fdr.frechet_distance(moments, references()[name]), rel=1e-9)
        expected = out.fd["e0"] / (out.fd["e0"] + 0.1) + 2 * out.fd["e1"] / (out.fd["e1"] + 0.1)
        assert out.total.item() == pytest.approx(expected, rel=1e-12)
        assert out.total.dtype == torch.float64
        assert out.fdr == {}
        assert set(out.diagnostics) == {"e0", "e1"}
        assert out.solver_seconds > 0

    def test_the_features_of_the_batch_come_without_gradient(self) -> None:
        net, latents = generator(), noise(0)
        loss = make_loss(weights={"e1": 0.0})
        whole = loss(net(latents))
        again = loss.accumulate(lambda i: net(latents[12 * i : 12 * (i + 1)]), 2)
        for name, encode in encoders().items():
            expected = encode(net(latents)).detach()
            torch.testing.assert_close(whole.features[name], expected)
            torch.testing.assert_close(again.features[name], expected)
            torch.testing.assert_close(loss.features(net(latents))[name], expected)
        assert not any(rows.requires_grad for rows in whole.features.values())
        assert not loss.features(net(latents))["e0"].requires_grad

    def test_gradcheck_of_the_gradient(self) -> None:
        """Finite differences of F / (F0 + eps), F0 held."""
        images = generator()(noise(0)).detach()[:10, :, :2, :1]
        encode = {"e": lambda x: torch.tanh(x.flatten(1)[:, :5] * 3)}
        reference = {"e": fdr.Moments.from_features(np.random.default_rng(0).normal(size=(40, 5)))}
        loss = fdr.FDLoss(encode, reference, fdr.BatchPopulation(), fdr.LossOptions("exact"))
        held = loss(images).fd["e"] + loss.options.eps

        class Held(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):  # type: ignore[no-untyped-def]
                with torch.enable_grad():
                    leaf = x.detach().requires_grad_()
                    out = loss(leaf)
                    ctx.gradient = torch.autograd.grad(out.total, leaf)[0]
                return torch.tensor(out.fd["e"] / held, dtype=torch.float64)

            @staticmethod
            def backward(ctx, arriving):  # type: ignore[no-untyped-def]
                return arriving * ctx.gradient

        assert torch.autograd.gradcheck(Held.apply, images.requires_grad_(), rtol=1e-5, atol=1e-8)

    def test_the_validation_fd_of_a_reference_gives_fdr(self, tmp_path: Path) -> None:
        path = tmp_path / "reference.npz"
        moments = references(1)["e0"]
        fdr.Moments(moments.mu, moments.sigma, moments.count, attributes={"val_fd": 0.25}).save(path)
        loss = fdr.FDLoss({"e0": encoder(0)}, path, fdr.BatchPopulation(), fdr.LossOptions("exact"))
        out = loss(generator()(noise(0)))
        assert out.fdr["e0"] == pytest.approx(out.fd["e0"] / 0.25)
        quadratic = fdr.FDLoss({"e0": encoder(0)}, path, fdr.BatchPopulation(), fdr.LossOptions("local"))
        assert quadratic(generator()(noise(0))).fdr == {}

    def test_one_channel_is_repeated(self) -> None:
        grey = generator()(noise(0))[:, :1].detach().requires_grad_()
        out = make_loss(**BATCH)(grey)
        out.total.backward()
        three = grey.detach().repeat(1, 3, 1, 1).requires_grad_()
        same = make_loss(**BATCH)(three)
        same.total.backward()
        assert out.fd == same.fd
        torch.testing.assert_close(grey.grad, three.grad.sum(1, keepdim=True))

    def test_a_weight_of_zero_watches(self) -> None:
        net = generator()
        watched = make_loss(weights={"e1": 0.0}, **BATCH)(net(noise(0)))
        watched.total.backward()
        found = gradient_of(net)
        alone = make_loss(1, **BATCH)(net(noise(0)))
        alone.total.backward()
        torch.testing.assert_close(found, gradient_of(net), rtol=1e-12, atol=0)
        assert watched.fd["e1"] > 0
        assert watched.total.item() == alone.total.item()

    @pytest.mark.parametrize("solver", ["fast", "exact", "newton-schulz"])
    @pytest.mark.parametrize("population", [fdr.EmaPopulation(0.9), fdr.QueuePopulation(30), fdr.BatchPopulation()])
    @pytest.mark.parametrize("fault", ["equal images", "two images", "dead feature", "collapse"])
    def test_hazards_are_finite(self, fault: str, population: object, solver: str) -> None:
        encode = encoder(0)
        both = (
            {"e": lambda x: encode(x) * torch.tensor([1, 1, 0, 1, 1, 1.0])}
            if fault == "dead feature"
            else {"e": encode}
        )
        loss = fdr.FDLoss(both, references(1)["e0"], population, fdr.LossOptions(solver))  # type: ignore[arg-type]
        for step in range(4):
            images = generator(step)(noise(step)).detach()
            images = {
                "equal images": images[:1].expand(24, -1, -1, -1),
                "two images": images[:2],
                "dead feature": images,
                "collapse": images if step < 2 else images[:1] + 1e-9 * images,
            }[fault]
            leaf = images.clone().requires_grad_()
            out = loss(leaf)
            out.total.backward()
            assert leaf.grad is not None and leaf.grad.isfinite().all()
            assert math.isfinite(out.fd["e"]) and out.fd["e"] > -1e-9

    def test_without_gradient_there_is_only_a_value(self) -> None:
        loss = make_loss(**BATCH)
        with torch.no_grad():
            out = loss(generator()(noise(0)))
        assert not out.total.requires_grad
        assert out.fd == loss(generator()(noise(0))).fd


class TestPopulation:
    def recorded(self) -> tuple[fdr.FDLoss, list[str]]:
        loss = make_loss(1)
        term = Recorded(loss._terms._terms["e0"])
        loss._terms._terms["e0"] = term  # type: ignore[index]
        return loss, term.calls

    def value_of(self, loss: fdr.FDLoss) -> float:
        """FD of the population with one further batch."""
        with torch.no_grad():
            return loss(generator(3)(noise(9))).fd["e0"]

    def test_a_batch_enters_after_backward_with_the_next_call(self) -> None:
        loss, calls = self.recorded()
        out = loss(generator()(noise(0)))
        assert "commit" not in calls
        out.total.backward()
        assert "commit" not in calls
        loss(generator()(noise(1)))
        assert calls[-2:] == ["commit", "evaluate"]

    def test_a_batch_without_backward_does_not(self) -> None:
        loss, calls = self.recorded()
        before = self.value_of(loss)
        loss(generator()(noise(0)))
        assert self.value_of(loss) == before
        assert "commit" not in calls

    def test_it_enters_with_state_dict(self) -> None:
        loss, calls = self.recorded()
        loss(generator()(noise(0))).total.backward()
        loss.state_dict()
        assert calls[-2:] == ["commit", "state_dict"]

    def test_a_skipped_step_changes_nothing(self) -> None:
        loss, other = make_loss(1), make_loss(1)
        for one in (loss, other):
            one(generator()(noise(0))).total.backward()
        loss(generator()(noise(1))).total.backward()
        loss.discard()
        assert self.value_of(loss) == self.value_of(other)

    def test_commit_needs_no_backward(self) -> None:
        loss, other = make_loss(1), make_loss(1)
        loss(generator()(noise(0)))
        loss.commit()
        other(generator()(noise(0))).total.backward()
        assert self.value_of(loss) == self.value_of(other)

    def test_a_late_backward_does_not_enter_another_batch(self) -> None:
        loss, other = make_loss(1), make_loss(1)
        late = loss(generator()(noise(0)))
        loss(generator()(noise(1)))
        late.total.backward()
        assert self.value_of(loss) == self.value_of(other)

    def test_a_fill_is_the_population(self) -> None:
        """Filled with a set, the EMA with beta near 1 keeps its FD to the reference."""
        loss = make_loss(1, population=fdr.EmaPopulation(1 - 1e-9))
        images = generator(1)(drawn_noise(200)).detach()
        loss.fill(images)
        moments = fdr.Moments.from_features(encoder(0)(images), ddof=0)
        assert self.value_of(loss) == pytest.approx(fdr.frechet_distance(moments, references(1)["e0"]), rel=1e-5)

    def test_fill_takes_count_images_of_an_endless_source(self) -> None:
        images = generator(1)(drawn_noise(60)).detach()

        def endless():  # type: ignore[no-untyped-def]
            yield from images.split(25)
            raise AssertionError("read further than needed")

        first, second = make_loss(1), make_loss(1)
        first.fill(endless(), count=55)
        second.fill(images[:55])
        assert self.value_of(first) == pytest.approx(self.value_of(second), rel=1e-12)

    @pytest.mark.parametrize("change", ["fill", "load"])
    def test_a_batch_whose_gradient_was_used_does_not_survive_a_fill_or_a_loaded_state(self, change: str) -> None:
        images = generator(1)(drawn_noise(60)).detach()
        loss, other = make_loss(1), make_loss(1)
        other.fill(images)
        state = other.state_dict()
        loss(generator()(noise(0))).total.backward()
        if change == "fill":
            loss = make_loss(1)
            loss(generator()(noise(0))).total.backward()
            loss.fill(images)
        else:
            loss.load_state_dict(state)
        assert self.value_of(loss) == self.value_of(other)

    def test_only_the_range_of_the_first_images_is_looked_at(self) -> None:
        """A generator may leave the range later; the values are used as they are."""
        loss = make_loss(1, **BATCH)
        loss(generator()(noise(0)).detach())
        images = 4 * generator()(noise(1)).detach() - 1.5
        assert loss(images).fd["e0"] == pytest.approx(
            float(distance(encoder(0)(images), references(1)["e0"])), rel=1e-6
        )

    def test_after_an_error_in_a_solver_nothing_is_pending(self) -> None:
        loss, other = make_loss(2), make_loss(2)
        for one in (loss, other):
            one(generator()(noise(0))).total.backward()
            one.commit()
        evaluate = loss._terms._terms["e1"].evaluate

        def failing(features: torch.Tensor) -> object:
            raise RunError("no luck")

        loss._terms._terms["e1"].evaluate = failing  # type: ignore[assignment, method-assign]
        with pytest.raises(RunError, match="no luck"):
            loss(generator()(noise(1)))
        loss._terms._terms["e1"].evaluate = evaluate  # type: ignore[method-assign]
        loss.commit()
        assert self.value_of(loss) == self.value_of(other)

    def test_too_few_images_to_fill_with(self) -> None:
        images = generator(1)(drawn_noise(60)).detach()
        with pytest.raises(InputError, match="were 60 images to fill the populations with; expected 100"):
            make_loss(1).fill(images, count=100)
        with pytest.raises(InputError, match="were 0 images"):
            make_loss(1).fill([])

    def test_features_that_are_not_finite(self) -> None:
        loss = make_loss(1)
        loss(generator()(noise(0))).total.backward()
        images = generator()(noise(1)).detach()
        images[3] = math.nan
        with pytest.raises(NonFiniteError, match="'e0' gave non-finite features for 1 of 24 images"):
            loss(images.requires_grad_())
        other = make_loss(1)
        other(generator()(noise(0))).total.backward()
        assert self.value_of(loss) == self.value_of(other)


def drawn_noise(count: int) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(77), dtype=torch.float64)


class TestAccumulate:
    @pytest.mark.parametrize(
        ("population", "solver"),
        [
            (fdr.BatchPopulation(), "exact"),
            (fdr.EmaPopulation(0.9), "exact"),
            (fdr.EmaPopulation(0.9, "debiased"), "exact"),
            (fdr.BatchPopulation("debiased"), "exact"),
            (fdr.BatchPopulation(), "local"),
            (fdr.EmaPopulation(0.9), "local"),
        ],
    )
    def test_equals_the_gradient_of_the_whole_batch(self, population: object, solver: str) -> None:
        net = generator()
        whole, parts = (make_loss(population=population, solver=solver) for _ in range(2))
        for step in range(2):
            out = whole(net(noise(step)))
            out.total.backward()
            expected = gradient_of(net)
            chunked = parts.accumulate(lambda i, step=step: net(noise(step, 7 * i, 7 * i + 7)), 4)
            torch.testing.assert_close(gradient_of(net), expected, rtol=1e-10, atol=1e-14)
            assert chunked.fd == pytest.approx(out.fd, rel=1e-10)
            assert chunked.total.item() == pytest.approx(out.total.item(), rel=1e-10)
            assert not chunked.total.requires_grad

    def test_scale_multiplies_the_gradient(self) -> None:
        net, loss = generator(), make_loss(1, **BATCH)
        loss.accumulate(lambda i: net(noise(0)), 1)
        once = gradient_of(net)
        loss.accumulate(lambda i: net(noise(0)), 1, scale=3)
        torch.testing.assert_close(gradient_of(net), 3 * once)

    def test_other_images_the_second_time(self) -> None:
        net, calls = generator(), iter(range(100))
        with pytest.raises(InputError, match=r"generate\(0\) made other images the second time"):
            make_loss(1, **BATCH).accumulate(lambda i: net(noise(next(calls))), 2)

    def test_no_chunks(self) -> None:
        with pytest.raises(InputError, match="one chunk or more; got 0"):
            make_loss(1).accumulate(lambda i: generator()(noise(i)), 0)


class TestState:
    @pytest.mark.parametrize(
        ("population", "solver"),
        [
            (fdr.EmaPopulation(0.9), "exact"),
            (fdr.EmaPopulation(0.99), "fast"),
            (fdr.EmaPopulation(0.99, "debiased"), "fast"),
            (fdr.QueuePopulation(40), "fast"),
            (fdr.EmaPopulation(0.9), "local"),
            (fdr.BatchPopulation(), "local"),
            (fdr.BatchPopulation("debiased"), "exact"),
        ],
    )
    def test_round_trip_through_a_file(self, population: object, solver: str) -> None:
        loss, other = (make_loss(population=population, solver=solver) for _ in range(2))
        loss.fill(generator(1)(drawn_noise(60)).detach())
        loss(generator()(noise(0))).total.backward()
        file = io.BytesIO()
        torch.save(loss.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        for step in range(3):
            images = generator()(noise(step))
            first, second = loss(images), other(images)
            assert first.fd == second.fd
            (first.total + second.total).backward()

    @pytest.mark.parametrize("population", [fdr.EmaPopulation(0.99), fdr.QueuePopulation(40)])
    def test_a_state_stays_what_it_is_while_training_goes_on(self, population: object) -> None:
        loss = make_loss(1, population=population, solver="fast")
        loss.fill(generator(1)(drawn_noise(60)).detach())
        loss(generator()(noise(0))).total.backward()
        term = loss.state_dict()["encoders"]["e0"]["term"]
        before = {key: value.clone() for key, value in term.items()}
        for step in range(30):
            loss(generator(step)(noise(step))).total.backward()
        loss.commit()
        torch.testing.assert_close(dict(term), before, rtol=0, atol=0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"population": fdr.QueuePopulation(40)}, "another population (EmaPopulation"),
            ({"population": fdr.EmaPopulation(0.9, "debiased")}, "here EmaPopulation(beta=0.9, batch_weight='debia"),
            ({"solver": "newton-schulz"}, "another solver (exact; here newton-schulz)"),
            ({"solver": "local"}, "another solver (exact; here local)"),
            ({"population": fdr.BatchPopulation("debiased")}, "here BatchPopulation(estimator='debiased')"),
            ({"count": 1}, "state is of the encoders e0, e1; the loss has e0"),
            ({"autocast": "bf16"}, "another encoder spec"),
        ],
    )
    def test_what_does_not_fit(self, options: dict[str, object], message: str) -> None:
        state = make_loss().state_dict()
        with pytest.raises(InputError, match=re.escape(message)):
            make_loss(**options).load_state_dict(state)  # type: ignore[arg-type]

    def test_another_reference(self) -> None:
        moments = references(1)["e0"]
        other = {"e0": fdr.Moments(moments.mu + 1, moments.sigma, moments.count)}
        with pytest.raises(InputError, match="'e0' was saved with another reference"):
            fdr.FDLoss({"e0": encoder(0)}, other, fdr.EmaPopulation(0.9), fdr.LossOptions("exact")).load_state_dict(
                make_loss(1).state_dict()
            )

    def test_no_state(self) -> None:
        with pytest.raises(InputError, match="no state of an FDLoss"):
            make_loss().load_state_dict({"model": {}})


class TestBadInput:
    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (torch.rand(3, 8, 8), "got [3, 8, 8]"),
            (torch.rand(2, 4, 8, 8), "got [2, 4, 8, 8]"),
            (torch.rand(0, 3, 8, 8), "got [0, 3, 8, 8]"),
            (np.zeros((2, 3, 8, 8)), "got ndarray"),
            ("samples/", "got str"),
            (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "got uint8: divide"),
            (torch.linspace(-1, 1, 96).view(2, 3, 4, 4), "reach from -1 to 1"),
            (torch.linspace(0, 255, 96).view(2, 3, 4, 4), "reach from 0 to 255"),
        ],
    )
    def test_images(self, images: object, message: str) -> None:
        with pytest.raises(InputError, match=re.escape(message)):
            make_loss()(images)  # type: ignore[arg-type]

    def test_one_value_outside_is_told_and_used_as_it_is(self) -> None:
        images = generator()(noise(0)).detach()
        images[0, 0, 0, 0] = 1.6
        with pytest.warns(FdrWarning, match=rf"1 of {images.numel():,} values of the first images lie outside"):
            out = make_loss(**BATCH)(images)
        assert out.fd["e0"] == pytest.approx(float(distance(encoders()["e0"](images), references()["e0"])), rel=1e-6)

    @pytest.mark.parametrize("size", [None, 7])
    @pytest.mark.parametrize("error", [ValueError("no luck"), SystemExit(0)])
    def test_an_encoder_that_fails_is_named(self, error: BaseException, size: int | None) -> None:
        """The original stays behind it; a lack of memory passes as it is, for loops that look for it."""
        failing: list[BaseException] = []

        def encode(images: torch.Tensor) -> torch.Tensor:
            if failing:
                raise failing[0]
            return encoders()["e0"](images)

        loss = fdr.FDLoss(
            {"e0": encode}, references(1), fdr.BatchPopulation(), fdr.LossOptions(encoder_batch_size=size)
        )
        loss(generator()(noise(0))).total.backward()
        failing.append(error)
        count = size or len(noise(0))
        with pytest.raises(RunError, match=f"Encoder 'e0' failed on a batch of {count} images: ") as caught:
            loss(generator()(noise(1)))
        assert caught.value.__cause__ is error
        failing[0] = torch.OutOfMemoryError("CUDA out of memory.")
        with pytest.raises(torch.OutOfMemoryError):
            loss(generator()(noise(1)))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"weights": {"e9": 1.0}}, "Unknown encoder with a weight 'e9'"),
            ({"weights": {"e0": -1.0}}, "weight of 'e0' is -1.0"),
            ({"weights": {"e0": math.nan}}, "weight of 'e0' is nan"),
            ({"weights": {"e0": 0, "e1": 0}}, "All weights are 0"),
            ({"eps": 0.0}, "eps is 0.0"),
            ({"encoder_batch_size": 0}, "encoder_batch_size is 0"),
            ({"autocast": "fp16"}, "Unknown autocast 'fp16'"),
            ({"weight_files": {"e9": Path("x")}}, "Unknown encoder with explicit weights 'e9'"),
        ],
    )
    def test_options(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=re.escape(message)):
            make_loss(**options)  # type: ignore[arg-type]

    def test_references(self) -> None:
        with pytest.raises(InputError, match="Unknown reference of encoder 'e1'"):
            fdr.FDLoss(encoders(), references(1))
        with pytest.raises(InputError, match="reference of 'e0' is int"):
            fdr.FDLoss(encoders(1), {"e0": 3})
        with pytest.raises(InputError, match="Unknown reference 'imagenet25'"):
            fdr.FDLoss(encoders(1), "imagenet25")
        with pytest.raises(InputError, match=f"gives {DIM}-d features, but its reference has {DIM + 1} dim"):
            fdr.FDLoss(encoders(1), references()["e1"], fdr.BatchPopulation(), fdr.LossOptions("exact"))(
                generator()(noise(0))
            )

    def test_encoders(self) -> None:
        with pytest.raises(InputError, match="No encoder was given"):
            fdr.FDLoss({}, {})
        with pytest.raises(InputError, match="Unknown encoder 'dinov3'"):
            fdr.FDLoss("dinov3", "imagenet256")
        with pytest.raises(InputError, match="make a tensor"):
            fdr.FDLoss({"e0": lambda images: images}, references(1))(generator()(noise(0)))
