"""Real processes, killed at many moments, then resumed: the same report bit for bit as an uninterrupted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE
from worlds import folder, images, npz

# One process imports torch and then forks the runs, so that dozens of kills cost seconds.
RUN = """
import os, random, signal, sys, threading, time
import torch
import fdr, fdr.features.extraction, fdr.ifid.latents
from pathlib import Path
from worlds import TinyEncoder
from autoencoder_worlds import Plain, seeded
from fdr.ifid.autoencoders.base import AutoencoderSpec
fdr.features.extraction.SHARD_SIZE = fdr.ifid.latents.SHARD_SIZE = 8
fdr.ifid.latents.MIN_SHARD_SIZE = 8
samples, reference, folder, what = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]

def slow(count):
    time.sleep(0.004)
    with open(log, "a") as file:
        file.write(f"{count}\\n")
    global calls_left
    calls_left -= 1
    if calls_left == 0:  # the process ends itself soon, so that no other one has to come in time
        threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()

class Slow(TinyEncoder):
    def forward(self, inputs, outputs):
        slow(len(inputs))
        return super().forward(inputs, outputs)

class SlowAutoencoder(Plain):
    def encode(self, images):
        slow(len(images))
        return super().encode(images)

    def decode(self, latents):
        slow(len(latents))
        return super().decode(latents)

torch.set_num_threads(1)  # threads do not survive the fork
model = seeded(SlowAutoencoder)
model.spec = AutoencoderSpec("slow", "object", "slow", "seed:0")  # code without a file cannot be told apart

def measure(cache):
    if what == "evaluate":
        return fdr.evaluate(samples, reference, Slow(), ["fd", "is"], cache=cache, batch_size=3)
    return fdr.interpolated_fid(
        model, samples, reference, TinyEncoder(), cache=cache, batch_size=3,
        ifid_options=fdr.IfidOptions(alphas=(0.25, 0.5), top_k=3),
    )

def run(cache, out):
    child = os.fork()
    if child == 0:
        measure(cache).to_json(out)
        os._exit(0)
    return child

log, calls_left, moment = folder / "whole.log", -1, 0.0
_, status = os.waitpid(run(folder / "whole-cache", folder / "whole.json"), 0)
assert status == 0
log, kills, moments = folder / "killed.log", 0, random.Random(0)
log.touch()
out = folder / "resumed.json"
while not out.exists() and kills < 200:
    calls = (1, 8) if what == "evaluate" else (8, 30)  # an autoencoder is checked in every run
    calls_left, moment = moments.randint(*calls), moments.uniform(0, 0.02)
    _, status = os.waitpid(run(folder / "cache", out), 0)
    kills += os.WIFSIGNALED(status)
print(kills)
"""


def killed(tmp_path: Path, samples: Path, reference: Path, what: str) -> tuple[int, int, int]:
    """How often a run was killed; the images it would have seen, and those it has seen. Its report is checked."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", RUN, str(samples), str(reference), str(tmp_path), what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / f"{name}.json").read_text())["results"] for name in ("whole", "resumed")]
    assert results[0] == results[1]
    whole, seen = (sum(map(int, (tmp_path / f"{name}.log").read_text().split())) for name in ("whole", "killed"))
    kills = int(done.stdout)
    assert 3 <= kills < 200
    return kills, whole, seen


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and kills")
@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_killed_runs_resume_to_the_same_bits(tmp_path: Path, kind: str) -> None:
    array, real = images(90, seed=1), npz(tmp_path / "real.npz", images(40))
    samples = folder(tmp_path / "f", array) if kind == "folder" else npz(tmp_path / "s.npz", array)
    kills, whole, seen = killed(tmp_path, samples, real, "evaluate")
    assert whole == 130
    assert seen <= whole + kills * 2 * 8, "a kill lost more than the shard in flight"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and kills")
def test_killed_interpolations_resume_to_the_same_bits(tmp_path: Path) -> None:
    queries, others = npz(tmp_path / "q.npz", images(30, seed=1)), npz(tmp_path / "n.npz", images(60))
    kills, whole, seen = killed(tmp_path, queries, others, "ifid")
    checks = 2 * 20  # of the autoencoder, in every run
    assert seen <= whole + kills * (2 * 8 + checks), "a kill lost more than the shard in flight"
