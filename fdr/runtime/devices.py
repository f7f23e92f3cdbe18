"""Devices, dtypes, processors and memory: what this machine computes on, and torch's switches for precision."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fdr.errors import InputError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bf16")


def available_cpus() -> int:
    """Processors this process may run on (respects affinity and containers that set it)."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:
        return max(1, os.cpu_count() or 1)


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
    """The torch dtype for "float32" or "bf16". Raises `InputError` for bf16 on hardware without fast bfloat16."""
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
    """Peak memory so far in bytes: torch's on a GPU, this process's on a CPU; None where it is not reported."""
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
    """Within this context matrix products use the precision of their operands and accumulate in float32."""
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
