"""Weight files are found without the network and identified by digest; what is missing is one sentence."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from weight_worlds import DIGEST, hub_entry, put, weights_file

from fdr.encoders import EncoderOptions
from fdr.encoders.catalogue import INCEPTION_WEIGHTS, timm_weights
from fdr.errors import FdrWarning, WeightsError
from fdr.weights import WeightsFile, find, resolve
from fdr.weights.files import download_dir

pytestmark = pytest.mark.usefixtures("places")


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


def test_the_hub_cache_is_found_without_the_network(places, no_network):
    path = hub_entry(places, "timm/net.a", "model.safetensors")
    assert find(timm_weights("net.a")) == path
    found = resolve(timm_weights("net.a"), EncoderOptions(), "dinov2")
    assert (found.path, found.sha256) == (path, DIGEST)


def test_finding_imports_no_torch(places):
    code = (
        "import sys; from fdr import weights; from fdr.encoders import registry\n"
        "[row.weights and weights.find(row.weights) for row in registry.list_encoders()]\n"
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_published_file_is_found_without_a_warning(places):
    path = put(places / "dir", "w.pth")
    found = resolve(weights_file(), EncoderOptions(weights_dir=places / "dir"), "inception")
    assert (found.path, found.sha256) == (path, DIGEST)


def test_another_file_under_the_right_name_is_used_with_a_warning(places):
    put(places / "dir", "w.pth", b"mine")
    with pytest.warns(FdrWarning, match="not the published weight file of encoder 'inception'"):
        found = resolve(weights_file(), EncoderOptions(weights_dir=places / "dir"), "inception")
    assert found.sha256 == hashlib.sha256(b"mine").hexdigest()


def test_an_explicit_path_is_used_as_it_is_and_must_exist(places):
    path = put(places, "anything.bin")
    put(places / "cache/weights", "w.pth", b"other")
    assert resolve(weights_file(), EncoderOptions(weights=path), "inception").path == path
    with pytest.raises(WeightsError, match=r"of encoder 'inception': .*nope.pth does not exist"):
        resolve(weights_file(), EncoderOptions(weights=places / "nope.pth"), "inception")
    with pytest.raises(WeightsError, match="is a folder; name the weight file, or use weights_dir"):
        resolve(weights_file(), EncoderOptions(weights=places), "inception")


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        (INCEPTION_WEIGHTS, ("pt_inception-2015-12-05-6726825d.pth (95.6 MB)", "from https://github.com/mseitzer")),
        (
            timm_weights("net.a", 1_217_000_000),
            ("model.safetensors (1.2 GB)", "timm/net.a/resolve/main", "net.a.saf"),
        ),
    ],
)
def test_offline_says_what_to_fetch_and_where_to_put_it_and_touches_no_network(places, no_network, file, parts):
    with pytest.raises(WeightsError) as error:
        resolve(file, EncoderOptions(offline=True), "x")
    for part in (*parts, "the run is offline", str(places / "cache" / "weights"), "weights_dir"):
        assert part in str(error.value)


def test_a_named_folder_is_the_place_to_put_it(places):
    with pytest.raises(WeightsError) as error:
        resolve(INCEPTION_WEIGHTS, EncoderOptions(offline=True, weights_dir=places / "mine"), "x")
    assert repr(str(places / "mine" / INCEPTION_WEIGHTS.filename)) in str(error.value)


def test_the_environment_makes_it_offline(monkeypatch, no_network):
    monkeypatch.setenv("FDR_OFFLINE", "1")
    with pytest.raises(WeightsError, match="the run is offline"):
        resolve(weights_file("http://127.0.0.1:9/w.pth"), EncoderOptions(), "x")


TWICE = replace(weights_file(sha256="1" * 64), others=(WeightsFile("second.pth", sha256="2" * 64),))


@pytest.mark.parametrize(("name", "published"), [("w.pth", "1" * 12), ("second.pth", "2" * 12), ("mine.pth", None)])
def test_a_users_file_is_compared_with_the_publication_of_its_name(places, name, published, recwarn):
    """Under a name of its own it may be any of them, so nothing is said."""
    found = resolve(TWICE, EncoderOptions(weights=put(places, name)), "x")
    assert found.sha256 == DIGEST
    said = [str(one.message) for one in recwarn if issubclass(one.category, FdrWarning)]
    assert said == [] if published is None else f"published {published}" in said[0]


def test_fetched_files_go_to_the_first_folder_that_can_be_written(places, monkeypatch):
    monkeypatch.setenv("FDR_WEIGHTS", str(places / "env"))
    for folder in ("mine", "env"):
        (places / folder).mkdir()
    locked = set()
    monkeypatch.setattr("fdr.weights.files.os.access", lambda path, mode: mode == os.W_OK and Path(path) not in locked)
    places_in_order = [places / "mine", places / "env", places / "cache" / "weights"]
    for folder in places_in_order:
        assert download_dir(places / "mine") == folder
        locked.add(folder)
    locked.add(places / "cache")
    assert download_dir(places / "mine") == places_in_order[-1]
