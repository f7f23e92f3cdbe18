"""Interpolated FID as a run: its cache, its ranks, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ifid_worlds import OTHERS, QUERIES, Counting, autoencoder, measured
from thread_ranks import Warned, on_ranks
from torch import Tensor
from worlds import folder, images, npz

from fdr.errors import InputError, RunError
from fdr.features import CacheStore
from fdr.reports import Report
from fdr.runtime import Group


class TestCache:
    def test_a_second_run_encodes_and_decodes_nothing_and_gives_the_same(self, tmp_path: Path) -> None:
        warm = autoencoder()
        first = measured(autoencoder(), cache=tmp_path)
        second = measured(warm, cache=tmp_path)
        assert first.results == second.results
        assert warm.num_encoded < 20 and warm.num_decoded < 20  # the check alone
        third = measured(autoencoder(), cache=tmp_path, alphas=(0.25, 0.5))
        assert third["ifd"].value == first["ifd"].value

    def test_it_gives_what_a_run_without_gives(self, tmp_path: Path) -> None:
        assert measured(autoencoder(), cache=tmp_path).results == measured(autoencoder()).results

    def test_code_that_cannot_be_told_apart_is_not_cached(self, tmp_path: Path) -> None:
        class Typed:
            def encode(self, images: Tensor) -> Tensor:
                return images

            def decode(self, latents: Tensor) -> Tensor:
                return latents

        measured(Typed(), cache=tmp_path)
        assert {entry.outputs for entry in CacheStore(tmp_path).entries()} == {
            ("features", "logits")
        }  # of the originals
        assert not (tmp_path / "ifid").exists()

    def test_no_large_file_stays(self, tmp_path: Path) -> None:
        measured(autoencoder(), cache=tmp_path, latent_dtype="float16")
        assert not list((tmp_path / "ifid").glob("drawn-*"))


def test_ranks_give_the_report_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.features.extraction.SHARD_SIZE", 8)
    monkeypatch.setattr("fdr.ifid.latents.SHARD_SIZE", 8)
    queries, others = npz(tmp_path / "q.npz", QUERIES), npz(tmp_path / "n.npz", OTHERS)
    options = {"batch_size": 4, "num_workers": 0, "alphas": (0.25, 0.5)}
    alone = measured(autoencoder(), queries, others, cache=tmp_path / "alone", **options)
    models = [autoencoder() for _ in range(3)]

    def on_rank(group: Group) -> Report:
        return measured(models[group.rank], queries, others, cache=tmp_path / "many", group=group, **options)

    reports = on_ranks(3, on_rank)
    assert sum(model.num_encoded for model in models) < 110 + 3 * 20  # every image once, and the checks
    for report in reports:
        for here, there in zip(report, alone, strict=True):
            assert here.signature == there.signature
            assert here.value == pytest.approx(there.value, rel=1e-9)


def test_a_warning_of_another_rank_is_in_the_report() -> None:
    report = measured("haar", group=Warned("Image 7 of another rank is odd."))
    assert report.warnings == ("Image 7 of another rank is odd.",)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"images": QUERIES[:1]}, "has 1 image; a covariance needs at least 2"),
            ({"neighbours": OTHERS[:5]}, "has 5 images that can be a neighbour, fewer than the 10"),
            ({"images": QUERIES[:6], "neighbours": None}, "has 5 images that can be a neighbour"),
            ({"neighbours": images(20, side=32)}, "are 32 x 32 and the images 16 x 16; bring both to one size"),
            ({"mode": "sphere"}, "Unknown interpolation 'sphere'"),
            ({"alpha": 1.5}, "Alpha is a number from 0"),
            ({"alphas": (0.5, 0.5)}, "Every alpha is measured once"),
            ({"top_k": 0}, "top-k must be at least 1"),
            ({"clamp": False}, "add quantize='none'"),
            ({"latent_dtype": "float8"}, "Unknown dtype of stored features"),
            ({"same_class": True}, "has no classes"),
            ({"memory": 1000}, "memory"),
        ],
    )
    def test_options(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            measured(autoencoder(), **options)

    def test_images_of_several_sizes(self, tmp_path: Path) -> None:
        from PIL import Image

        mixed = folder(tmp_path / "mixed", QUERIES)
        Image.fromarray(images(1, side=32)[0]).save(mixed / "0007.png")
        with pytest.raises(InputError, match=r"images of one size, and these are 16 x 16, 32 x 32.*size"):
            measured(autoencoder(), mixed)

    def test_latents_that_are_not_finite(self) -> None:
        class Broken(Counting):
            def encode(self, images: Tensor) -> Any:
                dark = images.mean((1, 2, 3)) < -0.5
                return torch.where(dark[:, None, None, None], torch.nan, super().encode(images))

        black = np.concatenate([QUERIES, np.zeros((1, 16, 16, 3), np.uint8)])
        with pytest.raises(RunError, match="latents that are not finite"):
            measured(Broken(), black)

    def test_a_class_that_is_too_small_is_found_before_anything_is_encoded(self, tmp_path: Path) -> None:
        """Three images of class 1 are two neighbours each."""
        labels = np.zeros(len(QUERIES), np.int64)
        labels[[3, 7, 11]] = 1
        path = npz(tmp_path / "a.npz", QUERIES, arr_1=labels)
        model = autoencoder()
        with pytest.raises(InputError, match=r"The query in row 3 \(class 1\) has 2 latents of its class"):
            measured(model, path, None, top_k=3, same_class=True)
        assert model.num_encoded == 0

    def test_a_decoder_of_another_size(self) -> None:
        class Small(Counting):
            def decode(self, latents: Tensor) -> Any:
                return super().decode(latents)[:, :, ::2, ::2]

        with pytest.raises(InputError, match=r"decodes images of 16x16 to 8x8"):
            measured(Small())
