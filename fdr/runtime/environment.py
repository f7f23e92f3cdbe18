"""Device, dtype, threads, environment: the only file that reads the environment or sets a backend flag."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fdr._version import __version__
from fdr.errors import InputError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bf16")


def cache_home() -> Path:
    """Where `fdr` keeps its own files: `$FDR_CACHE`, else `$XDG_CACHE_HOME/fdr`, else `~/.cache/fdr`."""
    own = os.environ.get("FDR_CACHE", "").strip()
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "fdr"


def feature_cache_dir() -> Path:
    """Where feature caches live unless `--cache` names another folder."""
    return cache_home() / "features"


def weights_dirs(explicit: str | os.PathLike[str] | None = None) -> list[Path]:
    """Folders searched for weight files, first match wins: the argument, `$FDR_WEIGHTS`, our cache, torch.hub's."""
    dirs: list[Path] = []
    if explicit is not None:
        dirs.append(Path(explicit).expanduser())
    env = os.environ.get("FDR_WEIGHTS", "").strip()
    if env:
        dirs.append(Path(env).expanduser())
    dirs.append(cache_home() / "weights")
    torch_home = os.environ.get("TORCH_HOME")
    if torch_home:
        root = Path(torch_home).expanduser()
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        root = (Path(base).expanduser() if base else Path.home() / ".cache") / "torch"
    dirs.append(root / "hub" / "checkpoints")
    return dirs


_IS_OFFLINE: ContextVar[bool | None] = ContextVar("is_offline", default=None)


@contextlib.contextmanager
def offline(is_asked: bool | None) -> Iterator[None]:
    """What `is_offline()` says inside, for code that no option reaches; None leaves it as it is."""
    token = _IS_OFFLINE.set(_IS_OFFLINE.get() if is_asked is None else is_asked)
    try:
        yield
    finally:
        _IS_OFFLINE.reset(token)


def is_offline(explicit: bool | None = None) -> bool:
    """True when the network must not be touched: the argument, `offline`, `$FDR_OFFLINE`, or `$HF_HUB_OFFLINE`."""
    explicit = _IS_OFFLINE.get() if explicit is None else explicit
    if explicit is not None:
        return explicit
    truthy = {"1", "true", "yes", "on"}
    return any(os.environ.get(key, "").strip().lower() in truthy for key in ("FDR_OFFLINE", "HF_HUB_OFFLINE"))


@dataclass(frozen=True)
class GitHubJob:
    """Where a running GitHub Actions step leaves its results."""

    output: Path | None
    summary: Path | None


def github_job() -> GitHubJob | None:
    """The GitHub Actions job that this process is part of; None elsewhere."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return None
    output, summary = (os.environ.get(name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"))
    return GitHubJob(Path(output) if output else None, Path(summary) if summary else None)


def available_cpus() -> int:
    """Processors this process may run on (respects affinity and containers that set it)."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:
        return max(1, os.cpu_count() or 1)


@dataclass(frozen=True)
class RankFacts:
    """Which process of a distributed run this is, and where it finds the others."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """Ranks on this machine, which share its processors."""
    rendezvous: str = "env://"
    endpoint: tuple[str, int] = ("127.0.0.1", 0)
    """Address and port at which our own launcher's ranks meet."""
    has_store: bool = False
    """True when a launcher holds the store in which the ranks find each other, false when rank 0 does."""
    launcher: int | None = None
    """Process id of our own launcher; its ranks end with it."""
    listener: int | None = None
    """For rank 0 of our own launcher: the file descriptor of the socket at which the others will find the store."""
    attempt: str = "0"
    """How often torchrun has restarted the ranks; what earlier attempts left in the store is not ours."""
    is_ours: bool = True
    """False for a process group that the program has made itself."""


def rank_facts(environment: Mapping[str, str] | None = None) -> RankFacts:
    """From what torchrun, `accelerate launch` and `fdr --gpus` set (RANK, WORLD_SIZE, ...), else from Slurm's step.

    Slurm's variables count inside `srun` only: a batch script has them too, but runs once. Raises `InputError` when
    they contradict each other.
    """
    env = os.environ if environment is None else environment
    if "WORLD_SIZE" in env:
        return _facts_of_torchrun(env)
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in env:
        return _facts_of_slurm(env)
    return RankFacts()


def _facts_of_torchrun(env: Mapping[str, str]) -> RankFacts:
    try:
        size = int(env["WORLD_SIZE"])
        if size == 1:
            return RankFacts()
        rank = int(env["RANK"])
        local_rank, local_size = int(env.get("LOCAL_RANK", rank)), int(env.get("LOCAL_WORLD_SIZE", size))
        endpoint = env["MASTER_ADDR"], int(env["MASTER_PORT"])
    except KeyError as error:
        raise InputError(
            f"WORLD_SIZE is {env['WORLD_SIZE']}, but {error.args[0]} is not set; start the ranks with torchrun, srun "
            "or --gpus N, or unset WORLD_SIZE."
        ) from None
    except ValueError as error:
        raise InputError(f"The environment of torchrun holds what is no number ({error}).") from None
    if not 0 <= rank < size:
        raise InputError(f"RANK is {rank}, but WORLD_SIZE is {size}; expected 0 to {size - 1}.")
    launcher, listener = env.get("FDR_LAUNCHER"), env.get("FDR_LISTENER")
    return RankFacts(
        *(rank, size, local_rank, local_size),
        endpoint=endpoint,
        has_store=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        launcher=None if launcher is None else int(launcher),
        listener=None if listener is None else int(listener),
        attempt=env.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _facts_of_slurm(env: Mapping[str, str]) -> RankFacts:
    size, rank = int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_PROCID"])
    hosts = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    address = env.get("MASTER_ADDR") or _first_host(hosts)
    port = env.get("MASTER_PORT") or str(20000 + int(env.get("SLURM_JOB_ID", "0")) % 20000)
    local_size = int(re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", "1")).group())  # type: ignore[union-attr]
    return RankFacts(
        rank,
        size,
        int(env.get("SLURM_LOCALID", "0")),
        local_size,
        f"tcp://{address}:{port}?rank={rank}&world_size={size}",
    )


def _first_host(nodes: str) -> str:
    """ "gpu[003-006,009],cpu1" -> "gpu003"."""
    match = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,\[]*))?", nodes)
    if match is None:
        raise InputError("Slurm started several tasks, but names no hosts (SLURM_STEP_NODELIST); set MASTER_ADDR.")
    return "".join(part or "" for part in match.groups())


def share_processors(facts: RankFacts) -> int:
    """Divide the processors among the ranks of this machine: torch's threads are set, and their number returned."""
    import torch

    threads = max(1, available_cpus() // facts.local_size)
    if facts.size > 1:
        torch.set_num_threads(threads)
    return threads


def rank_device(name: str, facts: RankFacts, needs_gpu: bool = False) -> str:
    """The device of one rank: the CPU, or the GPU of its number on this machine.

    Raises `InputError` for a device that ranks cannot have one each of.
    """
    import torch

    if name == "cpu" or (name == "auto" and not needs_gpu and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise InputError(f"Device {name!r} cannot be divided among {facts.size} ranks; expected auto, cpu or cuda.")
    found = torch.cuda.device_count()
    if facts.local_rank >= found:
        raise InputError(
            f"{facts.local_size} ranks need as many GPUs, but this machine has {found}; with --device cpu they are "
            "processes on the CPU."
        )
    return f"cuda:{facts.local_rank}"


def rank_environment(rank: int, size: int, port: int, launcher: int, listener: int | None = None) -> dict[str, str]:
    """What a rank on this machine needs to find the others: the names of torchrun, and a fair share of threads.

    `listener` is for rank 0: the descriptor of a socket that listens at `port`, so that nobody can take the port.
    """
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "FDR_LAUNCHER": str(launcher)}
    env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    env.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # of a torchrun around us; here rank 0 holds the store
    if listener is not None:
        env["FDR_LISTENER"] = str(listener)
    env.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // size)))
    return env


def resolve_device(name: str | None = None) -> torch.device:
    """The torch device for `name`; `None` or "auto" takes CUDA when there is one.

    Raises `InputError` for a device that is unknown or absent.
    """
    import torch

    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"Unknown device {name!r}; expected auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(
                f"Device {name!r} was asked for, but torch {torch.__version__} finds no CUDA device; "
                "use --device cpu, or install a CUDA build of torch and its driver."
            )
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise InputError(f"Device {name!r} does not exist; {torch.cuda.device_count()} CUDA device(s) found.")
    elif device.type not in ("cpu", "mps"):
        raise InputError(f"Device {name!r} is not supported; expected auto, cpu, cuda or cuda:N.")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("Device 'mps' was asked for, but this torch finds no Metal device; use --device cpu.")
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """True when bfloat16 convolutions run at hardware speed: CUDA sm_80+, or a CPU with AVX512-BF16 or AMX."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return (
            bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _cpu_flags() & {"avx512_bf16", "amx_bf16"} != set()
        )
    return False


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()


def check_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype for "float32" or "bf16"; bf16 is refused where the processor has no fast path."""
    import torch

    if dtype == "float32":
        return torch.float32
    if dtype == "bf16":
        if not has_fast_bf16(device):
            raise InputError(
                f"--dtype bf16 was asked for, but {device} has no fast bfloat16 (it needs CUDA sm_80+, AVX512-BF16 or "
                "AMX; without it bf16 is some 25x slower); use --dtype float32."
            )
        return torch.bfloat16
    raise InputError(f"Unknown dtype {dtype!r}; expected {' or '.join(DTYPES)}.")


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak so far: of torch's memory on a GPU, of this process on a CPU; None where none can tell."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def set_tf32(allow: bool) -> None:
    """Switch TF32 for both matrix products and cuDNN; torch leaves cuDNN's on by default, `fdr` turns it off."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow


@contextlib.contextmanager
def faithful_products() -> Iterator[None]:
    """Matrix products in the precision of their operands, accumulated in float32, whatever the program has set."""
    import torch

    cuda = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), cuda.allow_fp16_reduced_precision_reduction
    also = cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_fp16_reduced_precision_reduction = cuda.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cuda.allow_fp16_reduced_precision_reduction, cuda.allow_bf16_reduced_precision_reduction = before[1], also


def package_versions() -> dict[str, str]:
    """Versions of fdr and of the packages that numbers or files depend on, without importing them."""
    versions = {"fdr": __version__}
    for name in (
        "torch",
        "timm",
        "transformers",
        "open_clip_torch",
        "diffusers",
        "numpy",
        "pillow",
        "simplejpeg",
        "h5py",
        "huggingface_hub",
        "click",
    ):
        try:
            versions[name] = _version(importlib.metadata.distribution(name))
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _version(package: importlib.metadata.Distribution) -> str:
    """Without parsing the package's description, which takes most of the time of `Distribution.version`."""
    found = re.search(r"^Version:[ 	]*(\S+)", package.read_text("METADATA") or "", re.MULTILINE)
    return package.version if found is None else found[1]


def machine_facts() -> dict[str, str]:
    """Versions, devices and folders, for `fdr env` and for bug reports."""
    facts = {"python": platform.python_version(), "platform": platform.platform(), **package_versions()}
    facts["cpus"] = str(available_cpus())
    try:
        import torch
    except Exception as error:  # a broken torch is what the user wants to see here
        facts["torch import"] = f"failed: {error}"
    else:
        facts["torch threads"] = str(torch.get_num_threads())
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        facts["cuda devices"] = ", ".join(names) or "none"
    facts["feature cache"] = str(feature_cache_dir())
    facts["weight folders"] = ", ".join(map(str, weights_dirs()))
    facts["offline"] = str(is_offline())
    return facts
