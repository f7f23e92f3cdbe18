"""What the environment says: folders, whether the network may be used, the GitHub job, and installed versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from fdr._version import __version__
from fdr.runtime.devices import available_cpus

_PACKAGES = (
    *("torch", "timm", "transformers", "open_clip_torch", "diffusers", "numpy", "pillow", "simplejpeg", "h5py"),
    *("huggingface_hub", "click"),
)


def cache_home() -> Path:
    """Where `fdr` keeps its own files: `$FDR_CACHE`, else `$XDG_CACHE_HOME/fdr`, else `~/.cache/fdr`."""
    own = os.environ.get("FDR_CACHE", "").strip()
    return Path(own).expanduser() if own else _user_cache() / "fdr"


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base).expanduser() if base else Path.home() / ".cache"


def path_in_environment(name: str) -> Path | None:
    """The path in the environment variable `name`, which another tool defines; None if it is unset or empty."""
    text = os.environ.get(name, "").strip()
    return Path(text).expanduser() if text else None


def feature_cache_dir() -> Path:
    """Where feature caches live unless `--cache` names another folder."""
    return cache_home() / "features"


def weights_dirs(explicit: str | os.PathLike[str] | None = None) -> list[Path]:
    """Folders searched for weight files, first match wins: the argument, `$FDR_WEIGHTS`, our cache, torch.hub's."""
    named = [Path(folder).expanduser() for folder in (explicit, os.environ.get("FDR_WEIGHTS", "").strip()) if folder]
    torch_home = os.environ.get("TORCH_HOME")
    torch_cache = Path(torch_home).expanduser() if torch_home else _user_cache() / "torch"
    return [*named, cache_home() / "weights", torch_cache / "hub" / "checkpoints"]


_IS_OFFLINE: ContextVar[bool | None] = ContextVar("is_offline", default=None)


@contextlib.contextmanager
def offline(is_asked: bool | None) -> Iterator[None]:
    """Set what `is_offline()` returns within this context, for code that takes no option; None changes nothing."""
    token = _IS_OFFLINE.set(_IS_OFFLINE.get() if is_asked is None else is_asked)
    try:
        yield
    finally:
        _IS_OFFLINE.reset(token)


def is_offline(explicit: bool | None = None) -> bool:
    """True when the network must not be touched: the argument, `offline`, `$FDR_OFFLINE`, or `$HF_HUB_OFFLINE`."""
    explicit = _IS_OFFLINE.get() if explicit is None else explicit
    if explicit is not None:
        return explicit
    truthy = {"1", "true", "yes", "on"}
    return any(os.environ.get(key, "").strip().lower() in truthy for key in ("FDR_OFFLINE", "HF_HUB_OFFLINE"))


@dataclass(frozen=True)
class GitHubJob:
    """Where a running GitHub Actions step leaves its results."""

    output: Path | None
    summary: Path | None


def github_job() -> GitHubJob | None:
    """The GitHub Actions job that this process is part of; None elsewhere."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return None
    output, summary = (os.environ.get(name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"))
    return GitHubJob(Path(output) if output else None, Path(summary) if summary else None)


def package_versions() -> dict[str, str]:
    """Versions of fdr and of the packages that numbers or files depend on, without importing them."""
    versions = {"fdr": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = _version(importlib.metadata.distribution(name))
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _version(package: importlib.metadata.Distribution) -> str:
    """The version of a package, read without parsing its description: `Distribution.version` spends its time there."""
    found = re.search(r"^Version:[ 	]*(\S+)", package.read_text("METADATA") or "", re.MULTILINE)
    return package.version if found is None else found[1]


def describe_machine() -> dict[str, str]:
    """Versions, devices and folders, for `fdr env` and for bug reports."""
    found = {"python": platform.python_version(), "platform": platform.platform(), **package_versions()}
    found["cpus"] = str(available_cpus())
    try:
        import torch
    except Exception as error:  # a broken torch is what the user wants to see here
        found["torch import"] = f"failed: {error}"
    else:
        found["torch threads"] = str(torch.get_num_threads())
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["cuda devices"] = ", ".join(names) or "none"
    found["feature cache"] = str(feature_cache_dir())
    found["weight folders"] = ", ".join(map(str, weights_dirs()))
    found["offline"] = str(is_offline())
    return found
