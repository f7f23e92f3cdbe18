"""`EncoderSpec` holds all that changes the features of an encoder; `AbstractEncoder` is the base of all encoders."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fdr.errors import InputError
from fdr.weights import WeightOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fdr.encoders.texts import AbstractTexts

FEATURES_VERSION = 1
"""Raise it in a release that changes the features of an unchanged spec: cached features are then made again."""


@dataclass(frozen=True)
class EncoderSpec:
    """All that decides the features of an encoder: two specs with the same `hash` give the same features.

    `name` and `weights_source` only describe; every other field enters the hash. `mean` and `std` are in [0, 1]
    units, so that the network sees (x - mean) / std.
    """

    name: str
    """The name that the user gave: "inception", "timm:resnet50.a1_in1k"."""
    family: str
    """"inception", "timm", "random" or "callable"."""
    model: str
    """The architecture: "fid-inception-2015", "vit_large_patch14_dinov2.lvd142m"."""
    weights: str
    """sha256 of the weight file (64 hex digits), or "seed:N" for random weights, or "unknown" for a callable."""
    output: str
    """The main output, the one FD uses: "pool", "cls", "mean", "attention-pool", "features"."""
    dim: int
    """Width D of the main output; 0 if it is unknown until the encoder runs (a callable)."""
    input_size: int
    """Side of the square input in pixels after the resize; 0 when the encoder takes images as they are."""
    resize: str
    """"tf1-bilinear", "torch-bilinear", "pil-bicubic-float", "bicubic-antialias" or "none"."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "float32"
    """"float32" or "bf16"."""
    compute: str = "default"
    """"default" or "exact-order" (a peer's own order of operations), with "+tf32" when TF32 is allowed."""
    extra: tuple[tuple[str, str], ...] = ()
    """Further settings of the family that change features, sorted by key."""
    weights_source: str = ""
    """Where the weights were found; not part of the hash."""

    @property
    def hash(self) -> str:
        """16 hex digits over all fields but `name` and `weights_source`."""
        fields = asdict(self)
        del fields["name"], fields["weights_source"]
        text = json.dumps({"features_version": FEATURES_VERSION, **fields}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class EncoderOptions(WeightOptions):
    """How an encoder is loaded: where its files are found, and how its network runs."""

    device: str | None = None
    dtype: str = "float32"
    exact_order: bool = False
    """Reproduce a peer's own order of operations instead of the faster equivalent."""
    tf32: bool = False

    def compute(self, order: str = "default") -> str:
        """`EncoderSpec.compute` of an encoder that multiplies in this order: "default", "default+tf32"."""
        return order + ("+tf32" if self.tf32 else "")


class AbstractEncoder(ABC):
    """Images to named outputs. Subclasses set `spec`, `device`, `outputs` and give `preprocess` and `forward`.

    Nothing here switches gradients off: a loss can differentiate through `__call__`.
    """

    spec: EncoderSpec
    device: torch.device
    outputs: tuple[str, ...]
    """Every output `forward` can give, the main one first."""
    stored_outputs: tuple[str, ...]
    """Outputs that extraction computes and caches by default: the main one and its cheap companions."""
    host_preprocess: bool = False
    """True when `preprocess` must run on the CPU (a Pillow resize); extraction then runs it in its decode threads."""
    is_cacheable: bool = True
    """False when `spec.hash` does not identify the features, as with a plain function."""
    stored_dtype: str = "float32"
    """The dtype of outputs in the cache. One other than float32 must be part of the spec."""
    load_texts: Callable[[], AbstractTexts] | None = None
    """Loads the text tower of the same weights, whose embeddings lie in the space of the output "embedding"; None for
    an encoder without one."""

    def __repr__(self) -> str:
        width = f" [B, {self.spec.dim}]" if self.spec.dim else ""
        return f"<{type(self).__name__} {self.spec.name!r}: {self.spec.output}{width}, on {self.device}>"

    @abstractmethod
    def preprocess(self, images: Tensor) -> Tensor:
        """float32 [B, 3, H, W] in [0, 1], any H and W -> network input [B, 3, h, w], on the device of `images`.

        Row i depends on image i alone, so batches of other sizes can be concatenated after it.
        """

    @abstractmethod
    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """Network input on `self.device` -> the named outputs, float32, each [B, ...], from one forward pass."""

    def __call__(self, images: Tensor, outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """float32 images [B, 3, H, W] in [0, 1] -> {"pool": [B, 2048], ...}; all outputs unless some are named.

        Raises `InputError` on any other shape, dtype or output name. Values outside [0, 1] are not refused here
        (a generator in training produces them); `fdr.extract` refuses them.
        """
        import torch

        if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.shape[1] != 3:
            shape = list(images.shape) if hasattr(images, "shape") else type(images).__name__
            raise InputError(f"{self.spec.name} takes float32 images [B, 3, H, W] in [0, 1]; got {shape}.")
        if not images.is_floating_point():
            raise InputError(
                f"{self.spec.name} takes float32 images in [0, 1]; got {str(images.dtype).removeprefix('torch.')}: "
                "divide uint8 images by 255."
            )
        wanted = self.outputs if outputs is None else tuple(outputs)
        missing = [name for name in wanted if name not in self.outputs]
        if missing:
            raise InputError(f"{self.spec.name} has no output {missing[0]!r}; it gives {', '.join(self.outputs)}.")
        images = images.float()
        inputs = self.preprocess(images.cpu() if self.host_preprocess else images.to(self.device))
        return self.forward(inputs.to(self.device), wanted)


class AbstractRowEncoder(AbstractEncoder):
    """An encoder whose outputs also depend on which image it is: it has noise or a counterpart of its own."""

    @abstractmethod
    def forward_rows(self, inputs: Tensor, outputs: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
        """As `forward`, for images whose numbers in their selection are `rows`."""

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        return self.forward_rows(inputs, outputs, range(len(inputs)))
