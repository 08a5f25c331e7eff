"""A saturation or linearity level of each pixel, of which some are not known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from opticam_dask.steps.pixels import RawPixels
from opticam_dask.steps.read import above


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_levels__that_are_unknown_in_some_pixels_hold_in_all_others(dtype):
    raw, level = np.full((20, 30), 900, dtype=dtype), np.full((20, 30), 1000.0)
    raw[4, 5] = raw[10, 11] = 1000
    level[10, 11], level[0, 0] = np.nan, np.nan
    assert np.argwhere(above(raw, level)).tolist() == [[4, 5]]
    entry = {"saturation": level, "linearity_limit": np.nan, "memory": {"extremes": (900.0, 1000.0)}}
    window = RawPixels(raw, entry, {}, None).saturated(np.array([2]), np.array([1]), 15)
    assert np.argwhere(window[0]).tolist() == [[3, 3]]


def test_levels__that_are_all_unknown_mark_nothing():
    raw = np.full((20, 30), 900, dtype=np.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for level in (np.nan, np.full(raw.shape, np.nan)):
            assert above(raw, level) is None
            entry = {"saturation": level, "linearity_limit": np.nan}
            assert not RawPixels(raw, entry, {}, None).saturated(np.array([2]), np.array([1]), 15).any()
