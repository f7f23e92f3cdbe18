"""`fdr train`: post-train a generator with the Fréchet distance as its loss."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fdr.cli import _computing, _generator, _options, completion
from fdr.cli._outputs import Output
from fdr.cli._train_view import view_for
from fdr.errors import InputError
from fdr.runtime import SilentProgress
from fdr.training import COLLAPSE_RULES, GRADIENTS, SOLVERS, RunOptions, TrainOptions, flag
from fdr.weights import check_encoders

if TYPE_CHECKING:
    from fdr.training import TrainResult

_DEFAULTS = {field.name: field.default for cls in (TrainOptions, RunOptions) for field in fields(cls)}


def _option(declaration: str, text: str, **settings: Any) -> _options.Decorator:
    """An option of a field, declared as "batch_size N", with the field's default."""
    name, *metavar = declaration.split()
    default, shown = _DEFAULTS[name], " ".join((flag(name), *metavar))
    if isinstance(default, bool):
        return _options.switch(shown, text, name)
    if isinstance(default, tuple):
        default = ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in default)
    elif default is not None:
        settings.setdefault("type", type(default))
    make = _options.listed if name in ("monitor", "ema_kimg") else _options.option
    return make(shown, text, name, default=None if default == "" else default, **settings)


@dataclass(frozen=True)
class _Chosen:
    """The options that decide which parameters a run ends with, as they were given."""

    values: Mapping[str, Any]
    """By field of `TrainOptions`."""

    @classmethod
    def of(cls, model: _generator.Model, **others: object) -> _Chosen:
        """Take the values of the options."""
        return cls({**vars(model), **others})

    def start(self) -> TrainOptions:
        """Make the options of a new run."""
        return TrainOptions(**{name: _value(name, value) for name, value in self.values.items()})

    def resume(self, run: Path) -> TrainOptions:
        """Make the options of a resumed run: those of the folder, changed by those on the command line.

        Raises `InputError` if the folder names code that the user does not trust.
        """
        from fdr.training import OPTIONS_NAME, read_options

        typed = {name: _value(name, value) for name, value in self.values.items() if _options.is_typed(name)}
        stored = read_options(run)
        if not _options.trusts():
            _check_stored(stored, typed, repr(str(run / OPTIONS_NAME)))
        return replace(stored, **typed)


_deciding = _options.stack(
    _options.option(
        "--gen PATH",
        "The generator to start from: TorchScript, torch.export (.pt2), a state dict (.pt, .safetensors) with "
        "--arch, or a run folder.",
    ),
    _generator.model,
    _options.reps,
    _option(
        "monitor NAMES",
        "Encoders whose FD is logged but not trained on, separated by commas.",
        shell_complete=completion.encoders,
    ),
    _options.reference("The images to train towards"),
    _option(
        "population KIND",
        "Which generated images the FD is computed from: a moving average over batches (ema:BETA, with decay BETA per "
        "batch), the last SIZE images (queue:SIZE), or the current batch alone (batch). ema:BETA:debiased removes the "
        "bias that a short average gives the gradient, at no cost; batch:debiased does so for the batch alone, if it "
        "has more images than the encoder has features.",
    ),
    _option(
        "lag_correction",
        "Carry the moving average along with the weights, so that it does not lag behind a generator that moves fast. "
        "This needs one more forward pass, without gradient, at every --lag-every steps, and a copy of the weights. It "
        "pays in runs of some hundred steps, not in long and slow ones.",
    ),
    _option("lag_every N", "Steps from one lag correction to the next."),
    _option("fill N", "Images to generate before the first step, to fill the population."),
    _option(
        "solver",
        "How to compute the matrix square root in FD. fast reuses an eigendecomposition over many steps; exact "
        "computes one in float64 at every step; newton-schulz iterates matrix products instead. local minimises FD to "
        "second order around the reference: its gradient has no bias, and it needs no eigendecomposition.",
        type=click.Choice(SOLVERS),
    ),
    _option(
        "local_rho RHO",
        "For --solver local: directions in which the reference varies less than RHO times its mean variance count "
        "less.",
    ),
    _option("eps EPS", "Each encoder contributes FD / (FD without gradient + EPS) to the loss."),
    _option(
        "gradient",
        "unit divides the gradient by the weight that the batch has in its population; raw does not.",
        type=click.Choice(GRADIENTS),
    ),
    _options.option(
        "--conditional RATIO",
        "Train the classes of a class-conditional generator too: add the distance of the mean features of every class "
        "to those of the reference, which must hold classes, with RATIO times the gradient of FD. 8 is a good start; "
        "at 1 or less the two can cancel.  [default: no labels]",
        type=float,
    ),
    _option("steps N", "Number of training steps."),
    _option("batch_size N", "Images per step, over all GPUs together."),
    _option(
        "chunks N",
        "Split each batch into N parts that pass the networks in turn. This needs less memory and one more forward "
        "pass, and gives the same gradient.",
    ),
    _option("lr LR", "Learning rate of AdamW after the warm-up; it then falls to 0 along a cosine."),
    _options.option(
        "--warmup-steps N", "Steps over which the learning rate rises from 0.  [default: a tenth of --steps]", type=int
    ),
    _option("betas B1,B2", "beta1 and beta2 of AdamW."),
    _option("weight_decay W", "Weight decay of AdamW."),
    _options.option("--clip NORM", "Clip the gradient to this norm.  [default: no clipping]", type=float),
    _option("ema_kimg LIST", "Half-lives of the averages (EMA) of the weights, in thousands of images."),
    _option("seed N", "Seed for noise and labels."),
    _option("dtype", "Precision of the generator; bf16 uses autocast.", type=click.Choice(["float32", "bf16"])),
    _option("encoder_dtype", "Precision of the encoders.", type=click.Choice(["float32", "bf16"])),
    _option("tf32", "Allow TF32 on the GPU: faster and less precise."),
    _option("max_skipped N", "Stop after N steps in a row whose gradient was not finite."),
)
_MODEL = {field.name for field in fields(_generator.Model)}
_chosen = _options.stack(
    _deciding,
    _options.gather(
        "chosen",
        _Chosen.of,
        ["model", *(field.name for field in fields(TrainOptions) if field.name not in _MODEL)],
    ),
)
_records = _options.theme(
    "run_options",
    RunOptions,
    _options.option(
        "--encoder-batch-size N",
        "Images per pass of an encoder. A smaller N needs less memory and one more pass.",
        type=int,
    ),
    _option("log_every N", "Write a line to log.jsonl every N steps; 0 for never."),
    _option("checkpoint_every N", "Write a checkpoint every N steps; 0 for one at the end only."),
    _option("keep N", "Number of newest checkpoints to keep; older ones are deleted."),
    _options.option(
        "--milestone-every N", "Never delete the checkpoints at multiples of N steps; 0 for none.", type=int
    ),
    _option("grid_every N", "Save a grid of samples every N steps, always from the same noise; 0 for never."),
    _option("grid_size N", "Number of images in a grid."),
    _options.option("--eval-every N", "Evaluate as fdr eval does every N steps and at the end; 0 for never.", type=int),
    _option("eval_count N", "Number of images to generate for an evaluation."),
    _options.option(
        "--alarm-every N",
        "Compare the FD of fresh images with that of the population every N steps, and warn of a collapse; 0 for "
        "never.  [default: 100, or more where batches are small]",
        type=int,
    ),
    _options.option(
        "--alarm-images N",
        "Fresh images of an alarm; those that the step's batch lacks are generated.  [default: half as many as the "
        "widest encoder has features, at least 256]",
        name="alarm_count",
        type=int,
    ),
    _option(
        "on_collapse",
        "What to do when fresh images are far worse than the population at three alarms in a row: warn, or stop the "
        "run, with a checkpoint and exit code 1.",
        type=click.Choice(COLLAPSE_RULES),
    ),
    _option("tensorboard", "Log to TensorBoard as well, in RUN/tensorboard."),
    _options.option("--wandb PROJECT", "Log to this project of Weights & Biases as well."),
    _option("page", 'Write RUN/report.html while the run goes on: curves, grids, warnings (extra "report").'),
)


@click.command(
    "train",
    cls=_options.Command,
    epilog="Examples:\n\n  fdr train --gen model.pt2 --reps inception,dinov2 --monitor clip -o runs/a\n\n"
    "  fdr train --gen weights.safetensors --arch mypkg.models:build --ref stats.npz --lr 1e-5 -o runs/b\n\n"
    "  fdr train --resume runs/a",
)
@_options.option("-o, --out RUN", "Folder to write the run to.", type=Output("new"))
@_options.option("--resume RUN", "Continue a run with the options that it was started with.", type=Output("store"))
@_chosen
@_records
@_computing.computing(
    _computing.device,
    _computing.gpus("every batch"),
    _options.weights_dir,
    _options.offline,
    _options.cache_dir,
)
@_options.trust
@_options.dry_run
@_options.quiet
def command(
    out: Path | None,
    resume: Path | None,
    chosen: _Chosen,
    run_options: RunOptions,
    computing: _computing.Computing,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Post-train a generator, with the FD between its images and a reference as the loss.

    The folder RUN holds checkpoints, log.jsonl, sample grids and the generator; fdr sample --gen RUN and fdr eval --gen
    RUN use it. To continue a run that was stopped or killed, repeat the command or use --resume RUN. SIGTERM saves a
    checkpoint before it stops the run.
    """
    from fdr.training import plan, train

    run, options = _run_of(out, resume, chosen)
    with computing.on_ranks(SilentProgress()) as setup:
        run_options = replace(run_options, **_placed(setup), is_arch_named=resume is None or _options.is_typed("arch"))
        if resume is None and setup.is_main:
            _options.announce_default_reference(options.reference)
        setup.check_files(",".join((*options.reps, *options.monitor)), options.reference, dry_run=dry_run)
        if dry_run:
            lines = list(plan(options, run, run_options, setup.group))  # every rank takes part
            if setup.is_main:
                click.echo("\n".join(lines))
            return
        view = view_for(quiet, setup.is_main)
        with _stopping() as stop:
            result = train(options, run, run_options, group=setup.group, view=view, should_stop=stop.is_wanted)
        if setup.is_main and not quiet:
            click.echo(_closing(result))
        if stop.signal == signal.SIGINT:
            raise KeyboardInterrupt


def _run_of(out: Path | None, resume: Path | None, chosen: _Chosen) -> tuple[Path, TrainOptions]:
    """The folder and the options of the run."""
    if resume is not None:
        if out not in (None, resume):
            raise click.UsageError("--resume names the folder already; leave out -o.")
        return resume, chosen.resume(resume)
    if chosen.values["gen"] is None or out is None:
        raise click.UsageError("Give --gen PATH and -o RUN to start a run, or --resume RUN to go on with one.")
    return out, chosen.start()


def _placed(setup: _computing.Setup) -> dict[str, Any]:
    """The fields of `RunOptions` that say where the run is computed."""
    options, cache = setup.encoder_options, setup.extraction_options.cache
    return {
        "device": options.device,
        "weights_dir": None if options.weights_dir is None else str(options.weights_dir),
        "offline": options.offline,
        "cache": str(cache),
        "trust": _options.trusts(),
    }


def _check_stored(stored: TrainOptions, typed: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` if the folder names code in options that the user did not type.

    The architecture is checked when it is loaded."""
    from fdr.generators import check_not_program

    for name in ("reps", "monitor"):
        if name not in typed:
            check_encoders(getattr(stored, name), where, flag(name))
    if "gen" not in typed:
        check_not_program(Path(stored.gen).expanduser(), where)


def _value(name: str, text: Any) -> Any:
    """Convert the text of an option to the value of its field."""
    from fdr.encoders import parse_encoders

    if name == "reps" or (name == "monitor" and text):
        return tuple(parse_encoders(text))
    if name == "monitor":
        return ()
    if name in ("betas", "ema_kimg"):
        return _numbers(name, text)
    return text


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{flag(name)} is a list of numbers; got {text!r}.") from None


def _closing(result: TrainResult) -> str:
    if result.had_finished:
        return f"{result.run} has finished already, at step {result.step}; nothing to do."
    if not result.is_finished:
        more = " --trust" if _names_code(result.run, is_resume=True) else ""
        return (
            f"stopped at step {result.step} of {result.steps}, saved; go on with: fdr train --resume {result.run}{more}"
        )
    more = " --trust" if _names_code(result.run) else ""
    skipped = f", {result.skipped} skipped" if result.skipped else ""
    return f"finished {result.steps} steps{skipped}; next: fdr eval --gen {result.run}{more}"


def _names_code(run: Path, *, is_resume: bool = False) -> bool:
    """True if the folder names code, so that a later command needs --trust."""
    from fdr.generators import check_architecture, read_run_folder
    from fdr.training import read_options

    try:
        check_architecture(read_run_folder(run).architecture, str(run))
        if is_resume:
            _check_stored(read_options(run), {}, str(run))
    except InputError:
        return True
    return False


class _Stop:
    """Remembers the signal that asked the run to end after the current step."""

    signal: int | None = None

    def is_wanted(self) -> bool:
        return self.signal is not None

    def take(self, number: int, _: Any) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt  # a second time: at once
        self.signal = number


@contextlib.contextmanager
def _stopping() -> Iterator[_Stop]:
    """Let SIGTERM and the first Ctrl-C end the run after the current step, with a checkpoint."""
    stop = _Stop()
    before = {number: signal.signal(number, stop.take) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
