"""The references known by name: the manifest is sound, files are found, fetched, checked and told apart by content."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from statistics_worlds import DIM, named, pair, write
from worlds import TinyEncoder

import fdr.references.find
import fdr.references.local_files
import fdr.references.manifest
from fdr.encoders import EncoderOptions, find_row
from fdr.errors import FdrWarning, InputError, WeightsError
from fdr.references import files_of, find_reference, references, registry, verify
from fdr.references import named as by_name
from fdr.references.manifest import RegistryEncoder, RegistryEntry
from fdr.weights import fetch


def test_the_manifest_names_what_the_field_compares_with() -> None:
    wanted = {"imagenet64:adm", "imagenet128:adm", "imagenet256:adm", "imagenet512:adm", "imagenet256", "imagenet64"}
    wanted |= {"imagenet256:fdloss", "imagenet256:nanogen", "imagenet256:jit", "imagenet512:jit", "imagenet512:edm2"}
    wanted |= {"imagenet64:edm2", "ffhq256:clean", "ffhq256", "cifar10:clean", "cifar10:ttur", "cifar10:edm"}
    assert wanted <= registry().keys()
    assert registry()["imagenet64"] is registry()["imagenet64:adm"]
    assert registry()["imagenet256"].name == "imagenet256"  # the default keeps its meaning
    assert len({entry.name for entry in references()}) == len(references())


def test_every_row_is_complete_and_of_the_width_of_its_encoder() -> None:
    for entry in references():
        assert entry.title and entry.images and entry.provenance and entry.encoders, entry.name
        for encoder, row in entry.encoders.items():
            known = find_row(encoder)
            assert known is not None, (entry.name, encoder)
            assert row.dim in (None, known.width), (entry.name, encoder)
            if entry.name != "demo":
                assert row.dim and row.url and row.url.startswith(("https://", "http://bioinf.jku.at/")), entry.name
            assert row.sha256 is None or (len(bytes.fromhex(row.sha256)) == 32 and row.digest_by), entry.name


def test_one_file_name_is_one_file() -> None:
    places: dict[str, set[str | None]] = {}
    for entry in references():
        for row in entry.encoders.values():
            places.setdefault(row.file, set()).add(row.url)
    assert all(len(urls) == 1 for urls in places.values())


def test_published_facts() -> None:
    adm = registry()["imagenet256:adm"].encoders["inception"]
    assert adm.url == (
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/"
        "VIRTUAL_imagenet256_labeled.npz"
    )
    assert adm.outputs == ("spatial",) and adm.size == 2_037_122_530 and adm.sha256 is not None
    edm2 = registry()["imagenet512:edm2"].encoders
    assert (edm2["inception"].entry, edm2["dinov2:edm2"].entry) == ("fid", "fd_dinov2")
    assert edm2["inception"].url == "https://nvlabs-fi-cdn.nvidia.com/edm2/dataset-refs/img512.pkl"
    assert registry()["lsun_cat256:clean-full"].count == 1_657_264
    bundle = registry()["imagenet256:fdloss"].encoders
    values = {name: row.val_fd for name, row in registry()["imagenet256"].encoders.items()}
    assert {name: (row.val_fd.value, row.dim) for name, row in bundle.items() if row.val_fd} == {
        name: (val_fd.value, bundle[name].dim) for name, val_fd in values.items() if val_fd
    }


class Places:
    """A registry of one reference, its file behind a local server, and a weights folder."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.served, self.weights = tmp_path / "served", tmp_path / "weights"
        self.served.mkdir()
        handler = functools.partial(Quiet, directory=str(self.served))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.file = write("adm", self.served)
        self.sha256 = hashlib.sha256(self.file.read_bytes()).hexdigest()
        self.monkeypatch = monkeypatch
        self.publish(sha256=self.sha256)

    def publish(self, **facts: object) -> None:
        url = f"http://127.0.0.1:{self.http.server_address[1]}/stats.npz"
        row = RegistryEncoder("toy-stats.npz", url, None, DIM, None, outputs=("spatial",))
        entry = RegistryEntry("toy:adm", "toys", "40 toys", 40, "made up", {"tiny": replace(row, **facts)}, 50_000)
        for module in (fdr.references.manifest, fdr.references.find, fdr.references.local_files):
            self.monkeypatch.setattr(module, "registry", lambda: {"toy:adm": entry, "toy": entry})

    @property
    def options(self) -> EncoderOptions:
        return EncoderOptions(weights_dir=self.weights)

    def fetch(self, to: Path | None = None) -> Path:
        (holding,) = fetch(files_of(by_name("toy"), self.weights), self.options, to)
        assert holding.path is not None
        return holding.path


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    world = Places(tmp_path, monkeypatch)
    yield world
    world.http.shutdown()
    world.http.server_close()


def test_a_named_reference_is_fetched_once_and_has_its_facts(places: Places) -> None:
    encoder = TinyEncoder(dim=DIM)
    found = find_reference("toy", encoder, weights_dir=places.weights)
    assert (found.name, found.protocol_count, found.moments.count) == ("toy:adm", 50_000, 40)
    assert (
        found.digest == hashlib.sha256(b"".join(array.tobytes() for array in pair())).hexdigest()
        and found.val_fd is None
    )
    np.testing.assert_array_equal(found.moments.sigma, pair()[1])
    places.file.unlink()
    spatial = find_reference("toy:adm", encoder, output="spatial", weights_dir=places.weights)
    np.testing.assert_array_equal(spatial.moments.mu, named("", "_s", 5, 1)["mu_s"])
    with pytest.raises(InputError, match="'toy' has no moments of the output 'mean' of tiny"):
        find_reference("toy", encoder, output="mean", weights_dir=places.weights)


def test_another_output_is_pointed_to_the_reference_that_has_it(places: Places) -> None:
    here = by_name("toy")
    bare = replace(here, name="bare", encoders={"tiny": replace(here.encoders["tiny"], outputs=())})
    places.monkeypatch.setattr(fdr.references.find, "registry", lambda: {"bare": bare, "toy:adm": here})
    with pytest.raises(InputError, match="'spatial' of tiny; toy:adm have them"):
        find_reference("bare", TinyEncoder(dim=DIM), output="spatial")


def test_a_download_of_another_digest_is_refused_and_leaves_nothing(places: Places) -> None:
    places.publish(sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"reference 'toy:adm' for 'tiny' were .* 000000000000 is published"):
        places.fetch()
    assert not list(places.weights.glob("*.npz"))


def test_offline_says_what_to_fetch_and_where_to_put_it(places: Places) -> None:
    with pytest.raises(
        WeightsError, match=r"moments of reference 'toy:adm' for 'tiny' were not found .* fetch toy-stats"
    ):
        find_reference("toy", TinyEncoder(dim=DIM), weights_dir=places.weights, offline=True)


def test_a_file_of_its_published_name_is_found(places: Places) -> None:
    places.weights.mkdir()
    (places.weights / "stats.npz").write_bytes(places.file.read_bytes())
    (file,) = files_of(by_name("toy"), places.weights)
    assert file.path == places.weights / "stats.npz"
    assert places.fetch() == file.path
    copied = places.fetch(places.weights / "other")
    assert copied.name == "toy-stats.npz" and copied.read_bytes() == places.file.read_bytes()


def test_verify_tells_good_sound_and_damaged(places: Places) -> None:
    def states() -> list[str]:
        return [verdict.state for verdict in verify(by_name("toy"), places.weights)]

    assert states() == ["missing"]
    path = places.fetch()
    assert states() == ["good"]
    places.publish()
    assert states() == ["sound"]
    places.publish(dim=7)
    assert states() == ["damaged"]
    places.publish()
    path.write_bytes(path.read_bytes()[:-100])
    assert states() == ["damaged"]
    places.publish(sha256=places.sha256)
    assert states() == ["damaged"]
    with pytest.warns(FdrWarning, match="is not the published statistics file of reference 'toy:adm"):
        places.fetch()


def test_a_file_is_known_by_its_digest_or_its_sums(places: Places, tmp_path: Path) -> None:
    mine = tmp_path / "mine.npz"
    mine.write_bytes(places.file.read_bytes())
    found = find_reference(mine, TinyEncoder(dim=DIM))
    assert (found.name, found.protocol_count, found.source) == ("toy:adm", 50_000, str(mine))
    assert found.moments.count == 40
    mu, sigma = pair()
    places.publish(sums=(round(float(mu.sum()), 4), round(float(sigma.sum()), 4)))
    write("pytorch-fid", tmp_path)
    assert find_reference(tmp_path / "stats.npz", TinyEncoder(dim=DIM)).name == "toy:adm"
    places.publish(sums=(round(float(mu.sum()), 4) + 1e-3, round(float(sigma.sum()), 4)))
    with pytest.warns(FdrWarning, match="does not say how many"):
        assert find_reference(tmp_path / "stats.npz", TinyEncoder(dim=DIM)).name == "stats"


def test_unknown_names_and_encoders_are_said(places: Places) -> None:
    with pytest.raises(InputError, match="Unknown reference 'tooy'; did you mean 'toy'"):
        by_name("tooy")
    with pytest.raises(InputError, match="has no moments for dinov2; it has tiny"):
        files_of(by_name("toy"), None, "dinov2")
