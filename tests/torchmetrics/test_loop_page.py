"""The examples of docs/in-your-loop.md run, and their numbers are those of `fdr.evaluate` on the same images."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fdr
from fdr.torchmetrics import evaluate_samples

PAGE = Path(__file__).parents[2] / "docs" / "in-your-loop.md"


@cache
def sections() -> dict[str, str]:
    """The Python of each section by its heading."""
    parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    return {
        part.splitlines()[0]: "\n".join(re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)) for part in parts[1:]
    }


def run(*titles: str) -> dict[str, Any]:
    """The names after the code of the sections."""
    names: dict[str, Any] = {"__name__": "page"}
    for title in titles:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(sections()[title], names)
    return names


def check(report: fdr.Report, metric: Any, sample: Any, reference: Any, metrics: str, count: int, size: int) -> None:
    """The report of the page is that of `fdr.evaluate` on the images that the sampler of the page makes."""
    made: list[Tensor] = []

    def kept(count: int, labels: Tensor | None) -> Tensor:
        made.append(sample(count, labels))
        return made[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = evaluate_samples(metric, kept, count, batch_size=size)
        expected = fdr.evaluate(torch.cat(made), reference, "random", metrics)
    values = {result.key: result.value for result in report}
    assert values == {result.key: result.value for result in again}
    assert values == pytest.approx({result.key: result.value for result in expected}, rel=1e-6)


def test_every_example_is_run_here() -> None:
    assert [title for title, code in sections().items() if code] == [
        "A plain loop",
        "Several encoders and metrics",
        "Lightning",
        "Accelerate and diffusers",
    ]


def test_the_plain_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("A plain loop")
    numbers = re.fullmatch(r"0 (\d+\.\d+)\n1 (\d+\.\d+)\n\d+\.\d+\n", capsys.readouterr().out)
    assert numbers is not None and numbers[1] == numbers[2]  # the generator of the page is not trained
    check(names["report"], names["fd"], names["sample"], "demo", "fd", 256, 64)


def test_several_encoders_and_metrics_run() -> None:
    names = run("A plain loop", "Several encoders and metrics")
    assert [result.key for result in names["metric"].report] == [
        f"{metric}:{encoder}"
        for encoder in ("random", "random:1")
        for metric in ("fd", "kid:all", "precision", "recall")
    ]


def test_the_lightning_example_runs_in_a_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning.pytorch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    names = run("A plain loop", "Lightning")
    callback, model = names["callback"], names["trainer"].lightning_module.eval()
    logged = {key: value.item() for key, value in names["trainer"].callback_metrics.items()}
    report = callback.metric.report
    assert logged == pytest.approx({f"train/{result.key}": result.value for result in report}, rel=1e-6)
    check(report, callback.metric, model.sample, "demo", "fd,vendi", 128, 64)


def test_the_loop_of_accelerate_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("diffusers")
    names = run("A plain loop", "Several encoders and metrics", "Accelerate and diffusers")
    assert re.search(r"^1 .*fd:random \d", capsys.readouterr().out, flags=re.MULTILINE)
    names["unet"].eval()
    check(names["report"], names["metric"], names["sample_unet"], names["real"], "fd,precision,recall", 32, 16)
