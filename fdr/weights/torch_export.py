"""Reading torch.export files (.pt2): torch is given only what was checked.

torch's reader unpickles some parts of such a file, can load compiled code from it, imports the modules that it names,
evaluates its shapes and guards as Python, and writes its names into Python source. So the file is read here, each part
is compared with what a network needs, and torch reads a new archive in memory that holds those parts and no others.
"""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from fdr.errors import WeightsError, first_line
from fdr.runtime import check_layout
from fdr.weights.export_operators import Refused
from fdr.weights.export_schema import checked_payloads, checked_program
from fdr.weights.libraries import quiet

_EXAMPLE = "data/sample_inputs/model.pt"
_MODEL, _FORMAT = "models/model.json", ("archive_format", "archive_version", "byteorder")
_CONFIG = re.compile(r"data/(weights|constants)/model_[a-z_]*config\.json")
_OLDER = ("data/weights/model.pt", "data/constants/model.pt")
"""All tensors in one file each, as torch wrote them before the two configurations."""
_NAMED = re.compile("|".join(map(re.escape, (_MODEL, _EXAMPLE, *_FORMAT, *_OLDER))))
_RAW = re.compile(r"data/(weights/weight|constants/tensor)_[0-9]+")
_IGNORED = re.compile(r"\.data/(version|serialization_id)|version|(\.?extra)/.*")
"""Members that a network runs without; the new archive leaves them out."""


def load_export(path: Path, device: torch.device | str = "cpu") -> torch.nn.Module:
    """The network of a .pt2 file. Raises `WeightsError` for one that is damaged, foreign or asks to run other code."""
    from torch.export.passes import move_to_device_pass

    try:
        clean = _clean(path)
        with quiet("torch.export", "torch._export"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return move_to_device_pass(torch.export.load(clean), str(device)).module()
    except Refused as error:
        raise error.about(path, "torch.export.save") from None
    except Exception as error:  # the reader asserts, indexes and casts its way through a damaged file
        raise WeightsError(
            f"{str(path)!r} is not a torch.export file that torch {torch.__version__} can read "
            f"({type(error).__name__}: {first_line(error)}); write it with torch.export.save of a torch near this one."
        ) from error


def _clean(path: Path) -> io.BytesIO:
    """An archive of the checked parts of `path`."""
    clean = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(clean, "w") as target:
        parts = _parts(path, archive)
        raw = {part for part in parts if _RAW.fullmatch(part)}
        for part, member in parts.items():
            target.writestr(f"net/{part}", _checked(part, archive.read(member), raw))
        target.writestr("net/.data/version", b"6\n")
    clean.seek(0)
    return clean


def _parts(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members that a network needs, by their names without the folder that all of them lie in."""
    try:
        check_layout(path, archive)
    except zipfile.BadZipFile as error:
        raise Refused(f"can be read in two ways: {error}") from None
    if len({name.partition("/")[0] for name in archive.namelist()}) > 1:
        raise Refused("holds several folders")
    parts = {}
    for member in archive.infolist():
        part = member.filename.partition("/")[2]
        if _IGNORED.fullmatch(part):
            continue
        if not any(pattern.fullmatch(part) for pattern in (_NAMED, _CONFIG, _RAW)):
            raise Refused(f"holds {part or member.filename!r}, which is no part of a network")
        if member.compress_type != zipfile.ZIP_STORED:
            raise Refused(f"holds {part!r} compressed")
        parts[part] = member
    return parts


def _checked(part: str, data: bytes, raw: set[str]) -> bytes:
    """The bytes of one part in the new archive."""
    if part == _MODEL:
        return _json(checked_program(_parsed(part, data)))
    if _CONFIG.fullmatch(part):
        folder = part.rpartition("/")[0]
        return _json(checked_payloads(_parsed(part, data), {name.rpartition("/")[2] for name in raw if folder in name}))
    if part in _OLDER:
        held = _safely_read(part, data)
        if not isinstance(held, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in held.values()):
            raise Refused(f"holds more than tensors in {part!r}")
        stream = io.BytesIO()
        torch.save({str(name): tensor for name, tensor in held.items()}, stream)
        return stream.getvalue()
    if part == _EXAMPLE:
        if data:
            _safely_read(part, data)
        return b""  # an example is for tracing again
    if part == "archive_format" and data != b"pt2":
        raise Refused(f"is of the format {data[:20]!r}")
    if part == "archive_version" and not re.fullmatch(rb"[0-9]{1,4}", data):
        raise Refused(f"is of the version {data[:20]!r}")
    if part == "byteorder" and data != sys.byteorder.encode():
        raise Refused(f"holds numbers of the byte order {data[:20]!r}, this machine has {sys.byteorder!r}")
    return data


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _parsed(part: str, data: bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise Refused(f"names a key twice in {part!r}")
        return dict(pairs)

    try:
        return json.loads(data, object_pairs_hook=unique)
    except RecursionError:
        raise Refused(f"nests {part!r} too deeply") from None


def _safely_read(part: str, data: bytes) -> Any:
    """The content of a pickled part. torch's reader of exports would unpickle what its safe reader refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice about foreign pickles
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise Refused(f"holds more than tensors in {part!r}") from error
