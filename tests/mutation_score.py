"""Measure how many faults the tests notice: a seeded sample of single mutations, room by room.

    pip install '.[test]' cosmic-ray
    python tests/mutation_score.py                                    # the rooms of ROOMS, about an hour on two cores
    python tests/mutation_score.py --rooms frechet ifid --sample 60   # more mutants of two rooms
    python tests/mutation_score.py --markdown                         # the table of what has been measured so far

cosmic-ray makes the mutants: another operator, another comparison, a number plus or minus one, a loop that never runs,
and so on; the two operators of tests/mutation_operators.py leave out a call and a keyword argument. One mutant at a
time is written into a copy of the tree, and the room's own tests run on it, those of the mutated file first.

Left out are replacements that fail at once wherever they are (a shift of floats), and annotations, since nothing
evaluates them. Mutants that change nothing that a user could notice are listed with a reason in
tests/equivalent_mutants.toml, and do not count.

Every result is appended to a file in --folder at once, so the same command continues a run that was stopped. A file
that has changed since is measured again.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("frechet", "metrics", "features", "references", "neighbours", "ifid", "gate", "loss", "training")
"""The rooms that are measured unless --rooms names others."""
SHARED_TESTS = ("tests/test_every_field.py",)
"""Tests of all rooms, which run after those of the room."""
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.toml"
BINARY = (
    "Add_Sub",
    "Sub_Add",
    "Mul_Div",
    "Div_Mul",
    "FloorDiv_Div",
    "Mod_FloorDiv",
    "Pow_Mul",
    "BitAnd_BitOr",
    "BitOr_BitAnd",
)
COMPARISON = ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_Gt", "Gt_Lt", "Is_IsNot", "IsNot_Is")
OPERATORS = (
    *(f"core/ReplaceBinaryOperator_{pair}" for pair in BINARY),
    *(f"core/ReplaceComparisonOperator_{pair}" for pair in COMPARISON),
    "core/ReplaceUnaryOperator_USub_UAdd",
    "core/ReplaceUnaryOperator_Delete_Not",
    "core/AddNot",
    "core/ReplaceTrueWithFalse",
    "core/ReplaceFalseWithTrue",
    "core/ReplaceAndWithOr",
    "core/ReplaceOrWithAnd",
    "core/ReplaceBreakWithContinue",
    "core/ReplaceContinueWithBreak",
    "core/ExceptionReplacer",
    "core/NumberReplacer",
    "core/ZeroIterationForLoop",
    "LeaveOutCall",
    "LeaveOutArgument",
)
SECONDS = 300
"""A mutant whose tests take longer counts as noticed; raising it finds endless loops later."""


@dataclass(frozen=True)
class Mutant:
    """One mutation of one file."""

    room: str
    path: str
    source: str
    """The first 12 digits of the sha256 of the file that was mutated."""
    operator: str
    occurrence: int
    line: int
    is_noticed: bool | None = None
    before: str = ""
    after: str = ""
    """The changed lines, stripped."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.path, self.source, self.operator, self.occurrence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS), metavar="ROOM")
    parser.add_argument("--sample", type=int, default=25, help="mutants of each room (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default: 2)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".mutation", help="where results and copies are kept")
    parser.add_argument("--markdown", action="store_true", help="print the table of the kept results, and stop")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = options.folder / "results.jsonl"
    wanted = [mutant for room in options.rooms for mutant in sample(room, options.sample, options.seed)]
    if not options.markdown:
        known = {mutant.key for mutant in read(results)}
        measure([mutant for mutant in wanted if mutant.key not in known], results, options)
    keys = {mutant.key for mutant in wanted}
    print(table([mutant for mutant in read(results) if mutant.key in keys]))


def sample(room: str, size: int, seed: int) -> list[Mutant]:
    """A seeded choice of a room's mutants, the same for the same source."""
    mutants = list(mutants_of(room))
    return random.Random(f"{seed} {room}").sample(mutants, min(size, len(mutants)))


def mutants_of(room: str) -> Iterator[Mutant]:
    """All mutants of a room outside annotations, in the order of files and operators."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path

    for path in sorted((ROOT / "fdr" / room).rglob("*.py")):
        code = path.read_text()
        unseen = unseen_spans(code)
        tree = get_ast_from_path(path)
        digest = hashlib.sha256(code.encode()).hexdigest()[:12]
        for name in OPERATORS:
            operator = operator_of(name)
            places = (place for node in ast_nodes(tree) for place in operator.mutation_positions(node))
            for occurrence, (start, _) in enumerate(places):
                if not any(low <= start < high for low, high in unseen):
                    relative = path.relative_to(ROOT).as_posix()
                    yield Mutant(room, relative, digest, name, occurrence, start[0])


def operator_of(name: str) -> Any:
    """An operator of cosmic-ray or of this folder."""
    import mutation_operators
    from cosmic_ray.plugins import get_operator

    return get_operator(name)() if "/" in name else getattr(mutation_operators, name)()


def unseen_spans(code: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(start, end) of the annotations, and of blocks under TYPE_CHECKING, as (line, column)."""
    found: list[ast.AST] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            found.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            found.append(node.annotation)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found.append(node)
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in found]  # type: ignore[attr-defined]


def measure(mutants: list[Mutant], results: Path, options: argparse.Namespace) -> None:
    """Run the tests on each mutant; `options.jobs` copies of the tree work side by side."""
    with ProcessPoolExecutor(options.jobs, initializer=copy_tree, initargs=(options.folder,)) as pool:
        for number, mutant in enumerate(pool.map(tested, mutants), 1):
            with open(results, "a") as file:
                file.write(json.dumps(asdict(mutant)) + "\n")
            word = "noticed " if mutant.is_noticed else "SURVIVED"
            print(f"{number}/{len(mutants)} {word} {mutant.path}:{mutant.line} {mutant.operator}", file=sys.stderr)
            if not mutant.is_noticed:
                print(f"  - {mutant.before}\n  + {mutant.after}", file=sys.stderr)


def copy_tree(folder: Path) -> None:
    """Give this process a copy of the tracked files, and work there."""
    copy = folder / f"tree-{os.getpid()}"
    shutil.rmtree(copy, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def tested(mutant: Mutant) -> Mutant:
    """The mutant with what became of it."""
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.testing import run_tests
    from cosmic_ray.work_item import TestOutcome

    with use_mutation(Path(mutant.path), operator_of(mutant.operator), mutant.occurrence) as (original, mutated):
        if mutated is None:
            raise SystemExit(f"{mutant.path}:{mutant.line} could not be mutated by {mutant.operator}.")
        outcome, _ = run_tests(" ".join(test_command(mutant)), SECONDS)
    lines = list(difflib.ndiff(original.splitlines(), mutated.splitlines()))
    before, after = (" ".join(line[2:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return replace(mutant, is_noticed=outcome != TestOutcome.SURVIVED, before=before, after=after)


def test_command(mutant: Mutant) -> Iterator[str]:
    """pytest on the room's tests, the tests of the mutated file first."""
    yield from (sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider")
    room = Path("tests", mutant.room)
    yield from sorted(map(str, room.rglob(f"test_{Path(mutant.path).stem}*.py")))
    yield str(room)
    yield from SHARED_TESTS


def read(results: Path) -> list[Mutant]:
    """The kept results."""
    return [Mutant(**json.loads(line)) for line in results.read_text().splitlines()] if results.exists() else []


def table(mutants: list[Mutant]) -> str:
    """Counts by room as Markdown."""
    excused = {(entry["path"], entry["before"], entry["after"]) for entry in equivalent()}
    lines = ["| room | mutants | equivalent | noticed | score |", "|---|---:|---:|---:|---:|"]
    for room in dict.fromkeys(mutant.room for mutant in mutants):
        own = [mutant for mutant in mutants if mutant.room == room]
        survivors = [mutant for mutant in own if not mutant.is_noticed]
        same = sum((mutant.path, mutant.before, mutant.after) in excused for mutant in survivors)
        count, noticed = len(own) - same, len(own) - len(survivors)
        lines.append(f"| `{room}` | {len(own)} | {same} | {noticed} | {100 * noticed / max(count, 1):.0f} % |")
    return "\n".join(lines)


def equivalent() -> list[dict[str, str]]:
    """The mutants that change nothing a user could notice, each with its reason."""
    return tomllib.loads(EQUIVALENT.read_text())["mutant"] if EQUIVALENT.exists() else []


if __name__ == "__main__":
    main()
