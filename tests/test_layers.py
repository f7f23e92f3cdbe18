"""A module imports only from layers strictly below its own; the list is the one of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import fdr

ROOT = Path(fdr.__file__).parent
DOCS = Path(__file__).parent.parent / "docs" / "architecture.md"


def documented_layers() -> dict[str, int]:
    """Module or package (dotted, without "fdr.") -> layer, from the table in the docs."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", DOCS.read_text(), flags=re.MULTILINE)
    return {name: int(layer) for layer, names in rows for name in re.findall(r"`([\w/.]+)`", names)}


LAYERS = {name.removesuffix(".py").rstrip("/").replace("/", "."): layer for name, layer in documented_layers().items()}


def layer_of(module: str) -> tuple[str, int]:
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if name in LAYERS:
            return name, LAYERS[name]
    raise AssertionError(f"{module} is in no layer of docs/architecture.md")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    names = {name.removeprefix("fdr.") for name in found if name.startswith("fdr.")}
    return {
        n for n in names if (ROOT / (n.replace(".", "/") + ".py")).exists() or (ROOT / n.replace(".", "/")).is_dir()
    }


def test_a_module_imports_only_from_layers_below() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module in ("__init__", "__main__") or module.startswith("reference_stats."):
            continue
        unit, layer = layer_of(module)
        for target in imports_of(path):
            other, below = layer_of(target)
            if other != unit and below >= layer:
                wrong.append(f"{module} (layer {layer}) imports {target} (layer {below})")
    assert not wrong, "\n".join(wrong)


def test_no_module_is_named_as_a_public_function() -> None:
    assert not {path.stem for path in ROOT.glob("*.py")} & set(fdr.__all__)


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
    assert found == {"distributed.py", "training_ranks.py"}


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _imported(node: ast.AST) -> list[str]:
    """What an import names, and what an attribute spells ("torch.distributed")."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
