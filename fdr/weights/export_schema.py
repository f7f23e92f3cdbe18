"""A checked copy of the JSON in a torch.export file: known parts are copied, everything else is refused.

The parts and their fields are those of torch's own schema. The rules here decide what each text in them may say. Guards
are checked and left out of the copy; texts that only describe, such as stack traces, are left out unchecked.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import json
import keyword
import math
import re
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

from torch._export.serde import schema
from torch._export.serde.union import _Union

from fdr.weights.export_operators import Refused, is_allowed, words

MAX_DEPTH = 64
"""The deepest nesting of parts, tree specifications and expressions; a network has some ten levels. Raising it lets a
file reach Python's limit of recursion."""
MAX_TEXT = 10_000
"""The most characters of an expression. Raising it lets a file keep the parser busy for longer."""
MAX_CHOICES, MAX_SYMBOLS, MAX_TERMS = 12, 8, 200
"""The most maxima and remainders, free sizes, and summands (once multiplied out) in one expression. A network has a few
of each, and each further one doubles the time of sympy."""


def checked_program(data: Any) -> dict[str, Any]:
    """A checked copy of models/model.json. Raises `Refused` for anything unknown."""
    copy: dict[str, Any] = _copy(schema.ExportedProgram, data, "the program")
    copy["guards_code"] = []  # Python, which torch would execute; the graph has the same shapes
    module = copy["graph_module"]
    module["metadata"] = {}
    module["module_call_graph"] = module["module_call_graph"][:1]  # the network itself; the others name its modules
    return copy


def checked_payloads(data: Any, files: set[str]) -> dict[str, Any]:
    """A copy of a configuration of weights or constants, whose tensors lie in `files`."""
    copy: dict[str, Any] = _copy(schema.PayloadConfig, data, "the list of tensors")
    for name, payload in copy["config"].items():
        _check_tensor_name(name)
        _require(payload["use_pickle"] is False, f"holds {name!r} as a pickle")
        _require(payload["path_name"] in files, f"looks for {name!r} in {payload['path_name'][:60]!r}")
        _require(payload["tensor_meta"] is not None, f"holds {name!r} as something that is no tensor")
    return copy


def _require(is_known: bool, what: str) -> None:
    if not is_known:
        raise Refused(what)


def _copy(kind: Any, data: Any, where: str, depth: int = 0) -> Any:
    """`data` as `kind`, a type of torch's schema. `where` names the field in errors and finds the rule for texts."""
    _require(depth < MAX_DEPTH, "nests its parts too deeply")
    kind = _resolved(kind)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        inner = next(option for option in typing.get_args(kind) if option is not type(None))
        return None if data is None else _copy(inner, data, where, depth)
    if origin is list:
        _require(isinstance(data, list), f"has no list for {where}")
        return [_copy(typing.get_args(kind)[0], item, where, depth + 1) for item in data]
    if origin is dict:
        _require(isinstance(data, dict), f"has no mapping for {where}")
        _check_keys(data, where)
        return {key: _copy(typing.get_args(kind)[1], item, where, depth + 1) for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        return _copy_part(typing.cast(type, kind), data, depth)
    return _copy_value(kind, data, where)


def _resolved(kind: Any) -> Any:
    if isinstance(kind, typing.ForwardRef):
        kind = kind.__forward_arg__
    if isinstance(kind, str):
        kind = getattr(schema, kind)
    return kind.__origin__ if typing.get_origin(kind) is Annotated else kind


def _copy_part(kind: type, data: Any, depth: int) -> dict[str, Any]:
    name = kind.__name__
    _require(name not in _REFUSED_PARTS, f"holds a {name}")
    _require(isinstance(data, dict), f"has no object for a {name}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(fields))
    _require(not unknown, f"has the field {str(unknown[:1])[1:-1][:60]} in a {name}")
    if issubclass(kind, _Union):
        _require(len(data) == 1, f"has {len(data)} values for a {name}")
    else:
        missing = [key for key in fields if key not in data and _is_required(fields[key])]
        _require(not missing, f"lacks {str(missing[:1])[1:-1]} in a {name}")
    hints = _hints(kind)
    copy = {key: _copy(hints[key], value, f"{name}.{key}", depth + 1) for key, value in data.items()}
    return copy | {"metadata": {}} if kind is schema.Node else copy


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, globalns=vars(schema))


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _copy_value(kind: Any, data: Any, where: str) -> Any:
    if kind is str:
        _require(isinstance(data, str), f"has no text for {where}")
        rule = _TEXTS.get(where)
        _require(rule is not None, f"has a text for {where}, which is not known")
        typing.cast(Callable[[str], None], rule)(data)
        return data
    if kind is float and data in ("Infinity", "-Infinity", "NaN"):
        return data
    expected: tuple[type, ...] = {bool: (bool,), float: (float, int)}.get(kind, (int,))
    if kind is int and where.startswith("RangeConstraint."):
        expected = (int, float)
    _require(isinstance(data, expected) and (kind is bool or not isinstance(data, bool)), f"has no number for {where}")
    if isinstance(kind, type) and issubclass(kind, enum.IntEnum):
        _require(data in [int(member) for member in kind], f"has the number {data} for {where}")
    return data


# --- texts -----------------------------------------------------------------------------------------------------------

_REFUSED_PARTS = frozenset(
    ("CustomObjArgument", "InputToCustomObjSpec", "TokenArgument", "InputTokenSpec", "OutputTokenSpec", "NamedTupleDef")
)
"""Objects of classes that are registered with torch, tokens of operators with side effects, and named tuples."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_TENSOR_NAME = r"(?!__)[A-Za-z0-9_@/\-]+(\.(?!__)[A-Za-z0-9_@/\-]+)*"
_SYMBOL = re.compile(r"[a-z]+[0-9]+", re.ASCII)


def _matches(pattern: str, what: str) -> Callable[[str], None]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: _require(bool(compiled.fullmatch(text)), f"has {what} {text[:60]!r}")


def _check_name(text: str) -> None:
    _require(bool(_NAME.fullmatch(text)) and not keyword.iskeyword(text), f"has the name {text[:60]!r}")


def _check_operator(text: str) -> None:
    _require(is_allowed(text), f"calls {text[:80]!r}")


def _check_keys(data: dict[str, Any], where: str) -> None:
    for key in data:
        if where.startswith("Graph."):
            _check_name(key)
        elif where == "ExportedProgram.range_constraints":
            _require(bool(_SYMBOL.fullmatch(key)), f"limits {key[:60]!r}, which is no symbol")
        elif where == "ExportedProgram.opset_version":
            _check_name(key)
        elif where != "PayloadConfig.config":  # checked with what it names
            _require(
                where in ("Node.metadata", "GraphModule.metadata", "Argument.as_string_to_argument"), f"has {where}"
            )
            _require(bool(_NAME.fullmatch(key)), f"has the key {key[:60]!r} in {where}")


def _parse(text: str, what: str) -> ast.expr:
    _require(len(text) <= MAX_TEXT, f"has {what} of {len(text):,} characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refused(f"has {what} {text[:60]!r}") from None


_FUNCTIONS = words(
    """
Integer Rational Add Mul Max Min Mod PythonMod FloorDiv CleanDiv CeilDiv ModularIndexing Where Identity TruncToInt
TruncToFloat CeilToInt FloorToInt RoundToInt ToFloat IntTrueDiv FloatTrueDiv floor ceiling Abs Eq Ne Lt Le Gt Ge
Equality Unequality StrictLessThan StrictGreaterThan LessThan GreaterThan And Or Not
    """
)
"""The functions in the sizes of a network with a free batch dimension, or of one for images of any size."""
_CHOICES = frozenset(("Max", "Min", "Mod", "PythonMod", "ModularIndexing", "Where", "And", "Or"))
_POWERS = frozenset(("Pow", "PowByNatural", "FloatPow"))
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod)
_SIGNS = (ast.USub, ast.UAdd)


def _check_expression(text: str) -> None:
    tree = _parse(text, "the shape")
    _check_size(tree, text)
    nodes = list(ast.walk(tree))
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    choices = [call for call in calls if typing.cast(ast.Name, call.func).id in _CHOICES]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    symbols = texts | {node.id for node in nodes if isinstance(node, ast.Name) and _SYMBOL.fullmatch(node.id)}
    is_small = len(choices) <= MAX_CHOICES and len(symbols) <= MAX_SYMBOLS and _terms(tree) <= MAX_TERMS
    _require(
        is_small and all(len(call.args) <= 4 for call in choices), f"has the shape {text[:60]!r}, which is too long"
    )


def _terms(node: ast.expr) -> int:
    """The summands of an expression when its products are multiplied out; raises `Refused` for a part with too many."""
    match node:
        case ast.Call(func=ast.Name(id="Add"), args=parts):
            terms = sum(map(_terms, parts))
        case ast.Call(func=ast.Name(id="Mul"), args=parts):
            terms = math.prod(map(_terms, parts))
        case ast.Call(func=ast.Name(id=name), args=[base, _]) if name in _POWERS:
            terms = _terms(base) ** 8
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            terms = _terms(left) + _terms(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            terms = _terms(left) * _terms(right)
        case ast.BinOp(left=base, op=ast.Pow()):
            terms = _terms(base) ** 8
        case _:
            inside = [_terms(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
            terms = max(inside, default=1) if isinstance(node, ast.UnaryOp) else 1
            _require(all(count <= MAX_TERMS for count in inside), "has a shape with too many summands")
    return terms


def _check_size(node: ast.expr, text: str, depth: int = 0, may_be_power: bool = True) -> None:
    """Raise `Refused` for a size that has more than symbols, numbers, known functions and single small powers."""
    _require(depth < MAX_DEPTH, f"has the shape {text[:60]!r}")
    inner: list[ast.expr] = []
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number) if abs(number) < 1 << 64:
            pass
        case ast.Name(id=name) if _SYMBOL.fullmatch(name) or name in ("true", "false"):
            pass
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=assumptions):
            plain = all(isinstance(item.value, ast.Constant) and item.value.value is True for item in assumptions)
            _require(bool(_SYMBOL.fullmatch(name)) and plain, f"has the symbol {name[:60]!r}")
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(number))]):
            _require(bool(re.fullmatch(r"[-+0-9.e]{1,30}", number)), f"has the number {number[:60]!r}")
        case ast.Call(func=ast.Name(id=name), args=[base, exponent], keywords=[]) if name in _POWERS and may_be_power:
            _require(_small(exponent), f"has the shape {text[:60]!r}")
            inner, may_be_power = [base], False
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent) if may_be_power:
            _require(_small(exponent), f"has the shape {text[:60]!r}")
            inner, may_be_power = [base], False
        case ast.Call(func=ast.Name(id=name), args=inner, keywords=[]):
            _require(name in _FUNCTIONS, f"calls {name[:60]!r} in a shape")
        case ast.Call(func=ast.Name(id=name)):
            _require(name in _FUNCTIONS, f"calls {name[:60]!r} in a shape")
            raise Refused(f"has the shape {text[:60]!r}")
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _ARITHMETIC):
            inner = [left, right]
        case ast.UnaryOp(op=sign, operand=operand) if isinstance(sign, _SIGNS):
            inner = [operand]
        case ast.Compare(left=left, comparators=others):
            inner = [left, *others]
        case _:
            raise Refused(f"has the shape {text[:60]!r}")
    for part in inner:
        _check_size(part, text, depth + 1, may_be_power)


def _small(exponent: ast.expr) -> bool:
    """True for a number from -8 to 8, however it is written."""
    if isinstance(exponent, ast.Call) and getattr(exponent.func, "id", "") == "Integer" and len(exponent.args) == 1:
        exponent = exponent.args[0]
    if isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub):
        exponent = exponent.operand
    return isinstance(exponent, ast.Constant) and type(exponent.value) is int and abs(exponent.value) <= 8


_GUARD_NAMES = frozenset(("L", "torch", "math", "inf", "nan", "int_oo", "Eq", "Ne", "Max", "Min", "And", "Or", "Not"))
_GUARD_METHODS = words(
    """
size stride storage_offset shape item sym_min sym_max sym_float sym_int sym_ite sym_not sym_sqrt sym_sum trunc ceil
floor isnan inf nan sqrt
    """
)
_GUARD_SYNTAX = (
    *(ast.Expression, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Subscript, ast.Call, ast.Load),
    *(ast.Name, ast.Attribute, ast.boolop, ast.operator, ast.unaryop, ast.cmpop, ast.Tuple, ast.List),
)


def _check_guard(text: str) -> None:
    """Raise `Refused` for a guard that is more than a condition on the sizes of inputs, written in Python by torch."""
    for node in ast.walk(_parse(text, "the guard")):
        is_known = isinstance(node, _GUARD_SYNTAX)
        if isinstance(node, ast.Name):
            is_known = node.id in _GUARD_NAMES
        if isinstance(node, ast.Attribute):
            is_known = node.attr in _GUARD_METHODS
        if isinstance(node, ast.Call):
            is_known = isinstance(node.func, ast.Attribute | ast.Name)
        _require(is_known, f"has the guard {text[:60]!r}")


_CONTAINERS = {"builtins.tuple": "null", "builtins.list": "null", "builtins.dict": "", "collections.OrderedDict": ""}


def _check_tree(text: str) -> None:
    """Raise `Refused` for inputs or outputs in anything but tuples, lists and dictionaries: torch would import it."""
    try:
        version, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise Refused(f"has the structure {text[:60]!r}") from None
    _require(version == 1 and not isinstance(version, bool), f"has the structure {text[:60]!r}")
    _check_branch(tree, 0)


def _check_branch(tree: Any, depth: int) -> None:
    is_part = isinstance(tree, dict) and set(tree) == {"type", "context", "children_spec"}
    _require(is_part and isinstance(tree["children_spec"], list) and depth < MAX_DEPTH, "has an unusual structure")
    kind, context, children = tree["type"], tree["context"], tree["children_spec"]
    if kind is None:
        _require(context is None and not children, "has an unusual structure")
        return
    _require(isinstance(kind, str) and kind in _CONTAINERS, f"has a {str(kind)[:60]} among its inputs or outputs")
    if _CONTAINERS[kind] == "null":
        _require(context == "null", f"has a {kind} of {str(context)[:60]!r}")
    else:
        _check_dict_keys(context, len(children))
    for child in children:
        _check_branch(child, depth + 1)


def _check_dict_keys(context: Any, count: int) -> None:
    try:
        keys = json.loads(context)
    except (ValueError, TypeError, RecursionError):
        keys = None
    _require(isinstance(keys, list) and len(keys) == count, "has a dictionary with unusual keys")
    for key in keys:
        is_plain = type(key) is int or (isinstance(key, str) and re.fullmatch(r"[\w.\-/ ]{1,200}", key, re.ASCII))
        _require(bool(is_plain), f"has a dictionary with the key {str(key)[:60]!r}")


def _anything(text: str) -> None:
    """Accept a text that is left out of the copy."""


def _each(rule: Callable[[str], None], places: str) -> dict[str, Callable[[str], None]]:
    return dict.fromkeys(places.split(), rule)


_check_text = _matches(r"[ -~]{0,4000}", "the text")
_check_tensor_name = _matches(_TENSOR_NAME, "the name")
_TEXTS: dict[str, Callable[[str], None]] = {
    "Device.type": _matches(r"cpu|cuda|mps|xpu|meta", "the device"),
    "SymExpr.expr_str": _check_expression,
    "NamedArgument.name": lambda text: None if text == "" else _check_argument(text),
    "ModuleCallEntry.fqn": _matches(r"[\w.@/\-]{0,1000}", "the module"),
    "ExportedProgram.verifiers": _matches(r"|ATEN|TRAINING|EDGE|TOP", "the dialect"),
    "ExportedProgram.torch_version": _matches(r"[\w.+<=\-]{0,60}", "the version"),
    "ExportedProgram.guards_code": _check_guard,
    "PayloadMeta.path_name": _matches(r"\w{1,100}", "the part"),
    **_each(_check_text, "Argument.as_string Argument.as_strings ConstantValue.as_string"),
    **_each(_check_operator, "Argument.as_operator Node.target"),
    **_each(_check_tree, "ModuleCallSignature.in_spec ModuleCallSignature.out_spec"),
    **_each(_anything, "Node.metadata GraphModule.metadata"),
    **_each(
        _check_name,
        "SymIntArgument.as_name SymFloatArgument.as_name SymBoolArgument.as_name TensorArgument.name "
        "GraphArgument.name Node.name InputToConstantInputSpec.name GradientToUserInputSpec.user_input_name "
        "UserInputMutationSpec.user_input_name ModuleCallSignature.forward_arg_names",
    ),
    **_each(
        _check_tensor_name,
        "InputToParameterSpec.parameter_name InputToBufferSpec.buffer_name BufferMutationSpec.buffer_name "
        "InputToTensorConstantSpec.tensor_constant_name ParameterMutationSpec.parameter_name "
        "GradientToParameterSpec.parameter_name",
    ),
}
"""What each text of the schema may say; a text without a rule is refused."""


def _check_argument(text: str) -> None:
    """An operator's argument: "from" and "self" are names of arguments, and keywords of no consequence there."""
    _require(bool(_NAME.fullmatch(text)), f"has the argument {text[:60]!r}")
