"""The prompts of samples: which sample has which, and how their files are called."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from fdr.errors import InputError
from fdr.images import Captions, name_without_ending


@dataclass(frozen=True)
class SamplePrompts:
    """Sample i has the prompt i modulo P, for P captions."""

    captions: Captions
    count: int

    @property
    def digest(self) -> str:
        """The digest of the captions."""
        return self.captions.digest

    def texts(self, start: int, stop: int) -> list[str]:
        """The prompts of samples start..stop."""
        prompts = self.captions.prompts
        return [prompts[self.row(number)] for number in range(start, stop)]

    def row(self, number: int) -> int:
        """The position of the caption of a sample."""
        return number % len(self.captions)

    @cached_property
    def names(self) -> list[str]:
        """The name of each sample without ending: its caption's; "-1", "-2", ... is added in later rounds.

        Captions without names are numbered. Raises `InputError` for a name that no file can have, and for two that are
        one without their endings.
        """
        captions = self.captions
        if captions.has_names:
            first = [_file_stem(name, captions.source) for name in captions.names]
        else:
            first = [f"{row:08d}" for row in range(len(captions))]
        rounds = [divmod(row, len(first)) for row in range(self.count)]
        names = [first[row] + (f"-{turn}" if turn else "") for turn, row in rounds]
        twice = next((name for name, times in Counter(names).items() if times > 1), None)
        if twice is not None:
            raise InputError(
                f"{captions.source} has names that give two samples the name {twice!r}; change one of them."
            )
        return names

    def metadata(self) -> bytes:
        """One line of JSON a sample: `file_name`, `prompt`, and `category` where there is one."""
        captions, lines = self.captions, []
        for row, (name, prompt) in enumerate(zip(self.names, self.texts(0, self.count), strict=True)):
            line = {"file_name": f"{name}.png", "prompt": prompt}
            if captions.categories is not None:
                line["category"] = captions.categories[self.row(row)]
            lines.append(json.dumps(line, ensure_ascii=False))
        return "".join(f"{line}\n" for line in lines).encode()


def _file_stem(name: str, source: str) -> str:
    path = PurePosixPath(name_without_ending(name))
    parts = path.parts
    is_file = parts and not path.is_absolute() and not any(part.startswith(".") or ":" in part for part in parts)
    if not is_file or not name.isprintable():
        raise InputError(
            f"{source} calls an image {name[:60]!r}, which is no name for a file of a folder; change it, or leave out "
            "the names, so that samples are numbered."
        )
    return path.as_posix()
