"""Two operators beside those of cosmic-ray: a call that is left out, and a keyword argument that is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import parso
from cosmic_ray.operators.operator import Example, Operator

Span = tuple[tuple[int, int], tuple[int, int]]


class LeaveOutCall(Operator):
    """A statement that is a call becomes `pass`."""

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        if node.type == "simple_stmt" and node.children[0].type in ("atom_expr", "power"):
            last = node.children[0].children[-1]
            if last.type == "trailer" and last.children[0].value == "(":
                yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        prefix = node.children[0].get_first_leaf().prefix
        node.children[0] = parso.parse(f"{prefix}pass")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("population.discard()\n", "pass\n"),)


class LeaveOutArgument(Operator):
    """A call goes without one of its keyword arguments."""

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        yield from ((argument.start_pos, argument.end_pos) for argument in _keywords(node))

    def mutate(self, node: Any, index: int) -> Any:
        argument = _keywords(node)[index]
        siblings = argument.parent.children
        place = siblings.index(argument)
        if argument.parent is node:
            siblings[place] = parso.parse("")
        else:  # with the comma after it, or before it where it is the last
            del siblings[place : place + 2]
            if place == len(siblings) and place > 0:
                del siblings[place - 1]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(a, b=1)", "f(a)"), Example("f(b=1, c=2)", "f(c=2)"), Example("f(b=1)", "f()"))


def _keywords(node: Any) -> list[Any]:
    """The `name=value` arguments of a trailer "(...)"."""
    if node.type != "trailer" or node.children[0].value != "(" or len(node.children) < 3:
        return []
    inner = node.children[1]
    arguments = inner.children if inner.type == "arglist" else [inner]
    return [one for one in arguments if one.type == "argument" and one.children[1] == "="]
