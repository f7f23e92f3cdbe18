"""A .pt2 file is compared with what a network needs, part by part, and torch reads only what was checked."""

from __future__ import annotations

import copy
import io
import json
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fdr.errors import WeightsError
from fdr.weights import export_schema, load_export, torch_export
from fdr.weights.export_operators import Refused, is_allowed

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BATCH = torch.export.Dim("batch", min=1, max=64)
Change = Callable[[dict[str, Any]], object]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(images))).mean((2, 3))


class Attention(nn.Module):
    """A transformer, a mask with -inf, a dictionary, a keyword, and a buffer that is not saved in state dicts."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 8, batch_first=True)
        self.register_buffer("mask", torch.tril(torch.ones(3, 3)).bool(), persistent=False)

    def forward(self, images: torch.Tensor, *, scale: float = 2.0) -> dict[str, Any]:
        tokens = self.layer(images.flatten(1, 1).mean(2)) * scale
        weights = (tokens @ tokens.transpose(1, 2)).masked_fill(~self.mask, -torch.inf).softmax(-1)
        return {"features": weights.flatten(1), "all": [tokens, torch.einsum("bij,bjk->bik", weights, tokens)]}


class Branches(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cond(images.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (images,)).flatten(1)


class AnySize(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows, columns = images.shape[2:]
        padded = nn.functional.pad(images, (0, -columns % 4, 0, -rows % 4))
        return nn.functional.interpolate(padded, size=(rows // 2, columns // 2), mode="bilinear").mean((2, 3))


AUTO = torch.export.Dim.AUTO
SOUND: dict[str, tuple[nn.Module, Any]] = {
    "convolutions": (Convolutions(), ({0: BATCH},)),
    "convolutions of one batch size": (Convolutions(), None),
    "attention": (Attention(), ({0: BATCH},)),
    "branches": (Branches(), ({0: BATCH},)),
    "any size": (AnySize(), ({0: AUTO, 2: AUTO, 3: AUTO},)),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The convolutions, with a free batch dimension."""
    path = tmp_path_factory.mktemp("exports") / "net.pt2"
    torch.export.save(torch.export.export(Convolutions().eval(), (IMAGES,), dynamic_shapes=({0: BATCH},)), path)
    return path


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_export_gives_the_values_of_its_network(name: str, tmp_path: Path) -> None:
    network, shapes = SOUND[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network.eval(), (IMAGES,), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2", extra_files={"note.txt": "hello"})
    with torch.inference_mode():
        found = torch.utils._pytree.tree_leaves(load_export(tmp_path / "net.pt2")(IMAGES))
        expected = torch.utils._pytree.tree_leaves(network(IMAGES))
    torch.testing.assert_close(found, expected)


def test_decompositions_are_read(tmp_path: Path) -> None:
    network = Convolutions().eval()
    torch.export.save(torch.export.export(network, (IMAGES,)).run_decompositions(), tmp_path / "net.pt2")
    torch.testing.assert_close(load_export(tmp_path / "net.pt2")(IMAGES), network(IMAGES))


def test_images_of_a_size_that_was_not_exported_are_refused(sound: Path) -> None:
    with pytest.raises((RuntimeError, AssertionError), match="16"):
        load_export(sound)(torch.rand(2, 3, 20, 20))


# --- texts that torch would run ---------------------------------------------------------------------------------------


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that every attack below creates; a module `evilmod` on the path does so when it is imported."""
    path = tmp_path / "ran"
    (tmp_path / "evilmod.py").write_text(
        f"import enum, pathlib\npathlib.Path({str(path)!r}).touch()\nclass Kind(enum.Enum):\n    a = 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return path


def edited(source: Path, target: Path, change: Change) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(data)
                change(program)
                data = json.dumps(program).replace("MARKER", repr(str(target.with_name("ran")))).encode()
            new.writestr(name, data)
    return target


def signature(program: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = program["graph_module"]["module_call_graph"][0]["signature"]
    return entry


def tree(kind: str, context: Any, leaves: int = 1) -> str:
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    return json.dumps([1, {"type": kind, "context": json.dumps(context), "children_spec": [leaf] * leaves}])


ENUM = {"__enum__": True, "fqn": "evilmod:Kind", "name": "a"}
DEFAULT = {"default_factory_module": "evilmod", "default_factory_name": "Kind", "dict_context": ["x"]}


def renamed(old: str, new: str) -> Change:
    """Every text `old` becomes `new`."""

    def change(program: dict[str, Any]) -> None:
        text = json.dumps(program)
        assert json.dumps(old) in text
        program.update(json.loads(text.replace(json.dumps(old), json.dumps(new))))

    return change


def replaced(old: str, new: str) -> Change:
    """Every part `old` of a text becomes `new`."""

    def change(program: dict[str, Any]) -> None:
        text = json.dumps(program)
        assert old in text
        program.update(json.loads(text.replace(old, json.dumps(new)[1:-1])))

    return change


def relu(program: dict[str, Any]) -> dict[str, Any]:
    nodes = program["graph_module"]["graph"]["nodes"]
    found: dict[str, Any] = next(node for node in nodes if "relu" in node["target"])
    return found


def another_entry(program: dict[str, Any]) -> None:
    entry = copy.deepcopy(program["graph_module"]["module_call_graph"][0])
    entry["signature"]["in_spec"] = tree("builtins.tuple", ENUM)
    program["graph_module"]["module_call_graph"].append(entry | {"fqn": "part"})


TOUCH = "__import__('pathlib').Path(MARKER).touch()"
SUM = "Add(" + ", ".join(f"Symbol('s{i}')" for i in range(7)) + ")"
ATTACKS: dict[str, Change] = {
    "a guard": lambda p: p.update(guards_code=[f"{TOUCH} or True"]),
    "a guard behind a good one": lambda p: p.update(guards_code=["L['x'].size()[0] != 7", f"({TOUCH}, True)[1]"]),
    "a guard without a call": lambda p: p.update(guards_code=["[x for x in ().__class__.__base__.__subclasses__()]"]),
    "an enum in a dict": lambda p: signature(p).update(out_spec=tree("builtins.dict", [ENUM])),
    "an enum in a tuple": lambda p: signature(p).update(in_spec=tree("builtins.tuple", ENUM, 2)),
    "a default factory": lambda p: signature(p).update(out_spec=tree("collections.defaultdict", DEFAULT)),
    "a registered class": lambda p: signature(p).update(out_spec=tree("evilmod.Kind", None)),
    "an enum of another module": another_entry,
    "an argument's name": lambda p: signature(p).update(forward_arg_names=[f"x={TOUCH}"]),
    "an input's name": renamed("images", f"images={TOUCH}"),
    "a node's name": renamed("relu", f"relu = {TOUCH}; y"),
    "a keyword as a name": renamed("relu", "lambda"),
    "a weight's name": renamed("norm.running_mean", f'norm.x"), {TOUCH}, ("y'),
    "a weight in the class": renamed("norm.running_mean", "__class__.forward"),
    "a device": renamed("cpu", f"cpu'); {TOUCH}; ('"),
    "a shape": replaced("Symbol(", f"Symbol({TOUCH} or "),
    "a shape's symbol": replaced("Symbol('s", "Symbol('s') + exit('"),
    "a power without end": replaced("Symbol(", "Pow(Integer(9), Integer(999999999)) * Symbol("),
    "a maximum of many": replaced("Symbol(", "Max(" + ", ".join(f"Symbol('s{i}')" for i in range(100)) + ") * Symbol("),
    "products of sums": replaced("Symbol(", "Mul(" + ", ".join([SUM] * 12) + ") * Symbol("),
    "many signs": replaced("Symbol(", "-" * 90 + "Symbol("),
    "a tower of powers": replaced("Symbol(", "Pow(Pow(Integer(9), Integer(8)), Integer(8)) * Symbol("),
    "a dotted operator": lambda p: relu(p).update(target="torch.hub.load_state_dict_from_url"),
    "an operator's inner part": lambda p: relu(p).update(target="torch.ops.aten.relu.py_impl"),
    "an operator that saves": lambda p: relu(p).update(target="torch.ops.aten.save.default"),
    "a file as memory": lambda p: relu(p).update(target="torch.ops.aten.from_file.default"),
    "an operator as an argument": lambda p: relu(p)["inputs"][0].update(arg={"as_operator": "torch.os.system"}),
    "an object": lambda p: relu(p)["inputs"][0].update(arg={"as_custom_obj": {"name": "a", "class_fqn": "b"}}),
    "two values in one": lambda p: relu(p)["inputs"][0]["arg"].update(as_int=1),
    "an unknown field": lambda p: p.update(more=1),
    "an unknown dialect": lambda p: p.update(verifiers=["evilmod"]),
    "a number as text": lambda p: p["schema_version"].update(major="8"),
    "a list for a mapping": lambda p: p.update(range_constraints=[]),
    "a symbol that is code": lambda p: p.update(range_constraints={TOUCH: {"min_val": 1, "max_val": 2}}),
    "a deep structure": lambda p: signature(p).update(out_spec="[1," + "[" * 100_000),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_text_that_no_network_needs_is_refused_and_not_run(
    attack: str, sound: Path, marker: Path, tmp_path: Path
) -> None:
    path = edited(sound, tmp_path / "bad.pt2", ATTACKS[attack])
    with pytest.raises(WeightsError, match="runs nothing but a network's own operators") as error:
        load_export(path)
    assert not marker.exists()
    assert "evilmod" not in sys.modules
    assert "\n" not in str(error.value)


def test_the_attacks_above_are_real(sound: Path, marker: Path, tmp_path: Path) -> None:
    """Torch itself runs a guard: the file is one that would have done harm."""
    path = edited(sound, tmp_path / "bad.pt2", ATTACKS["a guard"])
    torch.export.load(path).module()(IMAGES)
    assert marker.exists()


# --- archives with two readings ---------------------------------------------------------------------------------------


def test_a_member_that_is_there_twice_is_refused(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.pt2"
    path.write_bytes(sound.read_bytes())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        archive.writestr(name, archive.read(name))
    with pytest.raises(WeightsError, match=r"can be read in two ways: it holds '.*model.json' 2 times"):
        load_export(path)


@pytest.mark.parametrize("where", ["before", "behind"])
def test_a_second_archive_before_or_behind_is_refused(where: str, sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.pt2"
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("net/models/model.json", b"{}")
    path.write_bytes(
        other.getvalue() + sound.read_bytes() if where == "before" else sound.read_bytes() + other.getvalue()
    )
    with pytest.raises(WeightsError, match=r"read in two ways|no part of a network|not a torch\.export file"):
        load_export(path)


@pytest.mark.parametrize(
    "part",
    [
        "models/other.json",
        "data/aotinductor/model/a.so",
        "data/constants/custom_obj_0",
        "executorch/x.pte",
        "data/weights/weight_x",
        "models/../x",
    ],
)
def test_parts_of_other_things_are_refused(part: str, sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "more.pt2"
    path.write_bytes(sound.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/{part}", b"{}")
    with pytest.raises(WeightsError, match="runs nothing but a network's own operators"):
        load_export(path)


def test_a_flipped_weight_is_refused(sound: Path, tmp_path: Path) -> None:
    data = bytearray(sound.read_bytes())
    with zipfile.ZipFile(sound) as archive:
        member = next(item for item in archive.infolist() if item.filename.endswith("weight_0"))
        content = archive.read(member)
    data[data.index(content) + 2] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(data)
    with pytest.raises(WeightsError, match="CRC"):
        load_export(tmp_path / "flipped.pt2")


def test_operators_are_names_and_not_paths() -> None:
    allowed = ["torch.ops.aten.relu_.default", "torch.ops.aten.view_copy.default", "_operator.getitem", "torch.sym_max"]
    refused = [
        "torch.ops.aten.relu",
        "torch.ops.aten.relu.nothing",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.save.default",
        "torch.ops.image.read_file.default",
        "torch.ops.profiler._record_function_enter_new.default",
        "torch.ops.higher_order.triton_kernel_wrapper_mutation",
        "_operator.attrgetter",
        "math.comb",
        "torch.load",
        "relu",
        "",
    ]
    assert [name for name in allowed if not is_allowed(name)] == []
    assert [name for name in refused if is_allowed(name)] == []


def rewritten(source: Path, target: Path, compression: int = zipfile.ZIP_STORED, more: str = "") -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        if more:
            new.writestr(more, b"1")
    return target


def test_a_second_folder_and_compressed_parts_are_refused(sound: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds several folders"):
        load_export(rewritten(sound, tmp_path / "a.pt2", more="other/version"))
    with pytest.raises(WeightsError, match=r"holds '.*' compressed"):
        load_export(rewritten(sound, tmp_path / "b.pt2", zipfile.ZIP_DEFLATED))


def payload(**changes: Any) -> bytes:
    meta = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": TENSOR} | changes
    return json.dumps({"config": {"net.weight": meta}}).encode()


TENSOR = {
    "dtype": 7,
    "sizes": [{"as_int": 2}],
    "requires_grad": False,
    "device": {"type": "cpu", "index": None},
    "strides": [{"as_int": 1}],
    "storage_offset": {"as_int": 0},
    "layout": 7,
}
WEIGHTS, HERE = "data/weights/model_weights_config.json", {"data/weights/weight_0", "data/constants/tensor_0"}
OTHER_ORDER = b"big" if sys.byteorder == "little" else b"little"
PARTS: dict[str, tuple[str, bytes, str]] = {
    "a weight as a pickle": (WEIGHTS, payload(use_pickle=True), "as a pickle"),
    "a weight in no file": (WEIGHTS, payload(path_name="weight_1"), "looks for"),
    "a weight among the constants": (WEIGHTS, payload(path_name="tensor_0"), "looks for"),
    "a weight that is no tensor": (WEIGHTS, payload(tensor_meta=None), "that is no tensor"),
    "a key twice": (WEIGHTS, b'{"config": {}, "config": {}}', "names a key twice"),
    "another format": ("archive_format", b"pt3", "is of the format"),
    "another version": ("archive_version", b"12345", "is of the version"),
    "the other byte order": ("byteorder", OTHER_ORDER, "byte order"),
    "an example that is an object": ("data/sample_inputs/model.pt", b"\x80\x02cos\nsystem\n.", "more than tensors"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_no_network_needs_is_refused(name: str) -> None:
    part, data, sentence = PARTS[name]
    with pytest.raises(Refused, match=sentence):
        torch_export._checked(part, data, HERE)


def test_what_the_new_archive_holds(sound: Path) -> None:
    """Nothing that torch would run or unpickle: no guards, no examples, one entry of modules, no stack traces."""
    stream = io.BytesIO()
    torch.save((torch.ones(2),), stream)
    assert torch_export._checked("data/sample_inputs/model.pt", stream.getvalue(), HERE) == b""
    assert json.loads(torch_export._checked(WEIGHTS, payload(), HERE)) == json.loads(payload())
    with zipfile.ZipFile(sound) as archive:
        member = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        program = json.loads(archive.read(member))
    program["guards_code"] = ["L['x'].size()[0] != 7"]
    relu(program)["metadata"] = {"stack_trace": "x"}
    entries = program["graph_module"]["module_call_graph"]
    entries.append(entries[0] | {"fqn": "part"})
    checked = export_schema.checked_program(program)
    assert checked["guards_code"] == [] and relu(checked)["metadata"] == {}
    assert checked["graph_module"]["module_call_graph"] == entries[:1]


ONE = "Symbol('s0')"
SIZES = {
    "maxima": ["Max(1, " * 12 + ONE + ")" * 12, "Max(1, " * 13 + ONE + ")" * 13],
    "free sizes": [" + ".join(f"s{i}" for i in range(8)), " + ".join(f"s{i}" for i in range(9))],
    "summands": ["(" + "+".join(["s0"] * 14) + ")*(" + "+".join(["s0"] * 14) + ")", "(s0 + s1)**8"],
    "more summands": [
        "Mul(Add(" + "s0, " * 19 + "s0), Add(" + "s0, " * 9 + "s0))",
        "Mul(Add(" + "s0, " * 20 + "s0), Add(" + "s0, " * 9 + "s0))",
    ],
    "exponents": ["Pow(s0, Integer(-8))", "Pow(s0, Integer(-9))"],
    "exponents of Python": ["s0**8", "s0**9"],
    "powers of powers": ["(s0*s0)**2", "(s0**2)**2"],
    "powers of powers by name": ["Pow(Mul(s0, 2), 2)", "Pow(Pow(s0, 2), 2)"],
    "numbers": [str((1 << 64) - 1), str(1 << 64)],
    "signs": ["-" * 60 + "s0", "-" * 64 + "s0"],
    "arguments": ["Min(1, 2, 3, s0)", "Min(1, 2, 3, 4, s0)"],
    "length": ["s0" + " " * 9_998, "s0" + " " * 9_999],
}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_refused_just_above_its_limit(name: str) -> None:
    fits, too_much = SIZES[name]
    export_schema._check_expression(fits)
    with pytest.raises(Refused):
        export_schema._check_expression(too_much)


def test_guards_and_dictionaries_are_refused_for_one_odd_word_or_number() -> None:
    export_schema._check_guard("L['x'].size()[0] <= 7 and torch.sym_max(1, 2) == 2")
    for guard in ("L['x'].nbytes == 7", "os.size() == 7", "(lambda: 1)() == 1", "L['x'].size()[0] := 3"):
        with pytest.raises(Refused):
            export_schema._check_guard(guard)
    export_schema._check_tree(tree("builtins.dict", ["x", 3], 2))
    for keys, leaves in ((["x", 3], 1), (["x", 1.5], 2), (["x\n", 3], 2), ({"x": 1}, 1)):
        with pytest.raises(Refused):
            export_schema._check_tree(tree("builtins.dict", keys, leaves))
