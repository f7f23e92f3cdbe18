"""`fdr cache list | verify | remove`, and what docs/cache-format.md promises to those who read with plain h5py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cache_worlds import KEY, NUM_ROWS, fill, open_cache, same, start_python, truth, write

from fdr.errors import InputError
from fdr.features import CacheStore, FeatureCache
from fdr.features.cache.entry import CacheKey

OTHER = CacheKey("e" * 64, "0123456789abcdef", ("cls",), label="vit_large")


@pytest.fixture
def store(tmp_path: Path) -> CacheStore:
    fill(open_cache(tmp_path))
    FeatureCache.open(tmp_path, OTHER, num_rows=3)
    (tmp_path / "someone's folder").mkdir()
    (tmp_path / "someone's folder" / "thesis.txt").write_text("")
    (tmp_path / "empty").mkdir()
    return CacheStore(tmp_path)


def test_entries_tell_what_is_there(store: CacheStore) -> None:
    entries = store.entries()
    assert [entry.name for entry in entries] == sorted([KEY.directory, OTHER.directory])
    inception, vit = entries
    assert (inception.state, inception.rows_done, inception.num_rows, inception.num_bad) == ("complete", 37, 37, 4)
    assert (inception.encoder, inception.source, inception.outputs) == ("inception", "samples.npz", ("logits", "pool"))
    assert inception.num_bytes == sum(path.stat().st_size for path in inception.path.iterdir()) > 4 * 29 * 33
    assert inception.modified.endswith("+00:00")
    assert (vit.state, vit.rows_done, vit.num_rows, vit.encoder) == ("partial", 0, 3, OTHER.spec_hash)


def test_a_folder_that_is_not_there_has_no_entries(tmp_path: Path) -> None:
    assert CacheStore(tmp_path / "none").entries() == []
    assert list(CacheStore(tmp_path / "none").verify()) == []


def test_verify_names_every_damaged_file_and_changes_nothing(store: CacheStore) -> None:
    from fdr.frechet import Moments

    cache = open_cache(store.root)
    cache.save_moments("pool", Moments.from_features(truth()["pool"]))
    assert all(result.is_good for result in store.verify())
    shards = sorted(cache.folder.glob("shard-*.h5"))
    data = bytearray(shards[1].read_bytes())
    data[2000] ^= 1
    shards[1].write_bytes(data)
    shards[2].unlink()
    moments = next(cache.folder.glob("moments-*"))
    moments.write_bytes(moments.read_bytes()[:-1])
    before = sorted(path.name for path in cache.folder.iterdir())
    (result,) = store.verify([KEY.directory[:12]])
    assert result.entry.state == "damaged" and result.num_shards == 3 and len(result.problems) == 3
    assert [problem.split(": ")[0] for problem in result.problems] == [shards[1].name, shards[2].name, moments.name]
    assert sorted(path.name for path in cache.folder.iterdir()) == before


@pytest.mark.parametrize("text", [None, "{"])
def test_entries_without_a_good_manifest_are_shown_verified_and_removed(store: CacheStore, text: str | None) -> None:
    manifest = store.root / KEY.directory / "manifest.json"
    manifest.unlink()
    if text is not None:
        manifest.write_text(text)
    entry = store.entries()[0]
    assert (entry.name, entry.state, entry.num_rows) == (KEY.directory, "damaged", None)
    result = next(store.verify([KEY.directory]))
    assert result.num_shards == 5 and len(result.problems) == 1 and "manifest.json" in result.problems[0]
    for shard in entry.path.glob("shard-*"):
        shard.unlink()
    store.remove(everything=True)
    assert store.entries() == []


def test_remove_by_start_of_name_frees_just_that_entry(store: CacheStore) -> None:
    inception, vit = store.entries()
    planned = store.remove([inception.name[:8]], dry_run=True)
    assert planned.is_dry_run and planned.num_bytes == inception.num_bytes and inception.path.exists()
    done = store.remove([inception.name[:8]])
    assert [entry.name for entry in done.entries] == [inception.name] and done.num_bytes == inception.num_bytes
    assert store.entries() == [vit] and not inception.path.exists()


def test_remove_never_touches_what_fdr_did_not_write(store: CacheStore) -> None:
    kept = store.entries()[0].path / "notes.txt"
    kept.write_text("mine")
    store.remove(everything=True)
    assert kept.exists() and [path.name for path in kept.parent.iterdir()] == ["notes.txt"]
    assert (store.root / "someone's folder" / "thesis.txt").exists() and (store.root / "empty").exists()
    assert store.entries() == []


def test_unknown_and_absent_names_are_refused(store: CacheStore) -> None:
    with pytest.raises(InputError, match="Unknown cache entry 'vit-largo-01234567-eeee'; did you mean 'vit-large-0123"):
        store.remove(["vit-largo-01234567-eeee"])
    with pytest.raises(InputError, match="Unknown cache entry"):
        store.verify(["nothing-like-it"])
    for options in ({}, {"names": ["vit"], "everything": True}):
        with pytest.raises(InputError, match="Name the cache entries to remove"):
            store.remove(**options)
    assert len(store.entries()) == 2


def test_listing_needs_neither_torch_nor_h5py(store: CacheStore) -> None:
    code = (
        "import sys; from fdr.features.cache.entry import CacheStore; print(len(CacheStore(sys.argv[1]).entries())); "
        "assert not {'torch', 'h5py'} & set(sys.modules)"
    )
    out, err = start_python("-c", code, str(store.root)).communicate()
    assert out == "2\n", err


def test_the_python_of_the_format_page_reads_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[3] / "docs" / "cache-format.md"
    block = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    cache = fill(open_cache(tmp_path))
    monkeypatch.chdir(cache.folder)
    names: dict[str, np.ndarray] = {}
    exec(compile(block, str(page), "exec"), names)
    assert len(list(filter(None, block.strip().splitlines()))) <= 5
    assert np.array_equal(names["x"], truth()["pool"])


def test_a_shard_alone_tells_whose_features_it_holds(tmp_path: Path) -> None:
    import h5py

    cache = open_cache(tmp_path)
    write(cache, 0, 8)
    with h5py.File(next(cache.folder.glob("shard-*.h5"))) as file:
        assert file.attrs["encoder"] == "inception" and file.attrs["spec"] == '{"output": "pool"}'
        assert file.attrs["data_digest"] == KEY.data_digest and file.attrs["spec_hash"] == KEY.spec_hash
        assert (file.attrs["start"], file.attrs["stop"], file.attrs["num_rows"]) == (0, 8, NUM_ROWS)
        assert file["features/pool"].chunks is None and file["features/pool"].dtype == np.float32
        assert same({"pool": file["features/pool"][:]}, {"pool": truth(0, 8)["pool"]})
        assert file["ids"].asstr()[:].tolist() == [f"class/{row}.png" for row in range(1, 8)]
        assert file["bad/ids"].asstr()[:].tolist() == ["class/0.png"]
