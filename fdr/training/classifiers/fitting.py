"""Trains one classifier, and tests it. A killed training goes on from its checkpoint, with the same bits on a CPU."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fdr.errors import RunError
from fdr.runtime import Progress, atomic_path, memory_for
from fdr.training.classifiers.networks import build_network
from fdr.training.classifiers.pixels import Batches, Pixels, central
from fdr.training.classifiers.recipes import Recipe

SAVE_INTERVAL = 30.0
"""Seconds between checkpoints. A longer interval loses more when the run is killed."""
TEST_BATCH = 256


@dataclass(frozen=True)
class Task:
    """One training: the recipe, the number of classes, and where its state is kept."""

    recipe: Recipe
    num_classes: int
    seed: int
    checkpoint: Path
    device: torch.device
    title: str


@memory_for("the classifier", "use another --device, or a recipe for smaller images")
def fit(task: Task, batches: Batches, progress: Progress) -> nn.Module:
    """Train to the end of the recipe, from the checkpoint if there is one."""
    recipe = task.recipe
    model = build_network(recipe.network, task.num_classes, task.seed).to(task.device).train()
    optimiser = torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    step = _resume(task, model, optimiser)
    saved, next_save = step, time.monotonic() + SAVE_INTERVAL
    with progress.task(task.title, recipe.steps, "steps") as shown:
        shown.resume(step)
        while step < recipe.steps:
            _step(task, model, optimiser, batches.batch(step), step)
            step += 1
            if step == recipe.steps or time.monotonic() >= next_save:
                _save(task, model, optimiser, step)
                saved, next_save = step, time.monotonic() + SAVE_INTERVAL
            shown.advance()
    assert saved == recipe.steps
    return model.eval()


def _step(
    task: Task, model: nn.Module, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], step: int
) -> None:
    for group in optimiser.param_groups:
        group["lr"] = task.recipe.lr_at(step)
    x, y = (tensor.to(task.device) for tensor in batch)
    loss = cross_entropy(model(x), y)
    if not torch.isfinite(loss):
        raise RunError(f"{task.title}: the loss of step {step} is not finite; the recipe does not fit these images.")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _save(task: Task, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    with atomic_path(task.checkpoint) as temporary:
        torch.save({"step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict()}, temporary)


def _resume(task: Task, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Load the checkpoint. Returns the number of steps that it is after, 0 without one."""
    if not task.checkpoint.exists():
        return 0
    try:
        state = torch.load(task.checkpoint, map_location=task.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["step"])
    except Exception as error:  # damage of a pickle raises anything
        raise RunError(f"{task.checkpoint} is damaged; remove it, and the training starts anew.") from error


@torch.inference_mode()
def ranks_of_truth(model: nn.Module, test: Pixels, batches: Batches, task: Task, progress: Progress) -> np.ndarray:
    """How many classes the classifier finds more likely than the true one, int64 [M]: 0 where it is right.

    A class with equal logits counts as more likely, so that a constant classifier is never right.
    """
    found = []
    with progress.task(f"{task.title}: test", len(test)) as shown:
        for start in range(0, len(test), TEST_BATCH):
            part = slice(start, min(start + TEST_BATCH, len(test)))
            images = torch.from_numpy(np.array(test.images[part])).permute(0, 3, 1, 2)
            logits = model(central(batches.normalised(images), task.recipe.input_size).to(task.device)).cpu()
            own = logits.gather(1, torch.from_numpy(test.classes[part])[:, None])
            found.append(((logits >= own).sum(1) - 1).numpy())
            shown.advance(part.stop - part.start)
    return np.concatenate(found)
