"""The sky of a frame by the kernels in C against their form in NumPy: frames of counts, subtraction, sky pixels."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_kernels import needs_compiled

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images.counts import Counts
from opticam_dask.kernels.images.sky import background, sky_level, subtraction
from opticam_dask.kernels.images.sky.box_statistics import box_statistics
from opticam_dask.kernels.images.sky.disks import Disks

pytestmark = needs_compiled

_BOX = (16, 18)


def _counts(seed, *, shape=(150, 130), level=300.0, n_stars=12):
    """A sky of counts with stars, some saturated, and a dead corner."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = rng.poisson(level * (1.0 + x / 500.0), shape).astype(float)
    for _ in range(n_stars):
        x0, y0 = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        image += 10.0 ** rng.uniform(2, 5) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 2.0**2)
    image[:20, :30] = 0.0
    return np.clip(np.rint(image), 0, 65535).astype(np.uint16)


def _dark_among_full():
    """Boxes that are full, but for dead pixels that a few samples of them miss."""
    pixels = np.full((150, 130), 65535, dtype=np.uint16)
    pixels[:, 1::2] = np.where(np.arange(150)[:, None] % 16 < 7, 0, 65535)
    return pixels


def _numpy(monkeypatch, function, *arguments):
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "native", None)
        return function(*arguments)


@pytest.mark.parametrize("width", [18, 42])  # pixels are counted 32 at once
@pytest.mark.parametrize("readmit", [True, False])
@pytest.mark.parametrize(
    "pixels",
    [
        _counts(1),
        _counts(2, level=0.3),  # a sky of a few levels
        _counts(3, level=60_000.0),  # near the top of the range
        np.random.default_rng(4).integers(0, 65536, (150, 130)).astype(np.uint16),  # too many levels to be counted
        np.full((150, 130), 65535, dtype=np.uint16),
        _dark_among_full(),
        np.where(np.random.default_rng(5).random((150, 130)) < 0.5, 10, 60_000).astype(np.uint16),  # two skies
        np.random.default_rng(7).choice([0, 290, 300, 310, 65535], (150, 130)).astype(np.uint16),  # few near the sky
    ],
)
def test_box_statistics_of_counts__are_those_of_the_same_pixels_as_floats(monkeypatch, pixels, readmit, width):
    boxes = pixels[:144, :126].reshape(9, 16, 126 // width, width).swapaxes(1, 2)
    found = box_statistics(boxes, 200.0, readmit=readmit)
    np.testing.assert_allclose(found, box_statistics(boxes.astype(float), 200.0, readmit=readmit), rtol=1e-10)
    expected = _numpy(monkeypatch, lambda: box_statistics(boxes, 200.0, readmit=readmit))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_sky_mesh_of_counts__is_that_of_the_frame_in_electrons():
    counts = Counts(_counts(6), gain=1.7, offset=12.5)
    for found, expected in zip(
        background.sky_mesh(counts, _BOX), background.sky_mesh(counts.electrons(), _BOX), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=2e-4)  # 1e-5 of the RMS


@pytest.mark.parametrize("dtype", [None, np.float32, np.float64])
def test_subtract_sky__is_the_same_in_both_forms(monkeypatch, dtype):
    counts = Counts(_counts(7), gain=1.7, offset=12.5)
    mesh, rms_mesh = background.sky_mesh(counts, _BOX)

    def subtracted():
        image = counts
        if dtype is not None:
            image = counts.electrons().astype(dtype)
            image[40, 50:60], image[70, 3] = np.nan, np.inf
        return subtraction.subtract_sky(image, mesh, rms_mesh, _BOX, 4.0)

    found, expected = subtracted(), _numpy(monkeypatch, subtracted)
    digits = 1e-12 if dtype is np.float64 else 5e-7
    np.testing.assert_allclose(found.image, expected.image, atol=digits * 1000.0, rtol=digits)
    np.testing.assert_array_equal(found.flagged, expected.flagged)
    np.testing.assert_array_equal(found.deviant, expected.deviant)
    assert len(found.flagged) > 100
    np.testing.assert_allclose(found.box_sums, expected.box_sums, rtol=1e-5, atol=0.2)
    np.testing.assert_allclose(found.sky_sums, expected.sky_sums, rtol=1e-6)
    disks = Disks(np.array([[30.0, 40.0], [36.0, 44.0], [129.0, 149.0]]), np.array([9.0, 7.5, 20.0]))

    def counted():
        return subtraction.count_sky(found, mesh, rms_mesh, disks)

    in_c, in_numpy = counted(), _numpy(monkeypatch, counted)
    np.testing.assert_array_equal(in_c.number, in_numpy.number)
    np.testing.assert_allclose(in_c.mean, in_numpy.mean, rtol=1e-9)


def _mesh(kind, shape):
    """Level of the boxes of a sky, and how much of each of them is known."""
    rng, (y, x) = np.random.default_rng(8), np.indices(shape)
    values, share = 100.0 + 0.3 * x + 0.05 * y**2 + rng.normal(0.0, 0.2, shape), np.ones(shape)
    if kind == "step":
        values += np.where(x > shape[1] // 2, 50.0, 0.0)
    if kind == "wild boxes":
        values += 20.0 * rng.exponential(1.0, shape) * (rng.random(shape) < 0.3)
    if kind == "nebula":
        values += 500.0 * np.exp(-((x - shape[1] / 2.0) ** 2 + (y - shape[0] / 2.0) ** 2) / 8.0)
    if kind == "few boxes":
        share = (rng.random(shape) < 0.15).astype(float)
    if kind == "dead corner":
        values[: shape[0] // 2, : shape[1] // 2], share[: shape[0] // 2, : shape[1] // 2] = np.nan, 0.0
    if kind == "one corner":
        share = np.where((x < 3) & (y < 3), 1.0, 0.01)
    return values, share


@pytest.mark.parametrize("shape", [(32, 33), (13, 9), (3, 3), (1, 2)])
@pytest.mark.parametrize("kind", ["smooth", "step", "wild boxes", "nebula", "few boxes", "dead corner", "one corner"])
def test_smooth__is_the_same_in_both_forms(both, kind, shape):
    found, expected = both(sky_level.smooth, *_mesh(kind, shape), 0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_subtract_sky__refuses_arrays_that_do_not_fit():
    pixels = np.zeros((32, 32), dtype=np.float32)
    nothing = np.zeros((2, 2))
    nowhere = np.zeros(0, dtype=np.int64)

    def refused(wide, rows, message):
        kept = nothing, nothing, nowhere, nowhere
        with pytest.raises(ValueError, match=message):
            compiled.native.subtract_sky((pixels, None, wide, nothing, wide, rows, np.zeros(10), *kept), 16, 16)

    refused(nothing, nowhere, "must fit the image")
    refused(np.zeros((2, 32)), nowhere, "four more than there are rows of boxes")
    refused(np.zeros((2, 32)), np.array([1, 0, 0, 1, 1, 2]), "must be those of wide")
    taken, light = np.zeros((2, 2), dtype=np.int64), np.zeros((2, 2))
    with pytest.raises(ValueError, match="parts of one row"):
        compiled.native.take_pixels(
            pixels, np.array([30]), np.array([34]), np.zeros(0, dtype=np.int64), taken, light, 16, 16
        )
