"""Signatures: what is written is read back, whatever names users give; what is no signature is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import TinyEncoder

from fdr.errors import InputError
from fdr.reports import Origin, mean_signature, parse_signature, result_signature

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


def test_a_ratio_names_its_denominator() -> None:
    fd, fdr = (parse_signature(result_signature(m, SPEC, "features", {}, 10, reference())) for m in ("fd", "fdr"))
    assert fd.value("val") is None
    assert fdr.value("val") == "1.68"


def test_the_mean_changes_with_any_reference_or_denominator_below_it() -> None:
    specs = {"a": SPEC, "b": SPEC}

    def text(**changed) -> str:
        return mean_signature(specs, POLICY, 10, {"a": reference(), "b": reference(**changed)})

    parsed = parse_signature(text())
    assert (parsed.metric, parsed.value("k")) == ("fdr_k", "2")
    assert parsed.fields["enc"] == f"a@{SPEC.hash[:8]}+b@{SPEC.hash[:8]}"
    assert len({text(), text(digest="cd" * 32), text(val_fd=1.7), text(val_fd=None)}) == 4


@pytest.mark.parametrize("text", ["", "fd", "fd|", "fd|enc", "fd|enc:a|enc:b", "|enc:a", "fd|:a"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a signature"):
        parse_signature(text)
