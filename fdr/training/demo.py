"""`fdr demo --train`: a weak one-step generator, post-trained with FD as the loss, measured before and after.

The samples that are measured come from noise, and the reference from images, that no training sees. The `Evaluator` is
that of `fdr eval`, and `fdr.training.train` trains, into a run folder like any other.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from fdr.encoders import AbstractEncoder, EncoderOptions, load_encoders
from fdr.errors import RunError
from fdr.evaluation import Evaluator, save_images, write_reference
from fdr.features import ExtractionOptions
from fdr.generators import Generator, GeneratorSource, load_generator
from fdr.images import ImageOptions, draw, grid_of, open_images, write_grid
from fdr.reports import Report
from fdr.runtime import resolve_device, write_atomically
from fdr.training.demo_generator import SIDE, Pretraining, pretrain
from fdr.training.log import SilentView, View
from fdr.training.loop import train
from fdr.training.options import RunOptions, TrainOptions

TRAINED = "random"
PIXELS = "py:fdr.training.demo_generator:pixels"
WATCHED = ("random:1", PIXELS)
TRAIN_SEED, HELD_OUT_SEED, VALIDATION_SEED = 0, 1, 2
"""Seeds of `draw` for the images to train on, those to measure against, and those of the validation set."""
EVALUATION_SEED = 1
"""The seed of the noise of the samples that are measured; a run derives the seeds of its own noise by a hash."""
TRAINING_SET, HELD_OUT_SET, WEIGHTS, RUN, HELD_OUT = (
    "train.npz",
    "held-out.npz",
    "pretrained.safetensors",
    "run",
    "held-out",
)
GRID_SIZE, GRID_SCALE = 64, 2


@dataclass(frozen=True)
class TrainingSettings:
    """Sizes and rates of the demo. They are chosen for two cores and a few minutes, nothing else."""

    train_count: int = 4096
    held_out_count: int = 4096
    sample_count: int = 2048
    """Samples that are measured, and held-out images that FDr divides by."""
    pretraining: Pretraining = field(default_factory=lambda: Pretraining(steps=300))
    steps: int = 400
    batch_size: int = 32
    lr: float = 1e-4
    population: str = "ema:0.9"
    """The window of ten batches is short against the time in which the generator changes."""
    least_factor: float = 3.0
    """The FD of the trained encoder must fall by this factor; that of the others must fall at all."""


@dataclass(frozen=True)
class TrainingDemo:
    """The reports before and after, and where the run is."""

    before: Report
    after: Report
    num_parameters: int
    run: Path
    settings: TrainingSettings

    def factor(self, encoder: str) -> float:
        """FD before / FD after."""
        return self.before["fd", encoder].value / self.after["fd", encoder].value

    def check(self) -> None:
        """Raise `RunError` when post-training did not do what the demo is there to show."""
        for encoder in (TRAINED, *WATCHED):
            least = self.settings.least_factor if encoder == TRAINED else 1.0
            if not self.factor(encoder) > least:
                before, after = (report["fd", encoder].value for report in (self.before, self.after))
                raise RunError(
                    f"The FD of {short_name(encoder)} went from {before:.4g} to {after:.4g}; it should have fallen by "
                    f"more than a factor of {least:g}: please report this with the output of fdr env."
                )


def short_name(encoder: str) -> str:
    """The name for tables: "pixels" for the encoder that averages pixels."""
    return "pixels" if encoder == PIXELS else encoder


def run_training_demo(folder: Path, settings: TrainingSettings | None = None, view: View | None = None) -> TrainingDemo:
    """Draw, pretrain, measure, post-train, measure. What an earlier call in `folder` finished is not repeated."""
    settings, view = settings or TrainingSettings(), view or SilentView()
    _draw(folder, settings, view)
    encoders = load_encoders([TRAINED, *WATCHED], EncoderOptions(progress=view))
    extraction = ExtractionOptions(progress=view)
    _write_references(folder, encoders, extraction)
    evaluator = Evaluator(
        encoders,
        folder / HELD_OUT,
        "fd",
        image_options=ImageOptions(),
        encoder_options=EncoderOptions(progress=view),
        extraction_options=extraction,
    )
    weights = _pretrained(folder, settings, view)
    weak = load_generator(weights, arch="fdr.training.demo_generator:Decoder")
    before = evaluator.evaluate_source(_samples(weak, settings))
    run = folder / RUN
    train(_train_options(folder, settings), run, RunOptions(checkpoint_every=100, grid_every=settings.steps), view=view)
    after = evaluator.evaluate_source(_samples(load_generator(run), settings))
    _save_grids(folder, settings.steps)
    return TrainingDemo(before, after, sum(p.numel() for p in weak.parameters()), run, settings)


def _draw(folder: Path, settings: TrainingSettings, view: View) -> None:
    """Draw the images to train on and those to measure against; `validation.npz` gives FDr its denominator."""
    sets = {
        HELD_OUT_SET: (HELD_OUT_SEED, settings.held_out_count),
        TRAINING_SET: (TRAIN_SEED, settings.train_count),
        "validation.npz": (VALIDATION_SEED, settings.sample_count),
    }
    with view.task("Drawing", len(sets), "sets") as task:
        for name, (seed, count) in sets.items():
            save_images(folder / name, np.stack([draw(seed, index, SIDE) for index in range(count)]))
            task.advance()


def _write_references(folder: Path, encoders: list[AbstractEncoder], options: ExtractionOptions) -> None:
    """Write the moments of `train.npz`, to train towards, and those of `held-out.npz`, to measure against."""
    seen = [encoder for encoder in encoders if encoder.spec.name != WATCHED[0]]
    write_reference(open_images(folder / TRAINING_SET), seen, folder / "train", options=options)
    held_out, validation = open_images(folder / HELD_OUT_SET), open_images(folder / "validation.npz")
    write_reference(held_out, encoders, folder / HELD_OUT, validation=validation, options=options)


def _pretrained(folder: Path, settings: TrainingSettings, view: View) -> Path:
    """The file of the weak generator's weights; that of an earlier call is used if it was made in the same way."""
    from safetensors import safe_open
    from safetensors.torch import save

    path, options = folder / WEIGHTS, settings.pretraining
    made_by = {"pretraining": json.dumps({**asdict(options), "images": settings.train_count}, sort_keys=True)}
    if path.is_file():
        with safe_open(path, "pt") as file:
            if file.metadata() == made_by:
                return path
    images = np.load(folder / TRAINING_SET, allow_pickle=False)["arr_0"]
    decoder = pretrain(images, options, resolve_device(None), view)
    state = {name: tensor.contiguous() for name, tensor in decoder.state_dict().items()}
    write_atomically(path, save(state, metadata=made_by))
    return path


def _train_options(folder: Path, settings: TrainingSettings) -> TrainOptions:
    """FD-loss under `random`; `pixels` is watched, which costs nothing."""
    return TrainOptions(
        gen=str(folder / WEIGHTS),
        arch="fdr.training.demo_generator:Decoder",
        reps=(TRAINED,),
        monitor=(PIXELS,),
        reference=str(folder / "train"),
        population=settings.population,
        fill=settings.sample_count,
        gradient="unit",
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        ema_kimg=(),
    )


def _samples(generator: Generator, settings: TrainingSettings) -> GeneratorSource:
    return GeneratorSource(generator, settings.sample_count, seed=EVALUATION_SEED)


def _save_grids(folder: Path, steps: int) -> None:
    """`before-after.png`: the run's grids of the first step and the last, of the same latents, and held-out images."""
    from PIL import Image

    grids = [np.asarray(Image.open(folder / RUN / "grids" / f"step-{step:08d}.png")) for step in (0, steps)]
    grids.append(grid_of(np.load(folder / HELD_OUT_SET, allow_pickle=False)["arr_0"][:GRID_SIZE]))
    write_grid(np.stack(grids), folder / "before-after.png", columns=len(grids), margin=8, factor=GRID_SCALE)
