"""Rooms import the faces of rooms in lower layers, and nothing else of them; docs/architecture.md has the table."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import fdr

ROOT = Path(fdr.__file__).parent
DOCS = Path(__file__).parent.parent / "docs" / "architecture.md"
LOOSE = {"__init__", "__main__", "_version", "errors"}


def layers() -> dict[str, int]:
    """Room -> layer, from the table in the docs."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|$", DOCS.read_text(), flags=re.MULTILINE)
    return {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)}


LAYERS = layers()
ROOMS = sorted(LAYERS)


def imports() -> Iterator[tuple[str, Path, str, str]]:
    """(room, file, imported module, imported name) of every `from fdr... import name` of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room == "reference_stats":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "fdr":
                for alias in node.names:
                    yield room, path.relative_to(ROOT), node.module, alias.name
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("fdr.") for alias in node.names), path


def test_every_folder_is_a_room_of_the_table_and_every_other_file_is_known() -> None:
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert folders - {"reference_stats"} == set(ROOMS)
    assert {path.stem for path in ROOT.glob("*.py")} == LOOSE


def test_a_room_imports_only_faces_of_rooms_in_lower_layers() -> None:
    wrong = []
    for room, file, module, name in imports():
        target = name if module == "fdr" else module.split(".")[1]
        if target not in ROOMS or room not in ROOMS or target == room:
            continue  # errors and the version may be imported everywhere
        if LAYERS[target] >= LAYERS[room]:
            wrong.append(f"{file} (layer {LAYERS[room]}) imports {target} (layer {LAYERS[target]})")
        if module.count(".") > 1:
            wrong.append(f"{file} imports {module}, a file of another room; import {name} from fdr.{target}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_face() -> None:
    for room in ROOMS:
        face = importlib.import_module(f"fdr.{room}")
        assert (face.__doc__ or "").strip(), room
        for name in face.__all__ if room != "cli" else ():
            assert not name.startswith("_") and getattr(face, name) is not None, (room, name)


def test_no_room_is_named_as_a_public_function() -> None:
    assert not set(ROOMS) & set(fdr.__all__)


def test_torch_distributed_is_touched_in_two_files() -> None:
    """Annotations may name it; what only a type checker runs does not count."""
    found = set()
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for checked in [node for node in ast.walk(tree) if isinstance(node, ast.If) and _is_type_checking(node.test)]:
            checked.body = []
        names = {name for node in ast.walk(tree) for name in _imported(node)}
        if any(name.startswith("torch.distributed") for name in names):
            found.add(path.name)
    assert found == {"process_group.py", "tensor_group.py"}


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _imported(node: ast.AST) -> list[str]:
    """What an import names, and what an attribute spells ("torch.distributed")."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
