"""FID-Inception, the encoder of FID, preprocessed as torch-fidelity and ADM, pytorch-fid, Clean-FID or FD-loss do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fdr import runtime
from fdr.encoders.base import AbstractEncoder, EncoderOptions, EncoderSpec
from fdr.encoders.catalogue import ROWS, TF128
from fdr.encoders.inception_network import FoldedInception, InceptionNetwork
from fdr.encoders.network import build_spec
from fdr.encoders.resize import HOST_RESIZES, RESIZES
from fdr.errors import InputError, unknown
from fdr.weights import load_into, load_state_dict, resolve, to_memory

_ROWS = {row.name: row for row in ROWS if row.family == "inception"}


def load(name: str, options: EncoderOptions) -> InceptionEncoder:
    """The encoder `name`: "inception", "inception:pytorch-fid", "inception:clean" or "inception:fdloss".

    Raises `InputError` for another name or dtype, `WeightsError` for missing, damaged or foreign weights.
    """
    if name not in _ROWS:
        raise unknown("encoder", name, _ROWS)
    row = _ROWS[name]
    device = runtime.resolve_device(options.device)
    dtype = runtime.check_dtype(options.dtype, device)
    if options.exact_order and dtype is not torch.float32:
        raise InputError("--exact-order repeats a float32 computation and excludes --dtype bf16; use one of them.")
    assert row.weights is not None
    found = resolve(row.weights, options, name)
    network = _empty_network()
    load_into(network, load_state_dict(found.path), found.path, name)
    module = network if options.exact_order else FoldedInception(network).eval()
    order = "exact-order" if options.exact_order else "default"
    spec = build_spec(row, options, found.sha256, found.path, order=order)
    return InceptionEncoder(module.to(device, dtype), spec, device)


def _empty_network() -> InceptionNetwork:
    """Uninitialised, since a file fills it; the global random state stays as it is."""
    with torch.device("meta"):
        network = InceptionNetwork()
    to_memory(network, "cpu")
    return network.eval().requires_grad_(False)


class InceptionEncoder(AbstractEncoder):
    """Outputs "pool" [B, 2048], "logits" [B, 1008] without their bias, and "spatial" [B, 2023], ADM's sFID features.

    "spatial" holds the first 7 channels of the TF graph's `mixed_6/conv:0`, 17 x 17, in its (h, w, c) order.
    """

    outputs = ("pool", "logits", "spatial")
    stored_outputs = ("pool", "logits")

    def __init__(self, network: nn.Module, spec: EncoderSpec, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.host_preprocess = spec.resize in HOST_RESIZES
        self._resize = RESIZES[spec.resize]
        self._is_tf128 = spec.mean == TF128
        self._network = network
        self._dtype = next(network.parameters()).dtype

    def preprocess(self, images: Tensor) -> Tensor:
        if self._is_tf128:  # on the 0..255 scale, as the peers: 255 * (u / 255) is u exactly for every byte u
            return self._resize(images * 255, self.spec.input_size).sub_(128).div_(128)
        return (2 * self._resize(images, self.spec.input_size)).sub_(1)

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        return self._network(inputs.to(self._dtype), outputs)
