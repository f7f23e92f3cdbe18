"""Every option of every command has an effect, and a test that sees it.

Most options are handed on to an object of the library, whose own tests show what its fields do: here each of them
arrives where it belongs, with a value that is not the default. The others are listed with the test that shows their
effect. A new option fails this file until it has one or the other.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import torch
from gate_worlds import report, row, write
from generator_worlds import weights
from worlds import folder, images, npz

from fdr.cli import COMMANDS, cli
from fdr.cli._computing import Computing
from fdr.errors import InputError, RunError
from fdr.gate import GateOptions
from fdr.ifid import IfidOptions
from fdr.images import ImageOptions
from fdr.reports import load_reports
from fdr.runtime import SOLO, PlainProgress, SilentProgress
from fdr.training import RunOptions, TrainOptions

TESTS = Path(__file__).parents[1]


def options_of_commands() -> Iterator[tuple[str, str]]:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        several = command.commands if isinstance(command, click.Group) else {"": command}
        for inner, one in several.items():
            for parameter in one.params:
                if isinstance(parameter, click.Option):
                    yield f"{name} {inner}".strip(), parameter.opts[-1]


# What is handed on: by command and option, the arguments, the place in the library, and the value that arrives there

IMAGES = {
    "--count": ("7", "images.count", 7),
    "--seed": ("5", "images.seed", 5),
    "--crop": ("adm", "images.crop", "adm"),
    "--size": ("9", "images.size", 9),
    "--transparency": ("white", "images.alpha", "white"),
    "--on-bad": ("skip", "images.on_bad", "skip"),
    "--max-bad": ("0.25", "images.max_bad", 0.25),
    "--max-pixels": ("1000000", "images.max_pixels", 1_000_000),
}
COMPUTING = {
    "--device": ("cpu", "encoder.device", "cpu"),
    "--batch-size": ("3", "extraction.batch_size", 3),
    "--num-workers": ("2", "extraction.num_workers", 2),
    "--dtype": ("bf16", "encoder.dtype", "bf16"),
    "--tf32": (None, "encoder.tf32", True),
    "--cache": ("c", "extraction.cache", Path("c")),
    "--no-cache": (None, "extraction.cache", None),
    "--weights-dir": ("w", "encoder.weights_dir", Path("w")),
    "--weights": ("random=r.pt", "weights", {"random": Path("r.pt")}),
    "--offline": (None, "encoder.offline", True),
}
MORE_COMPUTING = {
    "--exact-order": (None, "encoder.exact_order", True),
    "--moments-only": (None, "extraction.moments_only", True),
}
MODEL = {
    "--gen": ("h.pt2", "generator.path", Path("h.pt2")),
    "--arch": ("m:build", "generator.arch", "m:build"),
    "--arch-args": ("width=3 act=relu", "generator.arch_args", {"width": 3, "act": "relu"}),
    "--ema": ("edm_250", "generator.ema", "edm_250"),
    "--noise-shape": ("3x4x5", "generator.noise_shape", (3, 4, 5)),
    "--num-classes": ("6", "generator.num_classes", 6),
    "--value-range": ("-1:1", "generator.value_range", (-1.0, 1.0)),
    "--trust": (None, "generator.trust", True),
    "--num-images": ("11", "drawn.count", 11),
    "--labels": ("balanced", "drawn.labels", "balanced"),
}
MEASUREMENT = {
    "--ref": ("other", "evaluator.reference", "other"),
    "--reps": ("dinov2", "evaluator.encoders", "dinov2"),
    "--metrics": ("is", "evaluator.metrics", "is"),
    "--protocol": ("adm", "evaluator.protocol.name", "adm"),
    "--trained-on": ("dinov2", "evaluator.trained_on", "dinov2"),
    "--training-set": ("t.npz", "evaluator.training_set", "t.npz"),
    "--prompts": ("p.csv", "evaluator.prompts", "p.csv"),
    "--memory": ("64MB", "evaluator.memory", 64_000_000),
}
AUTOENCODER = {
    "--vae": ("dct", "autoencoder.name", "dct"),
    "--vae-weights": ("v.pt", "autoencoder.weights", Path("v.pt")),
    "--vae-args": ("width=3 act=relu", "autoencoder.arguments", {"width": 3, "act": "relu"}),
    "--posterior": ("mean", "autoencoder.posterior", "mean"),
    "--value-range": ("0:1", "autoencoder.value_range", (0.0, 1.0)),
    "--images": ("other.npz", "sets.images", "other.npz"),
    "--neighbours": ("n.npz", "sets.neighbours", "n.npz"),
    "--neighbour-count": ("8", "sets.neighbour_count", 8),
    "--reps": ("dinov2", "reps", "dinov2"),
}
IFID = {
    "--mode": ("linear", "ifid.mode", "linear"),
    "--alpha": ("0,0.25,...,1", "ifid.alphas", (0.0, 0.25, 0.5, 0.75, 1.0)),
    "--top-k": ("3", "ifid.top_k", 3),
    "--same-class": (None, "ifid.same_class", True),
    "--no-clamp": ("--quantize none", "ifid.clamp", False),
    "--quantize": ("none", "ifid.quantize", "none"),
    "--lpips": (None, "ifid.lpips", True),
    "--compat": ("reference", "ifid.compat", "reference"),
    "--latent-dtype": ("float16", "ifid.latent_dtype", "float16"),
    "--memory": ("1.5GB", "ifid.memory", 1_500_000_000),
}
RECON = {
    **{name: AUTOENCODER[name] for name in ("--vae", "--vae-weights", "--vae-args", "--posterior", "--value-range")},
    "--reps": AUTOENCODER["--reps"],
    "--images": ("other.npz", "recon.images", "other.npz"),
    "--lpips": (None, "recon.lpips", "lpips"),
    "--worst": ("3", "recon.worst", 3),
}
GATE = {
    "--max": ("fd=9", "gate.limits.1.bound", 9.0),
    "--min": ("fd=9", "gate.limits.1.side", "min"),
    "--tolerance": ("fd=2%", "gate.tolerances.0.amount", 0.02),
    "--allow": ("n", "gate.allow", ("n",)),
    "--allow-missing": (None, "gate.allow_missing", True),
    "--inconclusive": ("fail", "gate.inconclusive", "fail"),
    "--confidence": ("0.9", "gate.confidence", 0.9),
}
TRAIN = ["--gen", "g.pt2", "-o", "run", "--reps", "random", "--ref", "demo", "--steps", "50"]
TRAINED = {
    "--gen": ("h.pt2", "train.gen", "h.pt2"),
    "--arch": ("m:build", "train.arch", "m:build"),
    "--arch-args": ("width=3", "train.arch_args", {"width": 3}),
    "--ema": ("edm_250", "train.ema", "edm_250"),
    "--noise-shape": ("3x4x5", "train.noise_shape", (3, 4, 5)),
    "--num-classes": ("6", "train.num_classes", 6),
    "--value-range": ("-1:1", "train.value_range", (-1.0, 1.0)),
    "--reps": ("random:3,random:4", "train.reps", ("random:3", "random:4")),
    "--monitor": ("random:3", "train.monitor", ("random:3",)),
    "--ref": ("r.npz", "train.reference", "r.npz"),
    "--population": ("queue:64", "train.population", "queue:64"),
    "--lag-correction": (None, "train.lag_correction", True),
    "--lag-every": ("5", "train.lag_every", 5),
    "--fill": ("17", "train.fill", 17),
    "--solver": ("exact", "train.solver", "exact"),
    "--eps": ("0.5", "train.eps", 0.5),
    "--gradient": ("unit", "train.gradient", "unit"),
    "--conditional": ("2.5", "train.conditional", 2.5),
    "--steps": ("23", "train.steps", 23),
    "--batch-size": ("12", "train.batch_size", 12),
    "--chunks": ("2", "train.chunks", 2),
    "--lr": ("0.125", "train.lr", 0.125),
    "--warmup-steps": ("4", "train.warmup_steps", 4),
    "--betas": ("0.5,0.75", "train.betas", (0.5, 0.75)),
    "--weight-decay": ("0.25", "train.weight_decay", 0.25),
    "--clip": ("2.5", "train.clip", 2.5),
    "--ema-kimg": ("1.5,3", "train.ema_kimg", (1.5, 3.0)),
    "--seed": ("9", "train.seed", 9),
    "--dtype": ("bf16", "train.dtype", "bf16"),
    "--encoder-dtype": ("bf16", "train.encoder_dtype", "bf16"),
    "--tf32": (None, "train.tf32", True),
    "--max-skipped": ("3", "train.max_skipped", 3),
}
RUN = {
    "--out": ("other", "run", Path("other")),
    "--device": ("cpu", "run_options.device", "cpu"),
    "--weights-dir": ("w", "run_options.weights_dir", "w"),
    "--offline": (None, "run_options.offline", True),
    "--cache": ("c", "run_options.cache", "c"),
    "--encoder-batch-size": ("5", "run_options.encoder_batch_size", 5),
    "--log-every": ("3", "run_options.log_every", 3),
    "--checkpoint-every": ("7", "run_options.checkpoint_every", 7),
    "--keep": ("4", "run_options.keep", 4),
    "--milestone-every": ("6", "run_options.milestone_every", 6),
    "--grid-every": ("8", "run_options.grid_every", 8),
    "--grid-size": ("9", "run_options.grid_size", 9),
    "--eval-every": ("5", "run_options.eval_every", 5),
    "--alarm-every": ("7", "run_options.alarm_every", 7),
    "--alarm-images": ("300", "run_options.alarm_count", 300),
    "--on-collapse": ("stop", "run_options.on_collapse", "stop"),
    "--eval-images": ("21", "run_options.eval_count", 21),
    "--tensorboard": (None, "run_options.tensorboard", True),
    "--wandb": ("project", "run_options.wandb", "project"),
    "--page": (None, "run_options.page", True),
    "--trust": (None, "run_options.trust", True),
}
SAMPLED = {
    "--device": ("cpu", "generator.device", "cpu"),
    "--batch-size": ("3", "drawn.batch_size", 3),
    "--seed": ("5", "drawn.seed", 5),
    "--offline": (None, "generator.offline", True),
    "--out": ("other.npz", "out", Path("other.npz")),
}
STATS = {
    "--out": ("new.npz", "written.path", Path("new.npz")),
    "--val": ("other.npz", "written.validation.name", "other.npz"),
    "--name": ("mine", "written.name", "mine"),
    "--reps": ("dinov2", "reps", "dinov2"),
}
CONVERT = {
    "--to": ("adm", "convert.to", "adm"),
    "--entry": ("fid", "convert.entry", "fid"),
    "--encoder": ("dinov2", "convert.encoder", "dinov2"),
    "--count": ("12", "convert.count", 12),
    "--keep-images": (None, "convert.keep_images", True),
}
CORRELATE = {
    "--x": ("c", "correlate.names", ("c", "b")),
    "--y": ("c", "correlate.names", ("a", "c")),
    "--log-x": (None, "correlate.x", (0.0, 1.0, 2.0)),
    "--log-y": (None, "correlate.y", (2.0, 3.0, 1.0)),
    "--confidence": ("0.5", "correlate.confidence", 0.5),
    "--seed": ("4", "correlate.seed", 4),
}
EXPLAIN = {name: MEASUREMENT[name] for name in ("--ref", "--reps")} | {
    name: MORE_COMPUTING[name] for name in ("--exact-order",)
}
CAS = {
    "--real": ("other.npz", "cas_sets.real.name", "other.npz"),
    "--val": ("other.npz", "cas_sets.validation.name", "other.npz"),
    "--out": ("other", "out", Path("other")),
    "--recipe": ("tiny", "cas.recipe.name", "tiny"),
    "--steps": ("7", "cas.recipe.steps", 7),
    "--train-on": ("samples", "cas.train_on", ("samples",)),
    "--seed": ("5", "cas.seed", 5),
    "--device": ("cpu", "cas.device", "cpu"),
}
AUDIT = {
    "--ref": ("other.npz", "audited.reference.name", "other.npz"),
    "--reps": ("dinov2", "reps", "dinov2"),
    "--held-out": ("dinov2", "reps", "inception,dinov2"),
    "--baseline": ("other.npz", "audited.baseline.name", "other.npz"),
    "--top-n": ("3", "audit.top_n", 3),
    "--steps": ("7", "audit.steps", 7),
}
FETCH = {
    "--to": ("usb", "fetch.to", Path("usb")),
    "--weights-dir": ("w", "fetch.options.weights_dir", Path("w")),
    "--offline": (None, "fetch.options.offline", True),
}
STORE = {"--cache": ("c", "store", Path("c"))}
GPUS = {"--gpus": ("3", "gpus", 3)}
GEN = ["--gen", "g.pt2", "--arch", "a:b", "--num-images", "10"]
SIZED = ["--size", "8"]
HANDED_ON: dict[str, list[tuple[list[str], dict[str, tuple[str | None, str, Any]]]]] = {
    "eval": [
        (["a.npz", *SIZED], IMAGES | COMPUTING | MORE_COMPUTING | MEASUREMENT),
        (
            ["a.npz"],
            {
                "--audit": (None, "evaluator.audit", True),
                "--spectra": (None, "evaluator.spectra", True),
                "--no-stderr": (None, "evaluator.stderr", False),
            },
        ),
        (GEN, MODEL),
    ],
    "check": [
        (["a.npz", *SIZED, "--max", "fd=3"], IMAGES | COMPUTING | MORE_COMPUTING | MEASUREMENT),
        ([*GEN, "--max", "fd=3"], MODEL),
        (["r.json", "--max", "fd=3", "--baseline", "b.json"], GATE),
    ],
    "compare": [
        (["a.npz", "other.npz", *SIZED], IMAGES | COMPUTING | MORE_COMPUTING | MEASUREMENT),
        (["a.npz", *GEN], MODEL),
    ],
    "audit": [(["a.npz", "--ref", "a.npz", *SIZED], IMAGES | COMPUTING | AUDIT)],
    "cas": [(["a.npz", "--real", "a.npz", "--val", "a.npz", "-o", "run"], CAS)],
    "explain": [
        (["a.npz", *SIZED], IMAGES | COMPUTING | EXPLAIN),
        (GEN, MODEL | {"--prompts": MEASUREMENT["--prompts"]}),
    ],
    "panel": [
        (["--model", "m=*.npz", *SIZED], IMAGES | COMPUTING | MORE_COMPUTING | MEASUREMENT),
    ],
    "stats": [
        (["a.npz", "-o", "out.h5", *SIZED], IMAGES | COMPUTING | MORE_COMPUTING | STATS),
        (["a.npz", "-o", "out"], {"--format": ("npz", "written.file_format", "npz")}),
        (["a.npz", "-o", "o.npz", "--format", "adm"], {"--num-images": ("4", "written.subset.options.count", 4)}),
    ],
    "ifid": [
        (["--vae", "haar", "--images", "a.npz", *SIZED], IMAGES | COMPUTING | AUTOENCODER | IFID),
    ],
    "recon": [
        (["--vae", "haar", "--images", "a.npz", *SIZED], IMAGES | COMPUTING | RECON),
        (["--vae", "haar", "--images", "a.npz"], {"--protocol": ("imagenet-val-256-adm", "images.crop", "adm")}),
    ],
    "sample": [(["--gen", "g.pt2", "--arch", "a:b", "-o", "out.npz", "-n", "10"], MODEL | SAMPLED)],
    "train": [
        (TRAIN, TRAINED | RUN),
        ([*TRAIN, "--solver", "local"], {"--rho": ("0.5", "train.local_rho", 0.5)}),
    ],
    "convert": [(["s.npz", "t.npz"], CONVERT)],
    "correlate": [(["t.csv", "--x", "a", "--y", "b"], CORRELATE)],
    "weights fetch": [(["inception"], FETCH)],
    "references fetch": [
        (["imagenet256"], FETCH | {"--reps": ("inception", "fetch.chosen.0.encoders", ("inception",))}),
    ],
    "cache list": [([], STORE)],
    "cache verify": [([], STORE)],
    "cache remove": [(["x"], STORE)],
}
for _bases in (
    HANDED_ON[name]
    for name in (
        "eval",
        "check",
        "compare",
        "explain",
        "audit",
        "panel",
        "stats",
        "ifid",
        "recon",
        "sample",
        "train",
    )
):
    _bases[0][1].update(GPUS)


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


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
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


def cases() -> Iterator[Any]:
    for command, bases in HANDED_ON.items():
        for base, options in bases:
            for option, (value, place, expected) in options.items():
                yield pytest.param(command, base, option, value, place, expected, id=f"{command} {option}")


def without(base: list[str], option: str) -> list[str]:
    """The base without the value that it gives to the option."""
    short = {"--out": "-o", "--num-images": "-n"}.get(option, option)
    for name in (option, short):
        if name in base:
            at = base.index(name)
            return [*base[:at], *base[at + 2 :]]
    return base


@pytest.mark.parametrize(("command", "base", "option", "value", "place", "expected"), list(cases()))
def test_an_option_reaches_the_library(
    fdr_command, recorded: Recorder, command: str, base: list[str], option: str, value: str, place: str, expected: Any
) -> None:
    before = fdr_command(*command.split(), *base)
    assert "the library was called" in before.err, before.err
    assert recorded.get(place.split(".")[0]) is None or recorded.at(place) != expected
    recorded.clear()
    given = [] if value is None else value.split(" ") if value.startswith("--") else [value]
    rest = base if option in ("--max",) else without(base, option)
    got = fdr_command(*command.split(), *rest, option, *given)
    assert "the library was called" in got.err, got.err
    assert recorded.at(place) == expected


def test_every_field_of_the_library_has_an_option() -> None:
    """A field that is added to an object of options is either on the command line or named here."""
    places = {place for bases in HANDED_ON.values() for _, options in bases for _, place, _ in options.values()}
    for prefix, options, without_option in (
        ("images", ImageOptions, {"quantize"}),
        ("ifid", IfidOptions, {"seed"}),  # that of --seed of the images
        ("train", TrainOptions, set()),
        ("run_options", RunOptions, {"is_arch_named"}),
        ("gate", GateOptions, set()),
    ):
        named = {place.split(".")[1] for place in places if place.startswith(f"{prefix}.")}
        assert named == {field.name for field in fields(options)} - without_option


# Files, terminal and what else the library does not see

SHOWN_BY = {
    "--baseline": {"check": "cli/test_check.py::test_pass_and_fail_by_baseline"},
    "--model": {
        "panel": "cli/test_panel_command.py::test_spreads_ranks_and_verdicts",
        "report": "cli/test_report_exports.py::test_each_option_reaches_its_format",
    },
    "--null": {"check": "cli/test_check.py::test_a_budget_that_the_unchanged_model_breaks_is_refused"},
    "--seed": {"captions": "cli/test_captions_command.py::test_the_seed_decides_the_draw"},
    "--update-baseline": {"check": "cli/test_check.py::test_the_baseline_file_is_written_and_guarded"},
    "--force": {"check": "cli/test_check.py::test_the_baseline_file_is_written_and_guarded"},
    "--report": {
        "check": "cli/test_check_samples.py::test_samples_are_measured_as_eval_does_and_then_checked",
        "compare": "cli/test_compare_samples.py::test_samples_are_measured_as_eval_does_and_then_compared",
        "panel": "cli/test_panel_command.py::test_samples_are_measured_first",
    },
    "--confidence": {
        "compare": "cli/test_compare.py::test_a_difference_within_the_noise_says_what_the_pair_resolves",
        "panel": "cli/test_panel_command.py::test_the_confidence_decides_what_is_told_apart",
        "report": "cli/test_report_command.py::test_the_title_the_confidence_and_the_paths",
    },
    "--junit": {"check": "cli/test_check.py::test_files"},
    "--openmetrics": {"check": "cli/test_check.py::test_files"},
    "--no-annotations": {"check": "cli/test_check.py::test_github"},
    "--closest": {
        "explain": "cli/test_explain_command.py::test_the_closest_images_are_listed_and_written",
    },
    "--show": {"explain": "cli/test_explain_command.py::test_the_terminal_shows_both_ends"},
    "--csv": {
        "explain": "cli/test_explain_command.py::test_csv_and_json",
        "eval": "cli/test_eval.py::test_several_sample_sets_share_one_table",
        "ifid": "cli/test_options.py::test_csv_of_ifid",
        "recon": "cli/test_recon_command.py::test_two_folders",
    },
    "--heat-maps": {"explain": "cli/test_explain_command.py::test_heat_maps_are_in_the_picture_and_in_json"},
    "--markdown": {"eval": "cli/test_eval.py::test_markdown", "check": "cli/test_check.py::test_files"},
    "--pipeline-args": dict.fromkeys(
        ["eval", "check", "compare", "explain", "sample"],
        "cli/test_pipeline_commands.py::test_arguments_of_a_pipeline_change_its_images",
    ),
    "--prompts": {"sample": "cli/test_pipeline_commands.py::test_prompts_are_sampled_and_measured"},
    "--picture": {
        "explain": "cli/test_explain_command.py::test_the_picture_pairs_images_with_their_nearest",
        "ifid": "cli/test_ifid_command.py::test_it_prints_the_distances_and_writes_what_was_asked_for",
        "recon": "cli/test_recon_command.py::test_two_folders",
    },
    "--per-image": {"recon": "cli/test_recon_command.py::test_two_folders"},
    "--resume": {"train": "training/test_train_cli.py::test_a_run_from_start_to_end"},
    "--trust": {
        "audit": "cli/test_audit_command.py::test_an_encoder_of_ones_own",
        "panel": "cli/test_options.py::test_trust_lets_a_configuration_name_code",
        "ifid": "cli/test_options.py::test_trust_lets_a_configuration_name_code",
        "recon": "cli/test_options.py::test_trust_lets_a_configuration_name_code",
        "stats": "cli/test_options.py::test_trust_lets_a_configuration_name_code",
    },
    "--label": {"correlate": "cli/test_correlate.py::test_a_row_without_a_number_is_told_by_its_label"},
    "--plot": {"correlate": "cli/test_correlate.py::test_a_plot_and_json_beside_the_table"},
    "--noise-floor": {"stats": "cli/test_own_references.py::test_a_noise_floor_is_stored_and_shown"},
    "--labels": {"stats": "cli/test_class_references.py::test_statistics_with_labels_serve_as_the_reference"},
    "--spectrum": {"show": "cli/test_other_commands.py::test_show_tells_the_spectrum_when_asked"},
    "--all": {"cache remove": "cli/test_eval.py::test_cache_commands"},
    "--train": {"demo": "training/test_demo_training.py::test_the_command"},
    "--out": {
        "captions": "cli/test_captions_command.py::test_the_captions_of_a_set_are_written_as_csv",
        "demo": "cli/test_options.py::test_the_folder_of_the_demo",
        "report": "cli/test_report_command.py::test_the_format_is_the_option_or_the_suffix",
    },
    "--format": {"report": "cli/test_report_command.py::test_the_format_is_the_option_or_the_suffix"},
    "--add": {"report": "cli/test_report_add.py::test_results_of_other_tools_stand_beside_fd"},
    "--dataset": {"report": "cli/test_report_exports.py::test_each_option_reaches_its_format"},
    "--task": {"report": "cli/test_report_exports.py::test_each_option_reaches_its_format"},
    "--organization": {"report": "cli/test_report_exports.py::test_each_option_reaches_its_format"},
    "--relationship": {"report": "cli/test_report_exports.py::test_each_option_reaches_its_format"},
    "--source-url": {"report": "cli/test_report_exports.py::test_each_option_reaches_its_format"},
    "--date": {"report": "cli/test_report_exports.py::test_each_option_reaches_its_format"},
    "--images": {"report": "cli/test_report_command.py::test_images_of_a_sample_set"},
    "--reference-images": {"report": "cli/test_report_command.py::test_an_explanation_with_its_images"},
    "--title": {"report": "cli/test_report_command.py::test_the_title_the_confidence_and_the_paths"},
    "--with-paths": {"report": "cli/test_report_command.py::test_the_title_the_confidence_and_the_paths"},
    "--dry-run": {
        "eval": "cli/test_eval.py::test_dry_run_computes_nothing",
        "check": "cli/test_check_samples.py::test_dry_run_measures_nothing",
        "compare": "cli/test_compare_samples.py::test_dry_run_measures_nothing",
        "explain": "cli/test_explain_command.py::test_dry_run_measures_nothing",
        "panel": "cli/test_panel_command.py::test_samples_are_measured_first",
        "ifid": "cli/test_ifid_command.py::test_a_dry_run_says_what_would_be_done_and_writes_nothing",
        "recon": "cli/test_recon_command.py::test_a_dry_run",
        "audit": "cli/test_audit_command.py::test_a_dry_run_computes_nothing",
        "sample": "cli/test_options.py::test_a_dry_run_writes_nothing",
        "stats": "cli/test_options.py::test_a_dry_run_writes_nothing",
        "convert": "cli/test_options.py::test_a_dry_run_writes_nothing",
        "train": "training/test_train_cli.py::test_a_run_from_start_to_end",
        "cas": "cli/test_cas_command.py::test_the_command",
        "references fetch": "cli/test_references.py::test_references_fetch_plans_and_refuses",
        "weights fetch": "encoders/test_inventory.py::test_a_dry_run_totals_the_bytes_and_touches_nothing",
        "cache remove": "cli/test_eval.py::test_cache_commands",
    },
    "--weights-dir": dict.fromkeys(
        [
            *(f"references {name}" for name in ("list", "verify")),
            *(f"weights {name}" for name in ("list", "verify", "path")),
            "encoders",
        ],
        "cli/test_options.py::test_files_are_searched_in_the_folder_of_weights",
    ),
    "--json": {
        **dict.fromkeys(
            [
                "eval",
                "check",
                "compare",
                "panel",
                "correlate",
                "stats",
                "show",
                "convert",
                "references list",
                "encoders",
            ],
            "cli/test_options.py::test_json_in_a_file_and_on_stdout",
        ),
        **dict.fromkeys(
            ["weights list", "weights fetch", "weights verify", "cache list", "env", "ifid", "recon"],
            "cli/test_options.py::test_json_in_a_file_and_on_stdout",
        ),
        "demo": "cli/test_options.py::test_the_folder_of_the_demo",
        "explain": "cli/test_explain_command.py::test_csv_and_json",
        "cas": "cli/test_cas_command.py::test_the_command",
        "audit": "cli/test_audit_command.py::test_an_encoder_of_ones_own",
    },
    "--quiet": dict.fromkeys(
        [
            *(
                "eval",
                "sample",
                "train",
                "cas",
                "audit",
                "ifid",
                "recon",
                "check",
                "compare",
                "explain",
                "panel",
                "stats",
                "convert",
                "demo",
            ),
            *("references fetch", "weights fetch", "cache verify"),
        ],
        "cli/test_options.py::test_quiet_reaches_what_shows_progress",
    ),
}
"""The test that shows the effect, by option and command."""


def test_every_option_of_every_command_has_a_test_of_its_effect() -> None:
    handed_on = {(command, name) for command, bases in HANDED_ON.items() for _, names in bases for name in names}
    shown = {(command, name) for name, tests in SHOWN_BY.items() for command in tests}
    assert handed_on | shown == set(options_of_commands()) and not handed_on & shown
    for test in {test for tests in SHOWN_BY.values() for test in tests.values()}:
        file, _, name = test.partition("::")
        functions = {node.name for node in ast.parse((TESTS / file).read_text()).body if hasattr(node, "name")}
        assert name in functions, f"{test} shows the effect of an option, and is gone"


@pytest.fixture
def world(fdr_command, tmp_path: Path) -> Path:
    """Two sample sets, a report, a statistics file, a table and an entry of the cache."""
    npz(tmp_path / "a.npz", images(24, seed=1))
    npz(tmp_path / "b.npz", images(30))
    (tmp_path / "t.csv").write_text("a,b\n1,1\n2,3\n3,2\n4,5\n5,4\n6,6\n")
    np.savez(tmp_path / "s.npz", mu=np.ones(3), sigma=np.diag([4.0, 3, 1]))
    write(tmp_path / "r.json", report(row(value=2.0)))
    return tmp_path


MEASURED = ["--reps", "random", "--no-cache", "-q"]
JSON_COMMANDS = {
    "eval": ["a.npz", "--ref", "b.npz", *MEASURED],
    "ifid": ["--vae", "haar", "--images", "a.npz", *MEASURED],
    "recon": ["a.npz", "a.npz", *MEASURED],
    "check": ["r.json", "--max", "fd=3"],
    "compare": ["r.json", "r.json"],
    "panel": ["--model", "m=r.json"],
    "correlate": ["t.csv", "--x", "a", "--y", "b"],
    "stats": ["b.npz", "-o", "new.h5", *MEASURED],
    "show": ["s.npz"],
    "convert": ["s.npz", "c.npz", "--to", "fdloss", "-q"],
    "references list": [],
    "encoders": [],
    "weights list": [],
    "weights fetch": ["inception", "--dry-run"],
    "weights verify": [],
    "cache list": [],
    "env": [],
}


@pytest.mark.parametrize("command", JSON_COMMANDS)
def test_json_in_a_file_and_on_stdout(fdr_command, world: Path, command: str) -> None:
    beside = fdr_command(*command.split(), *JSON_COMMANDS[command], "--json", "out.json")
    for name in ("new.h5", "c.npz"):
        (world / name).unlink(missing_ok=True)
    alone = fdr_command(*command.split(), *JSON_COMMANDS[command], "--json", "-")
    assert (beside.code, alone.code) == (0, 0), (beside.err, alone.err)
    assert beside.out and not beside.out.startswith(("{", "["))
    assert json.loads(alone.out).__class__ is json.loads((world / "out.json").read_text()).__class__


def test_csv_of_ifid(fdr_command, world: Path) -> None:
    got = fdr_command("ifid", *JSON_COMMANDS["ifid"], "--csv", "out.csv", "--json", "out.json")
    assert got.code == 0, got.err
    lines = (world / "out.csv").read_text().splitlines()
    assert len(lines) == 1 + len(json.loads((world / "out.json").read_text())["results"])


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["stats", "b.npz", "-o", "new.h5", *MEASURED], "new.h5"),
        (["convert", "s.npz", "new.npz", "--to", "fdloss"], "new.npz"),
        (["sample", "--gen", "g.safetensors", "--arch", "generator_worlds:Plain", "-n", 3, "-o", "new.npz"], "new.npz"),
    ],
)
def test_a_dry_run_writes_nothing(fdr_command, world: Path, arguments: list[Any], written: str) -> None:
    weights(world / "g.safetensors")
    planned = fdr_command(*arguments, "--dry-run")
    assert planned.code == 0 and "would write" in planned.out and written in planned.out, planned.err
    assert not (world / written).exists()
    assert fdr_command(*arguments).code == 0 and (world / written).exists()


@pytest.mark.parametrize(
    "command",
    [
        "stats a.npz -o new.h5",
        "ifid --vae haar --images a.npz",
        "recon a.npz a.npz",
        "panel --model m=a.npz --ref b.npz",
        "explain a.npz --ref b.npz",
    ],
)
def test_trust_lets_a_configuration_name_code(
    fdr_command, world: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.syspath_prepend(world)
    (world / "trusted.py").write_text("def make():\n    return lambda images: images.flatten(1)[:, :4]\n")
    (world / "fdr.toml").write_text(f'[{command.split()[0]}]\nreps = "py:trusted:make"\n')
    refused = fdr_command(*command.split(), "--no-cache", "-q")
    assert refused.code == 2 and "py:trusted:make" in refused.err
    assert fdr_command(*command.split(), "--no-cache", "-q", "--trust").code == 0


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("encoders inception", "pt_inception-2015-12-05-6726825d.pth"),
        ("weights list inception", "pt_inception-2015-12-05-6726825d.pth"),
        ("weights verify inception", "pt_inception-2015-12-05-6726825d.pth"),
        ("weights path inception", "pt_inception-2015-12-05-6726825d.pth"),
        ("references list --json -", "VIRTUAL_imagenet256_labeled.npz"),
        ("references verify imagenet256:adm", "VIRTUAL_imagenet256_labeled.npz"),
    ],
)
def test_files_are_searched_in_the_folder_of_weights(fdr_command, tmp_path: Path, command: str, file: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / file).write_bytes(b"x")
    place = str(Path("mine") / file)
    assert place not in fdr_command(*command.split()).out
    assert place in fdr_command(*command.split(), "--weights-dir", "mine").out


@pytest.mark.parametrize("command", SHOWN_BY["--quiet"])
def test_quiet_reaches_what_shows_progress(
    fdr_command, recorded: Recorder, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    asked: list[bool] = []

    def progress(quiet: bool, *_: Any, **__: Any) -> Any:
        asked.append(quiet)
        raise RunError("progress was asked for")

    arguments = [*(HANDED_ON[command][0][0] if command in HANDED_ON else [])]
    module = importlib.import_module(f"fdr.cli.{command.split()[0].replace('references', 'weights')}")
    name = "view_for" if command == "train" else "progress_for"
    shared = importlib.import_module("fdr.cli._inputs")
    monkeypatch.setattr(module if hasattr(module, name) else shared, name, progress)
    monkeypatch.setattr("fdr.features.CacheStore", lambda root: SimpleNamespace(verify=lambda *_: ()))
    for quiet in ([], ["--quiet"]):
        got = fdr_command(*command.split(), *arguments, *quiet)
        assert "progress was asked for" in got.err, got.err
    assert asked == [False, True]


def test_quiet_shows_neither_progress_nor_warnings(fdr_command, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.runtime.bars.PLAIN_INTERVAL", 0.0)
    arguments = ["eval", "a.npz", "--ref", "a.npz", "--reps", "random", "--no-cache"]
    loud = fdr_command(*arguments)
    assert "warning" in loud.err and "24/24 images" in loud.err
    assert fdr_command(*arguments, "--quiet").err == ""


def test_the_folder_of_the_demo(fdr_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (measured,) = load_reports(write(tmp_path / "r.json", report(row(value=2.0))))
    seen: list[Path] = []

    def drawn(out: Path, progress: Any) -> Any:
        seen.append(out)
        out.mkdir(exist_ok=True)
        (out / "reference.npz").touch()
        return SimpleNamespace(rows=[SimpleNamespace(report=measured)], self_check=0.0)

    monkeypatch.setattr("fdr.evaluation.run_demo", drawn)
    monkeypatch.setattr("fdr.evaluation.contact_sheet", lambda *_: None)
    for more in ([], ["--out", "mine"]):
        got = fdr_command("demo", "-q", "--json", "-", *more)
        assert got.code == 0, got.err
        assert json.loads(got.out)["results"][0]["value"] == 2.0
    assert seen == [Path("fdr-demo"), Path("mine")]
    assert json.loads((tmp_path / "mine" / "demo.json").read_text())["results"][0]["value"] == 2.0


# Faults that were planted and that nothing noticed


def test_the_seed_of_ifid_is_that_of_neighbours_and_of_posteriors(fdr_command, recorded: Recorder) -> None:
    fdr_command("ifid", "--vae", "haar", "--images", "a.npz", "--seed", 5)
    assert (recorded.at("ifid.seed"), recorded.at("autoencoder.seed"), recorded.at("images.seed")) == (5, 5, 5)


def test_the_papers_conventions_give_way_to_what_is_typed(fdr_command, recorded: Recorder) -> None:
    base = ["ifid", "--vae", "haar", "--images", "a.npz", "--compat", "reference"]
    fdr_command(*base, "--size", 8)
    assert (recorded["reps"], recorded.at("images.crop")) == ("inception:pytorch-fid", "center-bilinear")
    assert (recorded.at("ifid.clamp"), recorded.at("ifid.quantize")) == (False, "none")
    fdr_command(*base, "--size", 8, "--crop", "adm", "--reps", "random")
    assert (recorded["reps"], recorded.at("images.crop")) == ("random", "adm")
    fdr_command(*base)
    assert recorded.at("images.crop") == "none"


def test_validation_images_are_all_measured(fdr_command, recorded: Recorder) -> None:
    fdr_command("stats", "a.npz", "-o", "out.h5", "--val", "other.npz", "--count", 5, "--seed", 2, "--size", 8)
    measured, validation = recorded.at("written.source.options"), recorded.at("written.validation.options")
    assert (measured.count, measured.seed, measured.size) == (5, 2, 8)
    assert (validation.count, validation.seed, validation.size) == (None, 0, 8)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("ifid --vae haar --images a.npz --alpha 0,0.2,...,0.5", "is no alpha"),
        ("ifid --vae haar --images a.npz --alpha 0.5,0.4,...,0.6", "is no alpha"),
        ("ifid --vae haar --images a.npz --memory much", "is no amount of memory"),
        ("eval a.npz --cache c --no-cache", "--cache and --no-cache exclude each other"),
        ("eval a.npz --moments-only --no-cache", "--moments-only keeps its sums in the cache"),
        ("eval a.npz --weights random", "is not NAME=FILE"),
        ("sample --gen g.pt2 -o s.npz --noise-shape wide", "is no shape of noise"),
        ("sample --gen g.pt2 -o s.npz --arch a:b --arch-args 3=4", "is not KEY=VALUE"),
        ("eval a.npz --protocol adm --metrics fd", "leave out --metrics"),
        ("eval a.npz --protocol adm --reps inception", "leave out --reps"),
        ("correlate z.csv --x a --y b --log-x", "holds 0, which has no logarithm"),
        ("train --gen g.pt2 -o run --resume other", "leave out -o"),
        ("train --gen g.pt2", "Give --gen PATH and -o RUN"),
        ("stats a.npz -o out.pt", "is written as *.npz or *.h5"),
        ("stats a.npz -o out.npz --format h5", "goes with another name"),
    ],
)
def test_what_an_option_cannot_be_is_one_sentence(
    fdr_command, recorded: Recorder, tmp_path: Path, arguments: str, sentence: str
) -> None:
    (tmp_path / "z.csv").write_text("a,b\n0,1\n1,2\n2,3\n")
    got = fdr_command(*arguments.split())
    assert got.code == 2 and sentence in got.err and "Traceback" not in got.err, got.err


@pytest.mark.parametrize(("text", "number"), [("4GiB", 4 << 30), ("2 kB", 2000), ("3MiB", 3 << 20), ("5T", 5 * 10**12)])
def test_amounts_of_memory(fdr_command, recorded: Recorder, text: str, number: int) -> None:
    fdr_command("ifid", "--vae", "haar", "--images", "a.npz", "--memory", text)
    assert recorded.at("ifid.memory") == number


def test_three_folders_are_three_sets(fdr_command, recorded: Recorder, tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        folder(tmp_path / name, images(3))
    assert "Two folders and no --ref" in fdr_command("eval", "x", "y").err
    assert "the library was called" in fdr_command("eval", "x", "y", "z").err


def test_the_default_reference_is_announced_where_a_metric_needs_one(fdr_command, recorded: Recorder) -> None:
    note = "the reference is imagenet256"
    assert note in fdr_command("eval", "a.npz", "--metrics", "is,fd").err
    assert recorded.at("evaluator.is_default_reference") is True
    for more in (["--metrics", "is"], ["--quiet"], ["--ref", "imagenet256"]):
        assert note not in fdr_command("eval", "a.npz", *more).err
    assert recorded.at("evaluator.is_default_reference") is False


def test_a_quiet_dry_run_names_no_file_of_defaults(fdr_command, recorded: Recorder, tmp_path: Path) -> None:
    (tmp_path / "fdr.toml").write_text('[eval]\nreps = "random"\n')
    assert "--reps from" in fdr_command("eval", "a.npz", "--dry-run").err
    assert "--reps from" not in fdr_command("eval", "a.npz", "--dry-run", "-q").err


class TestRanks:
    """One of two ranks on a machine without GPUs."""

    @staticmethod
    def setup_of(rank: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
            monkeypatch.setenv(name, str(value))
        group = contextlib.nullcontext(SimpleNamespace(rank=rank, size=2))
        monkeypatch.setattr("fdr.cli._computing.ranks", lambda gpus: group)
        with Computing(**{"device": "cpu", "gpus": 2, **options}).on_ranks(PlainProgress()) as setup:
            return setup

    def test_the_first_prints_and_both_share_the_processors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fdr.runtime.share_processors", lambda _: 7)
        first, second = (self.setup_of(rank, monkeypatch) for rank in (0, 1))
        assert (first.is_main, second.is_main) == (True, False)
        assert isinstance(first.extraction_options.progress, PlainProgress)
        assert isinstance(second.extraction_options.progress, SilentProgress)
        assert isinstance(second.encoder_options.progress, SilentProgress)
        assert [setup.extraction_options.num_workers for setup in (first, second)] == [7, 7]
        assert self.setup_of(1, monkeypatch, num_workers=3).extraction_options.num_workers == 3

    def test_gpus_are_not_replaced_by_the_processor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
        monkeypatch.setattr("fdr.runtime.share_processors", lambda _: 1)
        with pytest.raises(InputError, match="2 ranks need as many GPUs"):
            self.setup_of(0, monkeypatch, device="auto")
        assert self.setup_of(0, monkeypatch, device="auto", gpus=None).encoder_options.device == "cpu"


def test_files_that_are_named_are_not_missing(fdr_command, tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", images(12))
    dry = ["eval", "a.npz", "--ref", "a.npz", "--reps", "mae,dinov2", "--offline", "--dry-run", "--weights-dir", "w"]
    got = fdr_command(*dry)
    assert got.code == 2 and "2 files are not on this machine" in got.out
    assert got.out.splitlines()[-1] == "Fetch with: fdr weights fetch mae,dinov2 --weights-dir w"
    assert "1 file is not on this machine" in fdr_command(*dry, "--weights", "mae=mae.pt").out


def test_a_file_called_like_a_reference_is_that_file(fdr_command, tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", images(12))
    folder(tmp_path / "imagenet256", images(12))
    got = fdr_command("eval", "a.npz", "--ref", "imagenet256", "--reps", "mae,dinov2", "--offline", "--dry-run")
    assert "2 files are not on this machine" in got.out and "references fetch" not in got.out
