"""Segments, basins and windows of a frame by the kernels in C and by their form in NumPy: the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from compiled_kernels import needs_compiled

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images import segments
from opticam_dask.kernels.sources import photometry

pytestmark = needs_compiled


def _image(kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "stars":
        image = rng.normal(0.0, 3.0, (83, 61))
        y, x = np.indices(image.shape)
        for _ in range(40):
            x0, y0 = rng.uniform(-2, 63), rng.uniform(-2, 85)
            image += rng.uniform(20, 300) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 1.8**2)
        return image
    if kind == "plateaus":
        return rng.integers(0, 3, (47, 33)).astype(float)
    return np.where(rng.random((40, 25)) < 0.02, np.nan, rng.random((40, 25)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["stars", "plateaus", "gaps"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.98])
def test_segments_and_basins__are_the_same_in_both_forms(monkeypatch, kind, share, dtype):
    image = _image(kind, 11).astype(dtype)
    flagged = np.flatnonzero(image.ravel() > np.nanquantile(image, share))
    flagged = np.setdiff1d(flagged, flagged[3::17])  # also pixels that nobody flagged beside higher ones

    def found():
        labels, n_labels = segments.connected(flagged, image.shape)
        parts = segments.Segments(flagged, image.ravel()[flagged].astype(float), labels, n_labels)
        large = segments.large_segments(image, flagged, 4)
        return labels, n_labels, *segments._basins(parts, image), *vars(large).values()

    in_c = found()
    monkeypatch.setattr(compiled, "native", None)
    for one, other in zip(in_c, found(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("step", [0.0, 20.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_divided_segments__are_the_same_in_both_forms(monkeypatch, seed, step):
    image = _image("stars", seed).astype(np.float32)
    image = np.rint(image / step) * np.float32(step) if step else image  # saddles of equal height
    flagged = np.flatnonzero(image > 6.0)
    labels, n_labels = segments.connected(flagged, image.shape)
    parts = segments.Segments(flagged, image.ravel()[flagged].astype(float), labels, n_labels)
    in_c = segments.deblend(parts, image, 5)
    monkeypatch.setattr(compiled, "native", None)
    np.testing.assert_array_equal(in_c.labels, segments.deblend(parts, image, 5).labels)
    assert segments._basins(parts, image)[1] > in_c.n_labels >= n_labels


def test_segments__refuse_pixels_that_are_not_of_the_frame():
    places, room = np.array([3, 99], dtype=np.int64), np.empty(2, dtype=np.int64)
    with pytest.raises(ValueError, match="ascending places of the image"):
        compiled.native.find_basins(np.zeros((5, 5)), places, room)
    with pytest.raises(ValueError, match="ascending places of the image"):
        compiled.native.large_segments(np.zeros((5, 5)), places, room, np.empty(2), room.copy(), 1)
    with pytest.raises(ValueError, match="ascending places"):
        compiled.native.label_pixels(places[::-1].copy(), room, 5)
    with pytest.raises(ValueError, match="do not belong together"):
        compiled.native.merge_basins(
            places, np.ones(2), np.array([0, 1]), np.array([0]), np.array([0, 0]), 1, 5, 5, 32, 0.1
        )


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64, np.bool_])
def test_windows_of_an_image__are_the_same_in_both_forms(monkeypatch, dtype):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 60_000, (40, 50)).astype(dtype)
    x0 = np.append(rng.integers(-30, 70, 100), [-(2**30), 2**30, 0])  # also far beyond the image
    y0 = np.append(rng.integers(-30, 60, 100), [3, -(2**30), 2**30])
    found = photometry.cut_out(image, x0, y0, 9)
    monkeypatch.setattr(compiled, "native", None)
    np.testing.assert_array_equal(found, photometry.cut_out(image, x0, y0, 9))
