"""`EvaluationCallback`: the numbers of images that a LightningModule makes, logged while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fdr.errors import InputError, warn
from fdr.loss import modes_kept
from fdr.torchmetrics import evaluate_samples

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError as error:
    if error.name not in ("lightning", "lightning.pytorch"):
        raise
    raise InputError(
        "fdr.lightning needs the package lightning, which is not installed: pip install 'fdr-eval[lightning]'."
    ) from None

EPOCHS = ("validation", "train")
"""The epochs after which images can be drawn."""


class EvaluationCallback(Callback):
    """Draws images from the model after an epoch, and logs the numbers of a metric: "val/fd:inception", "val/fdr_k".

    `metric` is an `Evaluation` or `FrechetDistance` of `fdr.torchmetrics`. `sample(module, count, labels)` returns
    images [count, 3, H, W], uint8 or floats in [0, 1]; it may be a method of the module's class. `num_images` images
    are drawn over all ranks, from the same `seed` and `labels` every time, as `fdr.torchmetrics.evaluate_samples` says.
    The module is in eval mode meanwhile; its modes, and all random numbers of the training, are then as before.

    `after="validation"` draws after each validation, but not after the sanity check, and `after="train"` after each
    training epoch; `every_n_epochs` leaves epochs out. `prefix` stands before the keys: "val/" or "train/" by default.
    The report of the last epoch is `callback.metric.report`.

    Raises `InputError` for anything unusable.
    """

    def __init__(
        self,
        metric: Any,
        sample: Callable[[Any, int, Tensor | None], Tensor],
        num_images: int,
        *,
        batch_size: int = 64,
        seed: int = 0,
        labels: Any = None,
        num_classes: int | None = None,
        after: str = "validation",
        every_n_epochs: int = 1,
        prefix: str | None = None,
    ) -> None:
        super().__init__()
        if after not in EPOCHS or every_n_epochs < 1:
            raise InputError(
                f"Images are drawn after 'validation' or 'train', every 1 or more epochs; got after={after!r}, "
                f"every_n_epochs={every_n_epochs!r}."
            )
        if not (hasattr(metric, "update") and callable(sample)):
            raise InputError(
                "EvaluationCallback takes a metric of fdr.torchmetrics and a function sample(module, count, labels); "
                f"got {type(metric).__name__} and {type(sample).__name__}."
            )
        self.metric = metric
        self.sample = sample
        self.num_images = num_images
        self.batch_size, self.seed, self.labels, self.num_classes = batch_size, seed, labels, num_classes
        self.after, self.every_n_epochs = after, every_n_epochs
        self.prefix = {"validation": "val/", "train": "train/"}[after] if prefix is None else prefix

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Warn where no image would ever be drawn."""
        if self.after == "validation" and not trainer.enable_validation:
            warn("The trainer runs no validation, so no images are drawn; give it validation data, or after='train'.")

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning calls this after each validation."""
        if self.after == "validation" and not trainer.sanity_checking:
            self._evaluate(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning calls this after each training epoch."""
        if self.after == "train":
            self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: Any, module: Any) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        self.metric.to(module.device)
        with modes_kept([module]):
            module.eval()
            report = evaluate_samples(
                self.metric,
                lambda count, labels: self.sample(module, count, labels),
                self.num_images,
                batch_size=self.batch_size,
                seed=self.seed,
                labels=self.labels,
                num_classes=self.num_classes,
            )
        values = {f"{self.prefix}{result.key}": result.value for result in report}
        module.log_dict(values, on_step=False, on_epoch=True, sync_dist=trainer.world_size > 1)
