"""Signatures: what is written is read back, whatever names users give; what is no signature is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import TinyEncoder

import fdr
from fdr.encoders import EncoderSpec
from fdr.errors import InputError
from fdr.reports import Origin, images_signature, mean_signature, parse_signature, result_signature

SPEC = TinyEncoder().spec
POLICY = {"crop": "adm-256", "alpha": "drop", "quantize": "uint8", "pillow": "12.0"}
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


def reference(name: str = "imagenet256", digest: str = "ab" * 32, val_fd: float | None = 1.68) -> Origin:
    return Origin(name, digest, 50_000, val_fd)


@given(encoder=NAMES, name=NAMES)
def test_any_name_survives(encoder: str, name: str) -> None:
    text = result_signature("is:adm", replace(SPEC, name=encoder), "logits", POLICY, 50_000, reference(name))
    parsed = parse_signature(text)
    assert "\n" not in text and "\r" not in text
    assert parsed.metric == "is:adm"
    assert (parsed.fields["enc"], parsed.fields["ref"]) == (encoder, f"{name}:abababab")


def test_fields_left_out_at_their_default_have_it() -> None:
    parsed = parse_signature(result_signature("fd", SPEC, "features", POLICY, 10, None))
    assert parsed.value("crop") == "adm-256"
    assert (parsed.value("alpha"), parsed.value("cm")) == ("drop", "default")
    assert (parsed.value("ref"), parsed.value("n"), parsed.value("q")) == (None, "10", "u8")


def spec(**changed: object) -> EncoderSpec:
    plain = {"name": "enc", "family": "random", "model": "m", "weights": "0123456789abcdef" * 4, "output": "pool",
             "dim": 8, "input_size": 299, "resize": "tf1-bilinear", "mean": (), "std": ()}  # fmt: skip
    return EncoderSpec(**{**plain, **changed})


def test_signatures_to_the_letter() -> None:
    """Written out by hand: every field, its place and its form."""
    one = spec()
    digits, version = one.hash[:8], fdr.__version__
    made_by = f"enc:enc|s:{digits}|w:01234567|rs:tf1-bilinear-299|out:pool|dt:float32"
    policy = {"crop": "none", "alpha": "white", "left": "0", "quantize": "none", "pillow": "12.0"}
    origin = Origin("ref", "89" * 32, 7, 1.23456789)
    assert result_signature("fd", one, "pool", policy, 10, origin) == (
        f"fd|{made_by}|alpha:white|q:none|n:10|ref:ref:89898989|v:{version}"
    )
    assert result_signature("fdr", one, "pool", {}, 10, origin, {"k": "3", "m": "stored"}) == (
        f"fdr|{made_by}|k:3|m:stored|q:u8|n:10|ref:ref:89898989|val:1.23457|v:{version}"
    )
    assert result_signature("is", one, "pool", {"left": "2"}, 10, Origin("ref", "", None)) == (
        f"is|{made_by}|left:2|q:u8|n:10|ref:ref|v:{version}"
    )
    other = spec(input_size=0, weights="seed:12345", compute="exact", resize="none")
    assert result_signature("fd", other, "x", {}, 1, None) == (
        f"fd|enc:enc|s:{other.hash[:8]}|w:seed12345|rs:none|out:x|dt:float32|cm:exact|q:u8|n:1|v:{version}"
    )
    assert images_signature("psnr", policy, 10, {"ae": "x:12", "clamp": "yes"}) == (
        f"psnr|ae:x:12|alpha:white|q:none|n:10|v:{version}"
    )
    below = {"a": ["89" * 32, "1.23457"], "b": ["89" * 32, None]}
    digest = hashlib.sha256(json.dumps(below, sort_keys=True).encode()).hexdigest()[:8]
    origins = {"b": Origin("ref", "89" * 32, 7), "a": origin}
    assert mean_signature("fdr_k", {"a": one, "b": other}, policy, 10, origins) == (
        f"fdr_k:2|enc:a@{digits}+b@{other.hash[:8]}|alpha:white|q:none|n:10|ref:ref:{digest}|v:{version}"
    )


def test_bars_percents_and_line_breaks_are_escaped() -> None:
    text = result_signature("fd", spec(name="a|b%7C\n\r"), "pool", {}, 1, None)
    assert text.startswith("fd|enc:a%7Cb%257C%0A%0D|s:")
    assert parse_signature(text).fields["enc"] == "a|b%7C\n\r"


def test_a_ratio_names_its_denominator() -> None:
    fd, fdr = (parse_signature(result_signature(m, SPEC, "features", {}, 10, reference())) for m in ("fd", "fdr"))
    assert fd.value("val") is None
    assert fdr.value("val") == "1.68"


def test_the_mean_changes_with_any_reference_or_denominator_below_it() -> None:
    specs = {"a": SPEC, "b": SPEC}

    def text(metric: str = "fdr_k", **changed) -> str:
        return mean_signature(metric, specs, POLICY, 10, {"a": reference(), "b": reference(**changed)})

    parsed = parse_signature(text())
    assert (parsed.metric, parsed.value("k")) == ("fdr_k", "2")
    assert parsed.fields["enc"] == f"a@{SPEC.hash[:8]}+b@{SPEC.hash[:8]}"
    assert len({text(), text(digest="cd" * 32), text(val_fd=1.7), text(val_fd=None)}) == 4
    for metric in ("fdr_k:trained", "fdr_k:held_out"):
        parsed = parse_signature(text(metric))
        assert (parsed.metric, parsed.value("k")) == (metric, "2")
        assert text(metric) == text().replace("fdr_k:2|", f"{metric}:2|")


@pytest.mark.parametrize("text", ["", "fd", "fd|", "fd|enc", "fd|enc:a|enc:b", "|enc:a", "fd|:a"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a signature"):
        parse_signature(text)
