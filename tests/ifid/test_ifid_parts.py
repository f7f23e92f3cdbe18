"""What identifies decoded images, latents and qualities; signatures; boundaries of the options; files and sheets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from autoencoder_worlds import Gaussian, Plain, seeded
from ifid_worlds import OTHERS, QUERIES, as_float, autoencoder, expected, measured
from torch import Tensor
from worlds import TinyEncoder, folder, images, npz

import fdr
from fdr.errors import FdrWarning, InputError
from fdr.ifid.decoded import decoded_sources
from fdr.ifid.drawn import DrawnLatents, gather
from fdr.ifid.interpolation import Draws
from fdr.ifid.latents import LatentEncoder
from fdr.ifid.pairs import Paired, _identities
from fdr.ifid.picture import sheet, spread, try_to_draw
from fdr.ifid.quality import QualityEncoder
from fdr.reports import parse_signature
from fdr.runtime import SilentProgress


def latents_of(digest: str | None, count: int = 3) -> Any:
    """As much of a set of latents as decides what is decoded."""
    source = SimpleNamespace(digest=digest, name="x.npz", ids=[str(row) for row in range(count)])
    return SimpleNamespace(source=source, rows=np.arange(count), latent_shape=(1,), shards=list, read=list)


def identities(**changes: Any) -> dict[str, str | None]:
    """The digests of all decoded sets, by name, with one of their causes changed."""
    model = changes.get("model", "haar")
    paired = Paired(
        latents_of(changes.get("images", "a")),
        latents_of(changes.get("references", "b")),
        Draws(changes.get("drawn", np.arange(3)), 0.0),
    )
    options = fdr.IfidOptions(**changes.get("options", {}))
    take: Any = None
    made = decoded_sources(fdr.load_autoencoder(model), paired, take, options, changes.get("stored", "s"), 4)
    return {name.replace(f" {options.alpha:g}", ""): source.digest for name, source in made.items()}


RECONSTRUCTED, NEIGHBOUR, BETWEEN = {"reconstructions"}, {"neighbours"}, {"interpolated"}
EVERY = RECONSTRUCTED | NEIGHBOUR | BETWEEN


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"model": "haar:2"}, EVERY),
        ({"images": "c"}, EVERY),
        ({"options": {"clamp": False, "quantize": "none"}}, EVERY),
        ({"references": "c"}, NEIGHBOUR | BETWEEN),
        ({"drawn": np.array([0, 2, 1])}, NEIGHBOUR | BETWEEN),
        ({"stored": "t"}, NEIGHBOUR | BETWEEN),
        ({"options": {"alphas": (0.25,)}}, BETWEEN),
        ({"options": {"mode": "linear"}}, BETWEEN),
        ({"options": {"mode": "mask"}}, BETWEEN),
        ({"options": {"top_k": 3, "seed": 4, "latent_dtype": "float16", "memory": 1, "lpips": True}}, set()),
    ],
)
def test_every_cause_of_decoded_images_is_in_their_digest(change: dict[str, Any], moved: set[str]) -> None:
    """The last row holds options that act through the drawn rows, or on no decoded image."""
    before, after = identities(), identities(**change)
    assert before.keys() == after.keys() == EVERY and None not in before.values()
    assert {name for name in EVERY if before[name] != after[name]} == moved
    assert len(set(before.values())) == 3


def test_clamping_alone_changes_the_digest() -> None:
    free, clamped = ({"clamp": clamp, "quantize": "none"} for clamp in (False, True))
    before, after = identities(options=free), identities(options=clamped)
    assert all(before[name] != after[name] for name in EVERY)


def test_images_of_an_unknown_autoencoder_have_no_digest() -> None:
    class Object:
        encode = decode = staticmethod(lambda values: values)

    assert set(identities(model=Object()).values()) == {None}


class TestLatentEncoder:
    def encoder(self, model: Any = "haar", dtype: str = "float32", is_neighbours: bool = False) -> LatentEncoder:
        return LatentEncoder(fdr.load_autoencoder(model), (16, 16), dtype, is_neighbours)

    def test_its_hash_names_the_autoencoder_and_the_stored_dtype(self) -> None:
        hashes = {self.encoder(*given).spec.hash for given in (("haar",), ("haar:2",), ("haar", "float16"))}
        assert len(hashes) == 3
        assert self.encoder("haar", "float32", True).spec.hash in hashes  # deterministic: the rows do not matter

    def test_a_set_of_neighbours_has_noise_of_its_own(self) -> None:
        """Otherwise image i would share its noise with neighbour i."""
        network = seeded(Gaussian)
        own, theirs = self.encoder(network), self.encoder(network, is_neighbours=True)
        x = as_float(QUERIES[:3])
        first, second = (each.forward_rows(x, ("latent",), [4, 5, 6])["latent"] for each in (own, theirs))
        loaded = fdr.load_autoencoder(network)
        torch.testing.assert_close(first, loaded.encode(x, [4, 5, 6]).flatten(1))
        torch.testing.assert_close(second, loaded.encode(x, [2**32 + 4, 2**32 + 5, 2**32 + 6]).flatten(1))
        assert float((first - second).detach().abs().min(1).values.max()) > 0 and own.spec.hash != theirs.spec.hash

    @pytest.mark.parametrize(("dim", "rows"), [(1, 1024), (65_536, 1024), (65_537, 512), (2**21, 32), (2**24, 32)])
    def test_wide_latents_have_fewer_images_to_a_shard(self, dim: int, rows: int) -> None:
        """At most 256 MiB of float32, in powers of two, and at least 32 images."""
        encoder = self.encoder()
        encoder.spec = fdr.EncoderSpec(**{**vars(encoder.spec), "dim": dim})
        assert encoder.shard_size == rows


class FakeLpips:
    weights, heads = "w", "h"


class TestQuality:
    def quality(
        self, side: tuple[int, int] = (16, 16), digest: str | None = "a", lpips: Any = None, **options: Any
    ) -> Any:
        return QualityEncoder(latents_of(digest), side, torch.device("cpu"), lpips, None, **options)

    @pytest.mark.parametrize(
        ("side", "names"),
        [
            ((10, 400), ("psnr",)),
            ((400, 11), ("psnr", "ssim")),
            ((160, 161), ("psnr", "ssim")),
            ((161, 161), ("psnr", "ssim", "ms_ssim")),
        ],
    )
    def test_small_images_have_fewer_scores(self, side: tuple[int, int], names: tuple[str, ...]) -> None:
        assert self.quality(side).scores == self.quality(side).outputs == names

    def test_values_outside_are_counted_if_they_are_not_clamped(self) -> None:
        free = self.quality(is_clamped=False)
        assert free.outputs == ("psnr", "ssim", "outside") and free.scores == ("psnr", "ssim")

    def test_every_cause_of_a_score_is_in_its_hash(self) -> None:
        other = type("Other", (FakeLpips,), {"heads": "other"})
        third = type("Third", (FakeLpips,), {"weights": "other"})
        hashes = [
            self.quality(**given).spec.hash
            for given in (
                {},
                {"digest": "b"},
                {"compat": "reference"},
                {"matching": "m"},
                {"lpips": FakeLpips},
                {"lpips": other},
                {"lpips": third},
            )
        ]
        assert len(set(hashes)) == len(hashes)

    def test_scores_of_images_that_cannot_be_named_are_not_cached(self) -> None:
        assert self.quality().is_cacheable and not self.quality(digest=None).is_cacheable


def test_the_signature_says_how_the_images_came_about(tmp_path: Path) -> None:
    queries, others = npz(tmp_path / "q.npz", QUERIES), npz(tmp_path / "n.npz", OTHERS)
    network = seeded(Gaussian)
    report = measured(network, queries, others, alphas=(0.75, 0.25), top_k=7, seed=5, latent_dtype="float16")
    about = report.run["autoencoder"]
    decoding = {"ae": f"{about['name']}:{about['hash'][:8]}", "z": "sample-5", "q": "u8"}
    assert (about["posterior"], about["seed"]) == ("sample", 5)
    digest = fdr.open_images(others).digest
    assert digest is not None
    pairing = {"nb": f"n.npz:{digest[:8]}", "by": "cosine", "k": "7", "draw": "5", "lat": "float16"}
    original = fdr.open_images(queries).digest
    assert original is not None
    named = {"ref": f"q.npz:{original[:8]}"}
    for metric, settings in (
        ("ifd", {**decoding, **pairing, "mix": "slerp-0.25"}),
        ("ifd:0.75", {**decoding, **pairing, "mix": "slerp-0.75"}),
        ("nfd", {**decoding, **pairing}),
        ("rfd", decoding),
        ("psnr", {**decoding, **named}),
    ):
        found = dict(parse_signature(report[metric].signature).fields)
        assert settings.items() <= found.items(), metric
        assert ("mix" in found) == ("mix" in settings) and ("k" in found) == ("k" in settings)
    assert report["psnr"].lower_is_better is False and report["ifd"].lower_is_better is True


def test_the_signature_has_the_quantisation_of_decoded_images() -> None:
    """That of the originals is another: they are bytes."""
    report = measured("haar", clamp=False, quantize="none")
    for metric in ("ifd", "rfd", "psnr"):
        found = dict(parse_signature(report[metric].signature).fields)
        assert (found["q"], found["clamp"]) == ("none", "no")


def test_the_curve_is_in_the_order_of_alpha_after_the_main_number() -> None:
    report = measured("haar", alphas=(0.75, 0.25, 0.5))
    assert [result.metric for result in report][:4] == ["ifd", "ifd:0.25", "ifd:0.75", "rfd"]


def test_warnings_of_the_opened_images_are_in_the_report() -> None:
    source = fdr.open_images(QUERIES)
    source.warnings.append("These images have a history.")
    assert measured("haar", source).warnings[0] == "These images have a history."


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"alphas": (-0.01,)}, "Alpha is a number from 0"),
            ({"alphas": (1.01,)}, "Alpha is a number from 0"),
            ({"alphas": (math.nan,)}, "Alpha is a number from 0"),
            ({"alphas": ()}, "Alpha is a number from 0"),
            ({"seed": -1}, "seed must be at least 0; got -1"),
            ({"memory": 0}, "memory must be at least 1; got 0"),
            ({"top_k": 0}, "top-k must be at least 1; got 0"),
            ({"quantize": "uint16"}, "Unknown quantize 'uint16'"),
            ({"compat": "paper"}, "Unknown compat 'paper'"),
            ({"clamp": False}, "cannot be rounded to 8 bits"),
        ],
    )
    def test_what_is_refused(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            fdr.IfidOptions(**options)

    def test_the_ends_are_allowed(self) -> None:
        options = fdr.IfidOptions(alphas=(0.0, 1.0), seed=0, memory=1, top_k=1)
        assert options.decoded_alphas == (1.0,) and options.alpha == 1.0 and options.surprise is None

    def test_defaults_are_those_of_the_paper(self) -> None:
        """Section 3 and the reference code of arXiv 2603.05630."""
        options = fdr.IfidOptions()
        assert (options.mode, options.alphas, options.top_k, options.seed) == ("slerp", (0.5,), 10, 0)
        assert [fdr.IfidOptions(mode=mode).distance for mode in ("slerp", "mask", "linear")] == [
            "cosine",
            "cosine",
            "l2",
        ]


def with_pixels(pixels: list[int] | None, source: Any) -> Any:
    """As much of a set of latents as says which images are equal."""
    digests = None if pixels is None else np.array(pixels, np.uint64)
    return SimpleNamespace(pixels=digests, source=source, num_rows=3)


class TestIdentities:
    """Which images are the same, so that none becomes its own neighbour."""

    def test_equal_pixels_have_equal_numbers_in_both_sets(self) -> None:
        found = _identities(with_pixels([5, 2**63, 5], "a"), with_pixels([2**63, 7, 5], "b"))
        assert found is not None
        (a, b, c), (d, e, f) = found
        assert a == c == f and b == d and len({a, b, e}) == 3

    @pytest.mark.parametrize("pixels", [None, [1, 2, 3]])
    def test_without_pixels_the_images_of_one_set_are_told_apart_by_their_rows(self, pixels: list[int] | None) -> None:
        source = object()
        found = _identities(with_pixels(pixels, source), with_pixels(None, source))
        assert found is not None and [rows.tolist() for rows in found] == [[0, 1, 2], [0, 1, 2]]

    def test_without_pixels_two_sets_cannot_be_compared(self) -> None:
        assert _identities(with_pixels(None, object()), with_pixels(None, object())) is None


class TestPairs:
    def test_as_many_neighbours_as_are_drawn_from_are_enough(self) -> None:
        assert measured("haar", images(11), None, top_k=10)["ifd"].count == 11
        assert measured("haar", images(11), images(10, seed=3), top_k=10)["ifd"].count == 11
        with pytest.raises(InputError, match="has 9 images that can be a neighbour, fewer than the 10"):
            measured("haar", images(10), None, top_k=10)

    def test_classes_of_other_names_are_not_matched(self, tmp_path: Path) -> None:
        for name, classes in (("a", ("cat", "dog")), ("b", ("cat", "fox"))):
            (tmp_path / name).mkdir()
            for number, kind in enumerate(classes):
                folder(tmp_path / name / kind, images(6, seed=number))
        with pytest.raises(InputError, match="The two sets have other classes"):
            measured("haar", tmp_path / "a", tmp_path / "b", top_k=3, same_class=True)
        assert measured("haar", tmp_path / "a", tmp_path / "a", top_k=3, same_class=True)["ifd"].count == 12

    def test_an_unreadable_image_does_not_shift_the_copies(self, tmp_path: Path) -> None:
        """Image 4 of the queries is a copy of image 2 of the others; the images before them are bad."""
        mine, theirs = images(12, seed=1), images(14, seed=2)
        theirs[2] = mine[4]
        queries, others = folder(tmp_path / "q", mine), folder(tmp_path / "n", theirs)
        for path in (queries / "0000.png", others / "0001.png"):
            path.write_bytes(b"no image")
        options = fdr.ImageOptions(on_bad="skip", max_bad=0.2)
        found = measured("haar", queries, others, top_k=1, image_options=options)
        kept = np.delete(mine, 0, 0), np.delete(theirs, [1, 2], 0)
        without = measured("haar", *kept, top_k=1, seed=0)
        near = np.array([nearest_pixels(image, theirs, {1, 2} if i == 4 else {1}) for i, image in enumerate(mine)][1:])
        features = TinyEncoder()(as_float(np.delete(mine, 0, 0)))["features"].numpy()
        drawn = TinyEncoder()(as_float(theirs[near]))["features"].numpy()
        assert found["nfd"].value == pytest.approx(fdr.frechet_distance(drawn, features), rel=1e-3)
        assert without["ifd"].count == 11

    def test_neighbours_in_sixteen_bits_are_another_set(self) -> None:
        """In one set the queries keep float32, and so do the reconstructions."""
        full, half = (measured(autoencoder(), QUERIES, None, latent_dtype=dtype) for dtype in ("float32", "bfloat16"))
        assert half["rfd"].value == full["rfd"].value and half["nfd"].value != full["nfd"].value

    def test_one_neighbour_is_the_nearest_whatever_the_seed(self) -> None:
        for seed in (0, 1):
            found = measured(autoencoder(), top_k=1, seed=seed)
            assert found["nfd"].value == pytest.approx(expected(QUERIES, OTHERS, "slerp", 0.5, 1, 0)["nfd"], rel=1e-5)


def nearest_pixels(image: np.ndarray, others: np.ndarray, excluded: set[int]) -> int:
    """By cosine in [-1, 1], which an orthonormal transform keeps."""
    x, y = image.ravel() / 127.5 - 1, others.reshape(len(others), -1) / 127.5 - 1
    cosine = y @ x / np.linalg.norm(y, axis=1) / np.linalg.norm(x)
    cosine[list(excluded)] = -np.inf
    return int(cosine.argmax())


def test_values_that_are_not_finite_end_the_run() -> None:
    class Breaks(Plain):
        def decode(self, latents: Tensor) -> Tensor:
            decoded = super().decode(latents)
            return decoded if len(latents) < 3 else decoded * torch.nan  # past the check at loading

    with pytest.raises(InputError, match=r"decodes to values that are not finite among array\[0\] to array\[7\]"):
        measured(seeded(Breaks), batch_size=8)


def test_the_share_of_values_outside_is_counted_over_all_channels() -> None:
    class Bright(Plain):
        def decode(self, latents: Tensor) -> Tensor:
            return super().decode(latents) * (1 if len(latents) < 3 else 0) + (0 if len(latents) < 3 else 9)

    with pytest.warns(FdrWarning, match=r"40 of 40 reconstructions .* \(30,720 of 30,720 values\)"):
        measured(seeded(Bright), clamp=False, quantize="none", batch_size=8)


class Stored:
    """Latents [N, 1, 2] in shards of four, the rows `gone` missing."""

    latent_shape, dim = (1, 2), 2

    def __init__(self, count: int, gone: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        self.values = torch.arange(2 * count).reshape(count, 2).to(dtype)
        self.rows = np.setdiff1d(np.arange(count), gone)
        self.num_reads = 0

    def shards(self) -> list[tuple[int, int]]:
        return [(start, min(start + 4, len(self.values))) for start in range(0, len(self.values), 4)]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        self.num_reads += 1
        here = self.rows[(self.rows >= start) & (self.rows < stop)]
        return here, self.values[here]


class TestDrawn:
    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_every_query_finds_the_latent_of_its_neighbour(self, tmp_path: Path, dtype: str) -> None:
        latents: Any = Stored(13, (1, 5), getattr(torch, dtype))
        rows = np.array([12, 0, 7, 7, 3, 2, 12])
        drawn = DrawnLatents(tmp_path / "sub" / "drawn.bin", 7, (1, 2), dtype)
        gather(latents, rows, drawn, SilentProgress())
        assert latents.num_reads == 3  # no row of the third shard was drawn
        assert torch.equal(drawn.at(0, 7), latents.values[rows].float().reshape(7, 1, 2))
        assert torch.equal(drawn.at(2, 4), latents.values[[7, 7]].float().reshape(2, 1, 2))
        gather(latents, rows, drawn, SilentProgress())
        assert latents.num_reads == 3

    def test_a_file_of_another_length_is_written_again(self, tmp_path: Path) -> None:
        latents: Any = Stored(5, ())
        drawn = DrawnLatents(tmp_path / "drawn.bin", 2, (1, 2), "float32")
        drawn.path.write_bytes(b"short")
        gather(latents, np.array([4, 1]), drawn, SilentProgress())
        assert torch.equal(drawn.at(0, 2).flatten(), torch.tensor([8.0, 9.0, 2.0, 3.0]))
        assert [path.name for path in tmp_path.iterdir()] == ["drawn.bin"]


class TestSheet:
    @pytest.mark.parametrize(("count", "rows"), [(3, [0, 1, 2]), (8, list(range(8))), (71, list(range(0, 71, 10)))])
    def test_its_rows_are_spread_over_all_images(self, count: int, rows: list[int]) -> None:
        assert spread(count).tolist() == rows

    def test_values_outside_are_black_and_white(self) -> None:
        values = torch.tensor([-0.5, 0.5, 1.5]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)

        class Source:
            def decoded(self, start: int, stop: int) -> Tensor:
                return values

        class Batches:
            is_indexed = False

            def batches(self, *given: Any) -> Iterator[Any]:
                yield SimpleNamespace(rows=[5], images=[torch.full((3, 2, 2), 7, dtype=torch.uint8)])

        queries: Any = SimpleNamespace(rows=np.array([5]), source=Batches())
        sources: Any = {"decoded": Source()}
        columns = sheet(queries, sources, np.array([0]))
        assert list(columns) == ["originals", "decoded"] and (columns["originals"] == 7).all()
        np.testing.assert_array_equal(columns["decoded"][0, 0, 0], [0, 128, 255])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("The folder is full"), "The picture was not drawn: The folder is full"),
        (MemoryError(), "The picture was not drawn: There is not enough memory for the picture; leave out --picture"),
    ],
)
def test_a_picture_that_fails_is_a_warning(error: Exception, sentence: str) -> None:
    def draw() -> None:
        raise error

    with pytest.warns(FdrWarning, match=sentence):
        try_to_draw(draw)


def test_a_fault_of_ours_in_a_picture_is_no_warning() -> None:
    with pytest.raises(ZeroDivisionError):
        try_to_draw(lambda: 1 / 0)
