"""The errors a user can meet. Each message is one sentence: what was found, what was expected, what to do.

Messages name options as they are typed (`--on-bad skip`); a Python program reads the argument (`on_bad='skip'`).
"""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar

_SURROGATES = re.compile(r"[\ud800-\udfff]")
_QUOTED = re.compile(r"\\udc([89a-f][0-9a-f])")
"""The escape that `repr` writes for a byte of a file name that is not UTF-8."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_WRAPPERS = ("contextlib", "fdr.runtime.arguments")
"""Modules whose functions wrap others; a warning is of the code that calls what they wrap."""
_IS_COMMAND: ContextVar[bool] = ContextVar("_IS_COMMAND", default=False)
_OPTION = re.compile(r"(?P<command>\bfdr [a-z]+ [^;,()]*)|(?<![\w-])--(?P<name>[a-z][a-z-]*)(?P<value>[ =][\w:.]+)?")
_RENAMED = {
    "reps": "encoders",
    "ref": "reference",
    "vae": "autoencoder",
    "vae-args": "arguments",
    "vae-weights": "weights",
    "gen": "path",
    "transparency": "alpha",
    "alarm-images": "alarm_count",
}
_NAMES = """
    reps ref metrics protocol count seed crop size transparency on-bad max-bad max-pixels quantize device dtype tf32
    training-set prompts
    exact-order offline weights weights-dir cache no-cache moments-only batch-size num-workers encoder-batch-size
    gen arch arch-args ema noise-shape num-classes value-range labels num-images trust vae vae-args vae-weights mode
    top-k same-class memory compat no-clamp steps lr betas clip chunks weight-decay warmup-steps ema-kimg
    alarm-every alarm-images on-collapse pipeline-args
"""
_ARGUMENTS = {name: _RENAMED.get(name, name.replace("-", "_")) for name in _NAMES.split()}
"""Options that are also arguments in Python, with the name that each has there."""
_WORDS_AS_VALUES = frozenset(
    {
        "on-bad",
        "dtype",
        "device",
        "quantize",
        "crop",
        "transparency",
        "ema",
        "compat",
        "labels",
        "reps",
        "metrics",
        "on-collapse",
    }
)
"""Options after which the next word of a sentence is a value, even when it is in small letters."""


def printable(text: str) -> str:
    """The text for a terminal: `as_utf8`, with control characters escaped too, except tab and newline."""
    return _QUOTED.sub(r"\\x\1", _UNPRINTABLE.sub(_escape, text))


def as_utf8(text: str) -> str:
    """The text with an escape ("\\xff") for each byte of a file name that is not UTF-8, so any file can hold it."""
    return _SURROGATES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that it could not decode
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Within this context messages name options as they are typed on the command line."""
    token = _IS_COMMAND.set(True)
    try:
        yield
    finally:
        _IS_COMMAND.reset(token)


def _for_reader(text: str) -> str:
    """`text` with options written as Python arguments, except on the command line; whole commands are not changed."""
    return text if _IS_COMMAND.get() else _OPTION.sub(_as_argument, text)


def _as_argument(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"] or ""
    if name not in _ARGUMENTS:
        return match[0]
    if name == "trust":
        return f"trust=True{value}"
    argument = _ARGUMENTS[name]
    word = value[1:].rstrip(".:")
    rest = value[1 + len(word) :]
    if word.isupper() or word[:1].isdigit():
        return f"{argument}={word}{rest}"
    return f"{argument}={word!r}{rest}" if word and name in _WORDS_AS_VALUES else argument + value


class FdrError(Exception):
    """Base of every error raised on purpose; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 2

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))

    def __str__(self) -> str:
        return _for_reader(super().__str__())


class InputError(FdrError):
    """Wrong usage or unusable input: images, statistics, options, names. Exit code 2."""


class WeightsError(InputError):
    """Encoder weights that are missing, damaged, or of another model. Exit code 2."""


class RunError(FdrError):
    """A run that started well and could not finish: full disk, failed check, unreadable cache. Exit code 1."""

    exit_code = 1


class NonFiniteError(RunError):
    """NaN or infinity in training: this step cannot be taken, the next one may. Exit code 1."""


class PeerError(RunError):
    """Another rank of a distributed run failed and reported the reason itself; this error carries its exit code."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def unknown(
    kind: str, name: str, choices: Iterable[str], hint: str = "", *, peers: Callable[[str], str | None] | None = None
) -> InputError:
    """The error for a name that is not in `choices`, with the nearest matches, ignoring case.

    `peers` returns the rest of a sentence about a name that other tools use ("is not offered yet"). That sentence then
    replaces the nearest matches.
    """
    names = sorted(choices)
    meaning = None if peers is None else peers(name)
    if meaning is not None:
        known = f" Known: {', '.join(names)}." if names else ""
        return InputError(f"Unknown {kind} {name!r}: it {meaning}.{known}")
    lowered = {choice.lower(): choice for choice in names}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    known = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}."
    return InputError(f"Unknown {kind} {name!r}; {known}{' ' + hint if hint else ''}")


class FdrWarning(UserWarning):
    """Something that makes a number doubtful without making it wrong; reports keep it, the command line prints it."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))

    def __str__(self) -> str:
        return _for_reader(super().__str__())


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop; the name of its type where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


def warn(text: str) -> None:
    """Give an `FdrWarning`, which the terminal and the report show, of the place that called the caller."""
    level, frame = 3, sys._getframe(2)
    while frame.f_globals.get("__name__") in _WRAPPERS and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, FdrWarning, stacklevel=level)


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the texts of `FdrWarning`s for the report; on leaving, all caught warnings are issued again."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FdrWarning)
        yield texts
        texts += [str(item.message) for item in caught if issubclass(item.category, FdrWarning)]
    for item in caught:
        module = _module_of(item.filename)
        warnings.warn_explicit(item.message, item.category, item.filename, item.lineno, module=module)


def _module_of(filename: str) -> str | None:
    """The name of the loaded module in a file, which filters of warnings match; None where there is none."""
    for name, module in sys.modules.copy().items():
        if getattr(module, "__file__", None) == filename:
            return name
    return None
