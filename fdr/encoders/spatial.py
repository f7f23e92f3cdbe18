"""The last spatial layer of an encoder: how it is found, and how its activations and their gradient are computed.

A spatial layer gives a map [B, C, h, w] or [B, h, w, C], or tokens [B, P + h w, C] with P class and register tokens in
front. One forward pass of one image with hooks on all modules lists their outputs in the order in which they finish.
The last spatial layer is the last of them whose positions the features depend on. In a ViT that reads its class token
this is the norm before the last attention, since later patch tokens reach no feature. Layers inside an attention are
left out: queries, keys and attention maps are no maps of the image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fdr.encoders.base import AbstractEncoder
from fdr.errors import InputError
from fdr.runtime import described, is_out_of_memory

MAX_PREFIX = 16
"""Most class and register tokens in front of the patches. Raising it accepts token counts that are no grid."""
_ATTENTION = re.compile(r"att(n|ention)", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """Where the positions of an activation lie."""

    kind: str
    """"map" [B, C, h, w], "map, channels last" [B, h, w, C], or "tokens" [B, P + h w, C]."""
    grid: tuple[int, int]
    """Height h and width w."""
    num_prefix: int = 0
    """P, the tokens before the patches."""

    def maps(self, x: Tensor) -> Tensor:
        """The activation as maps, float32 [B, C, h, w]."""
        if self.kind == "tokens":
            x = x[:, self.num_prefix :].unflatten(1, self.grid)
        return (x if self.kind == "map" else x.permute(0, 3, 1, 2)).float()


@dataclass(frozen=True)
class SpatialLayer:
    """The last spatial layer of an encoder."""

    name: str
    """The path of the module in its network: "layer4", "blocks.23.norm1"."""
    module: nn.Module
    call: int
    """Which call of the module in a forward pass, from 0; modules such as a ReLU may serve in several places."""
    layout: Layout
    covered: tuple[float, float]
    """The share of the grid's height and width that the network's input fills; below 1 where a ViT pads it."""

    def activations(self, encoder: AbstractEncoder, inputs: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Activations A and the gradient of `direction` . features by A, both float32 [B, C, h, w].

        `inputs` [B, 3, H, W] is network input, and `direction` [B, D] has a row for each image. The backward pass ends
        at the layer.
        """
        tap = _Tap(self.call)
        with _hooked([(self.module, tap)]), torch.inference_mode(False), torch.enable_grad():
            features = encoder.forward(inputs.clone(), (encoder.spec.output,))[encoder.spec.output]
            assert tap.leaf is not None
            total = (features.double() * direction.to(features.device, torch.float64)).sum()
            (gradient,) = torch.autograd.grad(total, tap.leaf)
        return self.layout.maps(tap.leaf.detach()), self.layout.maps(gradient)


def find_spatial_layer(encoder: AbstractEncoder, inputs: Tensor) -> SpatialLayer:
    """The last spatial layer of `encoder` for network input [1, 3, H, W].

    Raises `InputError` for an encoder that has none, such as a plain function, a saved program, or a network whose
    features come without a gradient.
    """
    try:
        records, features = _recorded(encoder, inputs)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a user's network may raise anything where it is differentiated
        if is_out_of_memory(error):
            raise
        raise _no_layer(encoder, f"its forward pass with gradient failed ({described(error)})") from error
    if not features.requires_grad:
        raise _no_layer(encoder, "its features carry no gradient")
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = (features.double() * weights.to(features.device)).sum()
    for record in reversed(records):
        layout = _layout_of(record.output, inputs.shape[2:], record.prefixes)
        if layout is not None and _is_used(record.output, total, layout):
            covered = _covered(_networks(encoder).values(), layout.grid, inputs.shape[2:])
            return SpatialLayer(record.name, record.module, record.call, layout, covered)
    raise _no_layer(
        encoder, "no module of a network gives a map [B, C, h, w] or tokens [B, h w, C] that its features depend on"
    )


def _no_layer(encoder: AbstractEncoder, reason: str) -> InputError:
    return InputError(
        f"Encoder {encoder.spec.name!r} has no spatial output for heat-maps: {reason}; leave out the heat-maps, or "
        "give an nn.Module that ends with a pooled map or tokens."
    )


# ------------------------------------------------------------------------------------------------------ recording


@dataclass(frozen=True)
class _Record:
    """One output of a module in a forward pass."""

    name: str
    module: nn.Module
    call: int
    output: Tensor
    prefixes: tuple[int, ...]
    """The numbers of class and register tokens that the network declares."""


class _Recorder:
    """A hook that lists the outputs of one module."""

    def __init__(self, name: str, prefixes: tuple[int, ...], records: list[_Record]) -> None:
        self._name, self._prefixes, self._records = name, prefixes, records
        self._calls = 0

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        tensor = _tensor_in(output)
        if tensor is not None and tensor.requires_grad:
            self._records.append(_Record(self._name, module, self._calls, tensor, self._prefixes))
        self._calls += 1


class _Tap:
    """A hook that cuts the graph at one output of a module: what follows is differentiated, what comes before is not.

    What follows gets a copy, which it may overwrite.
    """

    def __init__(self, call: int) -> None:
        self._left = call
        self.leaf: Tensor | None = None

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        self._left -= 1
        if self._left != -1:
            return output
        tensor = _tensor_in(output)
        assert tensor is not None
        self.leaf = tensor.detach().requires_grad_()
        copied = self.leaf.clone()
        return copied if isinstance(output, Tensor) else type(output)((copied, *output[1:]))


def _recorded(encoder: AbstractEncoder, inputs: Tensor) -> tuple[list[_Record], Tensor]:
    """The outputs of all modules outside of attention in the order in which they finish, and the features."""
    records: list[_Record] = []
    hooks = []
    for attribute, network in _networks(encoder).items():
        prefixes = tuple(_declared_prefixes(network))
        for name, module in network.named_modules():
            if not (_ATTENTION.search(name) or isinstance(module, torch.jit.ScriptModule)):  # which takes no hooks
                hooks.append((module, _Recorder(name or attribute, prefixes, records)))
    with _hooked(hooks), torch.inference_mode(False), torch.enable_grad():
        leaf = inputs.clone().requires_grad_()
        features = encoder.forward(leaf.clone(), (encoder.spec.output,))[encoder.spec.output]
    return records, features


def _hooked(hooks: Sequence[tuple[nn.Module, Any]]) -> ExitStack:
    """A context in which the hooks are called after their modules."""
    stack = ExitStack()
    for module, hook in hooks:
        stack.callback(module.register_forward_hook(hook).remove)
    return stack


def _networks(encoder: AbstractEncoder) -> dict[str, nn.Module]:
    """The networks that an encoder holds, as attributes or behind a bound method, by the name of the attribute."""
    held = {name.strip("_"): getattr(value, "__self__", value) for name, value in vars(encoder).items()}
    return {name: value for name, value in held.items() if isinstance(value, nn.Module)}


def _tensor_in(output: Any) -> Tensor | None:
    """The tensor that a module gave, alone or as the first of a tuple."""
    first = output[0] if type(output) in (tuple, list) and output else output
    return first if isinstance(first, Tensor) and first.is_floating_point() else None


def _is_used(output: Tensor, total: Tensor, layout: Layout) -> bool:
    """True if a gradient reaches a position of the grid."""
    (gradient,) = torch.autograd.grad(total, output, retain_graph=True, allow_unused=True)
    return gradient is not None and bool((layout.maps(gradient) != 0).any())


# -------------------------------------------------------------------------------------------------------- layouts


def _layout_of(output: Tensor, input_size: Sequence[int], prefixes: Sequence[int]) -> Layout | None:
    """How one image's output is laid out; None if it is no grid of positions with the aspect of the input."""
    if len(output) != 1:
        return None
    if output.ndim == 3:
        return _tokens(output.shape[1], input_size, prefixes)
    if output.ndim != 4:
        return None
    _, a, b, c = output.shape
    first, last = (_misfit(grid, input_size) for grid in ((b, c), (a, b)))
    if min(first, last) > 1:
        return None
    return Layout("map", (b, c)) if first <= last else Layout("map, channels last", (a, b))


def _misfit(grid: tuple[int, int], input_size: Sequence[int]) -> float:
    """By how many positions a grid has another aspect than the input; infinite for a grid below 2 x 2."""
    (h, w), (height, width) = grid, input_size
    if min(h, w) < 2 or h > height or w > width:
        return math.inf
    return max(abs(h * width / height - w), abs(w * height / width - h)) if h != w or height != width else 0.0


def _tokens(count: int, input_size: Sequence[int], prefixes: Sequence[int]) -> Layout | None:
    """The grid in `count` tokens: behind as many as the network declares, else behind the fewest that leave a grid."""
    for num_prefix in (*prefixes, *range(min(MAX_PREFIX, count) + 1)):
        grid = _grid(count - num_prefix, input_size)
        if grid is not None:
            return Layout("tokens", grid, num_prefix)
    return None


def _grid(count: int, input_size: Sequence[int]) -> tuple[int, int] | None:
    """The height and width of `count` patches that have the aspect of the input."""
    height, width = input_size
    h = round(math.sqrt(max(count, 0) * height / width))
    found = [(rows, count // rows) for rows in (h, h - 1, h + 1) if rows > 1 and count % rows == 0]
    return next((grid for grid in found if _misfit(grid, input_size) <= 1), None)


def _declared_prefixes(network: nn.Module) -> Iterator[int]:
    """Numbers of class and register tokens, as timm and transformers declare them."""
    for module in network.modules():
        if isinstance(found := getattr(module, "num_prefix_tokens", None), int):
            yield found
        config = getattr(module, "config", None)
        if isinstance(registers := getattr(config, "num_register_tokens", None), int):
            yield registers + 1


def _covered(networks: Iterable[nn.Module], grid: tuple[int, int], input_size: Sequence[int]) -> tuple[float, float]:
    """The share of the grid that the input fills, where a patch embedding of timm pads it right and below."""
    shares = [1.0, 1.0]
    for module in (module for network in networks for module in network.modules()):
        sides = getattr(module, "patch_size", None)
        if getattr(module, "dynamic_img_pad", False) and isinstance(sides, tuple):
            for axis in (0, 1):
                if input_size[axis] <= grid[axis] * sides[axis] < input_size[axis] + sides[axis]:
                    shares[axis] = input_size[axis] / (grid[axis] * sides[axis])
    return shares[0], shares[1]
