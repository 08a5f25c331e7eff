"""Sky mesh and its images against photutils."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from photutils.background import Background2D

from opticam_dask import DefaultBackground
from opticam_dask.kernels import background


def _field(shape, seed=0, n_stars=30):
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = rng.normal(200.0, 12.0, shape) + 0.1 * x + 0.05 * y
    for _ in range(n_stars):
        x0, y0 = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        image += rng.uniform(100, 20_000) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 2.0**2)
    return image


def _photutils(image, box, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Background2D(image, box, **options)


CASES = {
    "flat": (np.random.default_rng(1).normal(100, 10, (256, 256)), (16, 16)),
    "stars and gradient": (_field((256, 256)), (32, 32)),
    "crowded": (_field((200, 200), n_stars=400), (25, 25)),
    "boxes do not divide": (_field((203, 317)), (20, 32)),
    "one box": (_field((64, 64), n_stars=2), (64, 64)),
    "one row of boxes": (_field((40, 200)), (32, 20)),
    "constant": (np.full((64, 96), 7.0), (16, 16)),
    "whole numbers": (np.random.default_rng(2).poisson(5.0, (128, 128)).astype(float), (16, 16)),
}


@pytest.mark.parametrize("name", CASES)
def test_sky_mesh__equals_photutils(name):
    image, box = CASES[name]
    mesh, rms = background.sky_mesh(image, box)
    reference = _photutils(image, box)
    np.testing.assert_allclose(mesh, reference.background_mesh, rtol=1e-9)
    np.testing.assert_allclose(rms, reference.background_rms_mesh, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_zoom_mesh__equals_photutils(name):
    image, box = CASES[name]
    reference = _photutils(image, box)
    zoomed = background.zoom_mesh(reference.background_mesh, image.shape, box)
    np.testing.assert_allclose(zoomed, reference.background, rtol=1e-9)


def test_sky_mesh__nan_pixels_and_masks_equal_photutils():
    image = _field((203, 317))
    image[30:90, 40:140] = np.nan
    mask = np.zeros(image.shape, dtype=bool)
    mask[150:, 200:] = True
    mesh, rms = background.sky_mesh(image, (20, 32), mask=mask)
    reference = _photutils(image, (20, 32), mask=mask)
    np.testing.assert_allclose(mesh, reference.background_mesh, rtol=1e-9)
    np.testing.assert_allclose(rms, reference.background_rms_mesh, rtol=1e-9)


def test_sky_mesh__does_not_touch_its_input():
    image = _field((64, 64), n_stars=2)
    image[3, 3] = np.nan
    image.flags.writeable = False
    background.sky_mesh(image, (16, 16))


@pytest.mark.parametrize("image", [np.full((64, 64), np.nan), np.where(np.indices((64, 64))[0] % 2, 1.0, np.nan)])
def test_sky_mesh__nothing_left_is_refused(image):
    with pytest.raises(ValueError, match="no box of 16 x 16 pixels"):
        background.sky_mesh(image, (16, 16))


def test_sky_mesh__box_larger_than_the_frame_is_refused():
    with pytest.raises(ValueError, match="does not fit a frame of 10 x 20"):
        background.sky_mesh(np.zeros((10, 20)), (16, 16))


def test_zoom_mesh_windows__bits_do_not_depend_on_the_window():
    image = _field((203, 317))
    mesh, _ = background.sky_mesh(image, (20, 32))
    whole = background.zoom_mesh(mesh, image.shape, (20, 32))
    rng = np.random.default_rng(0)
    for size in (5, 11, 31):
        y0, x0 = rng.integers(-10, 200, 20), rng.integers(-10, 310, 20)
        windows = background.zoom_mesh_windows(mesh, image.shape, (20, 32), y0, x0, size)
        for index in range(20):
            alone = background.zoom_mesh_windows(
                mesh, image.shape, (20, 32), y0[index : index + 1] - 2, x0[index : index + 1] - 3, size + 7
            )[0]
            np.testing.assert_array_equal(windows[index], alone[2 : 2 + size, 3 : 3 + size])
            rows = slice(max(y0[index], 0), max(min(y0[index] + size, 203), 0))
            columns = slice(max(x0[index], 0), max(min(x0[index] + size, 317), 0))
            inside = windows[index][np.isfinite(windows[index])]
            np.testing.assert_allclose(inside, whole[rows, columns].ravel(), rtol=1e-12)


def test_default_background__is_photutils_and_equals_the_mesh():
    image = _field((256, 256))
    found = DefaultBackground(box_size=32)(image)
    mesh, rms = background.sky_mesh(image, (32, 32))
    assert isinstance(found, Background2D)
    np.testing.assert_allclose(found.background, background.zoom_mesh(mesh, image.shape, (32, 32)), rtol=1e-9)
    np.testing.assert_allclose(found.background_rms_median, np.median(rms), rtol=1e-9)


@pytest.mark.parametrize("box", [0, (1, 2, 3), -4, 2.5])
def test_default_background__nonsense_is_refused(box):
    with pytest.raises(ValueError, match="box_size must be"):
        DefaultBackground(box)


def test_default_box_size__follows_the_frame():
    assert background.default_box_size((2048, 2048)) == (64, 64)
    assert background.default_box_size((512, 700)) == (16, 16)
    assert background.default_box_size((100, 100)) == (16, 16)
