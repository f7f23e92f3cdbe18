"""Fetching weight files: from a URL, with resume and digest, or from the hub through huggingface_hub."""

from __future__ import annotations

import contextlib
import http.client
import inspect
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fdr._version import __version__
from fdr.errors import RunError, first_line
from fdr.runtime import Progress, ProgressTask, file_digest, locked_file

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken. Raising it waits longer for slow servers."""
ATTEMPTS = 4
"""The most connections for one file; raising it helps on unstable networks."""


class FetchError(Exception):
    """A file could not be fetched; the message is half a sentence that says why."""


def fetch_url(url: str, target: Path, sha256: str | None, *, progress: Progress) -> Path:
    """Fetch `url` to `target`: into `target.part` first, which is resumed, checked, then renamed.

    A part is resumed only where a digest can prove the result. A file with another digest is removed.
    Raises `FetchError`, or `RunError` when the file cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(target.with_name(target.name + ".lock")):
            if not target.is_file():  # another process may have just fetched it
                _fetch_locked(url, target, sha256, progress)
    except OSError as error:
        raise RunError(f"Cannot write {str(target)!r}: {error.strerror or error}.") from error
    return target


def _fetch_locked(url: str, target: Path, sha256: str | None, progress: Progress) -> None:
    part = target.with_name(target.name + ".part")
    if sha256 is None:
        part.unlink(missing_ok=True)
    _download(url, part, target.name, progress)
    if sha256 is not None:
        digest = file_digest(part)
        if digest != sha256:
            part.unlink()
            raise FetchError(
                f"{url} sent a file with sha256 {digest[:12]} where {sha256[:12]} is published; it was removed"
            )
    os.replace(part, target)


def _download(url: str, part: Path, title: str, progress: Progress) -> None:
    """Append to `part` until the file is complete, opening broken connections again as long as bytes arrive."""
    for attempt in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        if _transfer(url, part, before, title, progress):
            return
        if part.stat().st_size <= before and attempt > 0:
            break
    raise FetchError(
        f"the connection to {url} broke after {part.stat().st_size:,} bytes, which are kept: the same command continues"
    )


def _transfer(url: str, part: Path, start: int, title: str, progress: Progress) -> bool:
    """Use one connection. Returns True when the file is complete, False when the connection broke."""
    try:
        response = _open(url, start)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start > 0:  # nothing after `start`: complete, or a part of something else
            response = _open_whole(url)
        else:
            raise FetchError(f"{url} answered {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise FetchError(f"no connection to {url}: {getattr(error, 'reason', error)}") from error
    with response:
        resumed = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
        if response.status == 206 and not resumed:
            raise FetchError(f"{url} answered with another range than the one asked for")
        length = response.headers.get("Content-Length")
        done = start if resumed else 0
        total = None if length is None else done + int(length)
        with progress.task(f"fetching {title}", total, unit="B") as task, open(part, "ab" if resumed else "wb") as out:
            task.resume(done)
            done += _copy(response, out, task)
    return done == total if total is not None else True


def _open(url: str, start: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"fdr/{__version__}"}
    if start > 0:
        headers["Range"] = f"bytes={start}-"
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)


def _open_whole(url: str) -> http.client.HTTPResponse:
    try:
        return _open(url, 0)
    except OSError as error:  # URLError and HTTPError are OSErrors
        raise FetchError(f"no connection to {url}: {error}") from error


def _copy(response: http.client.HTTPResponse, out: BinaryIO, task: ProgressTask) -> int:
    """Copy until the response ends or breaks, and return the number of bytes."""
    copied = 0
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (http.client.HTTPException, ConnectionError, TimeoutError):
            return copied
        if not chunk:
            return copied
        out.write(chunk)
        copied += len(chunk)
        task.advance(len(chunk))


def fetch_from_hub(repo: str, filename: str, revision: str | None = None, *, progress: Progress) -> Path:
    """Fetch a hub file into the hub's own cache, which resumes by itself. Raises `FetchError` or `RunError`."""
    from huggingface_hub import constants, hf_hub_download

    _check_route(constants.ENDPOINT)
    # hub < 1.1 has no such parameter and draws its own bar
    known = inspect.signature(hf_hub_download).parameters
    options: dict[str, Any] = {"tqdm_class": _hub_bar(progress)} if "tqdm_class" in known else {}
    if revision is not None:
        options["revision"] = revision
    with _hub_failures(repo, filename, revision):
        return Path(hf_hub_download(repo, filename, **options))


def hub_files(repo: str, revision: str | None = None) -> list[str]:
    """The names of all files of a hub repository. Raises `FetchError` or `RunError`."""
    from huggingface_hub import HfApi, constants

    _check_route(constants.ENDPOINT)
    with _hub_failures(repo, "of files", revision):
        return list(HfApi().list_repo_files(repo, revision=revision))


def cached_folder(repo: str, revision: str | None = None) -> Path | None:
    """The folder in the hub's own cache with what is there of a repository; None without one. Uses no network."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (errors.LocalEntryNotFoundError, OSError, ValueError):
        return None


@contextlib.contextmanager
def _hub_failures(repo: str, filename: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into `FetchError` or `RunError`."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise FetchError(f"{repo} asks for its terms to be accepted: log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise FetchError(f"the hub has no repository {repo}, or it is private") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise FetchError("no connection to the hub") from error
    except errors.RevisionNotFoundError as error:
        raise FetchError(f"repository {repo} has no revision {revision!r}") from error
    except errors.EntryNotFoundError as error:
        raise FetchError(f"repository {repo} has no file {filename}") from error
    except errors.HfHubHTTPError as error:
        raise FetchError(f"the hub answered: {first_line(error)}") from error
    except getattr(errors, "HTTPError", errors.HfHubHTTPError) as error:  # what the hub's own HTTP client raises
        raise FetchError(f"the connection to the hub broke: {first_line(error)}") from error
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise FetchError(f"the connection to the hub broke: {first_line(error)}") from error
        raise RunError(f"Cannot store {filename} of {repo} in the hub cache: {first_line(error)}.") from error


def _check_route(address: str) -> None:
    """Raise `FetchError` if names cannot be resolved: the hub would try for half a minute. A proxy resolves them."""
    if urllib.request.getproxies():
        return
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(address).hostname, None)
    except OSError as error:
        raise FetchError(f"no connection to {address}: {error.strerror or error}") from error


def _hub_bar(progress: Progress) -> Any:
    """The hub reports through a tqdm class; this one passes its bytes to `progress` and draws nothing."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._shown: Any = progress.task(kwargs.get("desc") or "fetching", kwargs.get("total"), unit="B")
            self._task = self._shown.__enter__()
            self._task.resume(kwargs.get("initial") or 0)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self._task.advance(n or 0)
            return None

        def close(self) -> None:
            shown, self._shown = self._shown, None
            if shown is not None:
                shown.__exit__(None, None, None)
            super().close()

    return Bar
