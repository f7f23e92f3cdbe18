"""The common part of the benchmarks: options, turns, processes of their own, memory, the machine, tables and JSON.

A benchmark compares *sides*, which do the same work in different ways. The sides take turns, so that a busy machine
hits all of them, and figures are medians over the turns. Seconds are of the clock (wall) and of the processor (CPU, of
all threads and of child processes). Memory is in MiB.

This file is also the program of `in_child`; it is no benchmark.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TEST_HELPERS = ROOT / "tests" / "encoders"
"""The folder of `inception_state`, which makes seeded weights in the official layout."""
PACKAGES = ("torch", "numpy", "scipy", "pillow", "simplejpeg")


# ----------------------------------------------------------------------------------------------- options and output


def parser(
    doc: str | None, repeats: int | None = None, json_help: str = "write what was measured to FILE"
) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of the script, with --json and, where `repeats` is given, --repeats."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if repeats is not None:
        found.add_argument("--repeats", type=int, default=repeats, help=f"turns of every side (default: {repeats})")
    found.add_argument("--json", type=Path, metavar="FILE", help=json_help)
    return found


def table(header: Sequence[str], rows: Iterable[Sequence[object]], num_text: int = 1) -> str:
    """A Markdown table; columns after the first `num_text` are aligned to the right."""
    marks = ["---"] * num_text + ["---:"] * (len(header) - num_text)
    first, *others = (f"| {' | '.join(map(str, line))} |" for line in (header, *rows))
    return "\n".join((first, f"|{'|'.join(marks)}|", *others))


def write_json(path: Path | None, **found: Any) -> None:
    """Write what was measured, with the machine, where --json names a file."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **found}, indent=1) + "\n")


def machine(*packages: str, threads: int | None = None) -> dict[str, str]:
    """The processor, and the versions of Python and of packages."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    used = "" if threads is None else f", {threads} threads used"
    versions = {"processor": f"{model}, {os.cpu_count()} cores{used}", "python": platform.python_version()}
    for package in (*PACKAGES, *packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def machine_line(*packages: str, threads: int | None = None) -> str:
    """`machine` as a line above a table."""
    return ", ".join(f"{name} {value}" for name, value in machine(*packages, threads=threads).items())


# ------------------------------------------------------------------------------------------- turns of one process


@dataclass
class Turns:
    """The seconds of one side, and what it returned last."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    result: Any = None

    @property
    def wall_s(self) -> float:
        return statistics.median(self.wall)

    @property
    def cpu_s(self) -> float:
        return statistics.median(self.cpu)

    def take(self, side: Callable[[], Any]) -> None:
        """One timed turn."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.result = side()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)

    def to_dict(self) -> dict[str, float]:
        return {"wall_s": self.wall_s, "cpu_s": self.cpu_s}


def take_turns(sides: Mapping[str, Callable[[], Any]], repeats: int, *, warm_up: bool = True) -> dict[str, Turns]:
    """The seconds of every side over `repeats` turns, after one that does not count."""
    turns = {name: Turns() for name in sides}
    for side in sides.values() if warm_up else ():
        side()
    for _ in range(repeats):
        for name, side in sides.items():
            turns[name].take(side)
    return turns


# -------------------------------------------------------------------------------------------- processes of their own


@dataclass(frozen=True)
class Process:
    """The output, the seconds and the memory of a command."""

    wall_s: float
    cpu_s: float
    largest_mib: float
    """Peak resident memory of its largest process."""
    tree_mib: float
    """Peak of the sum over its processes, shared pages counted once; 0 unless it was watched."""
    stdout: str
    stderr: str


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None, watch: bool = False) -> Process:
    """Run a command. Raises `RuntimeError` with the last line of its stderr when it fails.

    The process that calls should stay small: a child inherits its parent's peak of memory as a floor.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=err, env=environment)
        sampler = TreeMemory(process.pid) if watch else None
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        tree = sampler.stop() if sampler is not None else 0.0
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read().decode(), err.read().decode()
    if process.returncode:
        raise RuntimeError((stderr.strip().splitlines() or [f"{command[0]} failed without a word"])[-1])
    largest = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Process(wall, usage.ru_utime + usage.ru_stime, largest, max(tree, largest), stdout, stderr)


def in_child(
    script: str | Path, function: str, *, environment: Mapping[str, str] | None = None, **arguments: Any
) -> Any:
    """What `function(**arguments)` of a script returns, computed in a process of its own; all of it is JSON."""
    done = run([sys.executable, "-W", "ignore", __file__, script, function, json.dumps(arguments)], environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


def environment_with(threads: int) -> dict[str, str]:
    """The environment of this process with that many threads for every library."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONPATH": python_path()}


def python_path() -> str:
    """The path of child processes: this tree, and what this process was given."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))


class TreeMemory:
    """Samples the proportional memory of a process and its descendants five times a second (Linux; else 0)."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._stopped = pid, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(0.2):
            self._peak = max(self._peak, sum(map(_proportional_mib, _descendants(self._pid))))

    def stop(self) -> float:
        """MiB at the peak."""
        self._stopped.set()
        self._thread.join()
        return self._peak


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def _proportional_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


# ------------------------------------------------------------------------------------------- memory of this process


def peak_mib() -> float:
    """Peak resident memory since the start or `reset_peak`."""
    try:  # on Linux ru_maxrss of a child starts at its parent's
        return _status_mib("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def resident_mib() -> float:
    """Resident memory now; the peak where the system does not say."""
    try:
        return _status_mib("VmRSS")
    except OSError:
        return peak_mib()


def reset_peak() -> None:
    """Let `peak_mib` start from the present, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak of memory cannot be reset here: it includes the imports", file=sys.stderr)


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024


def _main() -> None:
    """The program of `in_child`."""
    script, function, arguments = sys.argv[1:]
    sys.path.insert(0, str(Path(script).resolve().parent))
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    print(json.dumps(getattr(module, function)(**json.loads(arguments))))


if __name__ == "__main__":
    _main()
