"""Every field of a reference from every source, with values that the test knows; and what does not fit is refused."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from statistics_worlds import COUNT, DIM, named, pair
from worlds import TinyEncoder

import fdr.references.find
import fdr.references.index
import fdr.references.local_files
import fdr.references.manifest
from fdr.errors import FdrWarning, InputError
from fdr.frechet import Moments, ValidationFD
from fdr.references import (
    Reference,
    check_one_encoder_each,
    find_reference,
    names_images,
    read_index,
    verify,
    warn_if_same_images,
)
from fdr.references.manifest import RegistryEncoder, RegistryEntry, known_as

MU, SIGMA = pair()
DIGEST = hashlib.sha256(MU.astype("<f8").tobytes() + SIGMA.astype("<f8").tobytes()).hexdigest()
SUMS = (float(MU.sum()), float(SIGMA.sum()))
pytestmark = pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")


def register(monkeypatch: pytest.MonkeyPatch, row: RegistryEncoder, **facts: object) -> RegistryEntry:
    """One reference "toy:x" with the alias "toy", of one encoder, "tiny"."""
    entry = RegistryEntry("toy:x", "toys", "90 toys", 90, "made up", {"tiny": row}, samples=70)
    entry = replace(entry, **facts)
    for module in (fdr.references.manifest, fdr.references.find, fdr.references.local_files):
        monkeypatch.setattr(module, "registry", lambda: {"toy:x": entry, "toy": entry})
    return entry


def row(**fields: object) -> RegistryEncoder:
    return RegistryEncoder(**({"file": "toy.npz", "dim": DIM} | fields))  # type: ignore[arg-type]


# --- where a reference comes from ----------------------------------------------------------------------------------


def test_moments_in_memory() -> None:
    stated = {"reference": "mine", "images_digest": "d1", "spec_hash": "h1", "val_fd": 2.0}
    found = find_reference(Moments(MU, SIGMA, attributes=stated), "tiny")
    assert (found.name, found.source, found.digest) == ("mine", "Moments object", DIGEST)
    assert (found.images_digest, found.spec_hash, found.is_declared) == ("d1", "h1", True)
    assert (found.val_fd, found.path, found.protocol_count) == (None, None, None)
    bare = find_reference(Moments(MU, SIGMA), "tiny")
    assert (bare.name, bare.images_digest, bare.spec_hash, bare.is_declared) == ("moments", None, None, False)


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_a_file_of_fdr(suffix: str, tmp_path: Path) -> None:
    stated = {"reference": "mine", "images_digest": "d1", "spec_hash": "h1", "val_fd": 2.25, "encoder": "tiny"}
    path = tmp_path / f"stats.{suffix}"
    Moments(MU, SIGMA, COUNT, attributes=stated).save(path)
    found = find_reference(path, "tiny")
    assert (found.name, found.source, found.path, found.digest) == ("mine", str(path), path, DIGEST)
    assert (found.images_digest, found.spec_hash, found.is_declared) == ("d1", "h1", True)
    assert found.val_fd == ValidationFD(2.25, None, f"exact, from stats.{suffix}")
    assert (found.moments.count, found.protocol_count) == (COUNT, None)


def test_a_bare_file_has_its_own_name_and_declares_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", **named())
    found = find_reference(tmp_path / "some.npz", "tiny")
    assert (found.name, found.val_fd, found.spec_hash, found.is_declared) == ("some", None, None, False)
    assert found.moments.count is None


def test_a_file_that_names_the_encoder_declares_it(tmp_path: Path) -> None:
    Moments(MU, SIGMA, COUNT, attributes={"encoder": "tiny"}).save(tmp_path / "m.npz")
    found = find_reference(tmp_path / "m.npz", "tiny")
    assert (found.is_declared, found.spec_hash) == (True, None)


def test_the_validation_fd_belongs_to_the_main_output(tmp_path: Path) -> None:
    stated = {"val_fd": 2.0, "output": "mean", "spec": json.dumps({"output": "cls"})}
    Moments(MU, SIGMA, COUNT, attributes=stated).save(tmp_path / "m.npz")
    assert find_reference(tmp_path / "m.npz", "tiny", output="mean").val_fd is None


# --- files that are known ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_mu", "of_sigma", "is_known"),
    [(0, 0, True), (9e-5, -9e-5, True), (2e-4, 0, False), (0, 2e-4, False), (-2e-4, 0, False), (0.5, 0.5, False)],
)
def test_moments_are_known_by_both_sums_to_four_decimals(of_mu, of_sigma, is_known, monkeypatch) -> None:
    entry = register(monkeypatch, row(sums=(SUMS[0] + of_mu, SUMS[1] + of_sigma)))
    assert known_as("0" * 64, MU, SIGMA) is (entry if is_known else None)


def test_moments_of_another_width_or_without_published_digest_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, row(sums=SUMS, dim=DIM + 1))
    assert known_as("0" * 64, MU, SIGMA) is None
    register(monkeypatch, row())
    assert known_as("0" * 64, MU, SIGMA) is None
    entry = register(monkeypatch, row(sha256="a" * 64))
    assert known_as("a" * 64, MU, SIGMA) is entry and known_as("b" * 64, MU, SIGMA) is None


def test_a_known_file_has_the_name_and_protocol_of_its_reference(tmp_path: Path, monkeypatch) -> None:
    np.savez(tmp_path / "some.npz", **named())
    register(monkeypatch, row(sha256=hashlib.sha256((tmp_path / "some.npz").read_bytes()).hexdigest()))
    found = find_reference(tmp_path / "some.npz", "tiny")
    assert (found.name, found.moments.count, found.protocol_count, found.is_declared) == ("toy:x", 90, 70, True)
    assert find_reference(tmp_path / "some.npz", "other").is_declared is False
    np.savez(tmp_path / "counted.npz", **named(), count=np.array(44))  # what the file says comes first
    register(monkeypatch, row(sums=SUMS))
    assert find_reference(tmp_path / "counted.npz", "tiny").moments.count == 44


# --- references with a name ----------------------------------------------------------------------------------------


def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **attributes: object) -> Path:
    """The file of "toy:x" among those that ship with the package."""
    monkeypatch.setattr(fdr.references.local_files, "reference_stats_dir", lambda: tmp_path)
    Moments(MU, SIGMA, attributes=attributes).save(tmp_path / "toy.npz")
    return tmp_path / "toy.npz"


def test_a_named_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shipped(tmp_path, monkeypatch, reference="another name")
    published = ValidationFD(1.5, 1, "published")
    register(monkeypatch, row(url="https://example.org/x.npz", val_fd=published))
    for name in ("toy", "toy:x"):
        found = find_reference(name, "tiny")
        assert (found.name, found.source, found.path) == ("toy:x", "https://example.org/x.npz", path)
        assert (found.moments.count, found.protocol_count, found.is_declared) == (90, 70, True)
        assert (found.val_fd, found.digest) == (published, DIGEST)
    register(monkeypatch, row(val_fd=published))
    assert find_reference("toy", "tiny").source == "toy.npz"
    with pytest.raises(
        InputError, match=r"'toy' has no moments of the output 'mean' of tiny; give .* a statistics file"
    ):
        find_reference("toy", "tiny", output="mean")
    with pytest.raises(InputError, match=r"'toy' has no moments for dinov2 \(it has tiny\)"):
        find_reference("toy", "dinov2")


def test_a_validation_fd_in_the_file_comes_before_the_published_one(tmp_path: Path, monkeypatch) -> None:
    shipped(tmp_path, monkeypatch, val_fd=1.4321)
    register(monkeypatch, row(val_fd=ValidationFD(1.4, 1, "published")))
    assert find_reference("toy", "tiny").val_fd == ValidationFD(1.4321, None, "exact, from toy.npz")


def test_another_output_of_a_named_reference_has_no_validation_fd(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fdr.references.local_files, "reference_stats_dir", lambda: tmp_path)
    np.savez(tmp_path / "toy.npz", **named(), **named("avg_", seed=2))
    register(monkeypatch, row(val_fd=ValidationFD(1.5, 1, "x"), outputs=("mean",), entry="mu"))
    found = find_reference("toy", "tiny", output="mean")
    assert found.val_fd is None
    np.testing.assert_array_equal(found.moments.mu, pair(seed=2)[0])
    np.testing.assert_array_equal(find_reference("toy", "tiny").moments.mu, MU)


def test_the_entry_of_a_registry_row_is_the_one_that_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fdr.references.local_files, "reference_stats_dir", lambda: tmp_path)
    np.savez(tmp_path / "toy.npz", **named(), **named("avg_", seed=2))
    register(monkeypatch, row(entry="avg_mu"))
    np.testing.assert_array_equal(find_reference("toy", "tiny").moments.mu, pair(seed=2)[0])


def test_a_named_reference_of_questionable_moments_is_warned_about_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fdr.references.local_files, "reference_stats_dir", lambda: tmp_path)
    np.savez(tmp_path / "toy.npz", mu=MU, sigma=np.diag([1.0, 2, 3, 4, 5, 0]))
    register(monkeypatch, row())
    with pytest.warns(FdrWarning) as caught:
        find_reference("toy", "tiny")
    (message,) = [str(one.message) for one in caught]
    assert message.startswith(f"{tmp_path / 'toy.npz'} has a singular covariance (rank 5 of 6)")


def test_the_main_output_by_its_name_is_the_main_output(tmp_path: Path) -> None:
    spec = TinyEncoder("tiny", DIM).spec
    Moments(MU, SIGMA, COUNT, attributes={"val_fd": 2.0}).save(tmp_path / "m.npz")
    for output in (None, "features"):
        found = find_reference(tmp_path / "m.npz", spec, output=output)
        assert found.val_fd is not None and found.val_fd.value == 2.0
    with pytest.raises(InputError, match="no moments of the output 'logits' of tiny"):
        find_reference(tmp_path / "m.npz", spec, output="logits")


def test_verify_reads_the_moments_of_a_file_without_published_digest(tmp_path: Path, monkeypatch) -> None:
    """A covariance of positive variances may still be indefinite, which its eigenvalues alone show."""
    monkeypatch.setattr(fdr.references.local_files, "reference_stats_dir", lambda: tmp_path)
    entry = register(monkeypatch, row(dim=2))
    for off_diagonal, sentence in (
        (0.5, "its moments are valid"),
        (2.0, "not positive semidefinite|negative eigenvalue"),
    ):
        np.savez(tmp_path / "toy.npz", mu=np.zeros(2), sigma=np.array([[1.0, off_diagonal], [off_diagonal, 1.0]]))
        (verdict,) = verify(entry, tmp_path)
        assert re.search(sentence, verdict.sentence), verdict


def test_what_is_images_and_what_is_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, row())
    np.savez(tmp_path / "stats.npz", **named())
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((3, 4, 4, 3), np.uint8))
    not_images = ["toy", "toy:x", Moments(MU, SIGMA), tmp_path / "stats.npz", str(tmp_path / "stats.npz")]
    assert [names_images(one) for one in not_images] == [False] * 5
    assert names_images(np.zeros((3, 4, 4, 3), np.uint8)) and names_images(tmp_path / "images.npz")
    with pytest.raises(InputError, match="Unknown reference 'tox'; did you mean 'toy:x' or 'toy'"):
        names_images("tox")
    with pytest.raises(InputError, match=r"The reference .*nothing\.npz"):
        names_images(tmp_path / "nothing.npz")


# --- what does not fit ---------------------------------------------------------------------------------------------


def test_moments_of_another_encoder_are_refused(tmp_path: Path) -> None:
    spec = TinyEncoder("tiny", DIM).spec
    narrow = TinyEncoder("tiny", DIM - 1).spec
    with pytest.raises(InputError, match=f"holds {DIM}-d moments, but tiny gives {DIM - 1}-d"):
        find_reference(Moments(MU, SIGMA), narrow)
    assert find_reference(Moments(MU, SIGMA), spec).is_declared is False
    own = {"encoder": "tiny", "spec_hash": spec.hash}
    assert find_reference(Moments(MU, SIGMA, attributes=own), spec).is_declared is True
    for stored, words in (
        ({"name": "other"}, ": it was made by other"),
        ({"name": "tiny"}, ": same name, but other weights, dtype or options"),
        (None, r"\(" + spec.hash + r"\); the numbers"),
    ):
        other = own | {"spec_hash": "00000000"} | ({} if stored is None else {"spec": json.dumps(stored)})
        with pytest.raises(InputError, match=words):
            find_reference(Moments(MU, SIGMA, attributes=other), spec)
    with pytest.raises(InputError, match="holds moments of tiny, not of other"):
        find_reference(Moments(MU, SIGMA, attributes=own), "other")
    assert find_reference(Moments(MU, SIGMA, attributes=own), "tiny").spec_hash == spec.hash
    unnamed = Moments(MU, SIGMA, attributes={"spec_hash": "00000000"})
    assert find_reference(unnamed, "other").spec_hash == "00000000"


def test_an_entry_alone_is_taken_whatever_its_width_and_then_refused_by_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", **named())
    with pytest.raises(InputError, match=f"some.npz holds {DIM}-d moments, but tiny gives 3-d features"):
        find_reference(tmp_path / "some.npz", TinyEncoder("tiny", 3))


def reference(digest: str, is_declared: bool) -> Reference:
    return Reference("r", "r.npz", digest, Moments(MU, SIGMA), is_declared=is_declared)


@pytest.mark.parametrize(
    ("first", "second", "encoders", "is_refused"),
    [
        (("x", False), ("x", False), ("a", "b"), True),
        (("x", True), ("x", False), ("a", "b"), True),
        (("x", False), ("x", True), ("a", "b"), True),
        (("x", True), ("x", True), ("a", "b"), False),
        (("x", False), ("y", False), ("a", "b"), False),
        (("x", False), ("x", False), ("a", "a"), False),  # two outputs of one encoder
    ],
)
def test_moments_that_name_no_encoder_serve_one(first, second, encoders, is_refused) -> None:
    found = {(encoders[0], "pool"): reference(*first), (encoders[1], "mean"): reference(*second)}
    if is_refused:
        with pytest.raises(InputError, match=r"r\.npz does not say which encoder .* both a and b|both b and a"):
            check_one_encoder_each(found)
    else:
        check_one_encoder_each(found)


def test_samples_that_are_the_reference() -> None:
    same = replace(reference("x", True), images_digest="d1")
    with pytest.warns(FdrWarning, match="The samples are the reference r itself"):
        warn_if_same_images("d1", same)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_same_images("d2", same)
        warn_if_same_images(None, reference("x", True))  # neither is known


# --- folders of fdr stats ------------------------------------------------------------------------------------------


def folder(path: Path, **changed: object) -> Path:
    """A folder with moments of two encoders of one width, "one" and "two"."""
    path.mkdir()
    rows = []
    for name, seed in (("one", 0), ("two", 2)):
        mu, sigma = pair(seed=seed)
        Moments(mu, sigma, COUNT, attributes={"encoder": name, "spec_hash": f"hash-{name}"}).save(path / f"{name}.npz")
        sha256 = hashlib.sha256((path / f"{name}.npz").read_bytes()).hexdigest()
        rows.append({"name": name, "spec_hash": f"hash-{name}", "file": f"{name}.npz", "sha256": sha256})
    images = {"source": "x", "digest": "d", "count": COUNT}
    index = {"schema": "fdr-reference/1", "name": "mine", "images": images, "encoders": rows}
    (path / "reference.json").write_text(json.dumps(index | changed))
    return path


def test_a_folder_gives_the_file_of_the_encoder(tmp_path: Path) -> None:
    where = folder(tmp_path / "f")
    found = find_reference(where, "two")
    assert found.path == where / "two.npz" and found.spec_hash == "hash-two"
    np.testing.assert_array_equal(found.moments.mu, pair(seed=2)[0])
    with pytest.raises(InputError, match=r"has no moments for three \(it has one, two\); add them: fdr stats"):
        find_reference(where, "three")
    spec = TinyEncoder("renamed", DIM).spec
    index = json.loads((where / "reference.json").read_text())
    index["encoders"][1]["spec_hash"] = spec.hash
    (where / "reference.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="was computed with another encoder spec"):  # the file itself says hash-two
        find_reference(where, spec)


def test_a_folder_whose_file_was_exchanged_is_refused(tmp_path: Path) -> None:
    where = folder(tmp_path / "f")
    (where / "one.npz").write_bytes((where / "two.npz").read_bytes())
    with pytest.raises(InputError, match=r"one\.npz' is damaged or another file: its sha256 is"):
        find_reference(where, "one")
    (where / "two.npz").unlink()
    with pytest.raises(InputError, match=r"lists two\.npz, which is missing"):
        find_reference(where, "two")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"schema": "fdr-reference/2"}, "has schema 'fdr-reference/2'; expected 'fdr-reference/1'"),
        ({"schema": 1}, r"damaged \(schema of the index is 1, where a text is expected\)"),
        ({"images": []}, r"damaged \(images of the index is \[\], where an object is expected\)"),
        ({"images": {"source": "x", "count": 0}}, "count of images is 0, where a whole number of 1 or more"),
        ({"skipped": [{"id": "a"}]}, "a skipped image has no reason, which is a text"),
        ({"encoders": [{"name": "one"}]}, "an encoder has no spec_hash, which is a text"),
    ],
)
def test_a_field_of_the_index_that_is_wrong_is_named(changed: dict[str, object], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        read_index(folder(tmp_path / "f", **changed))


@pytest.mark.parametrize(
    ("field", "value"), [("sha256", "A" * 64), ("sha256", "a" * 63), ("val_fd", "1"), ("val_count", 0)]
)
def test_a_field_of_an_encoder_that_is_wrong_is_named(field: str, value: object, tmp_path: Path) -> None:
    where = folder(tmp_path / "f")
    index = json.loads((where / "reference.json").read_text())
    index["encoders"][1][field] = value
    (where / "reference.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"{field} of an encoder is"):
        read_index(where)


def test_an_index_of_a_million_lines_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder(tmp_path / "f")
    size = (where / "reference.json").stat().st_size
    monkeypatch.setattr(fdr.references.index, "MAX_BYTES", size)
    assert read_index(where)["name"] == "mine"
    monkeypatch.setattr(fdr.references.index, "MAX_BYTES", size - 1)
    with pytest.raises(InputError, match="an index of a reference is small"):
        read_index(where)
