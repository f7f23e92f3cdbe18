"""How a classifier of CAS is trained. A recipe is data: everything in it moves the accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fdr.errors import InputError, unknown
from fdr.images import ImageOptions


@dataclass(frozen=True)
class Recipe:
    """A network and its training by stochastic gradient descent with momentum."""

    name: str
    network: str
    """"resnet-N" of depth N = 6 n + 2 for small images (He et al. 2016, section 4.2), or "resnet50"."""
    input_size: int | None
    """Side of the images that the network sees, in px; None for that of the images, whatever it is."""
    stored_size: int | None
    """Side to which images are resized (ADM's centre crop) before training; None leaves them as they are."""
    steps: int
    batch_size: int
    lr: float
    milestones: tuple[float, ...]
    """Shares of the steps after which the learning rate falls to a tenth."""
    weight_decay: float
    augmentation: str
    """"pad": zeros of `padding` px around the image, then a random crop; "resize": a random crop of 8 to 100 % of the
    area and 3:4 to 4:3, resized."""
    padding: int
    flips: bool
    """Whether images are mirrored at random; wrong for digits and letters."""
    momentum: float = 0.9

    def with_steps(self, steps: int | None) -> Recipe:
        """The recipe at another length. Raises `InputError` below 1."""
        if steps is not None and steps < 1:
            raise InputError(f"The number of steps is {steps}; it must be at least 1.")
        return self if steps is None else replace(self, steps=steps)

    def image_options(self) -> ImageOptions:
        """How images are read."""
        return ImageOptions() if self.stored_size is None else ImageOptions(crop="adm", size=self.stored_size)

    def lr_at(self, step: int) -> float:
        """The learning rate of a step."""
        return self.lr * 0.1 ** sum(step >= share * self.steps for share in self.milestones)


RECIPES = {
    "cifar": Recipe(
        "cifar", "resnet-56", 32, None, 64_000, 128, 0.1, (0.5, 0.75), 1e-4, "pad", 4, True
    ),  # He et al. 2016, section 4.2: 32k and 48k of 64k steps
    "imagenet": Recipe(
        "imagenet", "resnet50", 224, 256, 450_000, 256, 0.1, (1 / 3, 2 / 3), 1e-4, "resize", 0, True
    ),  # 90 epochs of 1.28 M images, a tenth after 30 and 60 (Goyal et al. 2017)
    "tiny": Recipe("tiny", "resnet-8", None, None, 400, 64, 0.1, (0.5, 0.75), 1e-4, "pad", 2, False),
}
"""The recipes by name."""


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises `InputError` with near matches."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
