"""What `fdr eval` says about odd samples: each warning where it belongs, cold, resumed and warm; else silence."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from worlds import TinyEncoder, folder, images, npz

import fdr
from fdr.evaluation import evaluate, write_reference, write_reference_file
from fdr.evaluation.sanity import bias_slope, other_count
from fdr.features import CacheStore, ExtractionOptions, FeatureCache, extraction
from fdr.features.cache.derived import derived_files
from fdr.images import ImageOptions, Preprocessing, as_records, open_images
from fdr.images.records import pixel_digest, record_of
from fdr.references import Reference

GOOD = images(60, seed=1)


def said(samples: object, reference: object, **options: object) -> list[str]:
    """The warnings of one evaluation; those of the report and those raised are the same."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = evaluate(samples, reference, TinyEncoder(), **options)
    assert sorted(str(item.message) for item in caught) == sorted(report.warnings)
    return list(report.warnings)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npz(tmp_path_factory.mktemp("real") / "real.npz", images(80))


def jpegs(path: Path, array: np.ndarray, share: float = 1.0) -> Path:
    path.mkdir()
    for index, image in enumerate(array):
        suffix = "jpg" if index < share * len(array) else "png"
        Image.fromarray(image).save(path / f"{index:04d}.{suffix}", quality=95)
    return path


def with_flat(array: np.ndarray, count: int) -> np.ndarray:
    flat = np.broadcast_to(np.array([9, 200, 30], np.uint8), array[:count].shape)
    return np.concatenate([array[count:], flat])


def with_repeats(array: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([array[: len(array) - count], array[:count]])


CASES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "flat": (lambda x: with_flat(x, 2), r"^2 of 60 samples are of one colour all over \(arr_0\[58\], arr_0\[59\]\)"),
    "repeated": (
        lambda x: with_repeats(x, 5),
        r"^5 of 60 samples repeat an earlier .*\(arr_0\[55\], arr_0\[56\], arr_0\[57\], \.\.\.\): FD is that of 55",
    ),
    "cast": (
        lambda x: x // 255,
        r"^All values of the 60 samples lie between 0 and 1 .* cast to uint8; multiply by 255",
    ),
    "bright": (lambda x: 127 + x // 2, r"lie between 127 and 254 of 0 to 255: \(x \+ 1\) / 2 was probably applied"),
    "dark": (lambda x: x // 2, r"lie between 0 and 127 of 0 to 255: check whether the generator's range"),
    "one": (
        lambda x: x[:1].repeat(60, 0) ^ np.random.default_rng(0).integers(0, 2, x.shape, dtype=np.uint8),
        r"^The samples hardly vary: their tiny features have .* of the variance of the reference real.npz",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_odd_samples_are_told(name: str, real: Path, tmp_path: Path) -> None:
    change, sentence = CASES[name]
    (found,) = said(npz(tmp_path / "odd.npz", change(GOOD)), real)
    assert re.search(sentence, found)


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"one"}))
def test_what_the_reference_has_as_well_is_no_news(name: str, tmp_path: Path) -> None:
    change, _ = CASES[name]
    reference = npz(tmp_path / "odd.npz", change(images(60)))
    assert said(npz(tmp_path / "alike.npz", change(GOOD)), reference) == []


def test_good_samples_are_met_with_silence(real: Path, tmp_path: Path) -> None:
    stats = tmp_path / "stats"
    write_reference(open_images(real), [TinyEncoder()], stats)
    floats = GOOD.astype(np.float32) / 255
    for samples in (npz(tmp_path / "a.npz", GOOD), folder(tmp_path / "pngs", GOOD), floats, list(GOOD), iter(GOOD)):
        assert said(samples, real) == []
    for reference in (
        stats,
        stats / "tiny.h5",
        folder(tmp_path / "real", images(80)),
        jpegs(tmp_path / "j", images(80)),
    ):
        assert said(tmp_path / "a.npz", reference) == []
    assert said(GOOD, real, metrics=("fd", "is"), image_options=ImageOptions(count=40, size=8)) == []
    assert said(floats, real, image_options=ImageOptions(quantize="none")) == []


def test_a_few_are_tolerated(tmp_path: Path) -> None:
    many = images(250, seed=3, side=8)
    reference = npz(tmp_path / "real.npz", images(80, side=8))
    assert said(npz(tmp_path / "a.npz", with_repeats(many, 2)), reference) == []
    assert said(npz(tmp_path / "b.npz", with_repeats(many, 3)), reference) != []
    assert said(jpegs(tmp_path / "c", many, share=0.04), reference) == []
    assert said(jpegs(tmp_path / "d", many, share=0.06), reference) != []


def test_one_image_again_and_again_is_called_a_repeat_alone(real: Path, tmp_path: Path) -> None:
    """Its features do not vary either, which needs no second warning."""
    (found,) = said(npz(tmp_path / "a.npz", GOOD[:1].repeat(60, 0)), real)
    assert found.startswith("59 of 60 samples repeat an earlier sample")


def test_flat_images_are_not_called_repeats(real: Path, tmp_path: Path) -> None:
    (found,) = said(npz(tmp_path / "a.npz", with_flat(GOOD, 20)), real)
    assert "one colour" in found


def test_copies_of_the_reference(real: Path, tmp_path: Path) -> None:
    mixed = np.concatenate([images(6), GOOD[6:]])
    (found,) = said(folder(tmp_path / "mixed", mixed), real)
    assert re.search(r"^6 of 60 samples are pixel for pixel images of the reference real\.npz \(0000\.png, 0001", found)
    (found,) = said(real, folder(tmp_path / "real", images(80)))
    assert "80 of 80 samples are pixel for pixel" in found
    (found,) = said(real, real)
    assert "are the reference real.npz itself" in found


def test_jpeg_samples(real: Path, tmp_path: Path) -> None:
    samples = jpegs(tmp_path / "samples", GOOD)
    (found,) = said(samples, real)
    assert re.search(r"^60 of 60 samples are JPEG files \(0000\.jpg, .*and the reference images are not", found)
    originals = jpegs(tmp_path / "originals", images(80))
    assert said(samples, originals) == []
    assert said(samples, real, image_options=ImageOptions(size=8, crop="adm")) == []


def test_statistics_tell_whether_their_images_were_jpeg(real: Path, tmp_path: Path) -> None:
    samples = jpegs(tmp_path / "samples", GOOD)
    for name, images_of in (("lossless", real), ("compressed", jpegs(tmp_path / "real", images(80)))):
        write_reference(open_images(images_of), [TinyEncoder()], tmp_path / name)
    (found,) = said(samples, tmp_path / "lossless")
    assert "the reference images are not" in found
    assert said(samples, tmp_path / "compressed") == []
    unknown = fdr.load_reference(tmp_path / "lossless", TinyEncoder())
    (found,) = said(samples, replace(unknown, attributes={}))
    assert "nothing says that the reference images were" in found


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "SHARD_SIZE", 16)


class Interrupted(TinyEncoder):
    """Ends after 40 images, as a killed run does."""

    def forward(self, inputs, outputs):
        if self.num_seen + len(inputs) > 40:
            raise KeyboardInterrupt
        return super().forward(inputs, outputs)


def odd_folder(tmp_path: Path) -> Path:
    return jpegs(tmp_path / "odd", with_flat(with_repeats(GOOD, 7), 3))


def kinds(sentences: list[str]) -> list[str]:
    return sorted(re.findall(r"of one colour|repeat an earlier|are JPEG files", " ".join(sentences)))


def test_warm_and_resumed_runs_say_the_same(
    real: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = odd_folder(tmp_path)
    cold = said(samples, real)
    assert kinds(cold) == ["are JPEG files", "of one colour", "repeat an earlier"]
    with pytest.raises(KeyboardInterrupt):
        evaluate(samples, npz(tmp_path / "r.npz", images(16)), Interrupted(), cache=tmp_path / "c", batch_size=8)
    assert said(samples, real, cache=tmp_path / "c", batch_size=8) == cold
    monkeypatch.setattr(
        "fdr.features.cache.entry.FeatureCache.read_shard", lambda *_: pytest.fail("features were read")
    )
    assert said(samples, real, cache=tmp_path / "c", batch_size=8, stderr=False) == cold


def test_copies_are_found_when_both_sides_are_cached(real: Path, tmp_path: Path) -> None:
    samples = npz(tmp_path / "a.npz", np.concatenate([images(6), GOOD[6:]]))
    cold = said(samples, real, cache=tmp_path / "c")
    assert len(cold) == 1 and said(samples, real, cache=tmp_path / "c") == cold


def entries_of(cache: Path, name: str) -> Iterator[Path]:
    return (entry.path for entry in CacheStore(cache).entries() if entry.source == name)


def test_what_was_noted_may_be_lost_or_damaged(real: Path, tmp_path: Path) -> None:
    samples, cache = odd_folder(tmp_path), tmp_path / "c"
    said(samples, real, cache=cache)
    (entry,) = entries_of(cache, "odd")
    (file,) = derived_files(entry, "images")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    problems = [problem for found in CacheStore(cache).verify() for problem in found.problems]
    assert problems == [f"{file.name}: damaged"]
    assert said(samples, real, cache=cache, stderr=False) == []
    file.unlink()
    assert said(samples, real, cache=cache, stderr=False) == []
    assert CacheStore(cache).remove(everything=True).entries
    assert not entry.exists()


def test_shards_without_notes_are_read_in_silence(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FeatureCache.write_shard
    monkeypatch.setattr(FeatureCache, "write_shard", lambda self, *given: plain(self, *given[:6]))
    monkeypatch.setattr("fdr.features.cache.derived.save_images", lambda *_: False)
    samples, cache = odd_folder(tmp_path), tmp_path / "c"
    assert len(said(samples, real, cache=cache)) == 3
    assert said(samples, real, cache=cache) == []
    assert said(samples, real, cache=cache, metrics=("fd", "is")) == []


def test_the_number_of_samples_of_the_protocol(real: Path) -> None:
    moments = fdr.Moments.from_features(np.random.default_rng(0).normal(size=(4000, 8)))
    reference = Reference("toy", "", "", moments, protocol_count=50_000)
    assert other_count(50_000, reference, "tiny") is None
    assert other_count(100, replace(reference, protocol_count=None), "tiny") is None
    fewer = other_count(10_000, reference, "tiny")
    assert fewer is not None and re.search(
        r"^10000 samples, but .* toy are published for 50000: .* tiny .*\+0\.00", fewer
    )
    assert "draw 50000 samples" in fewer
    more = other_count(60_000, reference, "tiny")
    assert more is not None and "take --count 50000" in more and re.search(r"roughly -\d", more)


def test_an_evaluation_against_a_published_reference_tells_the_count(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = fdr.Moments.from_features(np.random.default_rng(0).normal(size=(100, 12)))
    found = Reference("toy", "", "", moments, protocol_count=50)
    monkeypatch.setattr("fdr.evaluation.reference_side.find_reference", lambda *_, **__: found)
    (sentence,) = said(GOOD, moments)
    assert sentence.startswith("60 samples, but numbers against toy are published for 50")
    assert said(GOOD, moments, image_options=ImageOptions(count=50)) == []


@pytest.mark.parametrize("dim", [1, 7, 64])
def test_the_bias_of_white_features_is_the_closed_form(dim: int) -> None:
    assert bias_slope(np.eye(dim)) == pytest.approx(dim + dim * (dim + 1) / 4)
    assert bias_slope(3 * np.eye(dim)) == pytest.approx(3 * (dim + dim * (dim + 1) / 4))


def test_the_bias_is_that_of_sampling() -> None:
    dim, count, random = 16, 800, np.random.default_rng(0)
    scale = np.arange(1, dim + 1) ** -0.5
    exact = fdr.Moments(np.zeros(dim), np.diag(scale**2), 10**9)
    draws = [fdr.Moments.from_features(random.normal(size=(count, dim)) * scale) for _ in range(60)]
    measured = np.mean([fdr.frechet_distance(draw, exact) for draw in draws])
    assert bias_slope(exact.sigma) / count == pytest.approx(measured, rel=0.05)


def test_directions_that_do_not_vary_add_no_bias() -> None:
    padded = np.zeros((10, 10))
    padded[:4, :4] = np.eye(4)
    assert bias_slope(padded) == pytest.approx(4 + 4 * 5 / 4)


def test_facts_of_an_image() -> None:
    image = images(1, side=32)[0]
    low, high, is_flat, code, digest, width, height = record_of(image, "png")
    assert (low, high, is_flat, code, width, height) == (image.min(), image.max(), False, 3, 32, 32)
    assert record_of(image[:20].copy(), "odd")[5:] == (32, 20)
    assert record_of(image.copy(), "odd")[3:5] == (9, digest)
    assert record_of(np.full((5, 4, 3), 7, np.uint8), "array")[:3] == (7, 7, True)
    assert record_of(np.tile(np.uint8([1, 2, 3]), (5, 4, 1)), "array")[:3] == (1, 3, True)
    assert record_of(image.astype(np.float32) / 255, "array")[:2] == (image.min(), image.max())


def test_stored_records_of_before_sizes_were_noted_are_read() -> None:
    old = np.zeros(2, [("row", "<i8"), ("low", "u1")])
    old["row"] = [4, 5]
    records = as_records(old)
    assert records["row"].tolist() == [4, 5] and records["width"].tolist() == [0, 0]
    assert Preprocessing.of(records, "none") is None and Preprocessing.of(records[:0], "none") is None


SMALL, LARGE = images(30, seed=4, side=16), images(30, seed=4, side=32)
MIXED = [*SMALL[:12], *(image[:20] for image in LARGE[:18])]


def sizes_said(samples: object, reference: object, **options: object) -> list[str]:
    return [text for text in said(samples, reference, **options) if "pixels" in text or "brought" in text]


def test_samples_and_reference_images_of_other_sizes(tmp_path: Path) -> None:
    small, large = npz(tmp_path / "small.npz", SMALL), npz(tmp_path / "large.npz", LARGE)
    for samples, reference, own, other in ((large, small, 32, 16), (small, large, 16, 32)):
        (text,) = sizes_said(samples, reference)
        assert f"The samples are {own} x {own} pixels, but the images of the reference" in text
        assert f"'{reference.name}' are {other} x {other} pixels:" in text
        assert sizes_said(samples, reference, metrics=("precision",)) == [text]
        assert sizes_said(samples, reference, cache=tmp_path / "cache") == [text]
        assert sizes_said(samples, reference, cache=tmp_path / "cache") == [text]  # warm
        assert sizes_said(samples, reference, image_options=ImageOptions(size=16)) == []
    (text,) = sizes_said(large, MIXED)
    assert "are of many sizes (the most frequent is 32 x 20 pixels, 60% of them)" in text
    assert sizes_said(MIXED, MIXED[::-1]) == [] == sizes_said([*LARGE[:29], LARGE[29, :20]], large)


@pytest.mark.parametrize("kind", ["folder", "h5", "npz", "moments"])
def test_samples_of_another_size_than_a_reference_was_made_at(kind: str, tmp_path: Path) -> None:
    def made(name: str, **options: object) -> object:
        source = open_images(LARGE, ImageOptions(**options))
        if kind == "folder":
            write_reference(source, [TinyEncoder()], tmp_path / name)
            return tmp_path / name
        path = tmp_path / f"{name}.{'h5' if kind == 'moments' else kind}"
        write_reference_file(source, TinyEncoder(), path)
        return fdr.Moments.load(path) if kind == "moments" else path

    plain, squashed, cropped = made("plain"), made("squashed", size=16), made("cropped", crop="adm", size=16)
    for reference in (plain, squashed, cropped):
        own = LARGE if reference is plain else SMALL
        assert sizes_said(own, reference) == []  # the usual way: a reference brought to the size of the samples
    (text,) = sizes_said(LARGE, squashed)
    assert "are 32 x 32 pixels, but" in text and "are 16 x 16 pixels, made with size=16:" in text
    assert text.endswith("give the samples size=16, too.")
    (text,) = sizes_said(LARGE, cropped)
    assert text.endswith(
        "made with crop='adm' size=16: FD sees the difference; give the samples crop='adm' size=16, too."
    )
    for crop, flags in (("none", "size=16"), ("center", "crop='center' size=16")):
        (text,) = sizes_said(LARGE, plain, image_options=ImageOptions(crop=crop, size=16))
        assert f"{flags} changes the samples alone" in text
    (text,) = sizes_said(LARGE, cropped, image_options=ImageOptions(crop="center", size=16))
    assert "with crop='center' size=16, but" in text and "with crop='adm' size=16:" in text
    assert sizes_said(LARGE, cropped, image_options=ImageOptions(crop="adm", size=16)) == []


def test_references_of_other_tools_say_nothing_of_sizes(tmp_path: Path) -> None:
    moments = fdr.Moments.from_features(np.random.default_rng(0).normal(size=(99, 12)))
    np.savez(tmp_path / "other.npz", mu=moments.mu, sigma=moments.sigma)
    assert sizes_said(LARGE, tmp_path / "other.npz") == []


def test_the_loss_tells_once_of_images_of_another_size() -> None:
    reference = fdr.Moments.from_features(fdr.extract(LARGE, "random"))
    loss = fdr.FDLoss("random", reference, population=fdr.BatchPopulation())
    for side, told in ((32, 0), (16, 1), (16, 0)):
        loss = loss if side == 16 and told == 0 else fdr.FDLoss("random", reference, population=fdr.BatchPopulation())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss(torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(0)))
        assert sum("16 x 16 pixels, but the images of the reference" in str(item.message) for item in caught) == told


def test_sizes_are_known_of_moments_only_and_of_extract(tmp_path: Path) -> None:
    options = ExtractionOptions(tmp_path / "cache", moments_only=True)
    write_reference_file(open_images(LARGE), TinyEncoder(), tmp_path / "a.npz", options=options)
    for reference in (tmp_path / "a.npz", fdr.Moments.from_features(fdr.extract(LARGE, TinyEncoder()))):
        assert len(sizes_said(SMALL, reference)) == 1


@pytest.mark.parametrize("shape", [(1, 1, 3), (28, 30, 3), (256, 255, 3), (301, 517, 3)])
def test_the_digest_sees_every_pixel_and_the_shape(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, shape, dtype=np.uint8)
    positions = set(random.integers(0, image.size, 50).tolist())
    seen = {pixel_digest(image), pixel_digest(image.astype(np.float32))}
    for position in positions:
        changed = image.copy()
        changed.reshape(-1)[position] ^= 1
        seen.add(pixel_digest(changed))
    assert len(seen) == len(positions) + 2
    if shape[0] != shape[1]:
        assert pixel_digest(image.reshape(shape[1], shape[0], 3)) not in seen
