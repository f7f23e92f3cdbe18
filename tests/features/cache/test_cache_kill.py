"""Promise: SIGKILL loses at most the shard in flight, and the resumed run repeats the bits. Real processes die here."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_worlds import NUM_ROWS, damaged, fill, good_rows, open_cache, read, same, start_python, truth
from processes import PATIENCE

from fdr.features import CacheStore

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL and fork")
EXTRACT = (
    "import sys; from cache_worlds import fill, open_cache; from pathlib import Path; print('ready', flush=True); "
)


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a hundred runs fsync a thousand times."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=memory, prefix="fdr-test-"))
    yield folder
    shutil.rmtree(folder)


@posix_only
def test_kill_at_every_file_operation_loses_at_most_the_shard_in_flight(fast_path: Path) -> None:
    process = start_python(str(Path(__file__).with_name("kill_everywhere.py")), str(fast_path / "runs"))
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert int(out) > 50  # before and within the temporary file, before replace, between replace and manifest, ...


@posix_only
def test_kill_at_random_moments_then_resume_equals_an_uninterrupted_run(fast_path: Path) -> None:
    moments = random.Random(7)
    code = EXTRACT + "fill(open_cache(Path(sys.argv[1])), pause=0.01)"
    for _ in range(3):  # the same entry is killed again and again
        process = start_python("-c", code, str(fast_path))
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.05, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = fill(open_cache(fast_path))
        assert damaged(cache) == []
    assert same(read(cache), truth())


@pytest.mark.parametrize("shift", [0.0, 0.5], ids=["equal-features", "features-that-differ"])
def test_two_processes_on_one_entry_leave_one_right_and_complete_cache(tmp_path: Path, shift: float) -> None:
    code = EXTRACT + "fill(open_cache(Path(sys.argv[1])), pause=0.02, shift=float(sys.argv[2]))"
    processes = [start_python("-c", code, str(tmp_path), str(own)) for own in (0.0, shift)]
    for process in processes:
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
    cache = open_cache(tmp_path)
    assert cache.is_complete and damaged(cache) == []
    for span in cache.ranges:  # each shard is wholly one process's
        wanted = [{name: x + type(x.flat[0])(own) for name, x in truth(*span).items()} for own in (0.0, shift)]
        assert any(same(read(cache, *span), one) for one in wanted)
    assert cache.count == len(good_rows(0, NUM_ROWS))
    names = [path.name for path in cache.folder.iterdir()]
    assert len([name for name in names if name.endswith(".h5")]) == len(cache.ranges)
    assert not [name for name in names if name.endswith(".tmp")]
    assert next(CacheStore(tmp_path).verify()).is_good
