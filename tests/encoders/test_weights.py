"""Weight files are found without the network, fetched safely, identified by digest, and read without running code."""

from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fdr.encoders import _fetch, weights
from fdr.encoders.base import EncoderOptions
from fdr.encoders.catalogue import INCEPTION_WEIGHTS, timm_weights
from fdr.encoders.weights import WeightsFile, find, load_into, load_state_dict, resolve
from fdr.errors import FdrWarning, RunError, WeightsError

PAYLOAD = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Every usual place points into an empty folder."""
    for name in ("FDR_WEIGHTS", "FDR_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FDR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class Server:
    """A web server on this machine: `cuts` connections break half-way, `ranges` says if it can resume."""

    def __init__(self, payload=PAYLOAD, cuts=0, ranges=True, status=None):
        self.payload, self.cuts, self.ranges, self.status = payload, cuts, ranges, status
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
            handler.send_header("Content-Range", f"bytes {start}-{len(self.payload) - 1}/{len(self.payload)}")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.cuts > 0:
            self.cuts -= 1
            body = body[: len(body) // 2]
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


def weights_file(url=None, sha256=DIGEST):
    return WeightsFile("w.pth", ("other-w.pth",), sha256=sha256, size=1 << 20, url=url)


def put(folder: Path, name: str, data: bytes = PAYLOAD) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- finding -------------------------------------------------------------------------------------------------------


def test_the_first_place_wins(places, monkeypatch):
    monkeypatch.setenv("FDR_WEIGHTS", str(places / "env"))
    assert find(weights_file(), places / "dir") is None
    for folder in ("torch/hub/checkpoints", "cache/weights", "env", "dir"):
        path = put(places / folder, "w.pth")
        assert find(weights_file(), places / "dir") == path


def test_an_alias_is_found(places):
    path = put(places / "cache/weights", "other-w.pth")
    assert find(weights_file()) == path


@pytest.mark.parametrize("name", ["net.a.safetensors", "net.a.pth", "net.a.bin", "timm--net.a/model.safetensors"])
def test_timm_files_are_found_under_each_documented_name(places, name):
    path = put(places / "dir", name)
    assert find(timm_weights("net.a"), places / "dir") == path


def hub_entry(root: Path, repo: str, name: str) -> Path:
    folder = root / "hub" / f"models--{repo.replace('/', '--')}"
    put(folder / "refs", "main", b"c0ffee")
    return put(folder / "snapshots" / "c0ffee", name)


def test_the_hub_cache_is_found_without_the_network(places, no_network):
    path = hub_entry(places, "timm/net.a", "model.safetensors")
    assert find(timm_weights("net.a")) == path
    found = resolve(timm_weights("net.a"), EncoderOptions(), "dinov2")
    assert (found.path, found.sha256, found.is_known) == (path, DIGEST, False)


def test_finding_imports_no_torch(places):
    code = (
        "import sys; from fdr.encoders import registry, weights\n"
        "[row.weights and weights.find(row.weights) for row in registry.list_encoders()]\n"
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- resolving -----------------------------------------------------------------------------------------------------


def test_the_published_file_is_known(places):
    path = put(places / "dir", "w.pth")
    found = resolve(weights_file(), EncoderOptions(weights_dir=places / "dir"), "inception")
    assert (found.path, found.sha256, found.is_known) == (path, DIGEST, True)


def test_another_file_under_the_right_name_is_used_with_a_warning(places):
    put(places / "dir", "w.pth", b"mine")
    with pytest.warns(FdrWarning, match="not the published weight file of encoder 'inception'"):
        found = resolve(weights_file(), EncoderOptions(weights_dir=places / "dir"), "inception")
    assert not found.is_known
    assert found.sha256 == hashlib.sha256(b"mine").hexdigest()


def test_an_explicit_path_is_used_as_it_is_and_must_exist(places):
    path = put(places, "anything.bin")
    put(places / "cache/weights", "w.pth", b"other")
    assert resolve(weights_file(), EncoderOptions(weights=path), "inception").path == path
    with pytest.raises(WeightsError, match=r"nope.pth' of encoder 'inception' does not exist"):
        resolve(weights_file(), EncoderOptions(weights=places / "nope.pth"), "inception")
    with pytest.raises(WeightsError, match="is a folder: name the file, or use --weights-dir"):
        resolve(weights_file(), EncoderOptions(weights=places), "inception")


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        (INCEPTION_WEIGHTS, ("pt_inception-2015-12-05-6726825d.pth (96 MB)", "from https://github.com/mseitzer")),
        (
            timm_weights("net.a", 1_217_000_000),
            ("model.safetensors (1,217 MB)", "timm/net.a/resolve/main", "net.a.saf"),
        ),
    ],
)
def test_offline_says_what_to_fetch_and_where_to_put_it_and_touches_no_network(places, no_network, file, parts):
    with pytest.raises(WeightsError) as error:
        resolve(file, EncoderOptions(offline=True), "x")
    for part in (*parts, "the run is offline", str(places / "cache" / "weights"), "--weights-dir"):
        assert part in str(error.value)


def test_a_named_folder_is_the_place_to_put_it(places):
    with pytest.raises(WeightsError) as error:
        resolve(INCEPTION_WEIGHTS, EncoderOptions(offline=True, weights_dir=places / "mine"), "x")
    assert repr(str(places / "mine" / INCEPTION_WEIGHTS.filename)) in str(error.value)


def test_the_environment_makes_it_offline(monkeypatch, no_network):
    monkeypatch.setenv("FDR_OFFLINE", "1")
    with pytest.raises(WeightsError, match="the run is offline"):
        resolve(weights_file("http://127.0.0.1:9/w.pth"), EncoderOptions(), "x")


# --- fetching ------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_checked_and_found_again(places):
    progress = Recorder()
    with Server() as server:
        found = resolve(weights_file(server.url), EncoderOptions(progress=progress), "x")
        again = resolve(weights_file(server.url), EncoderOptions(), "x")
    assert found == again
    assert found.is_known
    assert found.path == places / "cache" / "weights" / "w.pth"
    assert found.path.read_bytes() == PAYLOAD
    assert len(server.requests) == 1
    assert progress.tasks == [("fetching w.pth", len(PAYLOAD), "B")]
    assert progress.done == len(PAYLOAD)
    assert not found.path.with_name("w.pth.part").exists()


def test_a_fetched_file_goes_to_the_folder_that_was_named(places):
    with Server() as server:
        found = resolve(weights_file(server.url), EncoderOptions(weights_dir=places / "dir"), "x")
    assert found.path == places / "dir" / "w.pth"


def test_a_cut_connection_is_resumed_where_it_broke(places):
    with Server(cuts=2) as server:
        found = resolve(weights_file(server.url), EncoderOptions(), "x")
    assert found.path.read_bytes() == PAYLOAD
    assert server.requests == [None, "bytes=524288-", "bytes=786432-"]


def test_a_part_of_an_earlier_run_is_continued(places):
    put(places / "cache/weights", "w.pth.part", PAYLOAD[:1000])
    with Server() as server:
        resolve(weights_file(server.url), EncoderOptions(), "x")
    assert server.requests == ["bytes=1000-"]


def test_a_complete_part_is_not_trusted_beyond_its_digest(places):
    put(places / "cache/weights", "w.pth.part", PAYLOAD + b"more")
    with Server() as server:
        found = resolve(weights_file(server.url), EncoderOptions(), "x")
    assert found.path.read_bytes() == PAYLOAD


def test_without_a_digest_nothing_is_continued(places):
    put(places / "cache/weights", "w.pth.part", b"of another file")
    with Server() as server:
        found = resolve(weights_file(server.url, sha256=None), EncoderOptions(), "x")
    assert server.requests == [None]
    assert found.path.read_bytes() == PAYLOAD
    assert not found.is_known


def test_a_server_that_cannot_resume_sends_the_whole_file(places):
    with Server(cuts=1, ranges=False) as server:
        found = resolve(weights_file(server.url), EncoderOptions(), "x")
    assert found.path.read_bytes() == PAYLOAD


def test_a_connection_that_breaks_for_good_keeps_its_part(places):
    with Server(cuts=99) as server, pytest.raises(WeightsError, match=r"broke after [\d,]+ bytes, which are kept"):
        resolve(weights_file(server.url), EncoderOptions(), "x")
    assert 0 < (places / "cache/weights/w.pth.part").stat().st_size < len(PAYLOAD)


def test_a_fetched_file_of_another_digest_is_refused_and_removed(places):
    with Server(b"<html>login</html>") as server, pytest.raises(WeightsError, match="was removed"):
        resolve(weights_file(server.url), EncoderOptions(), "x")
    assert [path.name for path in (places / "cache/weights").iterdir() if path.suffix != ".lock"] == []


def test_a_missing_page_is_one_sentence(places):
    with Server(status=404) as server, pytest.raises(WeightsError, match=r"answered 404 Not Found.*save it as"):
        resolve(weights_file(server.url), EncoderOptions(), "x")


def test_no_route_is_one_sentence(places, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/w.pth"
    with pytest.raises(WeightsError, match=r"could not be fetched \(no connection to .*save it as"):
        resolve(weights_file(url), EncoderOptions(), "x")


def test_no_address_is_said(places):
    with pytest.raises(WeightsError, match="no address to fetch them from is known"):
        resolve(weights_file(), EncoderOptions(), "x")


def test_a_folder_that_cannot_be_made_is_one_sentence(places):
    blocker = put(places, "file")
    with pytest.raises(RunError, match="Cannot write"):
        _fetch.fetch_url("http://127.0.0.1:9/", blocker / "w.pth", None, progress=Recorder())


@pytest.fixture
def hub(monkeypatch):
    """A hub that can be reached; a test says what it answers."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [])

    def answer(function):
        monkeypatch.setattr("huggingface_hub.hf_hub_download", function)

    return answer


def test_without_a_network_the_hub_is_not_waited_for(monkeypatch):
    def unresolved(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    with pytest.raises(WeightsError, match=r"no connection to https://.*: Name or service not known.*save it as"):
        resolve(timm_weights("net.a"), EncoderOptions(), "x")


def hub_error(name):
    """An error as the hub raises it, without the response that only its server can give."""
    from huggingface_hub import errors

    kind = getattr(errors, name)
    error = kind.__new__(kind)
    Exception.__init__(error, "hub says no\nand more")
    return error


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("GatedRepoError", "asks for its terms to be accepted"),
        ("RepositoryNotFoundError", "no repository timm/net.a"),
        ("EntryNotFoundError", "has no file model.safetensors"),
        ("LocalEntryNotFoundError", "no connection to the hub"),
        ("OfflineModeIsEnabled", "no connection to the hub"),
        ("HfHubHTTPError", "the hub answered"),
    ],
)
def test_errors_of_the_hub_are_one_sentence(places, hub, name, sentence):
    def fail(repo, filename):
        raise hub_error(name)

    hub(fail)
    with pytest.raises(WeightsError, match=f"{sentence}.*save it as") as error:
        resolve(timm_weights("net.a"), EncoderOptions(), "x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (ConnectionResetError(104, "reset by peer"), WeightsError, "connection to the hub broke"),
        (OSError("no errno"), WeightsError, "connection to the hub broke"),
        (OSError(28, "No space left on device"), RunError, "Cannot store model.safetensors .*No space left"),
    ],
)
def test_a_broken_connection_is_told_from_a_full_disk(places, hub, error, kind, sentence):
    def fail(repo, filename):
        raise error

    hub(fail)
    with pytest.raises(kind, match=sentence):
        resolve(timm_weights("net.a"), EncoderOptions(), "x")


def test_the_http_client_of_the_hub_is_translated_too(places, hub):
    from huggingface_hub import errors

    client_error = getattr(errors, "HTTPError", OSError)

    def fail(repo, filename):
        raise client_error("server disconnected")

    hub(fail)
    with pytest.raises(WeightsError, match="connection to the hub broke: server disconnected"):
        resolve(timm_weights("net.a"), EncoderOptions(), "x")


def test_the_hub_reports_to_our_progress(places, hub):
    progress = Recorder()

    def download(repo, filename, tqdm_class):
        with tqdm_class(total=10, initial=4, desc=filename, unit="B", disable=False, name="hub") as bar:
            bar.update(6)
        return str(hub_entry(places, repo, filename))

    hub(download)
    found = resolve(timm_weights("net.a"), EncoderOptions(progress=progress), "x")
    assert found.sha256 == DIGEST
    assert progress.tasks == [("model.safetensors", 10, "B")]
    assert progress.done == 10


# --- reading -------------------------------------------------------------------------------------------------------

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def same(state):
    return state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("name", ["s.safetensors", "named-wrong.pth"])
def test_safetensors_are_read_by_content(tmp_path, name):
    save_file(STATE, tmp_path / name)
    assert same(load_state_dict(tmp_path / name))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_torch_checkpoints_are_read_and_unwrapped(tmp_path, wrapper, is_zip):
    content = STATE if wrapper is None else {wrapper: STATE, "epoch": 3}
    torch.save(content, tmp_path / "s.pth", _use_new_zipfile_serialization=is_zip)
    assert same(load_state_dict(tmp_path / "s.pth"))


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_pickle_is_never_run(tmp_path, monkeypatch, is_zip):
    monkeypatch.setenv("EVIL", str(tmp_path / "run"))
    torch.save({"a": Evil()}, tmp_path / "s.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match="fdr runs no code from weight files"):
        load_state_dict(tmp_path / "s.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(WeightsError):
        load_state_dict(tmp_path / "raw.pth")
    assert not (tmp_path / "run").exists()


def broken(kind: str) -> bytes:
    import io

    stream = io.BytesIO()
    torch.save(STATE, stream)
    from safetensors.torch import save

    tensors = save(STATE)
    return {
        "empty": b"",
        "web page": b"\n<!DOCTYPE html><title>login</title>",
        "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "image": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "torch cut": stream.getvalue()[:-200],
        "torch cut early": stream.getvalue()[:40],
        "tensors cut": tensors[:-4],
        "tensors header": b"\xff\xff\xff\xff\x00\x00\x00\x00" + tensors[8:],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("empty", "s.pth", "is empty"),
        ("web page", "s.pth", "is a web page, not weights"),
        ("git lfs", "s.safetensors", "is a Git LFS pointer"),
        ("image", "s.pth", "is not a weight file"),
        ("torch cut", "s.pth", "is truncated or damaged"),
        ("torch cut early", "s.pth", "is truncated or damaged"),
        ("tensors cut", "s.safetensors", "is truncated or damaged"),
        ("tensors header", "s.safetensors", "is truncated or damaged"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, kind, name, sentence):
    path = put(tmp_path, name, broken(kind))
    with pytest.raises(WeightsError, match=sentence) as error:
        load_state_dict(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_other_zip_files_and_other_contents_are_refused(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", b"x")
    with pytest.raises(WeightsError, match="not a torch checkpoint"):
        load_state_dict(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "inception.pt", "w") as archive:
        archive.writestr("inception/constants.pkl", b"x")
    with pytest.raises(WeightsError, match="TorchScript archive"):
        load_state_dict(tmp_path / "inception.pt")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list, not a state dict"):
        load_state_dict(tmp_path / "list.pth")
    torch.save({"epoch": 1, **STATE}, tmp_path / "mixed.pth")
    with pytest.raises(WeightsError, match="epoch are not tensors"):
        load_state_dict(tmp_path / "mixed.pth")


def test_a_file_that_vanished_is_one_sentence(tmp_path):
    with pytest.raises(WeightsError, match="Cannot read weight file"):
        load_state_dict(tmp_path / "gone.pth")
    with pytest.raises(WeightsError, match="Cannot read weight file"):
        weights.file_digest(tmp_path / "gone.pth")


# --- loading -------------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)


def test_loading_is_strict_but_for_step_counters():
    source, target = Net(), Net()
    state = source.state_dict()
    del state["norm.num_batches_tracked"]
    load_into(target, {**state, "other.num_batches_tracked": torch.tensor(1)}, Path("w.pth"), "x")
    assert torch.equal(target.a.weight, source.a.weight)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"a.bias": None}, "without a.bias"),
        ({"b.bias": torch.ones(1)}, "with unexpected b.bias"),
        ({"a.bias": torch.ones(5)}, r"with wrong shapes a.bias \(5 for 2\)"),
    ],
)
def test_what_does_not_fit_is_named(change, sentence):
    state = {key: value for key, value in {**Net().state_dict(), **change}.items() if value is not None}
    with pytest.raises(WeightsError, match=f"'w.pth' does not fit encoder 'x'.*{sentence}"):
        load_into(Net(), state, Path("w.pth"), "x")


@pytest.mark.parametrize(
    ("keys", "guess"),
    [
        (("Mixed_7c.branch1x1.conv.weight",), "an Inception v3"),
        (("AuxLogits.conv0.conv.weight", "Mixed_7c.b.weight"), "torchvision's Inception v3"),
        (("visual.proj",), "an OpenCLIP model"),
        (("patch_embed.proj.weight", "blocks.0.a", "blocks.1.a"), "a ViT of width 7 with 2 blocks"),
        (("features.0.weight",), "SqueezeNet"),
        (("odd.weight",), "a network of 1 tensors that begins with odd.weight"),
    ],
)
def test_the_wrong_model_is_guessed(keys, guess):
    with pytest.raises(WeightsError, match=guess):
        load_into(Net(), {key: torch.zeros(7, 1) for key in keys}, Path("w.pth"), "x")
