"""Files become Pillow's pixels: oracles are Pillow itself and numpy."""

import io
import random
import warnings

import numpy as np
import pytest
from image_worlds import encoded, photo, png_16, read_all, write_files
from PIL import Image

from fdr.images import FORMATS, ImageOptions, open_images
from fdr.images import decode as decode_module
from fdr.images.decode import UnreadableImage, decode, quiet_pillow, scale_16_bit, sniff

LIMIT = 10**7


def pillow(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def ours(data: bytes, alpha: str = "drop") -> np.ndarray:
    return decode(data, alpha, LIMIT).array


JPEGS = {
    f"{subsampling}-{'progressive' if progressive else 'baseline'}-q{quality}": dict(
        subsampling=subsampling, progressive=progressive, quality=quality
    )
    for subsampling in ("4:4:4", "4:2:2", "4:2:0")
    for progressive in (False, True)
    for quality in (10, 75, 100)
} | {
    "restart-markers": dict(restart_marker_blocks=2),
    "optimized": dict(optimize=True),
    "exif-rotated": dict(exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16), (33, 47), (64, 41)])
def test_jpeg_pixels_are_those_of_pillow(name, size):
    data = encoded(photo(3, *size), "JPEG", **JPEGS[name])
    assert np.array_equal(ours(data), pillow(data))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 47)])
@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_colour_models_is_pillows(mode, size):
    data = encoded(photo(4, *size), "JPEG", mode=mode, quality=80)
    assert np.array_equal(ours(data), pillow(data))


@pytest.mark.parametrize("transform", [0, 1])
def test_jpeg_with_an_adobe_marker_is_pillows(transform):
    plain = encoded(photo(5, 20, 24), "JPEG", subsampling=0)
    end = 4 + int.from_bytes(plain[4:6], "big")  # of the JFIF segment, which goes
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    data = plain[:2] + adobe + plain[end:]
    assert np.array_equal(ours(data), pillow(data))
    assert np.array_equal(ours(data), pillow(plain)) == (transform == 1)


def test_plain_jpeg_takes_the_fast_way_and_agrees_without_it(monkeypatch):
    data = encoded(photo(6, 31, 29), "JPEG")
    if decode_module._simplejpeg() is None:
        pytest.skip("this Pillow is not built on libjpeg-turbo")
    assert isinstance(decode(data, "drop", LIMIT).pixels, np.ndarray)
    fast = ours(data)
    monkeypatch.setattr(decode_module, "_simplejpeg", lambda: None)
    assert isinstance(decode(data, "drop", LIMIT).pixels, Image.Image)
    assert np.array_equal(ours(data), fast)


def test_damaged_jpegs_are_refused_or_decoded_exactly_as_by_pillow():
    rng = random.Random(0)
    whole = [encoded(photo(i, 40, 33), "JPEG", progressive=bool(i % 2), subsampling=i % 3) for i in range(4)]
    outcomes = set()
    for _ in range(300):
        data = bytearray(rng.choice(whole))
        if rng.random() < 0.4:
            del data[rng.randrange(3, len(data)) :]
        else:
            data[rng.randrange(3, len(data))] = rng.randrange(256)
        try:
            expected = pillow(bytes(data))
        except Exception:
            expected = None
        if expected is not None and expected.size > 3 * LIMIT:
            continue
        try:
            found = ours(bytes(data))
        except UnreadableImage:
            found = None
        assert (found is None) == (expected is None)
        assert found is None or np.array_equal(found, expected)
        outcomes.add(found is None)
    assert outcomes == {True, False}


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_every_format_and_mode_is_pillows_rgb(format, mode):
    if (format, mode) == ("PPM", "P"):
        pytest.skip("PPM has no palette")
    data = encoded(photo(7), format, mode=mode)
    assert np.array_equal(ours(data), pillow(data))
    assert sniff(data) == format.lower()


def test_16_bit_is_rounded_from_1_257th_in_every_layout():
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, 4), dtype=np.uint16)
    values[0, 0], values[0, 1] = 65535, 0
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(ours(png_16(values[..., :3], 2)), expected[..., :3])
    assert np.array_equal(ours(png_16(values, 6)), expected[..., :3])
    gray = np.repeat(expected[..., :1], 3, axis=2)
    assert np.array_equal(ours(png_16(values[..., :1], 0)), gray)
    for format in ("PNG", "TIFF", "PPM"):
        assert np.array_equal(ours(encoded(values[..., 0], format)), gray)


def test_16_bit_scaling_is_exact_for_all_values():
    every = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(scale_16_bit(every), np.rint(every / 257.0).astype(np.uint8))
    assert np.array_equal(scale_16_bit(np.arange(256, dtype=np.uint16) * 257), np.arange(256))


def test_alpha_is_dropped_or_composited_as_asked():
    rgba = np.dstack([photo(8), np.random.default_rng(1).integers(0, 256, (12, 10), dtype=np.uint8)])
    data = encoded(rgba)
    share = rgba[..., 3:] / 255
    assert np.array_equal(ours(data), rgba[..., :3])
    for alpha, ground in (("white", 255), ("black", 0)):
        exact = rgba[..., :3] * share + ground * (1 - share)
        assert np.abs(ours(data, alpha) - exact).max() <= 1
    gray = encoded(rgba, mode="LA")
    assert np.array_equal(ours(gray), pillow(gray))
    assert (ours(gray, "white").astype(int) - ours(gray, "black") - (255 - rgba[..., 3:])).max() <= 2


def test_palette_transparency_counts_as_alpha():
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=0)
    assert ours(file.getvalue()).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert ours(file.getvalue(), "white").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_exif_orientation_is_not_applied():
    data = encoded(photo(9, 20, 30), "JPEG", **JPEGS["exif-rotated"])
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert ours(data).shape == (20, 30, 3)


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(photo(i)) for i in range(3)]
    for format in ("GIF", "WEBP", "PNG"):
        file = io.BytesIO()
        frames[0].save(file, format, save_all=True, append_images=frames[1:])
        assert np.array_equal(ours(file.getvalue()), pillow(file.getvalue()))


def test_format_is_known_by_content_and_not_by_name(tmp_path):
    write_files(tmp_path, {"a.png": encoded(photo(0), "JPEG"), "b.jpg": encoded(photo(1)), "c.png": encoded(photo(2))})
    source = open_images(tmp_path)
    (batch,) = source.batches(8)
    assert [FORMATS[code] for code in batch.records["format"]] == ["jpeg", "png", "png"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x00\x01\x02 something", "not an image of a format read here"),
        (encoded(photo(0))[:60], "truncated or damaged png"),
        (encoded(photo(0, 64, 64), "JPEG")[:-400], "truncated or damaged jpeg"),
        (encoded(photo(0).astype(np.float32)[..., 0], "TIFF"), "floating-point"),
        (encoded(photo(0).astype(np.int32)[..., 0] * 1000, "TIFF"), "integers from"),
        (encoded(photo(0, 4000, 4001)), "4001 x 4000 pixels, more than --max-pixels 10000000"),
    ],
)
def test_unreadable_files_are_named_by_their_fault(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode(data, "drop", LIMIT)


def test_pillows_own_limit_is_a_sentence_too(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(UnreadableImage, match="Pillow's own limit"):
        decode(encoded(photo(0)), "drop", LIMIT)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_max_pixels_raises_pillows_own_limit_too(tmp_path, monkeypatch, format):
    data = encoded(photo(0), format)
    want = ours(data)
    write_files(tmp_path, {"a.png": data})
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    for workers in (0, 2):
        got = read_all(open_images(tmp_path, ImageOptions(max_pixels=120)), num_workers=workers)
        assert np.array_equal(got[0], want) and Image.MAX_IMAGE_PIXELS == 50


def test_pillows_warnings_stay_silent_during_a_pass_and_only_then(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 120 pixels warn, 240 would be an error
    write_files(tmp_path, {"a.png": encoded(photo(0))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        assert len(read_all(open_images(tmp_path), num_workers=1)) == 1
        assert warnings.filters == before
        with quiet_pillow(), quiet_pillow():
            assert warnings.filters != before
        assert warnings.filters == before
        with pytest.raises(UnreadableImage, match="damaged png file"):
            decode(encoded(photo(0)), "drop", LIMIT)


def test_alpha_policy_reaches_files_and_arrays_alike(tmp_path):
    rgba = np.dstack([photo(8), np.full((12, 10), 128, np.uint8)])
    write_files(tmp_path, {"a.png": encoded(rgba)})
    for alpha in ("drop", "white", "black"):
        options = ImageOptions(alpha=alpha)
        [of_file] = read_all(open_images(tmp_path, options))
        [of_array] = read_all(open_images(rgba[None], options))
        assert np.array_equal(of_file, of_array)
