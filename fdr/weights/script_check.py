"""Checks of a TorchScript archive: its code before torch compiles it, its graphs before anything runs.

While torch reads an archive it already runs parts of the code: values of constants and of default arguments, methods
`__setstate__`, and operators whose arguments are known. So those must be plain values, and texts must stay short.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fdr.weights.export_operators import Refused, is_tensor_operator, words

MAX_TEXT = 20_000
"""The longest text or tuple that the compiler may build. A network needs far less; raising the limit lets an archive
use more memory and time, since each further use of a value may double it."""

MAX_TRIPS = 1 << 30
"""The most rounds of a loop without a condition; a network needs as many as it has layers or pixels. Raising it lets an
archive hang when it is called."""


# --- code ------------------------------------------------------------------------------------------------------------

_FORBIDDEN = re.compile(r"\b(from_file|__setstate__|torch\s*\.\s*classes|load_tensor|rpc_\w+)\b")
_UNREADABLE = re.compile(r"[^\n -~]|\\\n")
"""Characters that torch's parser and Python's may read differently."""
_TEXT_MAKERS = words(
    "add format percentFormat str join lower upper strip lstrip rstrip capitalize title swapcase slice"
)
_TEXT_USERS = words("ljust rjust center zfill expandtabs replace find rfind rindex count index partition rpartition")
"""String functions that are slow for long texts, or make long texts from short ones."""
_VALUE_CALLS = words("float int bool annotate device")


def check_code(text: str) -> None:
    """Raise `Refused` for code of an archive that would run, or grow without bound, while it is compiled."""
    if found := _FORBIDDEN.search(text):
        raise Refused(f"has {found[0]!r} in its code")
    if found := _UNREADABLE.search(text):
        raise Refused(f"has the character {found[0]!r} in its code")
    try:
        program = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refused("has code that is no TorchScript") from None
    try:
        for statement in program.body:
            _check_statement(statement)
    except RecursionError:
        raise Refused("has code that is nested too deeply") from None


def _check_statement(node: ast.stmt) -> None:
    match node:
        case ast.FunctionDef():
            _check_function(node)
        case ast.ClassDef():
            for statement in node.body:
                _check_statement(statement)
        case ast.AnnAssign(value=value):
            _check_value(value)
        case ast.Assign(targets=[ast.Subscript(value=ast.Name(id="__annotations__"))]):
            if any(isinstance(part, ast.Call) for part in ast.walk(node)):
                raise Refused(f"calls something in the type {ast.unparse(node)[:60]!r}")
        case ast.Assign(value=value):
            _check_value(value)
        case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(value=ast.Constant()):
            pass
        case _:
            raise Refused(f"has {ast.unparse(node)[:60]!r} in its code")


def _check_value(node: ast.expr | None) -> None:
    """Raise `Refused` for a constant or default beyond numbers, texts and lists, because reading an archive runs it."""
    match node:
        case None | ast.Constant() | ast.Name(id="inf" | "nan"):
            return
        case ast.UnaryOp(operand=inner):
            _check_value(inner)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                _check_value(part)
        case ast.Dict(keys=keys, values=values):
            for inner_value in [*keys, *values]:
                _check_value(inner_value)
        case ast.Call(
            func=ast.Name(id=name) | ast.Attribute(value=ast.Name(id="torch"), attr=name), args=args, keywords=[]
        ):
            if name not in _VALUE_CALLS:
                raise Refused(f"has the value {ast.unparse(node)[:60]!r}, which is a program")
            for part in args[1:] if name == "annotate" else args:
                _check_value(part)
        case ast.Attribute(value=ast.Name(id="CONSTANTS")):
            return
        case _:
            raise Refused(f"has the value {ast.unparse(node)[:60]!r}, which is a program")


def _check_function(function: ast.FunctionDef) -> None:
    for value in [*function.args.defaults, *function.args.kw_defaults]:
        _check_value(value)
    sizes = _Sizes()
    for node in _in_order(function):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            raise Refused("has a function inside of a function")
        sizes.follow(node)


def _in_order(function: ast.FunctionDef) -> Iterator[ast.stmt]:
    """The statements of a function and of its blocks, as they follow each other in the text."""
    pending = list(reversed(function.body))
    while pending:
        node = pending.pop()
        yield node
        blocks = [getattr(node, field, []) for field in ("body", "orelse", "finalbody")]
        pending.extend(reversed([statement for block in blocks for statement in block]))


class _Sizes:
    """Upper bounds on the size of the values that the compiler may compute: characters, parts of a tuple, else 1."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._parts: dict[str, list[int]] = {}
        """The sizes of the parts of each tuple, by its name; they are needed when it is taken apart again."""

    def follow(self, node: ast.stmt) -> None:
        """Update the sizes by one statement. Raises `Refused` for one that makes too long a value."""
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, value)
            case ast.AugAssign(target=target, value=value):
                self._assign(target, ast.Tuple([target, value]))
            case ast.While(test=part) | ast.If(test=part) | ast.For(iter=part):
                self.of(part)
            case ast.With(items=items):
                for item in items:
                    self.of(item.context_expr)
            case ast.Expr(value=value) | ast.Return(value=ast.expr() as value):
                self.of(value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        size, parts = self.of(value), self._parts_of(value)
        if isinstance(target, ast.Name):
            if self._sizes.setdefault(target.id, size) != size or self._parts.get(target.id, parts) != parts:
                self._sizes[target.id] = max(size, self._sizes[target.id])
                self._parts.pop(target.id, None)
            elif parts:
                self._parts[target.id] = parts
        elif isinstance(target, ast.Tuple):
            fits = len(parts) == len(target.elts)
            for inner, part in zip(target.elts, parts if fits else [size] * len(target.elts), strict=True):
                if isinstance(inner, ast.Name):
                    self._sizes[inner.id] = max(part, self._sizes.get(inner.id, 1))

    def _parts_of(self, value: ast.expr) -> list[int]:
        if isinstance(value, ast.Tuple):
            return [self.of(part) for part in value.elts]
        return self._parts.get(value.id, []) if isinstance(value, ast.Name) else []

    def of(self, node: ast.expr) -> int:
        """The size of an expression. Raises `Refused` for one above the limit."""
        match node:
            case ast.Constant(value=str(text)):
                size = 1 + len(text)
            case ast.Name(id=name):
                size = self._sizes.get(name, 1)
            case ast.Tuple(elts=parts):
                size = 1 + sum(map(self.of, parts))
            case ast.Call():
                size = self._of_call(node)
            case _:
                size = self._long(part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr))
        if size > MAX_TEXT:
            raise Refused(f"builds values of more than {MAX_TEXT:,} parts")
        return size

    def _long(self, nodes: Iterable[ast.expr]) -> int:
        """The sum of the sizes above 1, and at least 1."""
        return max(1, sum(size for node in nodes if (size := self.of(node)) > 1))

    def _of_call(self, node: ast.Call) -> int:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        receiver = [function.value] if isinstance(function, ast.Attribute) else []
        size = self._long([*receiver, *node.args])
        if name == "factorial" or (name in _TEXT_USERS and size > 1):
            raise Refused(f"calls {name!r}, which can take for ever")
        return size if name in _TEXT_MAKERS else 1


# --- graphs ----------------------------------------------------------------------------------------------------------

_PRIM = words(
    """
Constant Param Return If Loop ListConstruct ListUnpack TupleConstruct TupleUnpack TupleIndex TupleSlice DictConstruct
GetAttr SetAttr HasAttr CallMethod CallFunction CreateObject RaiseException Uninitialized unchecked_cast
unchecked_unwrap_optional isinstance NumToTensor ConstantChunk ModuleContainerIndex EnumName EnumValue StringIndex Enter
Exit fork Closure abs data device dtype grad id index is_cpu is_cuda is_ipu is_maia is_meta is_mkldnn is_mps is_mtia
is_nested is_quantized is_sparse is_sparse_csr is_vulkan is_xla is_xpu itemsize layout max min name nbytes rangelist
requires_grad shape tolist type
    """
)
_SCRIPT = words(
    """
Bool Complex ComplexImplicit Delete Float FloatImplicit Int IntImplicit ScalarImplicit Size __and__ __contains__
__derive_index __getitem__ __iand__ __ilshift__ __interpolate __ior__ __irshift__ __is__ __isnot__ __ixor__ __lshift__
__not__ __or__ __range_length __round_to_zero_floordiv __rshift__ __upsample __upsample_bilinear __upsample_nearest
__xor__ _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short _conj_physical
_infer_size _list_to_tensor _set_item _size_if_not_equal _tensor_to_list _unwrap_optional append as_tensor bin
broadcast_shapes capitalize chr clear copy cpu cuda data degrees device dict divmod element_size endswith extend fabs
find floordiv format gamma get get_autocast_dtype get_device hash hex insert is_autocast_cpu_enabled is_autocast_enabled
is_conj is_contiguous is_grad_enabled is_inference is_leaf is_neg is_pinned is_scripting is_signed isalnum isalpha
isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper items join keys len lift list lower
lstrip lu_solve mathremainder modf normal_functional oct ord percentFormat pin_memory pop popitem promote_types radians
remove requires_grad_ reverse rsplit rstrip set_grad_enabled setdefault slow_conv3d slow_conv_dilated2d
slow_conv_dilated3d slow_conv_transpose2d slow_conv_transpose3d sorted special_polygamma splitlines startswith
storage_offset str strip swapcase sym_is_contiguous tensor thnn_conv2d title to_dense triangular_solve update upper
values wait warn
    """
)
"""Operators on numbers, texts, lists and dictionaries, which a program needs beside tensors; and warnings."""


def check_functions(unit: Any) -> None:
    """Raise `Refused` for an operator in any function or method of a compilation unit that no network needs."""
    for function in unit.get_functions():
        _check_graph(function.graph)


def _check_graph(graph: Any) -> None:
    blocks: list[Any] = [graph]
    while blocks:
        for node in blocks.pop().nodes():
            _check_node(node)
            blocks.extend(node.blocks())
            for name in node.attributeNames():
                if node.kindOf(name) in ("g", "gs"):
                    blocks.extend([node.g(name)] if node.kindOf(name) == "g" else node.gs(name))


def _check_node(node: Any) -> None:
    kind = node.kind()
    namespace, _, name = kind.partition("::")
    is_known = name in _PRIM if namespace == "prim" else is_tensor_operator(namespace, name)
    if not is_known and not (namespace == "aten" and name in _SCRIPT):
        raise Refused(f"uses the operator {kind!r}")
    if kind == "prim::Loop" and _is_endless(node):
        raise Refused("has a loop that never ends")
    if name == "CreateObject" and "torch.classes" in str(node.output().type()):
        raise Refused(f"makes a {str(node.output().type())!r}")


def _is_endless(loop: Any) -> bool:
    """True for `while True`, and for a `for` over more numbers than anything counts to."""
    trips, goes_on = next(loop.inputs()).toIValue(), next(next(loop.blocks()).outputs()).toIValue()
    return goes_on is True and isinstance(trips, int) and trips > MAX_TRIPS
