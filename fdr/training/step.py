"""One step of post-training, from noise to new weights; `Stepper.step` is the whole of it, in order."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fdr.errors import InputError, NonFiniteError, RunError
from fdr.generators import Generator, labels_of, noise_of
from fdr.loss import FDLoss, LossOutput
from fdr.runtime import SOLO, TensorGroup, memory_for
from fdr.training.options import TrainOptions
from fdr.training.previous import PreviousWeights
from fdr.training.watch import BatchStatistics, batch_statistics

RAMP = 0.05
"""The half-life of a weight average is at most this share of the images seen so far.

Raising it keeps the first weights for longer.
"""
Batch = Tensor | tuple[Tensor, Tensor | None]
"""Images [B, 3, H, W], or for a conditional loss these and their labels [B]."""
_LESS_MEMORY = (
    "lower --encoder-batch-size, with which the run goes on, or start another run with more --chunks or a smaller "
    "--batch-size"
)


@dataclass(frozen=True)
class StepOutcome:
    """The result of one step."""

    fault: str | None
    """The reason why the step was skipped; None when it was taken."""
    lr: float
    loss: float
    grad_norm: float
    fd: Mapping[str, float] = field(default_factory=dict)
    """FD by encoder, whether trained on or watched."""
    fdr: Mapping[str, float] = field(default_factory=dict)
    """FDr by encoder, where the reference has a validation FD."""
    class_distance: Mapping[str, float] = field(default_factory=dict)
    """The distance of the class means by encoder; empty without --conditional."""
    fd_debiased: Mapping[str, float] = field(default_factory=dict)
    """`LossOutput.fd_debiased`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part; empty unless the step is logged."""
    batch: BatchStatistics | None = None
    """None unless the step is logged."""
    features: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Features [B, d] of this rank's images by encoder."""


class Stepper:
    """Takes the steps of a run on this rank, and holds what they change besides the generator and the populations."""

    def __init__(
        self, options: TrainOptions, generator: Generator, loss: FDLoss, draws: Draws, ranks: TensorGroup
    ) -> None:
        self.parameters = [p for p in generator.parameters() if p.requires_grad]
        if not self.parameters:
            raise InputError(f"{generator.name} has no parameter that wants a gradient; there is nothing to train.")
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay
        )
        self.emas = WeightEmas(generator, options.ema_kimg if ranks.rank == 0 else (), options.batch_size)
        self.previous = PreviousWeights(generator) if options.lag_correction else None
        """The weights of the last step that corrected the lag; None without lag correction."""
        self.taken = 0
        """Steps that were taken, and not skipped."""
        self._options, self._generator, self._loss = options, generator, loss
        self._draws, self._ranks = draws, ranks
        self._batch: BatchStatistics | None = None

    def step(self, number: int, is_timed: bool) -> StepOutcome:
        """Take step `number`, counted from 0; `is_timed` measures its parts and looks at its images.

        1. Set the learning rate.
        2. Generate this rank's images, compute the loss, and differentiate it (`_differentiated`).
        3. Sum the gradient over the ranks (`_summed_gradient`).
        4. Skip the step if the loss, an FD or the gradient is not finite: the batch is discarded, and no parameter,
           average or population changes.
        5. Otherwise take it (`_take`): clip the gradient, let AdamW change the parameters, commit the batch to the
           populations, and average the weights.

        At every `lag_every`-th step of a run with lag correction, part 2 also makes the images of the same noise and
        labels under the weights of the last such step, without gradient, and part 5 keeps a copy of the weights before
        AdamW changes them.
        """
        options, watch = self._options, Stopwatch(self._draws.device, is_timed)
        lr = learning_rate(number, peak=options.lr, warmup=options.warmup, steps=options.steps)
        for settings in self.optimizer.param_groups:
            settings["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        self._batch = None
        try:
            with memory_for(
                f"a training step of {options.batch_size} images in {options.chunks} chunk(s)", _LESS_MEMORY
            ):
                out = self._differentiated(number, watch, is_timed)
        except InputError as error:  # after the first step the input is known to be good, so this is a failed run
            if number == 0:
                raise
            raise RunError(str(error)) from error
        except NonFiniteError as error:
            return StepOutcome(str(error), lr, math.nan, math.nan)
        norm = self._summed_gradient()
        values = out.fd, out.fdr, out.class_distance, out.fd_debiased
        outcome = StepOutcome(None, lr, float(out.total.detach()), norm, *values)
        outcome = replace(outcome, batch=self._batch, features=out.features)
        if not all(map(math.isfinite, (norm, outcome.loss, *out.fd.values()))):
            self._loss.discard()
            return replace(outcome, fault=f"the norm of the gradient is {norm} at the FDs {out.fd}")
        with memory_for("the state of AdamW", "choose a smaller generator or another --device"):
            self._take(norm)
        watch.lap("rest")
        return replace(outcome, seconds=watch.seconds)

    def _differentiated(self, number: int, watch: Stopwatch, is_timed: bool) -> LossOutput:
        """The loss of step `number`'s batch; its gradient is added to the parameters' `.grad`.

        The batch passes in `chunks` parts, and the gradient is that of the whole. `generate` makes the images of a
        chunk whenever the loss asks for them; `arrived` is called in the backward pass, when the gradient has come
        back through the encoders to these images; `remade` makes those of the previous weights. The laps of `watch`
        are taken at these events.
        """
        before = "encoders"
        is_corrected = bool(self.previous) and self._corrects()

        def generate(chunk: int) -> Batch:
            watch.lap(before)
            images, labels = self._chunk(number, chunk)
            watch.lap("generator")
            if torch.is_grad_enabled():
                if not images.requires_grad:
                    raise self._no_gradient()
                images.register_hook(arrived)
            if is_timed:
                self._batch = batch_statistics(images)
            return self.batch_of(images, labels)

        def remade(chunk: int) -> Tensor:
            assert self.previous is not None
            watch.lap(before)
            with torch.no_grad(), self.previous.in_place():
                images, _ = self._chunk(number, chunk)
            watch.lap("generator")
            return images

        def arrived(_: Tensor) -> None:
            """A hook on the images: the backward pass is through the encoders and enters the generator."""
            nonlocal before
            watch.lap("encoders")
            before = "generator"

        if self._options.chunks > 1:
            out = self._loss.accumulate(generate, self._options.chunks, previous=remade if is_corrected else None)
        else:
            old_images = remade(0) if is_corrected else None
            out = self._loss(generate(0), previous=old_images)
            out.total.backward()
        watch.lap("generator")
        watch.move(out.solver_seconds, "encoders", "solver")
        return out

    def _corrects(self) -> bool:
        """True at the steps that correct the lag, or would, if there were earlier ones."""
        return self.taken % self._options.lag_every == 0

    def _chunk(self, number: int, chunk: int) -> tuple[Tensor, Tensor | None]:
        """Images and labels of a chunk of step `number`; passes that are repeated draw the same numbers."""
        torch.manual_seed(stream_seed(self._options.seed, f"step {number}, rank {self._ranks.rank}, chunk {chunk}"))
        noise, labels = self._draws.of_step(number, self._options, self._ranks, chunk)
        return self.images(noise, labels, f"step {number + 1}"), labels

    def batch_of(self, images: Tensor, labels: Tensor | None) -> Batch:
        """What the loss takes: images, with their labels where it is conditional."""
        return images if self._options.conditional is None else (images, labels)

    def images(self, noise: Tensor, labels: Tensor | None, where: str) -> Tensor:
        """float32 images [B, 3, H, W]; the network runs in the options' dtype. Errors name `where` it failed."""
        with torch.autocast(self._draws.device.type, torch.bfloat16, enabled=self._options.dtype == "bf16"):
            return self._generator.run(noise, labels, where).float()

    def _summed_gradient(self) -> float:
        """Sum the gradient over the ranks, as each has that of its own images; return the norm of the sum."""
        for parameter in self.parameters:
            if parameter.grad is None:  # it was not used in this step; all ranks must sum the same list of tensors
                parameter.grad = torch.zeros_like(parameter)
        found = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self._ranks.sum_tensors(found)
        return float(torch.nn.utils.get_total_norm(found))

    def _take(self, norm: float) -> None:
        """Change parameters, populations and averages; `norm` is that of the gradient."""
        if self._options.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self._options.clip, torch.tensor(norm))
        if self.previous is not None and self._corrects():
            self.previous.remember()
        self.optimizer.step()
        self._loss.commit()
        self.taken += 1
        self.emas.update(self.taken)

    def check_gradient(self) -> None:
        """Raise `InputError` where the images depend on no parameter, before the run spends any time."""
        noise, labels = self._draws.of("train", 0, 2)
        with own_randomness(self._draws.device):
            if self.images(noise, labels, "a first try").requires_grad:
                return
            buffers = [(buffer, buffer.clone()) for buffer in self._generator.buffers()]
            self._generator.train()  # some generators detach their images in eval mode only
            is_reached = self.images(noise, labels, "a first try").requires_grad
            self._generator.eval()
            for buffer, before in buffers:  # a normalisation in training mode has counted these images
                buffer.copy_(before)
        if not is_reached:
            raise self._no_gradient()

    def check_repeats(self) -> None:
        """Raise `InputError` where lag correction is wanted and the generator draws noise of its own."""
        if self.previous is not None:
            with own_randomness(self._draws.device):
                self.previous.check_repeats(lambda: self._chunk(0, 0)[0], self._generator.name)

    def _no_gradient(self) -> InputError:
        return InputError(
            f"{self._generator.name} makes images without a gradient, so that it cannot be trained: its forward must "
            "not detach them (torch.no_grad, .detach(), .data, NumPy)."
        )


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """The learning rate of step `step` in [0, steps): a line from 0 to `peak` over `warmup` steps, then half a cosine.

    lr(0) = 0 with a warm-up, and lr(warmup) = peak. The cosine would reach 0 at `steps`, one after the last step.
    """
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


# ---------------------------------------------------------------------------------------------------- noise and labels


@dataclass(frozen=True)
class Draws:
    """The noise [n, *noise_shape] and labels [n] (None without classes) of a run, on `device`.

    Those of a sample depend only on the seed, the use and the sample's number.
    """

    seed: int
    noise_shape: tuple[int, ...]
    num_classes: int | None
    device: torch.device

    def of(self, use: str, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Samples `start` to `stop` of one use: "train", "fill", "grid"."""
        seed, indices = stream_seed(self.seed, use), range(start, stop)
        noise = noise_of(seed, indices, self.noise_shape, self.device)
        if self.num_classes is None:
            return noise, None
        return noise, labels_of("random", seed, indices, self.num_classes, self.device)

    def of_step(self, step: int, options: TrainOptions, ranks: TensorGroup, chunk: int) -> tuple[Tensor, Tensor | None]:
        """A chunk of this rank's part of the batch of a step."""
        start, stop = rows_of(ranks, options.batch_size)
        length, first = stop - start, step * options.batch_size + start
        chunks = options.chunks
        return self.of("train", first + length * chunk // chunks, first + length * (chunk + 1) // chunks)

    def batches(
        self, use: str, count: int, size: int, ranks: TensorGroup = SOLO
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """This rank's part of each batch of at most `size`, over the first `count` samples of a use."""
        for first in range(0, count, size):
            start, stop = rows_of(ranks, min(size, count - first))
            yield self.of(use, first + start, first + stop)


def rows_of(ranks: TensorGroup, count: int) -> tuple[int, int]:
    """This rank's contiguous part of `count` rows; those of all ranks differ by one row at most."""
    return count * ranks.rank // ranks.size, count * (ranks.rank + 1) // ranks.size


def stream_seed(seed: int, stream: str) -> int:
    """A seed in [0, 2^63) for one use of randomness, so that no two uses share their noise."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8], "big") >> 1


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Restore torch's global random generators at the end; inside, the run seeds them."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


# ---------------------------------------------------------------------------------------------------- weight averages


def decay_at(step: int, batch_size: int, half_life: float) -> float:
    """What an average keeps of itself at step `step` (from 1): 0.5^(B / min(1000 h, 0.05 t B)).

    `half_life` h is in thousands of images; B is the batch over all ranks. (Karras et al. 2022, EDM.)
    """
    return 0.5 ** (batch_size / min(half_life * 1000, RAMP * step * batch_size))


class WeightEmas:
    """Exponential moving averages of all that a module's `state_dict` holds: parameters are averaged, buffers copied.

    There is one for each half-life, in thousands of images; "edm_250" is the label of 250 thousand.
    """

    def __init__(self, module: torch.nn.Module, half_lives: Sequence[float], batch_size: int) -> None:
        self._module = module
        self._batch_size = batch_size
        self._half_lives = {f"edm_{half_life:g}": half_life for half_life in half_lives}
        self._averaged = {name for name, value in module.named_parameters() if value.is_floating_point()}
        self.shadows = {
            label: {name: value.detach().clone() for name, value in module.state_dict().items()}
            for label in self._half_lives
        }
        """{label: {name: tensor}}, in the order of the half-lives."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average the weights in after step `step`, counted from 1 over the steps that were taken."""
        state = self._module.state_dict()
        averaged = [name for name in state if name in self._averaged]
        for label, half_life in self._half_lives.items():
            shadow, decay = self.shadows[label], decay_at(step, self._batch_size, half_life)
            torch._foreach_lerp_([shadow[name] for name in averaged], [state[name] for name in averaged], 1 - decay)
            for name in state.keys() - self._averaged:
                shadow[name].copy_(state[name])

    def load(self, shadows: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue with averages that were saved. Raises `InputError` when they are of other half-lives or weights."""
        for label, shadow in self.shadows.items():
            if label not in shadows or shadows[label].keys() != shadow.keys():
                raise InputError(f"The checkpoint has no weight average {label!r} of this generator.")
            for name, value in shadow.items():
                value.copy_(shadows[label][name])


# -------------------------------------------------------------------------------------------------------------- timing


class Stopwatch:
    """Measures the seconds of each part of a step.

    On a GPU it waits for the device at every lap, so it runs in logged steps only.
    """

    def __init__(self, device: torch.device, is_running: bool) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._is_running = is_running
        self._last = self._now()

    def lap(self, part: str) -> None:
        """Count the time since the last lap as that of `part`."""
        if self._is_running:
            now = self._now()
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
            self._last = now

    def move(self, seconds: float, source: str, target: str) -> None:
        """Move `seconds` from the part `source` to the part `target`."""
        if self._is_running:
            self.seconds[source] -= seconds
            self.seconds[target] = self.seconds.get(target, 0.0) + seconds

    def _now(self) -> float:
        if self._is_running and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
