"""Features stored in half the bytes: rounded as torch rounds, read back as float32 or as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fdr.errors import InputError
from fdr.features import FeatureCache, check_stored
from fdr.features.cache.entry import CacheKey
from fdr.features.cache.stored_dtypes import encoded

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def as_torch(values: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.from_numpy(values).to(HALVES[dtype])


@pytest.mark.parametrize("dtype", HALVES)
@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-60000, 60000, width=32)))
def test_rounding_is_torchs(dtype: str, values: np.ndarray) -> None:
    bits = encoded(values, dtype).view(np.uint16)
    assert (bits == as_torch(values, dtype).view(torch.uint16).numpy()).all()


def test_float32_is_not_copied() -> None:
    values = np.ones((2, 3), np.float32)
    assert encoded(values, "float32") is values


def test_what_float16_cannot_hold_is_an_error() -> None:
    with pytest.raises(InputError, match=r"1e\+05 does not fit into float16.*bfloat16 or float32"):
        encoded(np.full((1, 1), 1e5, np.float32), "float16")


def test_an_unknown_dtype_has_near_matches() -> None:
    with pytest.raises(InputError, match="did you mean 'float16'"):
        check_stored("flot16")


def test_a_handle_keeps_its_dtype_and_the_order_of_its_outputs_when_another_one_publishes(tmp_path: Path) -> None:
    """A manifest states neither; the handle reads it again whenever another one has replaced it."""
    key = CacheKey("d" * 64, "s" * 16, ("pool", "logits"), label="net")
    one, two = (FeatureCache.open(tmp_path, key, num_rows=8, shard_size=4, dtype="float16") for _ in range(2))
    values = {name: np.full((4, 3), 0.1, np.float32) for name in ("logits", "pool")}
    for handle, (start, stop) in zip((one, two), one.ranges, strict=True):
        handle.missing()
        handle.write_shard(start, stop, np.arange(start, stop), list("abcd"), values)
    assert one.missing() == [] and one.outputs == two.outputs == ("pool", "logits")
    assert [one.read_tensor(*span, "pool")[1].dtype for span in one.ranges] == [torch.float16] * 2


def test_a_handle_keeps_the_widths_that_it_was_opened_with(tmp_path: Path) -> None:
    """Even if the first one to open the entry did not know them."""
    key = CacheKey("d" * 64, "s" * 16, ("pool",))
    FeatureCache.open(tmp_path, key, num_rows=8)
    assert FeatureCache.open(tmp_path, key, num_rows=8, widths={"pool": 3}).widths == {"pool": 3}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_cache_gives_back_what_was_rounded(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)
    expected = values if dtype == "float32" else as_torch(values, dtype).float().numpy()
    key = CacheKey("d" * 64, "s" * 16, ("latent",))
    cache = FeatureCache.open(tmp_path, key, num_rows=10, shard_size=4, dtype=dtype)
    for start, stop in cache.missing():
        rows = np.arange(start, stop)
        cache.write_shard(start, stop, rows, [str(row) for row in rows], {"latent": values[start:stop]})
    for handle in (cache, FeatureCache.open(tmp_path, key, num_rows=10, shard_size=4, dtype=dtype)):
        for start, stop in handle.ranges:
            assert (handle.read_shard(start, stop).features["latent"] == expected[start:stop]).all()
        rows, tensor = handle.read_tensor(8, 10, "latent")
        assert rows.tolist() == [8, 9]
        assert tensor.dtype == HALVES.get(dtype, torch.float32)
        assert (tensor.float().numpy() == expected[8:]).all()
