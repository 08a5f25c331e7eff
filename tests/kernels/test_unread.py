"""Pixels that were not read out are missing: a star there has no flux, where it had one of 0 with hardly an error."""

import numpy as np
import pytest

from opticam_dask.kernels.images.unread import unread_pixels

RNG = np.random.default_rng(8)
SKY = RNG.poisson(200.0, (150, 170)) + 100


def _with(value, where, dtype=np.uint16):
    pixels = SKY.astype(dtype)
    pixels[where] = value
    return pixels


@pytest.mark.parametrize(
    "pixels",
    [
        _with(0, np.s_[75:]),  # the read-out was cut off
        _with(0, np.s_[:, :4]),  # shifted onto another frame
        _with(0, np.hypot(*(np.indices(SKY.shape) - 80)) > 80),  # a mask of a round field
        _with(-1000.0, np.s_[20:40], np.float32),
    ],
)
def test_unread__parts_of_one_value_are_found(pixels):
    lowest = pixels.min()
    assert np.array_equal(unread_pixels(pixels, float(lowest)), pixels == lowest)


@pytest.mark.parametrize(
    "pixels",
    [
        SKY.astype(np.uint16),
        RNG.poisson(0.05, SKY.shape).astype(np.uint16) * 100 + 500,  # single photons
        RNG.poisson(3.0, SKY.shape).astype(np.uint16),
        np.clip(RNG.normal(0.0, 5.0, SKY.shape), 0, 100).astype(np.uint16),  # clipped at 0
        np.rint(RNG.normal(11.0, 0.3, SKY.shape)).astype(np.uint8),  # hardly digitised
        _with(0, np.s_[:, ::40]),  # dead columns are a matter of the bad pixels
        _with(0, (RNG.random(SKY.shape) < 0.05)),
        np.where(np.hypot(*(np.indices(SKY.shape) - 80)) > 70, 100.0 + RNG.normal(0, 3, SKY.shape), SKY),
    ],
)
def test_unread__what_was_read_is_left_alone(pixels):
    assert unread_pixels(pixels, float(pixels.min())) is None
