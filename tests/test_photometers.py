"""Aperture photometer: positions, flags, and errors that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest

from opticam_dask import AperturePhotometer
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels import photometry
from opticam_dask.photometers import FrameView

SIGMA, SKY = 1.6, 100.0
FWHM = SIGMA * photometry.SIGMA_TO_FWHM


def _view(image, predicted, detected=None, *, rms=None, saturated=None, hits=None, position_error=0.05):
    detected = np.empty((0, 2)) if detected is None else np.asarray(detected, float)
    rms = np.full(image.shape, np.sqrt(SKY)) if rms is None else rms

    def cuts(values):
        return lambda x0, y0, size: photometry.cut_out(values, x0, y0, size)

    def masks(mask):
        return lambda x0, y0, size: photometry.cut_out(mask.astype(float), x0, y0, size) > 0

    return FrameView(
        predicted_xy=np.asarray(predicted, float),
        detected_xy=detected,
        detected_flux=np.ones(len(detected)),
        scale=1.0,
        rotation=0.0,
        fwhm=FWHM,
        frame_fwhm=FWHM,
        position_error=position_error,
        shape=image.shape,
        cutouts_at=cuts(image),
        rms_at=cuts(rms),
        saturated_at=masks(np.zeros(image.shape, bool) if saturated is None else saturated),
        cosmic_rays_at=(lambda x0, y0, size: None) if hits is None else masks(hits),
    )


def _stars(positions, fluxes, shape=(100, 100)):
    y, x = np.indices(shape)
    image = np.zeros(shape)
    for (x0, y0), flux in zip(positions, fluxes, strict=True):
        image += flux / (2 * np.pi * SIGMA**2) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / SIGMA**2)
    return image


def test_measure__gives_the_flux_inside_one_fwhm():
    image = _stars([(40.0, 50.0)], [1e5])
    found = AperturePhotometer().measure(_view(image, [(40.0, 50.0)], [(40.0, 50.0)]))
    # a circle of one FWHM holds 1 - 2^-4 of a Gaussian; summing sampled pixels takes off 0.4 %
    assert abs(found.flux[0] / 1e5 - (1.0 - 2.0**-4)) < 0.005
    assert found.flags[0] == 0


def test_measure__recentres_on_its_detection_and_forced_does_not_move():
    image = _stars([(41.0, 50.6)], [1e5])
    view = _view(image, [(40.0, 50.0)], [(41.2, 50.4)], position_error=1.0)
    free, forced = AperturePhotometer().measure(view), AperturePhotometer(forced=True).measure(view)
    np.testing.assert_allclose([free.x[0], free.y[0]], [41.0, 50.6], atol=0.02)
    assert (forced.x[0], forced.y[0]) == (40.0, 50.0)
    assert forced.flux[0] < free.flux[0]


def test_measure__two_sources_never_share_a_detection():
    image = _stars([(40.0, 50.0)], [1e5])
    found = AperturePhotometer().measure(_view(image, [(40.0, 50.0), (43.0, 50.0)], [(40.2, 50.0)]))
    assert found.flags.tolist() == [0, SourceFlag.NOT_DETECTED]
    assert (found.x[1], found.y[1]) == (43.0, 50.0)


@pytest.mark.parametrize("forced", [False, True])
def test_measure__not_detected_is_still_measured(forced):
    image = _stars([(40.0, 50.0)], [100.0])
    found = AperturePhotometer(forced=forced).measure(_view(image, [(40.0, 50.0)]))
    assert found.flags[0] == SourceFlag.NOT_DETECTED
    assert np.isfinite(found.flux[0])
    assert found.flux_err[0] > 0


def test_measure__edges_and_missing_pixels_are_flagged():
    image = _stars([(1.0, 50.0), (40.0, 40.0)], [1e5, 1e5])
    image[40, 41] = np.nan
    found = AperturePhotometer(forced=True).measure(
        _view(image, [(1.0, 50.0), (40.0, 40.0), (-30.0, 5.0), (np.nan, np.nan), (70.0, 70.0)])
    )
    flags = found.flags & ~np.uint32(SourceFlag.NOT_DETECTED)
    assert flags.tolist() == [SourceFlag.EDGE, SourceFlag.BAD_PIXEL, SourceFlag.OFF_FRAME, SourceFlag.OFF_FRAME, 0]
    assert np.isnan(found.flux).tolist() == [False, False, True, True, False]
    assert np.isnan(found.flux_err).tolist() == [False, False, True, True, False]


def test_measure__saturated_and_hit_pixels_are_flagged_inside_the_aperture_only():
    image = _stars([(40.0, 40.0), (70.0, 70.0)], [1e5, 1e5])
    saturated, hits = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
    saturated[40, 40] = True
    hits[70, 72] = True
    hits[60, 60] = True
    view = _view(image, [(40, 40), (70, 70)], [(40, 40), (70, 70)], saturated=saturated, hits=hits)
    assert AperturePhotometer().measure(view).flags.tolist() == [SourceFlag.SATURATED, SourceFlag.COSMIC_RAY]


def test_measure__radius_and_ellipse_follow_the_scale_of_the_frame():
    image = np.ones((100, 100))
    view = _view(image, [(50.0, 50.0)])
    doubled = FrameView(**{**vars(view), "scale": 2.0})
    for photometer, area in (
        (AperturePhotometer(radius=3.0), np.pi * 9.0),
        (AperturePhotometer(semimajor_axis=4.0, semiminor_axis=2.0, orientation=30.0), np.pi * 8.0),
    ):
        np.testing.assert_allclose(photometer.measure(view).flux[0], area, rtol=1e-9)
        np.testing.assert_allclose(photometer.measure(doubled).flux[0], 4.0 * area, rtol=1e-9)


def test_measure__orientation_is_in_degrees():
    image = _stars([(50.0, 50.0)], [0.0])
    image[50, 40:61] = 1.0
    along = AperturePhotometer(semimajor_axis=10.0, semiminor_axis=1.0, orientation=0.0)
    across = AperturePhotometer(semimajor_axis=10.0, semiminor_axis=1.0, orientation=90.0)
    view = _view(image, [(50.0, 50.0)])
    assert along.measure(view).flux[0] > 4 * across.measure(view).flux[0]
    turned = FrameView(**{**vars(view), "rotation": 90.0})
    np.testing.assert_allclose(across.measure(turned).flux, along.measure(view).flux, rtol=1e-6)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("signal_to_noise", [3, 10, 30, 100])
def test_measure__pulls_have_width_one_and_no_bias(forced, signal_to_noise):
    rng = np.random.default_rng([signal_to_noise, forced])
    area = np.pi * FWHM**2
    inside = 0.5 * signal_to_noise**2 * (1.0 + np.sqrt(1.0 + 4.0 * area * SKY / signal_to_noise**2))
    total = inside / (1.0 - 2.0**-4)
    cells = 20.0 + 30.0 * np.stack(np.meshgrid(np.arange(16), np.arange(16)), -1).reshape(-1, 2)
    pulls = []
    for _ in range(8):
        xy = cells + rng.uniform(-0.5, 0.5, cells.shape)
        truth = _stars(xy, np.full(len(xy), total), (490, 490))
        image = rng.poisson(truth + SKY) - SKY
        # what a frame gives: detections near the stars with the scatter of their signal, for half of the faint ones
        scatter = SIGMA / signal_to_noise
        detected = xy + rng.normal(0.0, scatter, xy.shape)
        detected = detected[rng.random(len(xy)) < min(1.0, signal_to_noise / 6.0)]
        predicted = xy + rng.normal(0.0, 0.05, xy.shape)
        found = AperturePhotometer(forced=forced).measure(_view(image.astype(float), predicted, detected))
        x0, y0 = photometry.origins(xy, 13)
        expected, _ = photometry.aperture_flux(
            photometry.cut_out(truth, x0, y0, 13), photometry.circular_weights(xy, x0, y0, 13, FWHM)
        )
        pulls.append((found.flux - expected) / found.flux_err)
    pulls = np.concatenate(pulls)
    assert len(pulls) == 2048
    assert abs(np.mean(pulls)) < 0.1
    assert 0.9 < np.std(pulls) < 1.1


@pytest.mark.parametrize(
    "options",
    [
        {"radius": 0},
        {"radius": -1.0},
        {"radius": float("nan")},
        {"semimajor_axis": 3.0},
        {"semimajor_axis": 3.0, "semiminor_axis": 2.0, "orientation": 0.0, "radius": 2.0},
        {"source_matching_tolerance": 0},
    ],
)
def test_aperture_photometer__nonsense_is_refused(options):
    with pytest.raises(ValueError, match=r"must be greater than 0|needs|not both"):
        AperturePhotometer(**options)


def test_aperture_photometer__labels():
    assert AperturePhotometer().label == "aperture"
    assert AperturePhotometer(forced=True).label == "forced_aperture"


def test_measure__a_neighbour_does_not_drag_the_aperture():
    near = 40.0 + 2.0 * FWHM
    image = _stars([(40.0, 50.0), (near, 50.0)], [1e4, 5e4])
    places = [(40.0, 50.0), (near, 50.0)]
    found = AperturePhotometer().measure(_view(image, places, places))
    assert abs(found.x[0] - 40.0) < 0.3 * SIGMA
    assert abs(found.x[1] - near) < 0.05
