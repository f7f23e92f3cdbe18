"""Protocols: a published evaluation as data, so that one name fixes encoder, metrics and their order."""

from __future__ import annotations

from dataclasses import dataclass

from fdr.errors import InputError, unknown


@dataclass(frozen=True)
class Protocol:
    """An evaluation as others publish it."""

    name: str
    title: str
    encoder: str
    metrics: tuple[str, ...]
    """In the order in which the original prints them."""
    reference: str
    """The reference where none is named."""
    takes_stored_moments: bool = False
    """True when moments `mu`, `sigma`, `mu_s`, `sigma_s` in a sample file win over its images, as in a reference."""


ADM = Protocol(
    "adm",
    "the evaluator of guided-diffusion (Dhariwal & Nichol 2021)",
    "inception",
    ("is:adm", "fd", "sfid", "precision:adm", "recall:adm"),
    "imagenet256:adm",
    takes_stored_moments=True,
)
PROTOCOLS = {protocol.name: protocol for protocol in (ADM,)}


def find_protocol(name: str | Protocol) -> Protocol:
    """The protocol of that name. Raises `InputError` with near matches."""
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def check_is_free(protocol: Protocol, has_encoders: bool, has_metrics: bool) -> None:
    """Raise when the user chose what the protocol fixes."""
    for is_chosen, option, fixed in (
        (has_encoders, "--reps", protocol.encoder),
        (has_metrics, "--metrics", ", ".join(protocol.metrics)),
    ):
        if is_chosen:
            raise InputError(f"Protocol {protocol.name!r} measures {fixed} alone; leave out {option}, or the protocol.")
