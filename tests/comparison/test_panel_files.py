"""The files of a panel: which model and which training seed each is of, by pattern or by table."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdr.comparison import files_of_models, files_of_table, flat
from fdr.comparison.panel_files import matched
from fdr.errors import InputError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a/seed0/r1", "a/seed0/r2", "a/seed1/r1", "b/run-7-x", "b/run-7-y", "b/run-8-x", "b/8/run-9-8"):
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize("pattern, expected", [
    ("a/seed*/*.json", {"a/seed0": ["a/seed0/r1.json", "a/seed0/r2.json"], "a/seed1": ["a/seed1/r1.json"]}),
    ("a/**/r1.json", {"a/seed0": ["a/seed0/r1.json"], "a/seed1": ["a/seed1/r1.json"]}),
    ("a/{train}/r1.json", {"seed0": ["a/seed0/r1.json"], "seed1": ["a/seed1/r1.json"]}),
    ("b/run-{train}-*.json", {"7": ["b/run-7-x.json", "b/run-7-y.json"], "8": ["b/run-8-x.json"]}),
    ("b/run-{train}-[!y].json", {"7": ["b/run-7-x.json"], "8": ["b/run-8-x.json"]}),
    ("b/{train}/run-?-{train}.json", {"8": ["b/8/run-9-8.json"]}),
])  # fmt: skip
def test_a_pattern_groups_by_train_or_by_folder(tree: Path, pattern: str, expected: dict[str, list[str]]) -> None:
    assert matched(pattern) == expected


@pytest.mark.parametrize("models, sentence", [
    (["a/*.json"], "is not NAME=PATTERN"), (["a="], "is not NAME=PATTERN"), (["a=none/*.json"], "No file matches"),
    (["a=a/*/r1.json", "a=b/*.json"], "names 'a' twice"),
    (["a=a/*/r1.json", "b=a/seed1/*.json"], "is of a, a/seed1 and of b, a/seed1"),
    (["a={train}/seed1/{train}1.json"], "with the same text at every {train}"),
])  # fmt: skip
def test_a_model_that_cannot_be_read_is_one_sentence(tree: Path, models: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        files_of_models(models)
    assert sentence in str(caught.value)


def test_a_table_names_model_training_seed_and_file(tree: Path) -> None:
    (tree / "p.csv").write_text("file,train,model\na/seed0/r1.json,0,A\na/seed1/r1.json,1,A\nb/run-7-x.json,7,B\n")
    found = files_of_table(tree / "p.csv")
    assert {model: list(runs) for model, runs in found.items()} == {"A": ["0", "1"], "B": ["7"]}
    assert flat(found)[0] == str(tree / "a" / "seed0" / "r1.json"), "relative to the table"


@pytest.mark.parametrize("text, sentence", [
    ("model,train\nA,0\n", "Unknown column 'file'"), ("model,train,file\nA,,x\n", "line 2: every row needs a model"),
    ("model,train,file\nA,0,x\nB,0,x\n", "is of A, 0 and of B, 0"),
])  # fmt: skip
def test_a_table_that_cannot_be_read_is_one_sentence(tree: Path, text: str, sentence: str) -> None:
    (tree / "p.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        files_of_table(tree / "p.csv")
    assert sentence in str(caught.value)
