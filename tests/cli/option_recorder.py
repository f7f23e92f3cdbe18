"""Calls of the library by a command, recorded in place of being made."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gate_worlds import report, row, write
from worlds import images, npz

from fdr.errors import RunError
from fdr.runtime import SOLO


class Recorder(dict[str, Any]):
    """What the library was called with, by place; nothing is computed."""

    def call(self, of: Callable[..., Any], arguments: tuple[Any, ...], given: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(**inspect.signature(of).bind(*arguments, **given).arguments)

    def at(self, place: str) -> Any:
        value: Any = self
        for part in place.split("."):
            if isinstance(value, dict):
                value = value[part]
            else:
                value = (*value, None, None)[int(part)] if part.isdigit() else getattr(value, part, None)
        return value


def stop(*_: Any, **__: Any) -> Any:
    raise RunError("the library was called")


def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    found = Recorder()
    for name in ("a.npz", "other.npz"):
        npz(tmp_path / name, images(12, seed=len(name)))
    (tmp_path / "t.csv").write_text("a,b,c\n1,100,5\n10,1000,6\n100,10,7\n")
    write(tmp_path / "r.json", report(row(value=2.0)))
    write(tmp_path / "b.json", report(row(value=2.5)))

    class Evaluator:
        def __init__(self, *arguments: Any, **given: Any) -> None:
            call = found.call(real["evaluation.Evaluator"], arguments, given)
            found.update(evaluator=call, images=call.image_options, encoder=call.encoder_options)
            found.update(extraction=call.extraction_options, weights=call.weights)
            self.encoders = [SimpleNamespace(device=torch.device("cpu"))]
            self.image_options, self.encoder_options = call.image_options, call.encoder_options
            self.extraction_options, self.captions = call.extraction_options, None

        plan = planned = evaluate_source = stop

        def check_source(self, source: object) -> None:
            pass

    def load_generator(*arguments: Any, **given: Any) -> Any:
        found["generator"] = found.call(real["generators.load_generator"], arguments, given)
        return SimpleNamespace(device=torch.device("cpu"))

    def source(*arguments: Any, **given: Any) -> Any:
        found["drawn"] = found.call(real["generators.GeneratorSource"], arguments, given)
        return SimpleNamespace(name="g", prompts=None)

    def load_encoders(reps: str, options: Any, weights: Any) -> list[Any]:
        found.update(reps=reps, encoder=options, weights=weights)
        return [SimpleNamespace(spec=SimpleNamespace(name="tiny"))]

    def writer(name: str) -> Callable[..., Any]:
        def written(*arguments: Any, **given: Any) -> Any:
            call = found.call(real[f"evaluation.{name}"], arguments, given)
            call.path = getattr(call, "path", getattr(call, "folder", None))
            found.update(written=call, images=call.source.options, extraction=call.options)
            stop()

        return written

    def open_autoencoder(name: str, options: Any) -> Any:
        found["autoencoder"] = SimpleNamespace(name=name, **vars(options))

    def open_sets(*arguments: Any) -> Any:
        found["sets"] = found.call(real["ifid.open_sets"], arguments, {})
        found["images"] = arguments[2]
        return None, None

    def interpolated(*arguments: Any) -> Any:
        found.update(ifid=arguments[4], extraction=arguments[5])
        stop()

    def reconstruction(source: Any, made: Any, encoders: Any, extraction: Any, lpips: Any) -> Any:
        found.update(images=source.options, extraction=extraction)

        def run(picture: Path | None, worst: int) -> Any:
            found["recon"] = SimpleNamespace(images=source.name, lpips=lpips, worst=worst)
            stop()

        return SimpleNamespace(run=run, plan=stop)

    def train(*arguments: Any, **given: Any) -> Any:
        found.update(train=arguments[0], run=arguments[1], run_options=arguments[2])
        stop()

    def cas(sets: Any, out: Path, options: Any) -> Any:
        found.update(cas_sets=sets, out=out, cas=options)
        stop()

    def audited(*arguments: Any) -> Any:
        call = found.call(real["evaluation.AuditedSets"], arguments, {})
        found.update(audited=call, images=call.samples.options, extraction=call.options)

        def audit(**given: Any) -> Any:
            found["audit"] = SimpleNamespace(**given)
            stop()

        return SimpleNamespace(audit=audit, plan=stop)

    def judge(reports: Any, options: Any, baseline: Any, nulls: Any) -> Any:
        found["gate"] = options
        stop()

    def convert(source: Path, target: Path, options: Any, **_: Any) -> Any:
        found["convert"] = options
        stop()

    def correlate(*arguments: Any, **given: Any) -> Any:
        found["correlate"] = found.call(real["comparison.correlate"], arguments, given)
        stop()

    def fetch(chosen: Any, options: Any, to: Any = None) -> Any:
        found["fetch"] = SimpleNamespace(chosen=tuple(chosen), options=options, to=to)
        stop()

    def store(root: Path) -> Any:
        found["store"] = root
        stop()

    @contextlib.contextmanager
    def ranks(gpus: int | None) -> Iterator[Any]:
        found["gpus"] = gpus
        yield SOLO

    def sample_set(_: Any, out: Path) -> Any:
        found["out"] = out
        stop()

    replaced: dict[str, Any] = {
        "evaluation.Evaluator": Evaluator,
        "generators.load_generator": load_generator,
        "generators.GeneratorSource": source,
        "generators.sample_set": sample_set,
        "encoders.load_encoders": load_encoders,
        **{f"evaluation.{name}": writer(name) for name in ("write_reference", "write_reference_file")},
        "evaluation.write_adm_reference": writer("write_adm_reference"),
        "evaluation.AuditedSets": audited,
        "ifid.open_autoencoder": open_autoencoder,
        "ifid.open_sets": open_sets,
        "ifid.InterpolatedFid": interpolated,
        "ifid.Reconstruction": reconstruction,
        "metrics.load_lpips": lambda *_, **__: "lpips",
        "training.train": train,
        "training.cas_scores": cas,
        "gate.judge": judge,
        "references.convert": convert,
        "comparison.correlate": correlate,
        "weights.fetch": fetch,
        "features.CacheStore": store,
        "cli._computing.ranks": ranks,
    }
    real = {}
    for name in replaced:
        room, _, attribute = name.rpartition(".")
        real[name] = getattr(__import__(f"fdr.{room}", fromlist=[attribute]), attribute)
    monkeypatch.setattr("fdr.cli._computing.Setup.check_files", lambda *_, **__: None)
    for name, fake in replaced.items():
        monkeypatch.setattr(f"fdr.{name}", fake)
    return found
