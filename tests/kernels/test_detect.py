"""The default finder and the reading of source tables."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from astropy import units
from astropy.table import QTable
from photutils.segmentation import SourceCatalog, SourceFinder

from opticam_dask import DefaultBackground, DefaultFinder, generate_observations
from opticam_dask.frames.scanning import FitsReader
from opticam_dask.kernels.images import detect
from opticam_dask.methods.finders import default_finder


def _stars(shape=(128, 160), seed=0, positions=((40, 50), (100, 30), (70, 100)), flux=20_000.0):
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = rng.normal(0.0, 10.0, shape)
    for number, (x0, y0) in enumerate(positions):
        image += flux / (number + 1) / (2 * np.pi * 4) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 4)
    return image


def test_segment_sources__equals_photutils_source_finder():
    image = _stars()
    table = detect.segment_sources(image, 50.0, 8)
    finder = SourceFinder(8)
    finder.progress_bar = False
    segments = finder(image, 50.0)
    expected = SourceCatalog(image, segments).to_table()
    expected.sort("segment_flux", reverse=True)
    for name in ("x_centroid", "y_centroid", "segment_flux", "semimajor_axis", "orientation"):
        np.testing.assert_array_equal(np.asarray(table[name]), np.asarray(expected[name]))


def test_segment_sources__brightest_first_at_the_right_places():
    arrays = detect.source_arrays(detect.segment_sources(_stars(), 50.0, 8), 5)
    np.testing.assert_allclose(arrays["x"][:3], [40, 100, 70], atol=0.1)
    np.testing.assert_allclose(arrays["y"][:3], [50, 30, 100], atol=0.1)
    assert np.isnan(arrays["x"][3:]).all()
    assert np.all(np.diff(arrays["flux"][:3]) < 0)


def test_segment_sources__nothing_found_is_an_empty_table():
    table = detect.segment_sources(np.zeros((64, 64)), 5.0, 8)
    assert len(table) == 0
    assert table.colnames == detect.segment_sources(_stars(), 50.0, 8).colnames
    assert np.isnan(detect.source_arrays(table, 4)["x"]).all()


def test_segment_sources__only_sources_in_the_border_is_an_empty_table():
    image = _stars(positions=((5, 60),))
    assert len(detect.segment_sources(image, 50.0, 8)) == 1
    assert len(detect.segment_sources(image, 50.0, 8, border_width=12)) == 0


def test_segment_sources__threshold_image_and_pixels_without_data():
    image = _stars()
    threshold = np.full(image.shape, 50.0)
    threshold[:, 90:] = np.nan
    arrays = detect.source_arrays(detect.segment_sources(image, threshold, 8), 3)
    np.testing.assert_allclose(arrays["x"], [40, 70, np.nan], atol=0.1)
    image[40:60, 30:50] = np.nan
    arrays = detect.source_arrays(detect.segment_sources(image, 50.0, 8), 3)
    np.testing.assert_allclose(arrays["x"], [100, 70, np.nan], atol=0.1)


def test_segment_sources__blend_of_two_stars_is_taken_apart():
    image = _stars(positions=((40, 50), (50, 50)), flux=60_000.0)
    arrays = detect.source_arrays(detect.segment_sources(image, 50.0, 8), 3)
    np.testing.assert_allclose(arrays["x"], [40, 50, np.nan], atol=0.3)


def test_segment_sources__does_not_touch_its_input():
    image = _stars()
    image[3, 3] = np.nan
    image.flags.writeable = False
    detect.segment_sources(image, 50.0, 8)


def test_segment_sources__border_and_nan_pixels():
    image = _stars()
    assert len(detect.segment_sources(image, 50.0, 8, border_width=35)) == 1
    image[45:56, 35:46] = np.nan
    assert len(detect.segment_sources(image, 50.0, 8)) == 2


def test_default_finder__finds_the_six_stars_of_the_simulated_field(tmp_path):
    generate_observations(tmp_path, n_images=2, circular_aperture=False)
    for path in sorted(tmp_path.glob("*.fits")):
        image = FitsReader().read(str(path))
        sky = DefaultBackground(box_size=image.shape[0] // 16)(image)
        assert np.all(np.abs(sky.background - 100.0) < 5.0)
        assert np.all(np.abs(sky.background_rms - 10.0) < 1.0)
        assert len(DefaultFinder(128 // 4**2)(image - sky.background, 5 * sky.background_rms)) == 6


@pytest.mark.parametrize("n_pixels", [0, -1, 2.0, "8", None, True])
def test_default_finder__nonsense_is_refused(n_pixels):
    with pytest.raises(ValueError, match="n_pixels must be a whole number above 0"):
        DefaultFinder(n_pixels)


def test_default_finder__values_of_the_original_and_never_zero_pixels():
    assert DefaultFinder(npixels=8) == DefaultFinder(8)
    for binning, n_pixels, border in ((1, 128, 128), (2, 32, 64), (4, 8, 32), (8, 2, 16)):
        side = 2048 // binning
        assert default_finder((side, side), binning, 1, 128) == DefaultFinder(n_pixels, border)
    assert default_finder((128, 128), 4, 4, 128).n_pixels == 1


@pytest.mark.parametrize("names", [("xcentroid", "ycentroid"), ("x_centroid", "y_centroid"), ("x", "y")])
def test_source_arrays__any_spelling_and_units(names):
    table = QTable({names[0]: [1.0, 2.0, np.nan], names[1]: [3.0, 4.0, 5.0], "flux": [1.0, 5.0, 9.0]})
    table["semimajor_sigma"] = [1.0, 2.0, 3.0] * units.pix
    table["orientation"] = [0.0, np.pi / 2, 0.0] * units.rad
    arrays = detect.source_arrays(table, 4)
    np.testing.assert_array_equal(arrays["x"], [2.0, 1.0, np.nan, np.nan])
    np.testing.assert_array_equal(arrays["semimajor_sigma"], [2.0, 1.0, np.nan, np.nan])
    np.testing.assert_allclose(arrays["orientation"][:2], [90.0, 0.0])
    assert np.isnan(arrays["semiminor_sigma"]).all()


def test_source_arrays__segment_flux_decides_and_slots_cut_the_faintest():
    table = QTable({"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0], "flux": [9.0, 8.0, 7.0]})
    table["segment_flux"] = [1.0, np.nan, 5.0]
    arrays = detect.source_arrays(table, 2)
    np.testing.assert_array_equal(arrays["x"], [3.0, 1.0])
    np.testing.assert_array_equal(arrays["flux"], [5.0, 1.0])


def test_source_arrays__table_without_flux_keeps_its_order():
    arrays = detect.source_arrays(QTable({"x": [4.0, 2.0], "y": [1.0, 2.0]}), 3)
    np.testing.assert_array_equal(arrays["x"], [4.0, 2.0, np.nan])
    assert np.isnan(arrays["flux"]).all()


def test_default_finder__equal_by_value_and_survives_pickling():
    finder = DefaultFinder(8, border_width=4)
    assert pickle.loads(pickle.dumps(finder)) == finder
    assert hash(finder) == hash(DefaultFinder(npixels=8, border_width=4))
    assert finder != DefaultFinder(8)
    assert finder.replace(n_pixels=9) == DefaultFinder(9, border_width=4)


def test_source_arrays__table_without_positions_is_refused():
    with pytest.raises(ValueError, match=r"x_centroid and y_centroid .* found flux"):
        detect.source_arrays(QTable({"flux": [1.0]}), 3)
