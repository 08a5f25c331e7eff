"""Aperture photometer: positions, flags, and errors that mean what they say."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
from zoomed_meshes import mesh_windows

from opticam_dask import AperturePhotometer, DefaultLocalBackground, OptimalPhotometer, PSFPhotometer, identities
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.images import calibrate
from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.profiles import profile
from opticam_dask.methods.frame_view import CatalogFacts, FrameView
from opticam_dask.methods.photometer_kinds import photometer_from_record

SIGMA, SKY, READ_NOISE = 1.6, 100.0, 5.0
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
    x0, y0 = np.asarray(positions, float).T[:, :, None]
    peaks = np.asarray(fluxes, float) / (2 * np.pi * SIGMA**2)
    # a round Gaussian is a product of two profiles, and a sum of products is a matrix product
    columns = np.exp(-0.5 * ((np.arange(shape[1]) - x0) / SIGMA) ** 2)
    rows = np.exp(-0.5 * ((np.arange(shape[0]) - y0) / SIGMA) ** 2)
    return (peaks[:, None] * rows).T @ columns


def _arrays(measurement):
    """What was measured, by name, as arrays over the sources."""
    return {name: values for name, values in vars(measurement).items() if np.ndim(values)}


def _changed(view, **changes):
    return dataclasses.replace(view, **changes)


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


def test_measure__no_sources_give_no_numbers():
    found = AperturePhotometer().measure(_view(np.ones((50, 50)), np.empty((0, 2)), [(4.0, 4.0)]))
    assert [len(values) for values in _arrays(found).values()] == [0] * 7


def _field(seed=0, n=25):
    rng = np.random.default_rng(seed)
    xy = 20.0 + 40.0 * np.stack(np.meshgrid(np.arange(5), np.arange(5)), -1).reshape(-1, 2)[:n]
    xy = xy + rng.uniform(-5, 5, (n, 2))
    raw = rng.poisson(_stars(xy, 10 ** rng.uniform(2, 5, n), (200, 200)) + SKY).clip(0, 65535).astype(np.uint16)
    return raw, xy + rng.normal(0, 0.1, (n, 2)), xy[rng.random(n) < 0.8] + 0.05


@pytest.mark.parametrize("forced", [False, True])
def test_measure__a_source_does_not_depend_on_which_others_are_measured(forced):
    raw, predicted, detected = _field()
    view = _view(raw - SKY, predicted, detected)
    whole = AperturePhotometer(forced=forced).measure(view)
    for chosen in ([3], [17, 4], np.arange(25)[::-1]):
        part = AperturePhotometer(forced=forced).measure(_changed(view, predicted_xy=predicted[chosen]))
        for name, values in _arrays(part).items():
            np.testing.assert_array_equal(values, getattr(whole, name)[chosen], err_msg=name)


@pytest.mark.parametrize("options", [{}, {"forced": True}, {"radius": 6.5}])
def test_measure__pixels_of_cut_outs_and_of_the_whole_frame_give_the_same_bits(options):
    raw, predicted, detected = _field(1)
    predicted = np.vstack([predicted, [[1.0, 100.0], [-40.0, 3.0], [199.4, 199.4]]])
    mesh = np.random.default_rng(2).normal(150.0, 5.0, (20, 20))
    known = {"gain": 1.3, "dark_current": 0.11, "exposure_time": 7.0}

    def sky(x0, y0, size):
        return mesh_windows(mesh, raw.shape, (10, 10), y0, x0, size)

    electrons = calibrate.to_electrons(raw, **known)
    view = _view(electrons, predicted, detected)
    whole = _changed(view, cutouts_at=lambda *window: photometry.cut_out(electrons, *window) - sky(*window))
    pieces = _changed(
        view,
        cutouts_at=lambda *window: calibrate.to_electrons(photometry.cut_out(raw, *window), **known) - sky(*window),
    )
    one, other = (_arrays(AperturePhotometer(**options).measure(each)) for each in (whole, pieces))
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name
    assert np.isfinite(one["flux"]).sum() == len(predicted) - 1


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
    doubled = _changed(view, scale=2.0)
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
    turned = _changed(view, rotation=90.0)
    np.testing.assert_allclose(across.measure(turned).flux, along.measure(view).flux, rtol=1e-6)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("signal_to_noise", [3, 10, 30, 100])
def test_measure__pulls_have_width_one_and_no_bias(forced, signal_to_noise):
    rng = np.random.default_rng([signal_to_noise, forced])
    variance = SKY + READ_NOISE**2
    area = np.pi * FWHM**2
    inside = 0.5 * signal_to_noise**2 * (1.0 + np.sqrt(1.0 + 4.0 * area * variance / signal_to_noise**2))
    total = inside / (1.0 - 2.0**-4)
    cells = 20.0 + 30.0 * np.stack(np.meshgrid(np.arange(16), np.arange(16)), -1).reshape(-1, 2)
    pulls = []
    for _ in range(8):
        xy = cells + rng.uniform(-0.5, 0.5, cells.shape)
        truth = _stars(xy, np.full(len(xy), total), (490, 490))
        image = rng.poisson(truth + SKY) - SKY + rng.normal(0.0, READ_NOISE, truth.shape)
        rms = np.full(truth.shape, np.sqrt(variance))
        # what a frame gives: detections near the stars with the scatter of their signal, for half of the faint ones
        scatter = SIGMA / signal_to_noise
        detected = xy + rng.normal(0.0, scatter, xy.shape)
        detected = detected[rng.random(len(xy)) < min(1.0, signal_to_noise / 6.0)]
        predicted = xy + rng.normal(0.0, 0.05, xy.shape)
        found = AperturePhotometer(forced=forced).measure(_view(image, predicted, detected, rms=rms))
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


def test_aperture_photometer__is_a_value():
    one, same, other = AperturePhotometer(radius=4.0), AperturePhotometer(radius=4.0), AperturePhotometer(radius=5.0)
    assert one == same != other
    assert hash(one) == hash(same)
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.radius = 5.0


def test_measure__a_neighbour_does_not_drag_the_aperture():
    near = 40.0 + 2.0 * FWHM
    image = _stars([(40.0, 50.0), (near, 50.0)], [1e4, 5e4])
    places = [(40.0, 50.0), (near, 50.0)]
    found = AperturePhotometer().measure(_view(image, places, places))
    assert abs(found.x[0] - 40.0) < 0.3 * SIGMA
    assert abs(found.x[1] - near) < 0.05


# ---------------------------------------------------------------- radii, profiles, neighbours


def _with_profile(view, **changes):
    stars = profile.Shape(SIGMA, SIGMA, 0.0)
    return _changed(view, stars=stars, profile=profile.gaussian_profile().table(), **changes)


def test_aperture_photometer__several_radii_equal_one_by_one():
    raw, predicted, detected = _field(3)
    view = _with_profile(_view(raw - SKY, predicted, detected))
    together = AperturePhotometer(radius=(2.0, 3.5, 6.0)).measure(view)
    assert together.flux.shape == (25, 3)
    for column, radius in enumerate((2.0, 3.5, 6.0)):
        alone = AperturePhotometer(radius=radius).measure(view)
        np.testing.assert_allclose(together.flux[:, column], alone.flux, rtol=1e-12)
        np.testing.assert_allclose(together.flux_err[:, column], alone.flux_err, rtol=1e-12)
        np.testing.assert_allclose(together.aperture_correction[:, column], alone.aperture_correction, rtol=1e-12)
        np.testing.assert_array_equal(together.flags[:, column], alone.flags)


def test_aperture_photometer__units_of_the_radius():
    view = _changed(_view(np.ones((100, 100)), [(50.0, 50.0)]), frame_fwhm=2.0 * FWHM, scale=1.5)
    for unit, pixels in (("pixel", 1.5), ("reference_fwhm", 1.5 * FWHM), ("frame_fwhm", 2.0 * FWHM)):
        flux = AperturePhotometer(radius=2.0, radius_unit=unit).measure(view).flux[0]
        np.testing.assert_allclose(flux, np.pi * (2.0 * pixels) ** 2, rtol=1e-9)


def test_aperture_photometer__correction_leads_to_the_total():
    xy = np.array([[40.3, 50.1], [60.0, 20.5]])
    view = _with_profile(_view(_stars(xy, [1e5, 2e4]), xy, xy))
    for radius in (2.0, 4.0, 7.0):
        found = AperturePhotometer(radius=radius).measure(view)
        np.testing.assert_allclose(found.flux * found.aperture_correction, [1e5, 2e4], rtol=2e-3)


def test_best_aperture__is_small_for_faint_stars_and_large_for_bright_ones():
    table = profile.gaussian_profile().table()
    radii = []
    for flux in (3e2, 1e6):
        facts = CatalogFacts(np.full(5, flux), FWHM, 10.0, table)
        prepared = AperturePhotometer(radius="best").prepare(facts)
        assert prepared.radius_unit == "reference_fwhm"
        radii.append(prepared.radius)
    # the limit for a Gaussian in its sky is a radius of 1.585 sigma, or 0.673 FWHM
    assert abs(radii[0] - 0.673) < 0.06
    assert radii[1] > 1.3
    with pytest.raises(ValueError, match="best radius"):
        AperturePhotometer(radius="best").measure(_view(np.ones((50, 50)), [(20.0, 20.0)]))


def test_measure__missing_pixels_are_made_good_by_the_profile():
    xy = np.array([[40.0, 40.0], [70.3, 70.2]])
    image = _stars(xy, [1e5, 1e5])
    whole = _with_profile(_view(image, xy, xy))
    torn = image.copy()
    torn[41, 40] = torn[70, 71] = np.nan
    for photometer in (AperturePhotometer(forced=True), OptimalPhotometer(forced=True)):
        found = photometer.measure(_with_profile(_view(torn, xy, xy)))
        np.testing.assert_allclose(found.flux, photometer.measure(whole).flux, rtol=2e-3)
        assert np.all(found.flags & SourceFlag.BAD_PIXEL)
        assert np.all(found.flux_err > photometer.measure(whole).flux_err)


def test_measure__a_pixel_hit_by_a_cosmic_ray_does_not_count():
    xy = np.array([[40.0, 40.0]])
    image, hits = _stars(xy, [1e5]), np.zeros((100, 100), dtype=bool)
    hits[41, 40] = True
    struck = np.where(hits, 7e4, image)
    for photometer in (AperturePhotometer(forced=True), OptimalPhotometer(forced=True), PSFPhotometer(forced=True)):
        found = photometer.measure(_with_profile(_view(struck, xy, xy, hits=hits)))
        clean = photometer.measure(_with_profile(_view(image, xy, xy)))
        np.testing.assert_allclose(found.flux, clean.flux, rtol=2e-3)
        assert found.flags[0] == SourceFlag.COSMIC_RAY


def test_measure__annulus_gives_the_sky_back():
    xy = np.array([[40.0, 40.0], [70.0, 70.0]])
    image = _stars(xy, [1e5, 1e4]) + 3.0
    image += np.random.default_rng(0).normal(0.0, 2.0, image.shape)
    level = np.full(image.shape, 97.0)
    view = _with_profile(_view(image, xy, xy), level_at=lambda x0, y0, size: photometry.cut_out(level, x0, y0, size))
    for kind in (AperturePhotometer, OptimalPhotometer, PSFPhotometer):
        found = kind(local_background_estimator=DefaultLocalBackground()).measure(view)
        np.testing.assert_allclose(found.background, 100.0, atol=0.8)
        np.testing.assert_allclose(found.background_err, 2.0 / np.sqrt(np.pi * 31.25 * SIGMA**2), rtol=0.2)
        correction = 1.0 if found.aperture_correction is None else found.aperture_correction
        np.testing.assert_allclose(found.flux * correction, [1e5, 1e4], rtol=0.01)


def test_measure__own_function_for_the_local_sky():
    seen = []

    def sky(data, position, semimajor_axis, semiminor_axis, theta):
        seen.append((data.shape, position, semimajor_axis))
        return float(np.nanmedian(data)), 2.0

    image = _stars([(40.0, 40.0)], [1e5]) + 5.0
    view = _with_profile(_view(image, [(40.0, 40.0)], [(40.0, 40.0)]))
    photometer = AperturePhotometer(local_background_estimator=sky)
    found = photometer.measure(view)
    assert photometer.label == "aperture_annulus"
    assert seen[0][2] == SIGMA
    np.testing.assert_allclose(found.background, 5.0, atol=0.01)


def test_blended__neighbours_are_flagged_and_the_psf_photometer_takes_them_apart():
    xy = np.array([[40.0, 40.0], [45.0, 41.0], [80.0, 80.0]])
    flux = np.array([5e5, 4e3, 1e4])
    view = _with_profile(_view(_stars(xy, flux), xy, xy), catalog_flux=flux)
    aperture, psf = AperturePhotometer(forced=True).measure(view), PSFPhotometer(forced=True).measure(view)
    is_blended = (aperture.flags & SourceFlag.BLENDED) != 0
    assert is_blended.tolist() == [False, True, False]
    assert aperture.flux[1] * aperture.aperture_correction[1] > 1.5 * flux[1]
    np.testing.assert_allclose(psf.flux, flux, rtol=0.01)
    assert not np.any(psf.flags & SourceFlag.BLENDED)


def test_blended__sources_off_the_frame_or_of_unknown_flux_disturb_nothing():
    xy = np.array([[40.0, 40.0], [42.0, 41.0], [-200.0, 5.0], [-198.0, 6.0], [60.0, 60.0]])
    flux = np.array([np.nan, 4e3, 1e4, 1e4, 0.0])
    view = _with_profile(_view(_stars(xy, np.full(5, 1e4)), xy, xy), catalog_flux=flux)
    for photometer in (AperturePhotometer(), OptimalPhotometer(), PSFPhotometer()):
        found = photometer.measure(view)
        assert np.isfinite(found.flux).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("kind", [OptimalPhotometer, PSFPhotometer])
def test_optimal__pulls_have_width_one_and_no_bias(kind):
    rng = np.random.default_rng(8)
    xy = 20.0 + 40.0 * np.stack(np.meshgrid(np.arange(16), np.arange(16)), -1).reshape(-1, 2)
    pulls = []
    for total in np.geomspace(2e2, 1e5, 8):
        places = xy + rng.uniform(-0.5, 0.5, xy.shape)
        truth = _stars(places, np.full(len(xy), total), (650, 650))
        image = rng.poisson(truth + SKY) - SKY + rng.normal(0.0, READ_NOISE, truth.shape)
        rms = np.full(truth.shape, np.sqrt(SKY + READ_NOISE**2))
        found = kind(forced=True).measure(_with_profile(_view(image, places, rms=rms)))
        pulls.append((found.flux - total) / found.flux_err)
    pulls = np.array(pulls)
    assert np.all(np.abs(pulls.mean(axis=1)) < 0.2)
    assert abs(pulls.mean()) < 0.05
    assert 0.95 < pulls.std() < 1.05


def test_response__noise_follows_the_counted_electrons_and_its_error_is_apart():
    xy = np.array([[40.0, 40.0]])
    image = _stars(xy, [1e6])
    response, error = np.full(image.shape, 0.5), np.full(image.shape, 0.005)

    def cuts(values):
        return lambda x0, y0, size: photometry.cut_out(values, x0, y0, size)

    plain = _with_profile(_view(image, xy, xy))
    flat = _changed(plain, response_at=cuts(response), response_error_at=cuts(error))
    for photometer in (AperturePhotometer(forced=True, radius=8.0), OptimalPhotometer(forced=True)):
        without, found = photometer.measure(plain), photometer.measure(flat)
        assert without.flux_err_sys is None
        # half of the light was counted, so its noise is larger by the square root of two
        np.testing.assert_allclose(found.flux_err / without.flux_err, np.sqrt(2.0), rtol=0.02)
        assert 0 < found.flux_err_sys[0] < 0.01 * found.flux[0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (AperturePhotometer, {"radius": ()}),
        (AperturePhotometer, {"radius": (2.0, -1.0)}),
        (AperturePhotometer, {"radius": "worst"}),
        (AperturePhotometer, {"radius": 2.0, "radius_unit": "arcsec"}),
        (PSFPhotometer, {"group_separation": 0.0}),
        (OptimalPhotometer, {"local_background_estimator": 3.0}),
    ],
)
def test_photometers__nonsense_is_refused(kind, options):
    with pytest.raises(ValueError, match=r"radius|group_separation|local_background_estimator"):
        kind(**options)


@pytest.mark.parametrize(
    "photometer",
    [
        AperturePhotometer(radius=(2.0, 4.0), radius_unit="frame_fwhm"),
        OptimalPhotometer(forced=True, local_background_estimator=DefaultLocalBackground(4.0, 9.0)),
        PSFPhotometer(group_separation=3.0),
    ],
)
def test_photometers__are_known_again_from_what_the_store_says(photometer):
    record = json.loads(identities.parameters_json(identities.describe(photometer)))
    assert photometer_from_record(record) == photometer


def test_photometers__one_of_the_users_own_is_not():
    assert photometer_from_record({"class": "MyPhotometer", "forced": True}) is None
    record = identities.describe(AperturePhotometer(local_background_estimator=lambda *_: (0.0, 1.0)))
    assert photometer_from_record(record) is None
