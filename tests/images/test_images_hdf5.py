"""HDF5 files: every value from this very file, no locks, and no damage that hangs or kills the process."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from image_worlds import photos, read_all

from fdr.errors import InputError
from fdr.frechet import Moments
from fdr.images import open_images
from fdr.references import open_statistics
from fdr.runtime import hdf5

h5py = pytest.importorskip("h5py")
IMAGES = photos(6)


def written(path, **datasets):
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file[key] = value
    return path


def refused(path, match):
    with pytest.raises(InputError, match=match) as info:
        read_all(open_images(path))
    assert "\n" not in str(info.value)


def test_values_of_other_files_are_not_read(tmp_path):
    written(tmp_path / "part.h5", images=IMAGES)
    IMAGES.tofile(tmp_path / "raw.bin")
    layout = h5py.VirtualLayout(IMAGES.shape, np.uint8)
    layout[:] = h5py.VirtualSource("part.h5", "images", IMAGES.shape)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("images", IMAGES.shape, np.uint8, external=[(str(tmp_path / "raw.bin"), 0, IMAGES.nbytes)])
    for name in ("link", "inside"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["images"] = h5py.ExternalLink("part.h5", "/images")
            if name == "inside":
                file["others"] = IMAGES[::-1].copy()
    refused(tmp_path / "virtual.h5", r"virtual\.h5.: images is a virtual dataset, whose values lie in other files")
    refused(tmp_path / "external.h5", r"images keeps its values in another file \(.*raw\.bin\)")
    refused(tmp_path / "link.h5", r"images is a link to elsewhere, which is not followed")
    refused(f"{tmp_path / 'inside.h5'}:images", r"images is a link to elsewhere")
    assert np.array_equal(np.stack(read_all(open_images(tmp_path / "inside.h5"))), IMAGES[::-1])


def test_blocks_that_were_never_written_are_not_measured_as_black(tmp_path):
    with h5py.File(tmp_path / "some.h5", "w") as file:
        data = file.create_dataset("images", IMAGES.shape, np.uint8, chunks=(2, *IMAGES.shape[1:]), compression="gzip")
        data[:4] = IMAGES[:4]
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file.create_dataset("images", IMAGES.shape, np.uint8)
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("images", (2**60, 8, 8, 3), np.uint8, chunks=(1, 8, 8, 3))
    with h5py.File(tmp_path / "black.h5", "w") as file:
        data = file.create_dataset("images", IMAGES.shape, np.uint8, chunks=(4, *IMAGES.shape[1:]), compression="gzip")
        data[:] = 0
    refused(tmp_path / "some.h5", "images was not written to its end: 1 of 3 blocks have no values")
    refused(tmp_path / "none.h5", "1 of 1 blocks have no values")
    refused(tmp_path / "huge.h5", "blocks have no values")
    assert len(read_all(open_images(tmp_path / "black.h5"))) == 6


def test_statistics_take_no_value_of_another_file(tmp_path):
    moments = Moments.from_features(np.random.default_rng(0).normal(size=(20, 3)))
    moments.save(tmp_path / "own.h5")
    with h5py.File(tmp_path / "own.h5", "a") as file:
        file.move("sigma", "other")
        file["sigma"] = h5py.SoftLink("/other")
    with pytest.raises(InputError, match="sigma is a link to elsewhere"):
        Moments.load(tmp_path / "own.h5")
    with pytest.raises(InputError, match="sigma is a link to elsewhere"):
        open_statistics(tmp_path / "own.h5")


def test_file_systems_without_locks_are_read(tmp_path, monkeypatch):
    """HDF5's own lock is not asked for, and that of the check for a writer may fail."""
    fcntl = pytest.importorskip("fcntl")
    written(tmp_path / "x.h5", images=IMAGES)
    asked = []
    opened = h5py.File.__init__
    monkeypatch.setattr(
        h5py.File, "__init__", lambda self, *a, **k: asked.append((a[0], k.get("locking"))) or opened(self, *a, **k)
    )

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert np.array_equal(np.stack(read_all(open_images(tmp_path / "x.h5"))), IMAGES)
    assert {locking for name, locking in asked if isinstance(name, str)} == {False}


def test_a_writer_elsewhere_is_named(tmp_path):
    pytest.importorskip("fcntl")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = IMAGES
        refused(tmp_path / "x.h5", "is locked: another process holds it open for writing")
    assert len(read_all(open_images(tmp_path / "x.h5"))) == 6


def test_an_endless_loop_and_a_crash_in_the_library_are_damage(tmp_path, monkeypatch):
    written(tmp_path / "x.h5", images=IMAGES)
    monkeypatch.setattr(hdf5, "SURVEY_SECONDS", 0.0)
    refused(tmp_path / "x.h5", "is damaged: its structure could not be read within 0 s")
    hdf5._surveyed.clear()
    crash = subprocess.CompletedProcess([], -11)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: crash)
    refused(tmp_path / "x.h5", r"is damaged: the HDF5 library crashes on it \(signal 11\)")


def test_the_structure_is_read_once_and_never_where_it_has_checksums(tmp_path, monkeypatch):
    written(tmp_path / "old.h5", images=IMAGES)
    with h5py.File(tmp_path / "new.h5", "w", libver="latest") as file:
        file["images"] = IMAGES
    started = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **k: started.append(command) or run(command, **k))
    for name in ("new.h5", "old.h5", "old.h5"):
        assert len(read_all(open_images(tmp_path / name))) == 6
    assert [command[-1 - len([p for p in sys.path if p])] for command in started] == [str(tmp_path / "old.h5")]


def test_the_child_needs_no_torch(tmp_path):
    written(tmp_path / "x.h5", images=IMAGES)
    program = "import sys; from fdr.runtime.hdf5 import survey; survey(sys.argv[1]); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x.h5")], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "False", done.stderr
