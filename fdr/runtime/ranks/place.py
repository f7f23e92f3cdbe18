"""The place of this process among the ranks of a run, read from the environment that its launcher made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fdr.errors import InputError
from fdr.runtime.devices import available_cpus


@dataclass(frozen=True)
class RankPlace:
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
    """How often torchrun has restarted the ranks; it keeps entries of earlier attempts in the store apart."""
    is_ours: bool = True
    """False for a process group that the program has made itself."""


def rank_place(environment: Mapping[str, str] | None = None) -> RankPlace:
    """This process's rank, from the variables of torchrun, `accelerate launch` or `fdr --gpus`, else of Slurm's step.

    Slurm's variables count inside `srun` only: a batch script has them too, but runs once. Raises `InputError` when
    they contradict each other.
    """
    env = os.environ if environment is None else environment
    if "WORLD_SIZE" in env:
        return _place_under_torchrun(env)
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in env:
        return _place_under_slurm(env)
    return RankPlace()


def _place_under_torchrun(env: Mapping[str, str]) -> RankPlace:
    try:
        size = int(env["WORLD_SIZE"])
        if size == 1:
            return RankPlace()
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
    return RankPlace(
        *(rank, size, local_rank, local_size),
        endpoint=endpoint,
        has_store=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        launcher=None if launcher is None else int(launcher),
        listener=None if listener is None else int(listener),
        attempt=env.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _place_under_slurm(env: Mapping[str, str]) -> RankPlace:
    size, rank = int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_PROCID"])
    hosts = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    address = env.get("MASTER_ADDR") or _first_host(hosts)
    port = env.get("MASTER_PORT") or str(20000 + int(env.get("SLURM_JOB_ID", "0")) % 20000)
    local_size = int(re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", "1")).group())  # type: ignore[union-attr]
    return RankPlace(
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


def share_processors(place: RankPlace) -> int:
    """Set torch's threads to this rank's share of the machine's processors; returns their number."""
    import torch

    threads = max(1, available_cpus() // place.local_size)
    if place.size > 1:
        torch.set_num_threads(threads)
    return threads


def rank_device(name: str, place: RankPlace, needs_gpu: bool = False) -> str:
    """The device of one rank: the CPU, or the GPU whose number is the local rank.

    Raises `InputError` for any other device, and when there are fewer GPUs than ranks.
    """
    import torch

    if name == "cpu" or (name == "auto" and not needs_gpu and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise InputError(f"Device {name!r} cannot be divided among {place.size} ranks; expected auto, cpu or cuda.")
    found = torch.cuda.device_count()
    if place.local_rank >= found:
        raise InputError(
            f"{place.local_size} ranks need as many GPUs, but this machine has {found}; with --device cpu they are "
            "processes on the CPU."
        )
    return f"cuda:{place.local_rank}"


def rank_environment(rank: int, size: int, port: int, launcher: int, listener: int | None = None) -> dict[str, str]:
    """The environment with which a rank on this machine is started: torchrun's variables and a share of the threads.

    `listener` is for rank 0: the descriptor of a socket that listens at `port`, so that nobody can take the port.
    """
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "FDR_LAUNCHER": str(launcher)}
    env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    env.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # set by a torchrun around us; here rank 0 holds the store
    if listener is not None:
        env["FDR_LISTENER"] = str(listener)
    env.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // size)))
    return env
