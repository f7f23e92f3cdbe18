"""Signatures: one line of text per number that says how it was made, like those of sacreBLEU (Post 2018).

Two numbers are comparable when their signatures agree apart from the version. Keys: `enc` encoder, `s` spec hash,
`w` weights, `rs` resize and input size, `dt` dtype, `cm` order of computation (when not the default), `out` output,
`crop` and `alpha` of the images (when not the default), `left` images of unread formats or doubtful entries beside
them (when not 0), `q` quantisation, `n` images, `ref` reference and its digest,
`val` validation FD under FDr, `k` number of encoders or of neighbours, `d` rule of distances (when not exact), `m`
"stored" where the sample file's own moments count, `train` training set and its digest, `lab` digest of the classes of
the reference, `txt` digest of the prompts, `tok` their tokenizer, `pre` the words before them, `mult` the factor of
CLIPScore, `est` the estimator and `rb` what removes the reference's bias (both of a debiased FD), `v` version.
Of an autoencoder: `ae` itself and the hash of its
spec, `z` its posterior, `clamp` of decoded values, `nb` the set of the neighbours, `by` the distance that they are
nearest by, `draw` the seed of their draw, `lat` what their latents are stored as, `mix` interpolation and alpha,
`compat` a published code whose conventions hold. Of a benchmark that was read from a file of another tool: `tool` that
tool, `tasks` its tasks or categories, `prompts` how many and a digest of them. What each means for a comparison is in
`fdr.comparison`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fdr._version import __version__
from fdr.errors import InputError
from fdr.metrics import mean_of, ratio_of

if TYPE_CHECKING:
    from fdr.encoders import EncoderSpec

DEFAULTS = {"crop": "none", "alpha": "drop", "cm": "default", "clamp": "yes", "lat": "float32", "left": "0"}
"""The values of fields that are left out of a signature when they have their default."""


@dataclass(frozen=True)
class Signature:
    """A parsed signature. `fields` are in their order; "fdr_k:6" is the metric "fdr_k" with the field `k`."""

    metric: str
    fields: Mapping[str, str]

    def value(self, field: str) -> str | None:
        """The value of the field, its default if it was left out, or None."""
        return self.fields.get(field, DEFAULTS.get(field))


def parse_signature(text: str) -> Signature:
    """The inverse of `result_signature` and `mean_signature`. Raises `InputError` for any other text."""
    first, *rest = text.split("|")
    fields: dict[str, str] = {}
    name, _, number = first.rpartition(":")
    if number.isdigit() and mean_of(name) is not None:
        first, fields["k"] = name, number
    for part in rest:
        key, separator, value = part.partition(":")
        if not separator or not key or key in fields:
            raise InputError(
                f"{text!r} is not a signature: {part!r} is {'there twice' if key in fields else 'not KEY:VALUE'}; "
                "expected one that fdr wrote, such as fd|enc:inception|...|v:0.1.0."
            )
        fields[key] = _unescape(value)
    if not first or not fields:
        raise InputError(f"{text!r} is not a signature; expected METRIC|KEY:VALUE|..., as fdr writes it.")
    return Signature(_unescape(first), fields)


def _escape(value: object) -> str:
    """Names come from users; a bar or a line break in one must not end its field."""
    return str(value).replace("%", "%25").replace("|", "%7C").replace("\n", "%0A").replace("\r", "%0D")


def _unescape(value: str) -> str:
    return value.replace("%0D", "\r").replace("%0A", "\n").replace("%7C", "|").replace("%25", "%")


@dataclass(frozen=True)
class Origin:
    """The reference of a number, as the signature states it."""

    name: str
    digest: str
    count: int | None
    """Number of images behind the reference, if known."""
    val_fd: float | None = None


def result_signature(
    metric: str,
    spec: EncoderSpec,
    output: str,
    policy: Mapping[str, str],
    count: int,
    reference: Origin | None,
    settings: Mapping[str, str] | None = None,
) -> str:
    """The signature of one metric of one encoder."""
    fields = {"enc": spec.name, "s": spec.hash[:8], "w": short_digest(spec.weights)}
    fields["rs"] = f"{spec.resize}-{spec.input_size}" if spec.input_size else spec.resize
    fields |= {"out": output, "dt": spec.dtype, "cm": spec.compute, **(settings or {})}
    fields |= image_fields(policy, count)
    if reference is not None:
        fields["ref"] = f"{reference.name}:{reference.digest[:8]}" if reference.digest else reference.name
        if ratio_of(metric) and reference.val_fd is not None:
            fields["val"] = f"{reference.val_fd:.6g}"
    return _join(metric, fields)


def images_signature(metric: str, policy: Mapping[str, str], count: int, settings: Mapping[str, str]) -> str:
    """The signature of a number that needs no encoder."""
    return _join(metric, {**settings, **image_fields(policy, count)})


def imported_signature(metric: str, tool: str, settings: Mapping[str, str], count: int) -> str:
    """The signature of a number that another tool measured. It has no version of fdr, which did not measure it."""
    fields = {"tool": tool, **settings, "n": str(count)}
    return "|".join([metric, *(f"{key}:{_escape(value)}" for key, value in fields.items())])


def mean_signature(
    metric: str,
    encoders: Mapping[str, EncoderSpec],
    policy: Mapping[str, str],
    count: int,
    references: Mapping[str, Origin],
    settings: Mapping[str, str] | None = None,
) -> str:
    """The signature of FDr^k or another mean: the encoders with their spec hashes, the settings of the metric that is
    averaged, and one digest for all references and validation FDs.
    """
    names = "+".join(f"{name}@{spec.hash[:8]}" for name, spec in encoders.items())
    fields = {"enc": names, **(settings or {}), **image_fields(policy, count)}
    below = {
        name: (reference.digest, f"{reference.val_fd:.6g}" if reference.val_fd else None)
        for name, reference in references.items()
    }
    digest = hashlib.sha256(json.dumps(below, sort_keys=True).encode()).hexdigest()
    fields["ref"] = f"{next(iter(references.values())).name}:{digest[:8]}"
    return _join(f"{metric}:{len(encoders)}", fields)


def image_fields(policy: Mapping[str, str], count: int) -> dict[str, str]:
    """The fields that say how images were read, and how many."""
    fields = {key: value for key, value in policy.items() if key not in ("quantize", "pillow")}
    return fields | {"q": policy.get("quantize", "uint8").replace("uint8", "u8"), "n": str(count)}


def _join(metric: str, fields: Mapping[str, str]) -> str:
    stated = {key: value for key, value in {**fields, "v": __version__}.items() if value != DEFAULTS.get(key)}
    return "|".join([metric, *(f"{key}:{_escape(value)}" for key, value in stated.items())])


def short_digest(weights: str) -> str:
    """8 hex digits of a sha256; "seed:N" and "unknown" as they are."""
    return weights[:8] if len(weights) == 64 else weights.replace(":", "")
