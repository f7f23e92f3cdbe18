"""Published evaluation protocols: one name selects the encoder, the metrics and their order."""

from __future__ import annotations

from dataclasses import dataclass

from fdr.errors import InputError, unknown


@dataclass(frozen=True)
class Protocol:
    """A published evaluation protocol."""

    name: str
    title: str
    encoder: str
    metrics: tuple[str, ...]
    """The metrics, in the order in which the original code prints them."""
    reference: str
    """The reference that is used if the user names none."""
    takes_stored_moments: bool = False
    """True if moments (`mu`, `sigma`, `mu_s`, `sigma_s`) in a sample file are used instead of its images."""


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
    """Raise an error if the user chose something that the protocol fixes."""
    for is_chosen, option, fixed in (
        (has_encoders, "--reps", protocol.encoder),
        (has_metrics, "--metrics", ", ".join(protocol.metrics)),
    ):
        if is_chosen:
            raise InputError(f"Protocol {protocol.name!r} measures {fixed} alone; leave out {option}, or the protocol.")
