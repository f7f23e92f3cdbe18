"""Real processes, killed at many moments, then resumed: the same report bit for bit as an uninterrupted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from worlds import folder, images, npz

# One process imports torch and then forks the runs, so that dozens of kills cost seconds.
RUN = """
import os, random, signal, sys, time
import fdr, fdr.extraction
from pathlib import Path
from worlds import TinyEncoder
fdr.extraction.SHARD_SIZE = 8
samples, reference, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])

class Slow(TinyEncoder):
    def forward(self, inputs, outputs):
        time.sleep(0.004)
        with open(log, "a") as file:
            file.write(f"{len(inputs)}\\n")
        return super().forward(inputs, outputs)

def run(cache, out):
    child = os.fork()
    if child == 0:
        fdr.evaluate(samples, reference, Slow(), ["fd", "is"], cache=cache, batch_size=3).to_json(out)
        os._exit(0)
    return child

log = folder / "whole.log"
_, status = os.waitpid(run(folder / "whole-cache", folder / "whole.json"), 0)
assert status == 0
log, kills, moments = folder / "killed.log", 0, random.Random(0)
log.touch()
out = folder / "resumed.json"
while not out.exists() and kills < 200:
    child, lines = run(folder / "cache", out), log.read_text().count("\\n") + moments.randint(1, 8)
    while log.read_text().count("\\n") < lines and not out.exists():
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    kills += os.WIFSIGNALED(status)
print(kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and kills")
@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_killed_runs_resume_to_the_same_bits(tmp_path: Path, kind: str) -> None:
    array, real = images(90, seed=1), npz(tmp_path / "real.npz", images(40))
    samples = folder(tmp_path / "f", array) if kind == "folder" else npz(tmp_path / "s.npz", array)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", RUN, str(samples), str(real), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kills = int(done.stdout)
    assert 3 <= kills < 200
    whole, killed = (sum(map(int, (tmp_path / f"{name}.log").read_text().split())) for name in ("whole", "killed"))
    assert whole == 130
    assert killed <= whole + kills * 2 * 8, "a kill lost more than the shard in flight"
    results = [json.loads((tmp_path / f"{name}.json").read_text())["results"] for name in ("whole", "resumed")]
    assert results[0] == results[1]
