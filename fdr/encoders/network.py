"""`NetworkEncoder`, a network behind a `Preprocessing`, and `build_spec`, which describes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fdr.encoders.base import AbstractEncoder, EncoderOptions, EncoderSpec
from fdr.encoders.catalogue import EncoderRow
from fdr.encoders.preprocessing import Preprocessing


def build_spec(
    row: EncoderRow,
    options: EncoderOptions,
    weights: str,
    source: object = "",
    *,
    order: str = "default",
    extra: tuple[tuple[str, str], ...] = (),
) -> EncoderSpec:
    """The spec of the encoder that `row` describes, loaded with `options` from the file `source`.

    `weights` is the digest of the file, and `order` the order of operations as in `EncoderSpec.compute`.
    """
    return EncoderSpec(
        name=row.name,
        family=row.family,
        model=row.model,
        weights=weights,
        output=row.output,
        dim=row.width,
        input_size=row.input_size,
        resize=row.resize,
        mean=row.mean,
        std=row.std,
        dtype=options.dtype,
        compute=options.compute(order),
        extra=extra,
        weights_source=str(source),
    )


class NetworkEncoder(AbstractEncoder):
    """A network, run on images that the `Preprocessing` of its spec prepares; under autocast where the spec says bf16.

    `run(network, inputs, outputs)` is the forward pass, and returns the named outputs.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        outputs: tuple[str, ...],
        network: nn.Module,
        run: Callable[[nn.Module, Tensor, Sequence[str]], dict[str, Tensor]],
        device: torch.device,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self.spec = spec
        self.outputs = outputs
        self.stored_outputs = outputs[:1]
        self.device = device
        self.network = network
        self._run = run
        self._preprocessing = preprocessing or Preprocessing(spec.resize, spec.input_size, spec.mean, spec.std)
        self.host_preprocess = self._preprocessing.runs_on_host

    def preprocess(self, images: Tensor) -> Tensor:
        return self._preprocessing(images)

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.dtype == "bf16"):
            features = self._run(self.network, inputs, outputs)
        return {name: value.float() for name, value in features.items()}
