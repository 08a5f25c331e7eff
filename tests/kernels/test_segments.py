"""Sources from the flagged pixels alone, against photutils on the same frames."""

from __future__ import annotations

import numpy as np
import photutils
import pytest
from packaging.version import Version

from opticam_dask import DefaultFinder
from opticam_dask.frames.simulation.field_model import FieldModel
from opticam_dask.frames.simulation.simulated_fields import draw_frame, field_truth
from opticam_dask.kernels.images import detect, segments

NOISE = 14.5


def _frame(seed, *, shape=(400, 420), n_sources=60, least_separation=0.8, beta=3.0, fwhm=4.0):
    model = FieldModel(
        n_frames=1, shape=shape, n_sources=n_sources, filters=("g",), least_separation=least_separation, fwhm=fwhm,
        flux_range=(1.5e3, 4e5), moffat_beta=beta,
    )  # fmt: skip
    truth = field_truth(model, seed)
    return draw_frame(model, truth, 0, 0, seed).astype(float) - 300.0, truth


def _found(image, threshold, n_pixels, border_width=0):
    flagged = np.flatnonzero(image > threshold)
    return segments.find_sources(image, flagged, n_pixels, border_width)


def _nearest(found, reference):
    """Distance of each reference source to the nearest one that was found, and its index."""
    away = np.hypot(reference["x"][:, None] - found["x"], reference["y"][:, None] - found["y"])
    return away.min(axis=1), away.argmin(axis=1)


@pytest.mark.parametrize("n_pixels", [1, 3, 8])
@pytest.mark.parametrize("beta", [None, 3.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_find_sources__equals_photutils_on_crowded_fields(seed, beta, n_pixels):
    image, _ = _frame(seed, beta=beta)
    table = detect.segment_sources(image, 5.0 * NOISE, n_pixels, 25)
    reference = detect.source_arrays(table, len(table))
    found = _found(image, 5.0 * NOISE, n_pixels, 25)
    away, index = _nearest(found, reference)
    is_equal = away < 1e-9
    assert all(np.isfinite(values).all() for values in found.values())
    is_equal &= np.isfinite(reference["semiminor_sigma"])  # photutils has no width for a single pixel
    # what differs are pixels between blended stars, which a watershed gives to one or the other
    assert np.count_nonzero(is_equal) >= 0.9 * len(reference["x"])
    assert np.count_nonzero(away < 0.02) >= 0.95 * len(reference["x"])
    assert abs(len(found["x"]) - len(reference["x"])) <= 0.02 * len(reference["x"])
    np.testing.assert_allclose(found["flux"][index][is_equal], reference["flux"][is_equal], rtol=1e-9)
    has_width = is_equal
    if Version(photutils.__version__) >= Version(
        "3.1"
    ):  # which widens sources that are narrower than a pixel otherwise
        of_axes = (found[name][index] ** 2 - 1.0 / 12.0 for name in ("semimajor_sigma", "semiminor_sigma"))
        has_width = is_equal & (np.prod(list(of_axes), axis=0) >= 1.0 / 144.0)
        assert np.count_nonzero(has_width) >= 0.8 * np.count_nonzero(is_equal)
    for name in ("semimajor_sigma", "semiminor_sigma"):
        np.testing.assert_allclose(found[name][index][has_width], reference[name][has_width], rtol=1e-9)
    turned = np.deg2rad(found["orientation"][index] - reference["orientation"])[is_equal]
    elongated = reference["semimajor_sigma"][is_equal] > 1.001 * reference["semiminor_sigma"][is_equal]
    np.testing.assert_allclose(np.sin(turned[elongated]), 0.0, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_find_sources__unblended_stars_are_where_the_default_finder_has_them(seed):
    image, truth = _frame(seed, n_sources=30, least_separation=6.0)
    table = DefaultFinder(8)(image, np.full(image.shape, 5.0 * NOISE))
    reference = detect.source_arrays(table, len(table))
    found = _found(image, 5.0 * NOISE, 8)
    away, _ = _nearest(found, reference)
    assert away.max() < 0.02
    assert len(found["x"]) == len(reference["x"])
    stars = {"x": truth["x"][0].to_numpy()[:20], "y": truth["y"][0].to_numpy()[:20]}
    assert _nearest(found, stars)[0].max() < 0.5


def test_find_sources__plateaus_and_touching_corners():
    image = np.zeros((40, 60))
    image[10:14, 10:16] = 50.0  # a plateau has one maximum, wherever it is
    image[20, 20] = image[21, 21] = image[22, 20] = 30.0  # corners touch
    image[0, 59] = image[1, 0] = 40.0  # the end of a row does not touch the beginning of the next
    found = _found(image, 1.0, 1)
    assert len(found["x"]) == 4
    np.testing.assert_allclose(found["flux"], [1200.0, 90.0, 40.0, 40.0])
    np.testing.assert_allclose([found["x"][0], found["y"][0]], [12.5, 11.5])
    reference = detect.source_arrays(detect.segment_sources(image, 1.0, 1), 4)
    for name in ("x", "y", "flux"):
        np.testing.assert_allclose(np.sort(found[name]), np.sort(reference[name]))


def test_find_sources__at_the_edges_of_the_frame():
    y, x = np.indices((64, 64))
    image = sum(1e3 * np.exp(-0.5 * ((x - a) ** 2 + (y - b) ** 2) / 4.0) for a, b in [(0, 0), (63, 30), (20, 63)])
    reference = detect.source_arrays(detect.segment_sources(image, 10.0, 5), 3)
    found = _found(image, 10.0, 5)
    for name in segments.COLUMNS[:5]:
        np.testing.assert_allclose(found[name], reference[name], rtol=1e-9)
    # the centre decides, not the segment
    assert len(_found(image, 10.0, 5, border_width=1)["x"]) == 3
    assert not len(_found(image, 10.0, 5, border_width=5)["x"])


def test_find_sources__two_stars_are_told_apart_as_photutils_does():
    rng = np.random.default_rng(5)
    y, x = np.indices((80, 80))
    for apart in np.arange(3.0, 9.0, 0.5):
        for ratio in (1.0, 0.3, 0.05):
            image = rng.normal(0.0, 5.0, (80, 80))
            for place, flux in ((40.0 - apart / 2, 1.0), (40.0 + apart / 2, ratio)):
                image += 4e3 * flux * np.exp(-0.5 * ((x - place) ** 2 + (y - 40.3) ** 2) / 2.0**2)
            table = detect.segment_sources(image, 25.0, 8)
            found = _found(image, 25.0, 8)
            assert len(found["x"]) == len(table), f"{apart:g} pixels apart, ratio {ratio:g}"


@pytest.mark.parametrize("value", [0.0, -5.0])
def test_find_sources__nothing_gives_nothing(value):
    found = _found(np.full((20, 20), value), 1.0, 1)
    assert all(len(found[name]) == 0 for name in segments.COLUMNS)
    found = _found(np.where(np.arange(400).reshape(20, 20) == 210, 9.0, value), 1.0, 2)
    assert not len(found["x"])


def test_find_sources__float32_frames_give_the_same_sources():
    image, _ = _frame(9)
    rounded = image.astype(np.float32)
    one, other = _found(rounded.astype(float), 5.0 * NOISE, 8), _found(rounded, 5.0 * NOISE, 8)
    for name in segments.COLUMNS:
        np.testing.assert_array_equal(one[name], other[name])
