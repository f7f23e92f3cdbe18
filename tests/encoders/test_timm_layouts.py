"""Position embeddings are resampled as the DINOv2 code does, by the definition of cubic convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fdr.encoders.timm_models import as_dinov2


def keys(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -3/4 (Keys 1981, eq. 3 with a free a)."""
    a, x = -0.75, np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resampling(old: int, new: int, offset: float) -> np.ndarray:
    """[new, old] in float64: targets at (i + 1/2) old / (new + offset) - 1/2, edges repeated."""
    matrix = np.zeros((new, old))
    for target in range(new):
        centre = (target + 0.5) * old / (new + offset) - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[target, min(max(tap, 0), old - 1)] += keys(np.array(centre - tap))
    return matrix


@pytest.mark.parametrize(("old", "grid"), [(37, (16, 16)), (37, (18, 18)), (5, (9, 7)), (16, (15, 16))])
def test_positions_equal_cubic_convolution_with_the_codes_offset(old, grid):
    positions = torch.randn(1, 1 + old * old, 6, generator=torch.Generator().manual_seed(old))
    found = as_dinov2({"pos_embed": positions}, grid)["pos_embed"]
    patches = positions[0, 1:].double().numpy().reshape(old, old, 6)
    rows, columns = (resampling(old, length, 0.1) for length in grid)
    expected = np.einsum("ir,rsd,js->ijd", rows, patches, columns).reshape(-1, 6)
    assert found.shape == (1, 1 + grid[0] * grid[1], 6)
    assert torch.equal(found[0, 0], positions[0, 0])
    np.testing.assert_allclose(found[0, 1:].numpy(), expected, rtol=0, atol=2e-5)


def test_the_offset_and_the_missing_antialias_move_the_values():
    positions = torch.randn(1, 1 + 37 * 37, 4, generator=torch.Generator().manual_seed(1))
    found = as_dinov2({"pos_embed": positions}, (16, 16))["pos_embed"][0, 1:].double().numpy()
    patches = positions[0, 1:].double().numpy().reshape(37, 37, 4)
    plain = resampling(37, 16, 0.0)
    without = np.einsum("ir,rsd,js->ijd", plain, patches, plain).reshape(-1, 4)
    assert np.abs(found - without).max() > 0.1


def test_what_fits_or_is_of_another_model_is_left_alone():
    fitting = {"pos_embed": torch.randn(1, 257, 4), "cls_token": torch.zeros(1)}
    assert as_dinov2(fitting, (16, 16)) == fitting
    for other in ({}, {"pos_embed": torch.zeros(1, 259, 4)}, {"pos_embed": torch.zeros(257, 4)}):
        assert as_dinov2(other, (16, 16)) == other
