"""FID-Inception as networks: `InceptionNetwork` in the peers' order of operations, `FoldedInception` the fast one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdr.encoders.inception_graph import (
    BATCH_NORM_EPS,
    BLOCKS,
    NUM_CLASSES,
    POOL_DIM,
    SPATIAL_BLOCK,
    SPATIAL_CHANNELS,
    STEM,
    Conv,
    Pool,
)

CACHE_BATCH = 2
"""Images per pass through the stem on a CPU. With more, its maps (147 x 147 x 64) no longer fit the cache."""


class _ConvUnit(nn.Module):
    """Pool if any, convolution, batch norm, ReLU, one after the other."""

    def __init__(self, conv: Conv, pool: Pool | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel, conv.stride, conv.padding, bias=False)
        self.bn = nn.BatchNorm2d(conv.out_channels, eps=BATCH_NORM_EPS)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = _pool(self.pool, x)
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _FoldedUnit(nn.Module):
    """The same function with the batch norm folded, in float64, into the convolution's weight and bias.

    An average pool moves behind its 1 x 1 convolution, which commutes with it and leaves fewer channels to average.
    """

    def __init__(self, unit: _ConvUnit) -> None:
        super().__init__()
        bn, conv = unit.bn, unit.conv
        assert bn.running_mean is not None and bn.running_var is not None
        scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
        weight = conv.weight.double().mul_(scale[:, None, None, None])
        self.weight = nn.Parameter(weight.float().contiguous(memory_format=torch.channels_last), requires_grad=False)
        bias = bn.bias.double() - bn.running_mean.double() * scale
        self.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.stride, self.padding, self.pool = conv.stride, conv.padding, unit.pool

    def forward(self, x: Tensor) -> Tensor:
        if self.pool == "average":
            return _pool("average", F.conv2d(x, self.weight)).add_(self.bias[:, None, None]).relu_()
        if self.pool is not None:
            x = _pool(self.pool, x)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding).relu_()


class InceptionNetwork(nn.Module):
    """[B, 3, 299, 299] normalised -> named outputs; unfolded, in the order of operations of the peers.

    Parameter names are those of the published weight files, so that `load_state_dict` takes them as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        for conv in (conv for group in STEM for conv in group):
            self.add_module(conv.name, _ConvUnit(conv))
        for block in BLOCKS:
            units = {conv.name: _ConvUnit(conv) for branch in block.branches for conv in branch.convs + branch.fork}
            if block.pool_conv is not None:
                units[block.pool_conv.name] = _ConvUnit(block.pool_conv, block.pool)
            self.add_module(block.name, nn.ModuleDict(units))
        self.last_map = nn.Identity()
        """The output of the last block, [B, 2048, 8, 8], passes through it, so that a hook can read it."""
        self.fc = nn.Linear(POOL_DIM, NUM_CLASSES)

    def forward(self, x: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        return self.blocks(self.stem(x.contiguous()), outputs)  # as the peers; channels last rounds differently

    def stem(self, x: Tensor) -> Tensor:
        """[B, 3, 299, 299] -> [B, 192, 35, 35]"""
        for group in STEM:
            for conv in group:
                x = self.get_submodule(conv.name)(x)
            x = _pool("max-stride-2", x)
        return x

    def blocks(self, x: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """[B, 192, 35, 35] -> the outputs asked for, in float32; nothing is computed past the last of them."""
        found: dict[str, Tensor] = {}
        for block in BLOCKS:
            if not set(outputs) - set(found):
                return found
            units = self.get_submodule(block.name)
            assert isinstance(units, nn.ModuleDict)
            parts: list[Tensor] = []
            for branch in block.branches:
                y = x
                for conv in branch.convs:
                    y = units[conv.name](y)
                parts += [units[conv.name](y) for conv in branch.fork] or [y]
            parts.append(_pool(block.pool, x) if block.pool_conv is None else units[block.pool_conv.name](x))
            if block.name == SPATIAL_BLOCK and "spatial" in outputs:
                found["spatial"] = _spatial(parts[0])
            x = torch.cat(parts, 1)
        return found | _head(self.last_map(x), self.fc.weight, outputs)


class FoldedInception(nn.Module):
    """The same function, faster: batch norm folded, channels last, the stem a few images at a time on a CPU."""

    def __init__(self, network: InceptionNetwork) -> None:
        """Takes `network` over and replaces its units; its weights must be loaded."""
        super().__init__()
        for name, module in list(network.named_modules()):
            if isinstance(module, _ConvUnit):
                network.set_submodule(name, _FoldedUnit(module))
        self.network = network

    def forward(self, x: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        if x.device.type == "cpu" and len(x) > CACHE_BATCH:
            x = torch.cat([self.network.stem(part) for part in x.split(CACHE_BATCH)])
        else:
            x = self.network.stem(x)
        return self.network.blocks(x, outputs)


def _pool(kind: Pool, x: Tensor) -> Tensor:
    if kind == "average":
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    if kind == "max":
        return F.max_pool2d(x, 3, stride=1, padding=1)
    return F.max_pool2d(x, 3, stride=2)


def _spatial(x: Tensor) -> Tensor:
    """[B, C, 17, 17] -> [B, 2023]: the first channels, in TensorFlow's (h, w, c) order."""
    return x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).float()


def _head(x: Tensor, weight: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
    """Global average, and the class scores without their bias ("unbiased logits"), both in float32."""
    pool = F.adaptive_avg_pool2d(x.float(), 1).flatten(1)
    found = {"pool": pool} if "pool" in outputs else {}
    if "logits" in outputs:
        found["logits"] = pool @ weight.float().T
    return found
