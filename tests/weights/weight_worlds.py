"""Weight files for tests, and a web server on this machine that has them."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path

from fdr.weights import WeightsFile

PAYLOAD = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()


class Server:
    """A web server on this machine: `cuts` connections break after the share `sent`; `ranges` says if it can resume.

    `shift` moves the range that it says it sends.
    """

    def __init__(self, payload=PAYLOAD, cuts=0, ranges=True, status=None, sent=0.5, shift=0):
        self.payload, self.cuts, self.ranges, self.status = payload, cuts, ranges, status
        self.sent, self.shift = sent, shift
        self.requests: list[str | None] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_address[1]}/w.pth"

    def answer(self, handler):
        wanted = handler.headers.get("Range")
        self.requests.append(wanted)
        if self.status is not None:
            handler.send_error(self.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if start >= len(self.payload):
            handler.send_error(416)
            return
        body = self.payload[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header(
                "Content-Range", f"bytes {start + self.shift}-{len(self.payload) - 1}/{len(self.payload)}"
            )
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.cuts > 0:
            self.cuts -= 1
            body = body[: int(len(body) * self.sent)]
        handler.wfile.write(body)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class Recorder:
    """A progress that remembers."""

    def __init__(self):
        self.tasks, self.done = [], 0

    def task(self, title, total, unit="images"):
        self.tasks.append((title, total, unit))
        self.done = 0
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, amount=1):
        self.done += amount

    resume = advance


def weights_file(url=None, sha256=DIGEST):
    return WeightsFile("w.pth", ("other-w.pth",), sha256=sha256, size=1 << 20, url=url)


def put(folder: Path, name: str, data: bytes = PAYLOAD) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def hub_entry(root: Path, repo: str, name: str) -> Path:
    folder = root / "hub" / f"models--{repo.replace('/', '--')}"
    put(folder / "refs", "main", b"c0ffee")
    return put(folder / "snapshots" / "c0ffee", name)
