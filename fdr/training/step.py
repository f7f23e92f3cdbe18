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
from fdr.training.watch import BatchFacts, batch_facts

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
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part; empty unless the step is logged."""
    batch: BatchFacts | None = None
    """None unless the step is logged."""


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """The learning rate of step `step` in [0, steps): a line from 0 to `peak` over `warmup` steps, then half a cosine.

    lr(0) = 0 with a warm-up, and lr(warmup) = peak. The cosine would reach 0 at `steps`, one after the last step.
    """
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


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


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Restore torch's global random generators at the end; inside, the run seeds them, for example for dropout."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def seed_step(options: TrainOptions, step: int, rank: int, chunk: int) -> None:
    """Seed torch's global generators from (seed, step, rank, chunk), so that a resumed run draws the same numbers."""
    torch.manual_seed(stream_seed(options.seed, f"step {step}, rank {rank}, chunk {chunk}"))


class Stepper:
    """Takes steps. In each, `step` does the following:

    1. set the learning rate;
    2. generate this rank's images, compute the loss, and differentiate it (`_differentiated`), in chunks if asked;
    3. sum the gradient over the ranks (`_summed_gradient`);
    4. skip the step if loss, FD or gradient is not finite: no parameter, average or population changes;
    5. otherwise clip the gradient, let AdamW change the parameters, and commit the populations (`_take`).
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

    def _no_gradient(self) -> InputError:
        return InputError(
            f"{self._generator.name} makes images without a gradient, so that it cannot be trained: its forward must "
            "not detach them (torch.no_grad, .detach(), .data, NumPy)."
        )

    def step(self, number: int, is_timed: bool) -> StepOutcome:
        """Take step `number`, counted from 0; `is_timed` measures its parts and looks at its images."""
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
        outcome = StepOutcome(None, lr, float(out.total.detach()), norm, out.fd, out.fdr, batch=self._batch)
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
        back through the encoders to these images. The laps of `watch` are taken at these two events.
        """
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
            """A hook on the images: the backward pass is through the encoders and enters the generator."""
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
        """Clip the gradient of norm `norm`, change the parameters, and let the batch enter the populations."""
        if self._options.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self._options.clip, torch.tensor(norm))
        self.optimizer.step()
        self._loss.commit()
