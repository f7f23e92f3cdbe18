"""One step of post-training: images, loss, gradient, and the decision whether it is taken."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fdr.errors import InputError, NonFiniteError, RunError
from fdr.generators import Generator
from fdr.loss import FDLoss, LossOutput
from fdr.runtime import TensorGroup, memory_for
from fdr.training.draws import Draws, stream_seed
from fdr.training.options import TrainOptions
from fdr.training.schedule import learning_rate
from fdr.training.watch import BatchFacts, batch_facts

_LESS_MEMORY = (
    "lower --encoder-batch-size, with which the run goes on, or start another run with more --chunks or a smaller "
    "--batch-size"
)


@dataclass(frozen=True)
class StepOutcome:
    """What one step did."""

    fault: str | None
    """Why the step was skipped; None when it was taken."""
    lr: float
    loss: float
    grad_norm: float
    fd: Mapping[str, float] = field(default_factory=dict)
    """By encoder, trained on or watched."""
    fdr: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Empty unless the step was logged."""
    batch: BatchFacts | None = None
    """None unless the step was logged."""


class Stopwatch:
    """Seconds by part. On a GPU, where a timed step waits for the device at every lap, others do not."""

    def __init__(self, device: torch.device, is_running: bool) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._is_running = is_running
        self._last = self._now()

    def lap(self, part: str) -> None:
        """All since the last lap belongs to `part`."""
        if self._is_running:
            now = self._now()
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
            self._last = now

    def move(self, seconds: float, source: str, target: str) -> None:
        """`seconds` of the part `source` were really `target`'s."""
        if self._is_running:
            self.seconds[source] -= seconds
            self.seconds[target] = self.seconds.get(target, 0.0) + seconds

    def _now(self) -> float:
        if self._is_running and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """torch's global generators are the run's inside (dropout), and as they were after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def seed_step(options: TrainOptions, step: int, rank: int, chunk: int) -> None:
    """torch's global generators depend on (seed, step, rank, chunk) alone: a resumed run draws what it would have."""
    torch.manual_seed(stream_seed(options.seed, f"step {step}, rank {rank}, chunk {chunk}"))


class Stepper:
    """Takes steps: generator -> images -> loss -> gradient summed over the ranks -> AdamW.

    A step whose images, features or gradient are not finite is skipped: no parameter, average or population changes.
    """

    def __init__(
        self, options: TrainOptions, generator: Generator, loss: FDLoss, draws: Draws, ranks: TensorGroup
    ) -> None:
        self.parameters = [p for p in generator.parameters() if p.requires_grad]
        if not self.parameters:
            raise InputError(f"{generator.name} has no parameter that wants a gradient; there is nothing to train.")
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay
        )
        self._options, self._generator, self._loss = options, generator, loss
        self._draws, self._ranks = draws, ranks
        self._batch: BatchFacts | None = None

    def check_gradient(self) -> None:
        """Raise `InputError` for images that depend on no parameter, before anything is spent on them."""
        noise, labels = self._draws.of("train", 0, 2)
        with own_randomness(self._draws.device):
            if self.images(noise, labels, "a first try").requires_grad:
                return
            buffers = [(buffer, buffer.clone()) for buffer in self._generator.buffers()]
            self._generator.train()  # some detach their images in eval mode alone
            is_reached = self.images(noise, labels, "a first try").requires_grad
            self._generator.eval()
            for buffer, before in buffers:  # a normalisation in training mode has counted these images
                buffer.copy_(before)
        if not is_reached:
            raise self._no_gradient()

    def _no_gradient(self) -> InputError:
        return InputError(
            f"{self._generator.name} makes images without a gradient, so that it cannot be trained: its forward must "
            "not detach them (torch.no_grad, .detach(), .data, NumPy)."
        )

    def step(self, number: int, is_timed: bool) -> StepOutcome:
        """Step `number`, from 0."""
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
        except InputError as error:  # what took all steps before was good input
            if number == 0:
                raise
            raise RunError(str(error)) from error
        except NonFiniteError as error:
            return StepOutcome(str(error), lr, math.nan, math.nan)
        norm = self._summed_gradient()
        outcome = StepOutcome(None, lr, float(out.total.detach()), norm, out.fd, out.fdr, batch=self._batch)
        if not all(map(math.isfinite, (norm, outcome.loss, *out.fd.values()))):
            self._loss.discard()
            return replace(outcome, fault=f"the norm of the gradient is {norm} at the FDs {out.fd}")
        with memory_for("the state of AdamW", "choose a smaller generator or another --device"):
            self._take(norm)
        watch.lap("rest")
        return replace(outcome, seconds=watch.seconds)

    def _differentiated(self, number: int, watch: Stopwatch, is_timed: bool) -> LossOutput:
        """The loss of a batch, its gradient in the parameters; in chunks, as if the batch had passed at once."""
        before = "encoders"

        def generate(chunk: int) -> Tensor:
            watch.lap(before)
            seed_step(self._options, number, self._ranks.rank, chunk)
            noise, labels = self._draws.of_step(number, self._options, self._ranks, chunk)
            images = self.images(noise, labels, f"step {number + 1}")
            watch.lap("generator")
            if torch.is_grad_enabled():
                if not images.requires_grad:
                    raise self._no_gradient()
                images.register_hook(arrived)
            if is_timed:
                self._batch = batch_facts(images)
            return images

        def arrived(_: Tensor) -> None:
            """The gradient has come back to the images."""
            nonlocal before
            watch.lap("encoders")
            before = "generator"

        if self._options.chunks > 1:
            out = self._loss.accumulate(generate, self._options.chunks)
        else:
            out = self._loss(generate(0))
            out.total.backward()
        watch.lap("generator")
        watch.move(out.solver_seconds, "encoders", "solver")
        return out

    def images(self, noise: Tensor, labels: Tensor | None, where: str) -> Tensor:
        """float32 images [B, 3, H, W]; the network itself runs in the options' dtype. `where` is told when it fails."""
        with torch.autocast(self._draws.device.type, torch.bfloat16, enabled=self._options.dtype == "bf16"):
            return self._generator.run(noise, labels, where).float()

    def _summed_gradient(self) -> float:
        """Sum the gradient over the ranks, each of which has that of its own images; its norm."""
        for parameter in self.parameters:
            if parameter.grad is None:  # it took no part; every rank must have the same list
                parameter.grad = torch.zeros_like(parameter)
        found = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self._ranks.sum_tensors(found)
        return float(torch.nn.utils.get_total_norm(found))

    def _take(self, norm: float) -> None:
        if self._options.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self._options.clip, torch.tensor(norm))
        self.optimizer.step()
        self._loss.commit()
