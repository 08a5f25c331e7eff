"""Stars are called blended by light that the frame has, not by what only the stack shows beside them."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask.flags import SourceFlag
from opticam_dask.methods import flagging
from opticam_dask.methods.measuring import Pixels, Stars

SIZE = 15


def star_with_neighbour(flux, seen, errors):
    """A star, and 4 pixels away something that is not measured: in the catalogue, and what the frame shows."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    light = np.exp(-(x**2 + y**2) / 8.0) / (8.0 * np.pi)
    shed = np.exp(-((x - 4) ** 2 + y**2) / 8.0) / (8.0 * np.pi)
    windows, corner, none = np.zeros((1, SIZE, SIZE)), np.zeros(1, dtype=int), np.zeros((1, SIZE, SIZE), dtype=bool)
    pixels = Pixels(corner, corner, windows, windows, ~none, np.zeros(1))
    neighbours = np.array([0]), np.array([1]), shed[None]
    known = neighbours, np.array(flux), np.ones(1), np.zeros((1, 1), dtype=bool), (np.array(seen), np.array(errors))
    flags = np.zeros(1, dtype=np.uint32)
    aperture = (np.hypot(x, y) < 4.6).astype(float)[None]
    return Stars(np.array([[7.0, 7.0]]), flags, pixels, light[None], none, none, *known), aperture


@pytest.mark.parametrize(
    ("seen", "errors", "is_blended"),
    [
        ((5e4, 2500.0), (250.0, 80.0), True),  # as the stack shows it
        ((5e4, 0.0), (250.0, 80.0), False),  # a ghost on the stack, of a star that flared
        ((5e4, 0.0), (2000.0, 1500.0), True),  # a frame that cannot tell
        ((2500.0, 0.0), (100.0, 80.0), True),  # a star in eclipse, beside which nobody knows
        ((5e4, 9000.0), (250.0, 80.0), True),  # a neighbour that flares
    ],
)
def test_blend__what_is_not_measured_is_no_more_than_the_frame_shows(seen, errors, is_blended):
    stars, aperture = star_with_neighbour((5e4, 2500.0), seen, errors)
    assert flagging.blend_flags(stars, aperture).tolist() == [SourceFlag.BLENDED if is_blended else 0]
