"""The star profile of a night, and fluxes of stars that overlap: against truth and against photutils."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import QTable
from known_frames import field_shape
from photutils.psf import ImagePSF, PSFPhotometry, SourceGrouper

from opticam_dask.frames.simulation.simulated_fields import _add_star
from opticam_dask.kernels.sources import joint_fit, photometry
from opticam_dask.kernels.sources.profiles import profile, profile_fit, ring_sums
from opticam_dask.passes import star_profiles

SKY_RMS = 10.0


def _stars(xy, flux, fwhm, beta, shape=(400, 400)):
    image = np.zeros(shape)
    for (x, y), light in zip(xy, flux, strict=True):
        _add_star(image, x, y, light, fwhm, beta)
    return image


def _grid(rng, step=80.0, n=5):
    cells = step * (np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) + 0.5)
    return cells + rng.uniform(-0.5, 0.5, cells.shape)


def _cutouts(image, xy, half):
    x0, y0 = photometry.origins(xy, 2 * half + 1)
    return photometry.cut_out(image, x0, y0, 2 * half + 1), x0, y0


def _measured_profile(beta, n_frames=12):
    """Profile from frames whose seeing changes by a quarter, with the noise of their photons and of their sky."""
    rng = np.random.default_rng(4)
    found, views = {}, []
    for index in range(n_frames):
        fwhm = 3.8 * (1.0 + 0.25 * np.sin(index))
        xy = _grid(rng)
        truth = _stars(xy, np.full(len(xy), 1e5), fwhm, beta)
        image = rng.poisson(truth + SKY_RMS**2) - SKY_RMS**2
        rough = np.full(len(xy), fwhm / photometry.SIGMA_TO_FWHM)
        form = field_shape(image, xy, rough, SKY_RMS)
        shape = profile.Shape(*form[1:4])
        cutouts, x0, y0 = _cutouts(image, xy, int(ring_sums.SKY_REACH * shape.semimajor_sigma) + 2)
        rings = ring_sums.measure_rings(cutouts, np.full(cutouts.shape, SKY_RMS), xy, x0, y0, shape)
        found[index] = rings
        views.append((truth, xy, shape))
    return star_profiles.fit(found), views


def test_components__of_one_slope_are_made_at_once_and_each_as_if_alone(monkeypatch):
    rho, made, functions = np.linspace(0.0, 12.0, 57), [], profile._functions
    monkeypatch.setattr(profile, "_functions", lambda *given: made.append(given[1]) or functions(*given))
    together = profile.components(rho, range(profile.MOST_COMPONENTS), 0.3)
    assert sorted(made) == sorted(profile.SLOPES)
    alone = [profile.components(rho, [number], 0.3)[:, 0] for number in range(profile.MOST_COMPONENTS)]
    np.testing.assert_array_equal(together, np.stack(alone, axis=-1))


@pytest.mark.parametrize("beta", [None, 4.0, 3.0], ids=["gaussian", "moffat 4", "moffat 3"])
def test_profile__total_fluxes_are_right_to_a_few_thousandths_while_the_seeing_changes(beta):
    fitted, views = _measured_profile(beta)
    table, optimal, aperture = fitted.table(), [], []
    for truth, xy, shape in views:
        cutouts, x0, y0 = _cutouts(truth, xy, 15)
        light = profile.profile_weights(table, xy, x0, y0, 31, shape)
        inside = photometry.circular_weights(xy, x0, y0, 31, 4.0)
        optimal.append(np.mean(np.sum(light * cutouts, axis=(1, 2)) / np.sum(light**2, axis=(1, 2))) / 1e5)
        aperture.append(np.mean(np.sum(inside * cutouts, axis=(1, 2)) / np.sum(inside * light, axis=(1, 2))) / 1e5)
    # one profile for a seeing that changes by a quarter either way
    np.testing.assert_allclose(optimal, 1.0, atol=0.006)
    np.testing.assert_allclose(aperture, 1.0, atol=0.006)
    assert abs(np.mean(optimal) - 1.0) < 0.002
    assert abs(np.mean(aperture) - 1.0) < 0.002


def test_profile__its_light_adds_up_to_one_whatever_the_form():
    fitted, _ = _measured_profile(3.0, n_frames=2)
    for shape in (profile.Shape(2.0, 2.0, 0.0), profile.Shape(3.1, 1.7, 0.6)):
        xy = np.array([[100.3, 99.8]])
        x0, y0 = photometry.origins(xy, 181)
        light = profile.profile_weights(fitted.table(), xy, x0, y0, 181, shape)
        np.testing.assert_allclose(light.sum(), 1.0, atol=0.001)


def test_profile__elongated_stars_are_followed():
    rng = np.random.default_rng(0)
    xy = _grid(rng)
    major, minor, theta = 2.6, 1.8, 0.7
    rows, columns = np.indices((400, 400))
    image = np.zeros((400, 400))
    for x, y in xy:
        u = (columns - x) * np.cos(theta) + (rows - y) * np.sin(theta)
        v = (rows - y) * np.cos(theta) - (columns - x) * np.sin(theta)
        image += 1e5 / (2 * np.pi * major * minor) * np.exp(-0.5 * ((u / major) ** 2 + (v / minor) ** 2))
    shape = profile.Shape(*field_shape(image, xy, np.full(25, 2.0), 1.0)[1:4])
    cutouts, x0, y0 = _cutouts(image, xy, 34)
    rings = ring_sums.measure_rings(cutouts, np.ones(cutouts.shape), xy, x0, y0, shape)
    light = profile.profile_weights(profile_fit.fit_profile(rings).table(), xy, x0, y0, 69, shape)
    flux = np.sum(light * cutouts, axis=(1, 2)) / np.sum(light**2, axis=(1, 2))
    np.testing.assert_allclose(flux, 1e5, rtol=0.002)


#: Light beside stars, of a bright star or a galaxy, and under all of them: by the distance from its middle, pixels.
GLOWS = {
    "none": lambda _: 0.0,
    "halo": lambda away: 1000.0 * np.exp(-away / 20.0),
    "wide halo": lambda away: 300.0 * np.exp(-away / 40.0),
    "twilight": lambda away: 1000.0 * np.exp(-((away / 60.0) ** 2) / 2.0),
}


def _excess_on(glow, seed):
    """By how much the total fluxes of nine stars on a sky are too large, and the error that their profile tells."""
    rng = np.random.default_rng(seed)
    xy, shape, rows, columns = _grid(rng, 80.0, 3), profile.Shape(1.7, 1.7, 0.0), *np.indices((240, 240))
    truth = np.geomspace(2e5, 4e4, 9)[[4, 0, 8, 1, 6, 2, 7, 3, 5]]
    stars = _stars(xy, truth, 4.0, 3.0, rows.shape)
    sky, found = SKY_RMS**2 + glow(columns, rows), {}
    for frame in range(6):
        cutouts, x0, y0 = _cutouts(rng.poisson(stars + sky).astype(float), xy, 31)
        rms = np.sqrt(photometry.cut_out(np.broadcast_to(sky, rows.shape), x0, y0, 63))
        found[frame] = ring_sums.measure_rings(cutouts, rms, xy, x0, y0, shape)
    fitted = star_profiles.fit(found)
    cutouts, x0, y0 = _cutouts(stars, xy, 15)
    light = profile.profile_weights(fitted.table(), xy, x0, y0, 31, shape)
    excess = np.median(np.sum(light * cutouts, axis=(1, 2)) / np.sum(light**2, axis=(1, 2)) / truth) - 1.0
    return excess, fitted.total_err


@pytest.mark.parametrize("glow", sorted(GLOWS))
def test_profile__totals_beside_a_glow_are_right_and_their_error_is_told(glow):
    excess, error = _excess_on(lambda x, y: GLOWS[glow](np.hypot(x - 75.0, y - 70.0)), 7)
    assert abs(excess) < 0.006
    assert abs(excess) < 2.0 * error < (0.005 if glow == "none" else 0.02)


@pytest.mark.parametrize("bend", [0.005, 0.06], ids=["seen in no frame", "strong"])
def test_profile__what_is_left_of_a_sky_that_bends_in_all_frames_is_told(bend):
    nights = [
        _excess_on(lambda x, y: 1900.0 - bend * ((x - 120.0) ** 2 + (y - 120.0) ** 2), seed) for seed in range(7, 11)
    ]
    excess, error = np.transpose(nights)
    assert np.sqrt(np.mean((excess / error) ** 2)) < 1.6
    assert np.max(error) < 0.013


def test_profile__stars_count_less_in_frames_where_a_trail_crosses_them():
    rng, xy, shape = np.random.default_rng(9), _grid(np.random.default_rng(9), 80.0, 3), profile.Shape(1.7, 1.7, 0.0)
    stars, (rows, columns) = _stars(xy, np.geomspace(2e5, 4e4, 9), 4.0, 3.0, (240, 240)), np.indices((240, 240))
    trail = 150.0 * np.exp(-0.5 * ((rows - xy[0, 1] - 0.1 * (columns - xy[0, 0]) - 4.0) / 5.0) ** 2)
    cutouts, x0, y0 = _cutouts(rng.poisson(stars + SKY_RMS**2).astype(float), xy, 31)
    crossed, rms = cutouts + _cutouts(trail, xy, 31)[0], np.full(cutouts.shape, SKY_RMS)
    calm, odd = (ring_sums.measure_rings(windows, rms, xy, x0, y0, shape).star_weight for windows in (cutouts, crossed))
    assert odd[0] < 0.1 * calm[0]
    np.testing.assert_allclose(odd[3:], calm[3:], rtol=0.03)  # those of the other rows
    assert calm[0] > 0.9 * calm.max()


@pytest.mark.parametrize("wider", [1.0, 1.15])
def test_profile__of_two_stars_tells_that_they_differ(wider):
    # as where one of them is a double: nobody can say which
    rng, xy, shape = np.random.default_rng(8), np.array([[60.3, 60.6], [160.2, 60.1]]), profile.Shape(1.8, 1.8, 0.0)
    stars, found = _stars(xy[:1], [1.5e5], 4.0, 3.0, (121, 221)), {}
    both = stars + _stars(xy[1:], [2e5], wider * 4.0, 3.0, (121, 221))
    for frame in range(4):
        cutouts, x0, y0 = _cutouts(rng.poisson(both + SKY_RMS**2).astype(float), xy, 31)
        found[frame] = ring_sums.measure_rings(cutouts, np.full(cutouts.shape, SKY_RMS), xy, x0, y0, shape)
    fitted = star_profiles.fit(found)
    cutouts, x0, y0 = _cutouts(stars, xy[:1], 15)
    light = profile.profile_weights(fitted.table(), xy[:1], x0, y0, 31, shape)
    excess = np.sum(light * cutouts) / np.sum(light**2) / 1.5e5 - 1.0
    assert abs(excess) < 1.5 * fitted.total_err < (0.1 if wider > 1.0 else 0.012)


def test_fit_stars__one_bright_star_is_not_odd_for_the_noise_of_two_faint_ones():
    rng, shape, truth = np.random.default_rng(2), profile.Shape(1.7, 1.7, 0.0), np.array([4e5, 8e3, 6e3])
    xy, found = np.array([(60.3, 60.1), (180.2, 60.4), (60.0, 180.3)]), {}
    stars = _stars(xy, truth, 4.0, 3.0, (240, 240))
    for frame in range(4):
        cutouts, x0, y0 = _cutouts(rng.poisson(stars + SKY_RMS**2).astype(float), xy, 30)
        rms, disturbed = np.full(cutouts.shape, SKY_RMS), np.array([0.0, 10.0, 15.0])
        found[frame] = ring_sums.measure_rings(cutouts, rms, xy, x0, y0, shape, disturbed=disturbed)
    fitted, _, alike = profile_fit.fit_stars(star_profiles.add(found))
    cutouts, x0, y0 = _cutouts(stars, xy, 15)
    light = profile.profile_weights(fitted.table(), xy, x0, y0, 31, shape)
    assert alike[0] > 0.95
    np.testing.assert_allclose(np.sum(light * cutouts, axis=(1, 2)) / np.sum(light**2, axis=(1, 2)), truth, rtol=0.006)


def test_fit_profile__without_stars_there_is_none():
    assert profile_fit.fit_profile(ring_sums.empty_rings()) is None
    assert profile_fit.fit_profile(ring_sums.empty_rings([3, 4])) is None
    assert star_profiles.fit({0: None}) is None


def _some_rings(rng, stars):
    """Sums over stars whose light falls from the centre, with some noise."""
    rings = ring_sums.empty_rings(stars)
    radius = (np.arange(ring_sums.N_RINGS) + 0.5) * ring_sums.REACH / ring_sums.N_RINGS
    rings.n_images[:], rings.star_weight[:], rings.pixel_area[:] = 1, 1e4, 2e3
    rings.weight[:] = 1e4 * rng.uniform(1.0, 2.0, rings.weight.shape)
    rings.signal[:] = rings.weight * profile.typical_profile().at(radius) * rng.uniform(0.99, 1.01, rings.weight.shape)
    rings.radius[:], rings.square[:] = rings.weight * radius, rings.weight * radius**2
    rings.sky[:, -10:], rings.photons[:] = 1e3, 1e4
    return rings


def test_describe__does_not_depend_on_the_order_in_which_frames_arrive():
    rng = np.random.default_rng(1)
    sums = {index: _some_rings(rng, np.arange(index % 3, 5)) for index in range(9)}
    shuffled = {index: sums[index] for index in (3, 8, 0, 1, 7, 2, 5, 4, 6)}
    one, other = (
        star_profiles.describe(*profile_fit.fit_stars(star_profiles.add(some))[:2]) for some in (sums, shuffled)
    )
    for name, values in one.items():
        assert values.tobytes() == other[name].tobytes()


def test_choose_frames__usable_and_evenly_spaced():
    flags = np.ones(1000, dtype=np.uint32)
    is_bad = np.random.default_rng(4).random(1000) < 0.3
    flags[is_bad] |= 2
    chosen = star_profiles.choose_frames(flags, 0, 10)
    assert len(chosen) == 10
    assert not is_bad[chosen].any()
    # of those that the number of frames alone decides upon, a quarter of all, every usable one in turn
    assert np.ptp(np.diff(chosen)) <= 40
    assert star_profiles.choose_frames(np.zeros(5, dtype=np.uint32), 0) == []


# ---------------------------------------------------------------- stars that overlap


def _blend(rng, fwhm=3.6):
    shape = profile.Shape(fwhm / photometry.SIGMA_TO_FWHM, fwhm / photometry.SIGMA_TO_FWHM, 0.0)
    xy = np.array([[20.2, 20.4], [23.9, 21.0], [21.0, 25.3]])
    corners = np.zeros(3, dtype=int), np.zeros(3, dtype=int)
    light = profile.profile_weights(profile.gaussian_profile().table(), xy, *corners, 45, shape)
    flux = np.array([4e4, 3e3, 9e3])
    truth = np.sum(flux[:, None, None] * light, axis=0)
    return shape, xy, light, flux, truth, rng.poisson(truth + SKY_RMS**2) - SKY_RMS**2


def test_fit_fluxes__equals_photutils_psf_photometry():
    shape, xy, light, flux, _, image = _blend(np.random.default_rng(3))
    rms, everywhere = np.full(image.shape, SKY_RMS), np.ones(image.shape, dtype=bool)
    found, _ = joint_fit.fit_fluxes(light, image.astype(float), rms, everywhere, None, 0.0)
    # the same profile, tabulated four times as finely as the pixels, for photutils
    fine = np.arange(-88, 89) / 4.0
    rho = np.hypot(fine[:, None], fine[None, :]) / shape.sigma
    model = ImagePSF(profile.gaussian_profile().at(rho) / shape.area, oversampling=4)
    model.x_0.fixed = model.y_0.fixed = True
    fit = PSFPhotometry(model, fit_shape=(45, 45), grouper=SourceGrouper(15.0), aperture_radius=4.0)
    table = fit(image.astype(float), init_params=QTable({"x": xy[:, 0], "y": xy[:, 1], "flux": flux}))
    expected = np.asarray(table["flux_fit"])
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=0.02 * 9e1)


def test_fit_fluxes__blended_stars_are_unbiased_and_their_errors_right():
    rng = np.random.default_rng(5)
    pulls = []
    for _ in range(700):
        _, _, light, flux, _, image = _blend(rng)
        rms, everywhere = np.full(image.shape, SKY_RMS), np.ones(image.shape, dtype=bool)
        found, error = joint_fit.fit_fluxes(light, image.astype(float), rms, everywhere, None, 0.0)
        pulls.append((found - flux) / error)
    pulls = np.array(pulls)
    assert np.all(np.abs(pulls.mean(axis=0)) < 0.1)
    assert np.all((pulls.std(axis=0) > 0.93) & (pulls.std(axis=0) < 1.07))


def test_group_sources__chains_belong_together_and_nobody_is_alone():
    xy = np.array([[0.0, 0.0], [3.0, 0.0], [6.0, 0.0], [50.0, 0.0], [np.nan, 1.0], [80.0, 0.0], [82.0, 0.0]])
    groups = joint_fit.group_sources(xy, 4.0, xy[:0])
    assert [members.tolist() for members, _ in groups] == [[0, 1, 2], [5, 6]]
    assert joint_fit.group_sources(xy[:1], 4.0, xy[:0]) == []
    assert joint_fit.group_sources(np.empty((0, 2)), 4.0, xy[:0]) == []
    # what lies near two chains links them not, and what lies near a single source makes it one of a group
    others = np.array([[7.0, 0.0], [52.0, 0.0], [20.0, 0.0]])
    found = joint_fit.group_sources(xy, 4.0, others)
    assert [(members.tolist(), near.tolist()) for members, near in found] == [
        ([0, 1, 2], [0]),
        ([3], [1]),
        ([5, 6], []),
    ]
