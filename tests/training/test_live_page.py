"""`fdr train --page`: the page of a run while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import train_worlds
from report_worlds import run_folder

from fdr.errors import FdrWarning, InputError
from fdr.runtime import SOLO
from fdr.training import RunOptions, TrainOptions, live_page, plan, train
from fdr.training.live_page import LivePage
from fdr.training.log import JsonLines, check_sinks, open_sinks

REFRESH = 'http-equiv="refresh"'


def test_it_is_written_when_it_is_due_at_evaluations_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(live_page.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live_page, "render_page", lambda sets, runs, options: f"{options.title} {options.refresh}")
    run = run_folder(tmp_path / "run", total=90)
    page, path = LivePage(run), run / "report.html"
    page.write("step", {"step": 60})
    assert path.read_text() == "fdr train: run 30"
    path.unlink()
    now[0] += live_page.LEAST_SECONDS - 1
    page.write("step", {"step": 61})
    assert not path.exists()
    page.write("evaluation", {"step": 61})
    assert path.exists()
    path.unlink()
    now[0] += live_page.LEAST_SECONDS
    page.write("step", {"step": 62})
    assert path.exists()
    page.close()
    assert path.read_text() == "fdr train: run None"


def test_its_time_is_a_small_share_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def render(*_: object) -> str:
        now[0] += 10.0
        return "page"

    monkeypatch.setattr(live_page.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live_page, "render_page", render)
    page = LivePage(run_folder(tmp_path / "run"))
    page.write("step", {"step": 60})
    (tmp_path / "run" / "report.html").unlink()
    for now[0] in (10.0 + 0.99 * 10.0 / live_page.SHARE, 10.0 + 1.01 * 10.0 / live_page.SHARE):
        assert not (tmp_path / "run" / "report.html").exists()
        page.write("step", {"step": 61})
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.filterwarnings("default:The page of the run:fdr.errors.FdrWarning")
def test_a_page_that_fails_is_one_warning_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise ValueError("no such font")

    monkeypatch.setattr(live_page, "render_page", broken)
    page = LivePage(run_folder(tmp_path / "run"))
    with pytest.warns(FdrWarning, match=r"could not be written, and the run goes on: no such font\.") as found:
        page.write("evaluation", {"step": 1})
        page.close()
    assert len(found) == 1


def test_it_reads_the_log_and_so_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TrainOptions(gen="g", steps=5)
    sinks = open_sinks(tmp_path, options, RunOptions(page=True), 0)
    assert [type(sink) for sink in sinks] == [JsonLines, LivePage]
    sinks[0].close()
    monkeypatch.setattr("fdr.pages.page.EXTRA", ("no_such_library",))
    with pytest.raises(InputError, match=r"--page was asked for; the page needs no_such_library, .*fdr-eval\[report\]"):
        open_sinks(tmp_path, options, RunOptions(page=True), 0)


def chosen(folder: Path) -> TrainOptions:
    return TrainOptions(
        gen=str(train_worlds.weights(folder)), arch="train_worlds:Net", value_range=(0.0, 1.0),
        reps=("py:train_worlds:tiny",), reference=str(train_worlds.reference(folder)), population="ema:0.9", fill=16,
        steps=4, batch_size=8, lr=1e-3, warmup_steps=0, ema_kimg=(1.0,),
    )  # fmt: skip


def test_the_plan_names_the_page_and_a_missing_library_is_found_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    wanted = RunOptions(page=True, device="cpu")
    options = chosen(tmp_path)
    (line,) = [line for line in plan(options, tmp_path / "run", wanted, SOLO) if "report.html" in line]
    assert line.startswith(f"files: {tmp_path / 'run' / 'report.html'}: the page of the run, written again")
    monkeypatch.setattr("fdr.pages.page.EXTRA", ("no_such_library",))
    monkeypatch.setattr("fdr.training.setup.load_encoders", None)
    for act in (
        lambda: list(plan(options, tmp_path / "run", wanted, SOLO)),
        lambda: train(options, tmp_path / "run", wanted),
    ):
        with pytest.raises(InputError, match=r"--page was asked for; the page needs no_such_library"):
            act()
    assert not (tmp_path / "run" / "train.json").exists()


@pytest.mark.parametrize(("package", "wanted"), [("tensorboard", {"tensorboard": True}), ("wandb", {"wandb": "p"})])
def test_a_missing_library_of_a_log_is_found_as_early(
    package: str, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else name)
    with pytest.raises(InputError, match=rf"--{package} was asked for, but {package} cannot be imported"):
        check_sinks(RunOptions(**wanted))


@pytest.mark.filterwarnings("default:All values of the 16 samples:fdr.errors.FdrWarning")
def test_a_run_with_a_page_ends_with_its_curves_its_grids_and_its_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    train(
        chosen(tmp_path),
        tmp_path / "run",
        RunOptions(log_every=1, grid_every=4, grid_size=4, eval_every=4, eval_count=16, page=True),
    )
    text = (tmp_path / "run" / "report.html").read_text()
    for words in ("step 4 of 4, finished", "FD in the loss", "py:train_worlds:tiny", "run at step 4"):
        assert words in text
    assert text.count("data:image/webp") == 2 and REFRESH not in text and str(tmp_path) not in text
