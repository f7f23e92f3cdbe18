"""Weight files are fetched safely, from an address or the hub: resumed, checked, and one sentence where it fails."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

import pytest
from weight_worlds import DIGEST, PAYLOAD, Recorder, Server, hub_entry, put, weights_file

from fdr.encoders import EncoderOptions
from fdr.encoders.catalogue import timm_weights
from fdr.errors import RunError, WeightsError
from fdr.runtime import locked_file
from fdr.weights import download as _fetch
from fdr.weights import find, hub_file, resolve

pytestmark = pytest.mark.usefixtures("places")


def test_a_file_is_fetched_checked_and_found_again(places):
    progress = Recorder()
    with Server() as server:
        found = resolve(weights_file(server.url), EncoderOptions(progress=progress), "x")
        again = resolve(weights_file(server.url), EncoderOptions(), "x")
    assert found == again
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


def test_a_revision_is_asked_for_and_found_again(places, hub):
    asked = []

    def download(repo, filename, tqdm_class, revision=None):
        asked.append(revision)
        return str(hub_entry(places, repo, filename))

    hub(download)
    pinned = replace(hub_file("org/net", "model.safetensors"), revision="c0ffee")
    assert resolve(pinned, EncoderOptions(), "x").sha256 == DIGEST
    assert asked == ["c0ffee"]
    assert find(pinned) is not None
    assert find(replace(pinned, revision="beef")) is None


def test_a_file_that_another_process_is_fetching_is_waited_for_and_taken(places):
    target = places / "cache" / "weights" / "w.pth"
    target.parent.mkdir(parents=True)
    found = []
    with Server() as server, locked_file(target.with_name("w.pth.lock")):
        fetching = threading.Thread(
            target=lambda: found.append(resolve(weights_file(server.url), EncoderOptions(), "x"))
        )
        fetching.start()
        fetching.join(0.3)
        assert fetching.is_alive() and server.requests == []
        put(target.parent, "w.pth")
    fetching.join(10)
    assert server.requests == [] and found[0].path == target


def test_another_range_than_the_one_asked_for_is_not_appended(places):
    part = put(places / "cache" / "weights", "w.pth.part", PAYLOAD[:100])
    with Server(shift=1) as server, pytest.raises(WeightsError, match="answered with another range"):
        resolve(weights_file(server.url), EncoderOptions(), "x")
    assert part.read_bytes() == PAYLOAD[:100]


def test_a_first_connection_that_sends_nothing_is_opened_again(places):
    with Server(cuts=1, sent=0) as server:
        assert resolve(weights_file(server.url), EncoderOptions(), "x").path.read_bytes() == PAYLOAD
    assert server.requests == [None, None]


def test_a_proxy_resolves_names_by_itself(places, hub, monkeypatch):
    def unresolved(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda repo, name, tqdm_class: str(hub_entry(places, repo, name))
    )
    assert resolve(timm_weights("net.a"), EncoderOptions(), "x").sha256 == DIGEST
