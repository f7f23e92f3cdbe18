"""No output of a command is one of its inputs, or replaces a file of another format."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from generator_worlds import weights
from PIL import Image
from worlds import folder, images, npz

from fdr.frechet import Moments


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an input of every kind."""
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "a.npz", images(6))
    npz(tmp_path / "b.npz", images(6, seed=1))
    folder(tmp_path / "photos", images(3))
    weights(tmp_path / "g.safetensors")
    Moments.from_features(np.random.default_rng(0).normal(size=(9, 4))).save(tmp_path / "m.npz")
    Moments.from_features(np.random.default_rng(1).normal(size=(9, 4))).save(tmp_path / "m.h5")
    report = {"schema": "fdr-report/1"}
    for name in ("r.json", "s.json", "b.npz.json"):
        Path(name).write_text(json.dumps(report))
    for name in ("a.npz.json", "generator.json", "samples.json", "log.jsonl"):
        Path(name).write_text(json.dumps({"noise_shape": [8], "schema": "fdr-generator/1"}))
    Path("code.py").write_text("import a, b\n")
    Path("t.csv").write_text("x,y\n1,2\n3,4\n5,7\n")
    for index in range(2):
        shutil.copy("a.npz", f"x-{index}.npz")
    os.link("a.npz", "hard.npz")
    os.symlink("a.npz", "soft.npz")
    os.symlink("photos", "album")
    Path("empty").touch()
    Path("notes.md").write_text("# Notes\n")
    Path("fdr.toml").write_text("[cache]\n")
    return tmp_path


GEN = "--gen g.safetensors --arch generator_worlds:Plain"
INPUT = "is an input of this command"
OTHER = "is there and is no"
CASES = [
    ("eval a.npz --json a.npz", INPUT),
    ("eval a.npz --json ./photos/../a.npz", INPUT),
    ("eval a.npz --csv soft.npz", INPUT),
    ("eval a.npz --markdown hard.npz", INPUT),
    ("eval soft.npz --json a.npz", INPUT),
    ("eval a.npz --ref b.npz --json b.npz", INPUT),
    ("eval a.npz --weights random=g.safetensors --json g.safetensors", INPUT),
    ("eval a.npz --reps random,torchscript:g.safetensors --json g.safetensors", INPUT),
    ("eval x-{0..1}.npz --json x-1.npz", INPUT),
    ("eval x-*.npz --json x-1.npz", INPUT),
    ("eval a.npz:arr_0 --json a.npz", INPUT),
    (f"eval {GEN} --json g.safetensors", INPUT),
    ("eval a.npz --json b.npz", f"{OTHER} JSON"),
    ("eval a.npz --json photos/0000.png", f"{OTHER} JSON"),
    ("eval photos --csv photos/0000.png", f"{OTHER} CSV"),
    ("eval a.npz --csv r.json", f"{OTHER} CSV"),
    ("eval a.npz --markdown r.json", f"{OTHER} Markdown"),
    ("eval a.npz --json notes.md", f"{OTHER} JSON"),
    ("eval a.npz --json fdr.toml", INPUT),
    ("eval a.npz --json a.npz.json", "says what the files beside it are"),
    ("eval a.npz --json generator.json", "says what the files beside it are"),
    ("eval a.npz --json log.jsonl", f"{OTHER} JSON"),
    ("eval a.npz --json samples.json", "says what the files beside it are"),
    ("eval a.npz --csv code.py", f"{OTHER} CSV"),
    ("eval a.npz --json o.json --csv o.json", "--json and --csv are one file"),
    ("eval a.npz --json - --csv -", "Only one of"),
    ("eval a.npz --json photos", "is a folder"),
    ("check r.json --json r.json --max fd=1", INPUT),
    ("check r.json --junit r.json --max fd=1", INPUT),
    ("check a.npz --max fd=1 --report a.npz", INPUT),
    ("check r.json --max fd=1 --junit notes.md", f"{OTHER} JUnit XML"),
    ("check r.json --max fd=1 --junit fdr.toml", INPUT),
    ("check r.json --max fd=1 --markdown s.json", f"{OTHER} Markdown"),
    ("check r.json --max fd=1 --openmetrics t.csv", f"{OTHER} OpenMetrics"),
    ("check r.json --baseline s.json --json s.json", INPUT),
    ("check r.json --baseline r.json --update-baseline --force", INPUT),
    ("check r.json --baseline b.npz --update-baseline --force", f"{OTHER} JSON"),
    ("check r.json --baseline a.npz.json --update-baseline --force", "says what the files beside it are"),
    ("stats photos -o photos", INPUT),
    ("stats photos -o album", INPUT),
    ("stats a.npz -o a.npz", INPUT),
    ("stats a.npz --format adm -o a.npz", INPUT),
    ("stats a.npz --format adm -o b.npz", "holds no statistics"),
    ("stats a.npz -o ref --json a.npz", INPUT),
    ("stats a.npz -o photos", "is not empty and holds no reference"),
    ("stats a.npz --val b.npz -o ref --json b.npz", INPUT),
    ("convert m.npz m.npz", INPUT),
    ("convert m.npz b.npz", "holds no statistics"),
    ("convert m.npz g.safetensors --to npz", "holds no statistics"),
    ("convert m.npz m2.npz --json m.npz", INPUT),
    ("sample --gen g.safetensors -o g.safetensors", INPUT),
    (f"sample {GEN} -n 3 -o a.npz", "is there already"),
    (f"sample {GEN} -n 3 -o photos", "is there already"),
    ("train --gen g.safetensors -o g.safetensors", INPUT),
    ("train --gen g.safetensors --ref photos -o photos", INPUT),
    ("train --gen g.safetensors --arch generator_worlds:Plain -o photos --ref a.npz", "is no run of fdr train"),
    ("correlate t.csv --x x --y y --plot t.csv", INPUT),
    ("correlate t.csv --x x --y y --plot notes.svg --json t.csv", INPUT),
    ("correlate t.csv --x x --y y --json notes.md", f"{OTHER} JSON"),
    ("ifid --vae haar --images photos --picture photos/grid.png", "would be one of its images"),
    ("ifid --vae haar --images photos --picture album/grid.png", "would be one of its images"),
    ("ifid --vae haar --images photos --picture photos/0000.png", "would be one of its images"),
    ("ifid --vae haar --images a.npz --picture r.json", f"{OTHER} PNG"),
    ("ifid --vae haar --images a.npz --picture sheet.jpg", "writes a PNG, and 'sheet.jpg' ends in .jpg"),
    ("ifid --vae haar --images photos --neighbours a.npz --json a.npz", INPUT),
    ("ifid --vae g.safetensors --images photos --csv g.safetensors", INPUT),
    ("demo --out photos", "is not empty and not from an earlier demo"),
    ("demo --json a.npz", f"{OTHER} JSON"),
    ("compare r.json s.json --json r.json", INPUT),
    ("compare r.json s.json --json s.json", INPUT),
    ("show m.npz --json m.npz", INPUT),
    ("show r.json --json r.json", INPUT),
    ("weights list --json a.npz", f"{OTHER} JSON"),
    ("weights fetch random --dry-run --json a.npz", f"{OTHER} JSON"),
    ("weights verify --json a.npz", f"{OTHER} JSON"),
    ("cache list --json a.npz", f"{OTHER} JSON"),
    ("references list --json a.npz", f"{OTHER} JSON"),
    ("encoders --json a.npz", f"{OTHER} JSON"),
    ("env --json a.npz", f"{OTHER} JSON"),
]


@pytest.mark.parametrize(("command", "sentence"), CASES, ids=[command for command, _ in CASES])
def test_what_is_there_stays(fdr_command, place: Path, command: str, sentence: str) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    got = fdr_command(*command.split())
    assert got.code == 2 and sentence in got.err, got.err
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_what_may_be_replaced(fdr_command, place: Path) -> None:
    reports = ("r.json", "b.npz.json", "empty", "photos/new.json")
    for name, option in (*((name, "--json") for name in reports), ("o.log", "--csv"), ("t.csv", "--csv")):
        for _ in range(2):
            got = fdr_command("eval", "photos", "--ref", "a.npz", "--reps", "random", "-q", option, name)
            assert got.code == 0 and Path(name).stat().st_size > 0, got.err
    assert fdr_command("eval", "a.npz", "--ref", "b.npz", "--reps", "random", "-q", "--json", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()
    picture = ["--picture", "p.png", "-q", "--no-cache"]
    for _ in range(2):
        assert fdr_command("convert", "m.h5", "m.npz", "--to", "npz").code == 0
        got = fdr_command("ifid", "--vae", "haar", "--images", "a.npz", "--top-k", 2, "--reps", "random", *picture)
        assert got.code == 0, got.err
    assert Image.open("p.png").format == "PNG"
