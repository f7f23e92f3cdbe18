"""A generator as a source of images: repeatable from any row, and the same images that `fdr sample` writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generator_worlds import Classes, Plain, generator
from thread_ranks import on_ranks
from worlds import TinyEncoder, images

import fdr
import fdr.features.extraction
from fdr.errors import InputError
from fdr.generators import GeneratorSource, noise_of, sample_set, write_samples
from fdr.images import ImageOptions


def rows(source: GeneratorSource, start: int = 0, stop: int | None = None) -> np.ndarray:
    batches = source.batches(7, 2, start, stop)
    return np.stack([image.numpy() for batch in batches for image in batch.images])


@pytest.mark.parametrize("kind", [Plain, Classes])
def test_any_part_is_that_of_the_whole(kind):
    source = GeneratorSource(generator(kind), 50, seed=3, batch_size=8)
    whole = rows(source)
    assert whole.dtype == np.uint8 and whole.shape[:2] == (50, 3)
    for start, stop in ((0, 50), (13, 14), (8, 24), (47, 50), (5, None)):
        assert np.array_equal(rows(source, start, stop), whole[start:stop])
    assert np.array_equal(rows(GeneratorSource(generator(kind), 20, seed=3, batch_size=5)), whole[:20])


def test_images_are_quantised_once():
    made = generator()
    expected = made(noise_of(3, range(20), (8,))).detach()
    whole = rows(GeneratorSource(made, 20, seed=3, batch_size=20))
    assert np.array_equal(whole, torch.round(expected * 255).to(torch.uint8).numpy())
    floats = GeneratorSource(made, 20, seed=3, batch_size=20, options=ImageOptions(quantize="none"))
    np.testing.assert_array_equal(rows(floats), expected.numpy())
    assert floats.digest != GeneratorSource(made, 20, seed=3).digest


def test_overshoot_is_clamped_and_nan_is_an_error():
    made = generator()
    made.network.forward = lambda noise: noise[:, :1, None, None].expand(-1, 3, 4, 4)
    whole = rows(GeneratorSource(made, 30))
    assert whole.min() == 0 and whole.max() == 255
    made.network.forward = lambda noise: torch.full((len(noise), 3, 4, 4), float("nan"))
    with pytest.raises(InputError, match=r"generator: sample\[0\] holds values that are not finite"):
        rows(GeneratorSource(made, 30))


def test_a_network_that_draws_by_itself_is_repeatable():
    made = generator()
    made.network.forward = lambda noise: torch.rand(len(noise), 3, 4, 4)
    source = GeneratorSource(made, 30, batch_size=8)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    whole = rows(source)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(rows(source, 10, 20), whole[10:20])
    assert not np.array_equal(whole[:8], whole[8:16])


def test_the_digest_says_what_the_samples_are():
    made = generator(Classes)
    digests = {
        GeneratorSource(made, 20).digest,
        GeneratorSource(made, 21).digest,
        GeneratorSource(made, 20, seed=1).digest,
        GeneratorSource(made, 20, labels="balanced").digest,
        GeneratorSource(generator(Classes, seed=1), 20).digest,
    }
    assert len(digests) == 5
    assert GeneratorSource(generator(Classes), 20, batch_size=9).digest in digests


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"count": 0}, "number of images is 0"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"labels": "9"}, "classes 0 to 4"),
        ({"options": ImageOptions(count=3)}, "leave out count"),
    ],
)
def test_options_that_make_no_sense(options, sentence):
    with pytest.raises(InputError, match=sentence):
        GeneratorSource(generator(Classes), **options)


def test_measured_on_the_fly_is_measured_from_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(fdr.features.extraction, "SHARD_SIZE", 16)
    source = GeneratorSource(generator(Classes), 50, seed=2, batch_size=8)
    write_samples(sample_set(source, tmp_path / "a.npz"))
    real = images(40, side=4)
    report, from_file = (fdr.evaluate(s, real, TinyEncoder()) for s in (source, tmp_path / "a.npz"))
    assert report["fd", "tiny"].value == from_file["fd", "tiny"].value
    assert report.samples["kind"] == "generator" and report.samples["count"] == 50
    assert report.samples["made_by"] == source.made_by
    assert "made_by" not in from_file.samples


def test_features_are_cached_by_the_generator_and_the_seed(tmp_path):
    real, cache = images(40, side=4), tmp_path / "cache"

    def seen(seed: int, network_seed: int = 0) -> int:
        encoder = TinyEncoder()
        source = GeneratorSource(generator(Classes, network_seed), 30, seed=seed)
        fdr.evaluate(source, real, encoder, cache=cache)
        return encoder.num_seen

    assert seen(0) == 70
    assert [seen(0), seen(1), seen(0, 1), seen(1)] == [0, 30, 30, 0]


def test_two_ranks_measure_what_one_does(monkeypatch):
    monkeypatch.setattr(fdr.features.extraction, "SHARD_SIZE", 16)
    real = images(40, side=4)

    sources = [GeneratorSource(generator(Classes), 50, batch_size=8) for _ in range(2)]

    def value(group):
        return fdr.evaluate(sources[group.rank], real, TinyEncoder(), batch_size=8, group=group)["fd", "tiny"].value

    (alone,) = on_ranks(1, value)
    assert on_ranks(2, value) == pytest.approx([alone, alone], rel=1e-12)
