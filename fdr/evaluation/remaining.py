"""Measures a source although an encoder fails: what it was needed for is lost, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fdr.encoders import AbstractEncoder
from fdr.evaluation.measurement import Measurement, Needs, measure, outputs_of
from fdr.features import EncoderFailure, Extraction, ExtractionOptions
from fdr.images import ImageSource


def measure_remaining(
    source: ImageSource, encoders: Sequence[AbstractEncoder], needs: Needs, options: ExtractionOptions
) -> tuple[Extraction, Measurement | None]:
    """`measure` with `keeps_going`, and the pass that finished.

    If an encoder fails, the pass begins again without it, where features that were cached are read; its needs are then
    among the failures. Raises the first failure if no encoder is left. With several ranks, and for images that can be
    read only once, the first failure ends the run.
    """
    left, failed = list(encoders), dict[str, EncoderFailure]()
    while True:
        wanted = {encoder.spec.name: needs[encoder.spec.name] for encoder in left if encoder.spec.name in needs}
        extraction = Extraction(source, left, outputs_of(wanted), options)
        try:
            measured = measure(extraction, wanted, keeps_going=True)
            break
        except EncoderFailure as error:
            left = [encoder for encoder in left if encoder.spec.name != error.encoder]
            is_able = options.group.size == 1 and source.is_repeatable and not options.moments_only
            if not left or not is_able:
                raise next(iter(failed.values()), error) from error.__cause__
            # without the traceback, whose frames hold the batch on the device
            failed[error.encoder] = EncoderFailure(error.encoder, str(error))
    if measured is not None and failed:
        lost = {(name, need): error for name, error in failed.items() for need in needs[name]}
        measured = replace(measured, failures={**measured.failures, **lost})
    return extraction, measured
