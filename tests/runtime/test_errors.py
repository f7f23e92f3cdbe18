"""Messages name options as their reader knows them: as typed on a command line, as arguments in Python."""

from __future__ import annotations

import pytest

from fdr.cli import run
from fdr.errors import FdrWarning, InputError, command_line, warn
from fdr.runtime import memory_for, named_arguments


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("skip bad images with --on-bad skip.", "skip bad images with on_bad='skip'."),
        ("it needs a size (--size S): the side", "it needs a size (size=S): the side"),
        ("give --ref images, or make one with fdr stats IMAGES --reps x -o y.",
         "give reference images, or make one with fdr stats IMAGES --reps x -o y."),
        ("see --transparency white.", "see alpha='white'."),
        ("use --dtype float32.", "use dtype='float32'."),
        ("pass --cache DIR, or --no-cache.", "pass cache=DIR, or no_cache."),
        ("was started with --lr 0.01, not 1", "was started with lr=0.01, not 1"),
        ("write --min is=3", "write --min is=3"),
        ("well-known --names-of-nothing", "well-known --names-of-nothing"),
    ],
)  # fmt: skip
def test_a_message_names_options_as_its_reader_knows_them(written: str, read: str) -> None:
    for message in (InputError(written), FdrWarning(written)):
        assert str(message) == read
        with command_line():
            assert str(message) == written
        assert str(message) == read


def test_the_command_line_reads_options_as_typed(tmp_path, capsys) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "0.png").write_bytes(b"no image")
    assert run(["eval", str(tmp_path / "s"), "--reps", "random", "--ref", "demo"]) == 2
    assert "--on-bad skip" in capsys.readouterr().err


@named_arguments
@memory_for("a test", "do nothing")
def _warned() -> None:
    warn("something is doubtful")


def test_a_warning_is_of_the_line_that_made_the_call() -> None:
    """Not of the wrappers around the function that warns."""
    with pytest.warns(FdrWarning, match="doubtful") as caught:
        _warned()
    assert caught[0].filename == __file__
