"""One line per number that says how it was made, in the manner of sacreBLEU (Post 2018).

Two numbers are comparable when their signatures agree apart from the samples. Keys: `enc` encoder, `s` spec hash,
`w` weights, `rs` resize and input size, `dt` dtype, `cm` order of computation (when not the default), `out` output,
`crop`, `alpha` and `resize` of the images (when not the default), `q` quantisation, `n` images, `ref` reference and
its digest, `v` version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fdr._version import __version__

if TYPE_CHECKING:
    from fdr.encoders.base import EncoderSpec
    from fdr.reference import Reference

_POLICY_DEFAULTS = {"crop": "none", "alpha": "drop"}


def result_signature(
    metric: str, spec: EncoderSpec, output: str, policy: Mapping[str, str], count: int, reference: Reference | None
) -> str:
    """The signature of one metric of one encoder."""
    fields = [metric, f"enc:{spec.name}", f"s:{spec.hash[:8]}", f"w:{short_digest(spec.weights)}"]
    fields += [f"rs:{spec.resize}-{spec.input_size}" if spec.input_size else f"rs:{spec.resize}", f"out:{output}"]
    fields += [f"dt:{spec.dtype}", *([f"cm:{spec.compute}"] if spec.compute != "default" else [])]
    return "|".join(fields + _shared_fields(policy, count, reference))


def mean_signature(
    encoders: Mapping[str, EncoderSpec], policy: Mapping[str, str], count: int, reference: Reference
) -> str:
    """The signature of FDr^k: the encoders with their spec hashes."""
    names = "+".join(f"{name}@{spec.hash[:8]}" for name, spec in encoders.items())
    shared = _shared_fields(policy, count, reference, with_digest=False)
    return "|".join([f"fdr_k:{len(encoders)}", f"enc:{names}", *shared])


def _shared_fields(
    policy: Mapping[str, str], count: int, reference: Reference | None, with_digest: bool = True
) -> list[str]:
    fields = [
        f"{key}:{value}"
        for key, value in policy.items()
        if key != "quantize" and key != "pillow" and value != _POLICY_DEFAULTS.get(key)
    ]
    fields += [f"q:{policy.get('quantize', 'uint8').replace('uint8', 'u8')}", f"n:{count}"]
    if reference is not None:
        digest = f":{reference.digest[:8]}" if with_digest and reference.digest else ""
        fields.append(f"ref:{reference.name}{digest}")
    return [*fields, f"v:{__version__}"]


def short_digest(weights: str) -> str:
    """8 hex digits of a sha256; "seed:N" and "unknown" as they are."""
    return weights[:8] if len(weights) == 64 else weights.replace(":", "")
