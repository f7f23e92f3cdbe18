"""Errors of other code in the middle of a run, turned into one sentence: no memory, a failing device or disk."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import traceback
from collections.abc import Iterator

from fdr.errors import FdrError, InputError, RunError, first_line
from fdr.runtime.progress import human_bytes

_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot|could not|unable to|failed to) allocate|not enough memory|memory allocation failed|"
    r"bad[_ ]alloc|ALLOC_FAILED|OUT_OF_MEMORY",
    re.IGNORECASE,
)
_GPU = re.compile(r"\b(CUDA|HIP|MPS|XPU|GPU|cuDNN|cuBLAS|cuSOLVER|cuFFT)|CU(DA|DNN|BLAS|SOLVER|FFT)_", re.IGNORECASE)
_ASKED = re.compile(r"(?:allocate|required) (?P<number>[\d.]+) ?(?P<unit>[KMGTPE]?i?B|bytes)\b", re.IGNORECASE)
_DEVICE = re.compile(
    r"(CUDA|HIP|cuDNN|cuBLAS|cuSOLVER) error|device-side assert|CU(DNN|BLAS|SOLVER)_STATUS", re.IGNORECASE
)
_LIBRARIES = (os.path.dirname(__file__), os.path.dirname(contextlib.__file__))
"""Folders of code that the user did not write: this package and Python's library."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for every error by which NumPy, torch, HDF5 or the system reports a lack of memory."""
    if isinstance(error, FdrError):
        return False
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(str(error)) is not None


def is_device_failure(error: BaseException) -> bool:
    """True for the errors that CUDA and its libraries raise when this kernel or an earlier one failed."""
    return isinstance(error, RuntimeError) and not isinstance(error, FdrError) and bool(_DEVICE.search(str(error)))


def out_of_memory(error: BaseException, part: str, advice: str) -> RunError:
    """The sentence for `error`: which memory ran out while `part` was at work, how much it asked for, what to do."""
    is_gpu = _GPU.search(str(error)) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    found = _ASKED.search(str(error))
    asked = ""
    if found:
        number, unit = found["number"], found["unit"]
        asked = f" ({human_bytes(float(number)) if unit.lower() == 'bytes' else f'{number} {unit}'} were asked for)"
    where = " on the GPU" if is_gpu else ""
    return RunError(
        f"There is not enough memory{where}{asked} for {part}; {advice}. What was cached or saved stays, and the same "
        "command resumes."
    )


def as_fdr_error(error: BaseException) -> FdrError | None:
    """The `FdrError` for a failure that nothing else handles (memory, device, disk), or None for other errors."""
    if is_out_of_memory(error):
        return out_of_memory(error, "this command", "close what else uses the memory, or lower --batch-size")
    if is_device_failure(error):
        return RunError(
            f"The device failed ({first_line(error)}); run the same command again, with CUDA_LAUNCH_BLOCKING=1 to see "
            "where it fails, or with --device cpu. What was cached or saved stays."
        )
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        what = "" if error.filename is None else f" with {str(error.filename)!r}"
        if error.errno == errno.ENAMETOOLONG:
            return InputError(f"The file system refuses a name of this length{what}; expected the path of a file.")
        return RunError(
            f"The system reports a failure{what}: {error.strerror}. What was cached or saved stays, and the same "
            "command resumes."
        )
    return None


@contextlib.contextmanager
def memory_for(part: str, advice: str) -> Iterator[None]:
    """Turn a lack of memory within this context into a `RunError` that names `part` and gives `advice`."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(error, part, advice) from error


def described(error: BaseException) -> str:
    """ "ValueError: text, raised at my_encoder.py:12": what a user's code raised, and where in it."""
    text = f": {first_line(error)}" if str(error).strip() else ""
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if not f.filename.startswith(_LIBRARIES) and "site-packages" not in f.filename]
    place = f", raised at {os.path.basename(users[-1].filename)}:{users[-1].lineno}" if users else ""
    return f"{type(error).__name__}{text}{place}"
