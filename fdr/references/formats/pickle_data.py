"""Reads pickles without unpickling them: an interpreter for the opcodes that dictionaries of NumPy arrays need.

A pickle is a program for a small stack machine, and Python's own unpickler imports and calls whatever that program
names. This one imports nothing: each name (a "global") is looked up in a table of six, and any other name or opcode is
refused. Sizes are checked before an array is built.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from fdr.errors import InputError
from fdr.frechet import damaged
from fdr.runtime import DAMAGE

MAX_ITEMS = 1_000_000
"""Largest number of opcodes in a pickle, and of values in its result. A bundle of arrays has some hundreds; a higher
limit lets a hostile file take more time and memory."""
MAX_DEPTH = 32
"""Deepest nesting of mappings, lists and tuples. A bundle of arrays has three levels."""
_NUMERIC = re.compile(r"[<>|=]?[biuf]\d{1,2}|[<>|=]?[SU]\d{1,6}")


class _Refused(Exception):
    """The pickle contains something that arrays do not need; the message names it, as half a sentence."""


def _short(value: Any) -> str:
    """`value` for an error message: a text cut to 60 characters, or the name of its type.

    Other values are not printed, because printing nested tuples that share their parts could take for ever.
    """
    return value[:60] if isinstance(value, str) else type(value).__name__


class _Dtype:
    """A dtype while the pickle builds it: first `numpy.dtype(code)`, then `build` sets the byte order."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or not (_NUMERIC.fullmatch(code) or code in ("O8", "O4", "O")):
            raise _Refused(f"an array of dtype {_short(code)}")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise _Refused("an unusual dtype")
        if any(part is not None for part in state[2:5]):
            raise _Refused("a structured dtype")
        self.dtype = self.dtype.newbyteorder(state[1]) if state[1] in "<>" else self.dtype


class _Array:
    """An array while the pickle builds it: empty until `build` receives shape, dtype and bytes."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None
        self.content: list[Any] | None = None
        """The object inside an object array of shape (); `np.save` stores a dictionary in such an array."""

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an unusual array")
        _, shape, dtype, is_fortran, data = state
        if isinstance(dtype, _Dtype) and dtype.dtype.hasobject and shape == () and isinstance(data, list):
            self.content = data  # written by np.save(path, a_dict)
            return
        self.array = _array(data, dtype, shape, "F" if is_fortran else "C")


class _Global:
    """A name in a module that the pickle refers to. Only the name is stored; nothing is imported."""

    def __init__(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Refused(f"the global {_short(module)}.{_short(name)}")
        self.path = f"{module}.{name}".replace("numpy.core.", "numpy._core.")
        if self.path not in _TABLE:
            raise _Refused(f"the global {_short(module)}.{_short(name)}")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    data = _encode(data, "latin1") if isinstance(data, str) else data  # Python 2 wrote its byte strings as text
    sizes_fit = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 8
    if (
        not isinstance(dtype, _Dtype)
        or dtype.dtype.hasobject
        or not isinstance(data, bytes | bytearray)
        or not sizes_fit
        or order not in "CF"
    ):
        raise _Refused("an array of Python objects")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise _Refused(f"an array of shape {list(shape)} with {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if not isinstance(kind, _Global) or kind.path != "numpy.ndarray":
        raise _Refused("an unusual array")
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("an unusual byte string")
    return text.encode("latin-1")


_TABLE: dict[str, Callable[..., Any] | None] = {
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": lambda data, dtype, shape, order: _array(data, dtype, shape, order),
    "numpy.dtype": lambda code, *_: _Dtype(code),
    "numpy.ndarray": None,
    "_codecs.encode": _encode,
}


class _Machine:
    """The state of the interpreter: the stack, the marks (positions in it) and the memo (values to use again)."""

    def __init__(self, size: int) -> None:
        self._text_left = size + MAX_ITEMS
        """Characters that may still be converted to bytes, so that a file cannot convert one long text many times."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, arg: Any) -> None:
        """Execute one opcode. Raises `_Refused` for an opcode that arrays do not need."""
        if name in _CONSTANTS:
            self.stack.append(arg)
        elif name in _FIXED:
            self.stack.append(_FIXED[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else arg] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[arg])
        elif name in _IGNORED:
            pass
        elif name in _STEPS:
            getattr(self, f"_{name.lower()}")(arg)
        else:
            raise _Refused(f"the instruction {name}")

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _take(self, count: int) -> list[Any]:
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise IndexError("stack underflow")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _tuple1(self, _: Any) -> None:
        self.stack.append(tuple(self._take(1)))

    def _tuple2(self, _: Any) -> None:
        self.stack.append(tuple(self._take(2)))

    def _tuple3(self, _: Any) -> None:
        self.stack.append(tuple(self._take(3)))

    def _list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def _append(self, _: Any) -> None:
        self._extend(self._take(1))

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise _Refused("an unusual list")
        self.stack[-1].extend(items)

    def _dict(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._update(items)

    def _setitem(self, _: Any) -> None:
        self._update(self._take(2))

    def _setitems(self, _: Any) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or any(not isinstance(key, str | int) for key in items[::2]):
            raise _Refused("a mapping whose keys are no text")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _global(self, arg: str) -> None:
        self.stack.append(_Global(*arg.split(" ", 1)))

    def _stack_global(self, _: Any) -> None:
        self.stack.append(_Global(*self._take(2)))

    def _spend(self, parts: Any) -> None:
        self._text_left -= sum(len(part) for part in parts if isinstance(part, str))
        if self._text_left < 0:
            raise _Refused("one text used many times")

    def _reduce(self, _: Any) -> None:
        function, arguments = self._take(2)
        build = _TABLE[function.path] if isinstance(function, _Global) else None
        if build is None or not isinstance(arguments, tuple):
            raise _Refused("a call of something that is no constructor of arrays")
        self._spend(arguments)
        self.stack.append(build(*arguments))

    def _build(self, _: Any) -> None:
        target, state = self._take(2)
        if not isinstance(target, _Array | _Dtype):
            raise _Refused("a state for something that is no array")
        self._spend(state if isinstance(state, tuple) else ())
        target.build(state)
        self.stack.append(target)


_CONSTANTS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_FIXED: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))
_STEPS = frozenset(
    (
        *("MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "APPEND", "APPENDS", "DICT", "SETITEM", "SETITEMS"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    )
)
"""Opcodes that `_Machine` has a method for: TUPLE1 is `_Machine._tuple1`."""


class _Bounded:
    """A file whose `read` never allocates more than the rest of the file, whatever length the pickle declares."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._size - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline(1 << 16)


def load_pickle(path: Path, offset: int = 0) -> Any:
    """Read the pickle that starts at byte `offset`. It may hold dicts, lists, tuples, texts, numbers and NumPy arrays.

    Raises `InputError`, which names the first thing that is none of these.
    """
    size = path.stat().st_size
    machine = _Machine(size)
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            bounded = _Bounded(file, size)
            for index, (opcode, arg, _) in enumerate(pickletools.genops(bounded)):  # type: ignore[arg-type]
                if index > MAX_ITEMS:
                    raise _Refused(f"more than {MAX_ITEMS:,} items")
                machine.step(opcode.name, arg)
        (value,) = machine.stack
        _check_parts(value, 0, {})
    except _Refused as error:
        raise InputError(
            f"{str(path)!r} is a pickle with {error}; only dictionaries of numeric NumPy arrays are read from pickles, "
            "and nothing in them is executed."
        ) from None
    except (*DAMAGE, IndexError) as error:
        raise damaged(str(path), error) from None
    return _finished(value)


def _check_parts(value: Any, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return how many values `value` contains and how deep they are nested. Raises `_Refused` above the limits.

    A value that is used several times counts each time; `known` holds the results for containers seen before.
    """
    if isinstance(value, _Array) and value.content is not None:
        value = value.content
    if not isinstance(value, dict | list | tuple):
        return 1, 0
    if id(value) in known:
        return known[id(value)]
    found = [(0, 0)]
    if depth <= MAX_DEPTH:
        found += [
            _check_parts(item, depth + 1, known) for item in (value.values() if isinstance(value, dict) else value)
        ]
    count, levels = 1 + sum(parts for parts, _ in found), 1 + max(below for _, below in found)
    if depth + levels > MAX_DEPTH:
        raise _Refused(f"more than {MAX_DEPTH} levels")
    if count > MAX_ITEMS:
        raise _Refused(f"more than {MAX_ITEMS:,} items")
    known[id(value)] = count, levels
    return count, levels


def _finished(value: Any) -> Any:
    """Replace every `_Array` in `value` by its NumPy array, down to two levels."""
    if isinstance(value, _Array) and value.content is not None and len(value.content) == 1:
        value = value.content[0]
    if isinstance(value, dict):
        return {key: _leaf(item) for key, item in value.items()}
    return [_leaf(item) for item in value] if isinstance(value, list | tuple) else _array_or(value)


def _leaf(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _array_or(item) for key, item in value.items()}
    return [_array_or(item) for item in value] if isinstance(value, list | tuple) else _array_or(value)


def _array_or(value: Any) -> Any:
    return value.array if isinstance(value, _Array) else value
