"""The options of a training run, with their only defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from fdr.errors import InputError, unknown
from fdr.loss import GRADIENTS, LOCAL_RHO, SOLVERS, BatchPopulation, EmaPopulation, QueuePopulation, check_pairing
from fdr.references import DEFAULT_REFERENCE
from fdr.runtime import DTYPES

COLLAPSE_RULES = ("warn", "stop")
_FLAGS = {"reference": "ref", "eval_count": "eval-images", "alarm_count": "alarm-images", "local_rho": "rho"}
POPULATIONS = ("ema:0.999", "queue:50000", "batch")


@dataclass(frozen=True)
class TrainOptions:
    """Every option that decides which parameters a run ends with. They are kept in its folder and cannot change later.

    The defaults are those of FD-loss (arXiv 2604.28190) for a pixel generator on ImageNet.
    """

    gen: str
    """The generator to start from: TorchScript, torch.export, a state dict with `arch`, or a run folder."""
    arch: str | None = None
    """The function "module:factory" that makes the network of a state dict."""
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the factory."""
    ema: str | None = None
    """Which weights of `gen` to start from, such as "edm_500"; None takes the trained ones."""
    value_range: tuple[float, float] | None = None
    """Value range of the network's images, (0, 1) or (-1, 1). It and the next two are None where `gen` holds them."""
    noise_shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    reps: tuple[str, ...] = ("inception",)
    """Encoders that are trained on."""
    monitor: tuple[str, ...] = ()
    """Encoders that are watched only."""
    reference: str = DEFAULT_REFERENCE
    population: str = "ema:0.999"
    """"ema:BETA" (per batch), "ema:BETA:debiased" (see `EmaPopulation.batch_weight`), "queue:SIZE" (in images),
    "batch" or "batch:debiased" (see `BatchPopulation.estimator`)."""
    lag_correction: bool = False
    """Carry the history of an EMA along with the weights; see `EmaPopulation.lag_correction`."""
    lag_every: int = 1
    """Steps from one lag correction to the next. Raising it costs less, and corrects a fast generator worse."""
    fill: int = 50_000
    """Images that the populations begin with; 0 begins with the first batch."""
    solver: str = "fast"
    local_rho: float = LOCAL_RHO
    """rho of the solver "local"; see `LossOptions.local_rho`."""
    eps: float = 0.01
    """The term of an encoder is FD / (its own value + eps)."""
    gradient: str = "raw"
    """"raw" is dFD/dx; "unit" divides it by the share of the batch in its population, so that its size stays."""
    conditional: float | None = None
    """The norm of the gradient of the class means relative to that of FD; None trains without labels."""
    steps: int = 62_500
    batch_size: int = 1024
    """Images per step, over all ranks."""
    chunks: int = 1
    """Parts of a batch that pass the networks one after another, for less memory; the gradient is that of the whole."""
    lr: float = 1e-6
    """Learning rate at the end of the warm-up, its peak."""
    warmup_steps: int | None = None
    """Steps in which the learning rate rises from 0; None stands for a tenth of all steps."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float | None = None
    """Largest norm of the gradient over all parameters; a larger gradient is scaled down. None never scales it."""
    ema_kimg: tuple[float, ...] = (250, 500, 1000, 2000)
    """Half-lives of the weight averages in thousands of images."""
    seed: int = 0
    dtype: str = "float32"
    """Precision of the generator's forward pass: "float32", or "bf16" by autocast. Parameters stay float32."""
    encoder_dtype: str = "float32"
    tf32: bool = False
    max_skipped: int = 10
    """The run ends after this many skipped steps in a row. Raising it waits longer for a run to recover."""

    def __post_init__(self) -> None:
        if not self.reps:
            raise InputError("No encoder was given to train on; name at least one, for example --reps inception.")
        both = [name for name in self.monitor if name in self.reps]
        if both:
            raise InputError(f"Encoder {both[0]!r} is trained on and watched; leave it out of one of the two.")
        for name, least in (
            ("steps", 1),
            ("batch_size", 2),
            ("chunks", 1),
            ("lag_every", 1),
            ("fill", 0),
            ("seed", 0),
            ("max_skipped", 1),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{flag(name)} must be at least {least}; got {getattr(self, name)}.")
        for name, value in (("lr", self.lr), ("eps", self.eps), ("clip", 1.0 if self.clip is None else self.clip)):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{flag(name)} must be a number above 0; got {value}.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(f"--weight-decay must be 0 or above; got {self.weight_decay}.")
        if not all(0 <= beta < 1 for beta in self.betas) or len(self.betas) != 2:
            raise InputError(f"--betas are two numbers in [0, 1); got {self.betas}.")
        if not all(math.isfinite(half_life) and half_life > 0 for half_life in self.ema_kimg):
            raise InputError(f"--ema-kimg are half-lives above 0; got {', '.join(map(str, self.ema_kimg))}.")
        if self.warmup_steps is not None and not 0 <= self.warmup_steps < self.steps:
            raise InputError(
                f"--warmup-steps must be 0 to {self.steps - 1}, less than the {self.steps} steps; "
                f"got {self.warmup_steps}."
            )
        for name, choices in (("solver", SOLVERS), ("gradient", GRADIENTS), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        if self.encoder_dtype not in DTYPES:
            raise unknown("encoder dtype", self.encoder_dtype, DTYPES)
        if self.conditional is not None and not (math.isfinite(self.conditional) and self.conditional > 0):
            raise InputError(f"--conditional is a ratio above 0, such as 2; got {self.conditional}.")
        population = parse_population(self.population)
        if self.lag_correction and not isinstance(population, EmaPopulation):
            raise InputError(
                f"--lag-correction carries the moments of an EMA along, but the population is {self.population!r}; "
                "choose --population ema:BETA, or leave it out."
            )
        check_pairing(self.chosen_population(), self.solver)
        if not (math.isfinite(self.local_rho) and self.local_rho >= 0):
            raise InputError(f"--rho must be 0 or above; got {self.local_rho}.")
        if self.local_rho != LOCAL_RHO and self.solver != "local":
            raise InputError(f"--rho belongs to --solver local; leave it out with --solver {self.solver}.")

    def chosen_population(self) -> EmaPopulation | QueuePopulation | BatchPopulation:
        """The population, with its lag correction."""
        population = parse_population(self.population)
        if isinstance(population, EmaPopulation):
            return replace(population, lag_correction=self.lag_every if self.lag_correction else 0)
        return population

    @property
    def warmup(self) -> int:
        """Steps of the warm-up."""
        return self.steps // 10 if self.warmup_steps is None else self.warmup_steps

    @property
    def filled(self) -> int:
        """Images that fill the populations: none where the batch is the population."""
        return 0 if isinstance(parse_population(self.population), BatchPopulation) else self.fill


@dataclass(frozen=True)
class RunOptions:
    """Where a run is computed and what it writes; these options may change whenever the run is resumed.

    Device, ranks and `encoder_batch_size` change rounding only. An interval of 0 or None means never, but for
    `alarm_every`.
    """

    device: str | None = None
    weights_dir: str | None = None
    offline: bool | None = None
    cache: str | None = None
    """The folder of the feature cache for reference images."""
    encoder_batch_size: int | None = None
    """Images per forward pass of an encoder. A smaller number saves memory and costs one more forward pass."""
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 2
    """How many of the newest checkpoints stay."""
    milestone_every: int | None = None
    """Checkpoints at multiples of this many steps are never removed."""
    grid_every: int | None = 500
    grid_size: int = 64
    """Images on a grid."""
    eval_every: int | None = None
    eval_count: int = 50_000
    alarm_every: int | None = None
    """Steps between two looks at fresh images of the present weights; 0 means never, and None as often as the images
    cost 1 % of the run, at most every 100 steps."""
    alarm_count: int | None = None
    """Fresh images of an alarm, with those of the step's batch; None takes half as many as the widest encoder has
    features, at least 256."""
    on_collapse: str = "warn"
    """"warn", or "stop" to end a run whose fresh images are far worse than the population at three alarms in a row."""
    tensorboard: bool = False
    wandb: str | None = None
    """Project of Weights & Biases."""
    page: bool = False
    """Write `report.html` in the run folder while the run goes on."""
    is_arch_named: bool = True
    """False when the architecture was read from the run folder, which may then not name any function it likes."""
    trust: bool = False
    """Import whatever code a run folder names."""

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self)):
            value, least = getattr(self, name), 2 if name == "eval_count" else 0 if name.endswith("_every") else 1
            is_count = name.endswith(("_every", "_size", "_count")) or name == "keep"
            if is_count and value is not None and value < least:
                raise InputError(f"{flag(name)} must be at least {least}; got {value}.")
        if self.on_collapse not in COLLAPSE_RULES:
            raise unknown("on_collapse", self.on_collapse, COLLAPSE_RULES)


def flag(name: str) -> str:
    """The option of the command line for a field: "batch_size" -> "--batch-size"."""
    return "--" + _FLAGS.get(name, name).replace("_", "-")


def parse_population(text: str) -> EmaPopulation | QueuePopulation | BatchPopulation:
    """The population of a text such as "ema:0.999", "ema:0.9:debiased", "queue:50000" or "batch:debiased".

    "ema" and "queue" alone have the usual numbers, "batch" alone is plain.
    """
    kind, _, value = text.partition(":")
    try:
        if kind == "ema":
            value, _, batch_weight = value.partition(":")
            population = EmaPopulation(float(value)) if value else EmaPopulation()
            return replace(population, batch_weight=batch_weight) if batch_weight else population
        if kind == "queue":
            return QueuePopulation(int(value)) if value else QueuePopulation()
    except ValueError:
        raise InputError(f"Population {text!r}: {value!r} is no number; expected, for example, ema:0.999.") from None
    if kind != "batch":
        raise unknown("population", text, POPULATIONS)
    return BatchPopulation(value) if value else BatchPopulation()


def changed(stored: TrainOptions, given: TrainOptions) -> str | None:
    """The first field in which two sets of options differ, as a sentence; None when they agree."""
    for name in (item.name for item in fields(TrainOptions)):
        old, new = getattr(stored, name), getattr(given, name)
        if old != new:
            return f"it was started with {flag(name)} {_words(old)}, not {_words(new)}"
    return None


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "(none)"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={item}" for key, item in value.items()) or "(none)"
    return "(none)" if value is None else str(value)
