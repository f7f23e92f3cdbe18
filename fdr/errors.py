"""The errors a user can meet. Each message is one sentence: what was found, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class FdrError(Exception):
    """Base of every error raised on purpose; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 2


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
    """Another rank of a distributed run has failed, and has said why itself; carries its exit code."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def unknown(
    kind: str, name: str, choices: Iterable[str], hint: str = "", *, peers: Callable[[str], str | None] | None = None
) -> InputError:
    """The error for a name that is not in `choices`, with the nearest matches; case counts for little.

    `peers` gives the rest of a sentence about a name that other tools use ("is not offered yet"), which then replaces
    the nearest matches.
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
