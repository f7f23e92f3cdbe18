"""The log of a run: a JSON line per logged step, TensorBoard and Weights & Biases where asked for, and the screen."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fdr.errors import InputError
from fdr.frechet import fdr_k
from fdr.runtime import Progress, SilentProgress, write_atomically
from fdr.training.alarms import AlarmRecord
from fdr.training.folder import LOG_NAME
from fdr.training.live_page import LivePage, check_page
from fdr.training.options import RunOptions, TrainOptions


@dataclass(frozen=True)
class StepRecord:
    """One logged step. FD and FDr are of the population with the step's batch, before its parameters changed."""

    step: int
    """Steps done, this one included."""
    images: int
    """Images that entered steps that were taken."""
    lr: float
    loss: float
    fd: Mapping[str, float]
    """FD by encoder."""
    fdr: Mapping[str, float]
    """FDr by encoder, where the reference has a validation FD."""
    watched: tuple[str, ...]
    """The encoders that are not trained on."""
    grad_norm: float
    """The norm of the gradient before clipping."""
    skipped: int
    """Steps skipped so far."""
    images_per_second: float
    """The rate of all ranks since the last record, without the time of evaluations and checkpoints."""
    memory: int | None
    """The peak in bytes of the GPU's memory, or of the process on a CPU."""
    seconds: Mapping[str, float]
    """Seconds that this step took on this rank in "generator", "encoders", "solver", "rest"."""
    is_quadratic: bool = False
    """True with the solver "local": `fd` then holds the quadratic loss, which is no FD, and `fdr` is empty."""

    def entry(self) -> dict[str, Any]:
        """The entry of the log, in which the quadratic loss has names of its own: `quadratic_loss` in place of `fd`."""
        values = asdict(self)
        if values.pop("is_quadratic"):
            for name in ("fd", "fd_debiased"):
                if values.get(name):
                    values[name.replace("fd", "quadratic_loss")], values[name] = values[name], {}
        return values

    class_distance: Mapping[str, float] = field(default_factory=dict)
    """The mean squared distance of the class means, in variances within a class, by encoder; empty without
    --conditional."""
    fdr_k: Mapping[str, float] = field(default_factory=dict)
    """FDr^k of "all" encoders, of those that were "trained" on, and of the "held_out" ones; see `group_means`."""
    fd_debiased: Mapping[str, float] = field(default_factory=dict)
    """FD by encoder without the bias of the population's number of samples, where it is known."""


def group_means(fdr: Mapping[str, float], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The mean FDr of each group of encoders that have one, and of "all"; empty for a single encoder."""
    every = tuple(name for names in groups.values() for name in names)
    if len(every) < 2:
        return {}
    named = {"all": every, **groups}
    return {
        group: fdr_k({name: fdr[name] for name in names}) for group, names in named.items() if set(names) <= set(fdr)
    }


class Sink(Protocol):
    """Takes what is logged. `kind` is "step", "alarm", "evaluation", "warning" or "skipped"."""

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Write one entry; `values` has its "step"."""

    def close(self) -> None:
        """Called at the end of the run."""


class JsonLines:
    """`log.jsonl`: one object a line, flushed at once. A resumed run first drops what came after its checkpoint."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        if path.is_file():
            kept = [line for line in path.read_bytes().splitlines(keepends=True) if _is_kept(line, resumed_at)]
            write_atomically(path, b"".join(kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"kind": kind, **_finite(values)}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars such as "fd/inception", by step, for TensorBoard."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        module = _library("torch.utils.tensorboard", "tensorboard", "--tensorboard")
        self._writer = module.SummaryWriter(str(folder), purge_step=resumed_at or None)

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        for name, value in scalars(kind, values).items():
            self._writer.add_scalar(name, value, values["step"])
        if "text" in values:
            self._writer.add_text(kind, values["text"], values["step"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """The same scalars in a project of W&B. The id of the run is saved, so that a resumed run continues there."""

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        wandb = _library("wandb", "wandb", "--wandb")
        path = folder / "wandb-id.txt"
        if not path.is_file():
            write_atomically(path, wandb.util.generate_id().encode())
        name = path.read_text(encoding="utf-8")
        self._run = wandb.init(
            project=project, id=name, resume="allow", dir=str(folder), config=dict(config), name=folder.name
        )

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        self._run.log(scalars(kind, values), step=values["step"])

    def close(self) -> None:
        self._run.finish()


def scalars(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an entry, mappings flattened: {"fd": {"inception": 3}} -> {"fd/inception": 3}."""
    found: dict[str, float] = {}
    for name, value in values.items():
        rows = {f"{name}/{key}": item for key, item in value.items()} if isinstance(value, Mapping) else {name: value}
        for key, item in rows.items():
            if isinstance(item, int | float) and math.isfinite(item) and key != "step":
                found[key if kind == "step" else f"{kind}/{key}"] = item
    return found


def check_sinks(run_options: RunOptions) -> None:
    """Raise `InputError` for a library that a log or the page of a run needs and that is not installed."""
    if run_options.page:
        check_page()
    for wanted, package, option in (
        (run_options.tensorboard, "tensorboard", "--tensorboard"),
        (run_options.wandb is not None, "wandb", "--wandb"),
    ):
        if wanted and importlib.util.find_spec(package) is None:
            raise _missing(package, option, "it is not installed")


def open_sinks(run: Path, options: TrainOptions, run_options: RunOptions, step: int) -> list[Sink]:
    """Open all that a run logs to, from `step` on. Raises `InputError` for a library that is not installed."""
    sinks: list[Sink] = []
    if run_options.tensorboard:
        sinks.append(TensorBoard(run / "tensorboard", step))
    if run_options.wandb is not None:
        sinks.append(WeightsAndBiases(run, run_options.wandb, asdict(options)))
    pages = [LivePage(run)] if run_options.page else []
    return [JsonLines(run / LOG_NAME, step), *sinks, *pages]


class View(Progress, Protocol):
    """How a run is shown while it goes on: a `Progress` for what precedes the first step, and the steps themselves.

    The library calls it, the command line draws it, and the default is silence.
    """

    def running(self, steps: int, done: int) -> AbstractContextManager[None]:
        """A context around all steps; `done` of them were done before."""

    def reached(self, step: int) -> None:
        """Called when `step` steps are done."""

    def show(self, record: StepRecord) -> None:
        """Called with every logged step."""

    def show_alarm(self, record: AlarmRecord) -> None:
        """Called with what every alarm has found."""


class SilentView(SilentProgress):
    """Shows nothing."""

    @contextmanager
    def running(self, steps: int, done: int) -> Iterator[None]:
        yield

    def reached(self, step: int) -> None:
        return None

    def show(self, record: StepRecord) -> None:
        return None

    def show_alarm(self, record: AlarmRecord) -> None:
        return None


class Clock:
    """Measures images per second over the steps, without what happens between them."""

    def __init__(self) -> None:
        self._images = 0
        self._began = time.perf_counter()

    def count(self, images: int) -> None:
        """Count a step of `images` images."""
        self._images += images

    def rate(self) -> float:
        """Images per second since the last call."""
        now = time.perf_counter()
        rate = self._images / max(now - self._began, 1e-9)
        self._images, self._began = 0, now
        return rate

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave out the time that passes inside."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began


def _library(module: str, package: str, option: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(package, option, str(error)) from error


def _missing(package: str, option: str, reason: str) -> InputError:
    return InputError(
        f"{option} was asked for, but {package} cannot be imported ({reason}); install it, or leave {option} out: "
        "log.jsonl has the same numbers."
    )


def _is_kept(line: bytes, step: int) -> bool:
    """False for what was logged after `step`, and for a line that a kill has cut short."""
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _finite(value: Any) -> Any:
    """`value` with null in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
