"""Light that does not belong to the star: it is found, left out where it can be, and always flagged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from known_frames import LABELS, PHOTOMETERS, measured, noisy, shape_and_table, view_of
from small_nights import SIGMA_TO_FWHM, add_star

from opticam_dask import AperturePhotometer, OptimalPhotometer, PSFPhotometer
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.sources import moments
from opticam_dask.kernels.sources.profiles import profile

FLUXES = np.array([3e4, 6e4, 1e5, 4e5])


def field(rng, fwhm, beta, ratio=1.0, fluxes=FLUXES):
    """Sixteen stars, 50 pixels apart: electrons without noise, places and fluxes."""
    image = np.zeros((200, 200))
    xy = (
        25.0 + 50.0 * np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) + rng.uniform(-1, 1, (16, 2))
    )
    flux = np.resize(fluxes, 16)
    for (x, y), light in zip(xy, flux, strict=True):
        add_star(image, x, y, light, fwhm, beta, ratio=ratio)
    return image, xy, flux


def is_contaminated(flags):
    return (flags.astype(int) & int(SourceFlag.CONTAMINATED)) > 0


# ---------------------------------------------------------------- tracks of cosmic rays


def tracks(image, xy, rng):
    """A track of 1 to 5 pixels, of 800 to 6000 electrons each, within 9 pixels of every fourth star; which stars."""
    hit = rng.permutation(len(xy))[:4]
    for x, y in xy[hit] + rng.uniform(-9.0, 9.0, (4, 2)):
        angle = rng.uniform(0, 2 * np.pi)
        for step in range(rng.integers(1, 6)):
            row, column = round(y + step * np.sin(angle)), round(x + step * np.cos(angle))
            image[row, column] += rng.uniform(800.0, 6000.0)
    return hit


@pytest.fixture(scope="module")
def struck():
    """Rows (pull, distance, flags, struck) by label, of frames with tracks; the detections are dragged by them."""
    rng, form = np.random.default_rng(1), shape_and_table(5.0, 3.0)
    rows = {label: [] for label in LABELS}
    for _ in range(12):
        image, xy, flux = field(rng, 5.0, 3.0)
        pixels = noisy(image, rng)
        hit = np.isin(np.arange(16), tracks(pixels, xy, rng))
        detected = xy + rng.normal(0.0, 0.1, xy.shape) + np.where(hit[:, None], rng.uniform(-3.0, 3.0, xy.shape), 0.0)
        for photometer in PHOTOMETERS:
            # a view for each: none may lean on what another has found out
            view = view_of(pixels, xy + rng.normal(0.0, 0.05, xy.shape), detected, flux, form)
            rows[photometer.label].append(np.column_stack([measured(photometer, view, xy, flux), hit]))
    return {label: np.concatenate(found) for label, found in rows.items()}


@pytest.mark.parametrize("label", LABELS)
def test_track__no_wild_measurement_without_a_flag(struck, label):
    pull, away, flags, hit = struck[label].T
    unflagged = flags == 0
    assert np.abs(pull[unflagged]).max() < 6.0
    assert away[unflagged].max() < 0.3
    assert not is_contaminated(flags[hit == 0]).any()  # nothing is flagged without need
    assert is_contaminated(flags[hit == 1]).mean() > 0.15


@pytest.mark.parametrize("label", [label for label in LABELS if "annulus" not in label])
def test_track__what_is_left_is_right(struck, label):
    pull, away, flags, _ = struck[label].T
    chosen = is_contaminated(flags)
    assert np.median(np.abs(pull[chosen])) < 1.0  # 0.67 for Gaussian pulls
    assert np.mean(np.abs(pull[chosen]) > 4.0) < 0.1
    assert np.median(away[chosen]) < 0.15


def test_track__clean_stars_are_as_they_were(struck):
    for label in ("aperture", "optimal", "psf"):
        pull = struck[label][:, 0][(struck[label][:, 3] == 0) & (struck[label][:, 2] == 0)]
        assert abs(pull.mean()) < 0.3
        assert 0.85 < pull.std() < 1.15


# ---------------------------------------------------------------- other light


def in_the_core(pixels, x, y, rng):
    pixels[round(y), round(x)] += rng.uniform(4000.0, 8000.0)


def hot_pixel(pixels, x, y, rng):
    pixels[round(y + 1.0), round(x - 2.0)] += 2000.0


def satellite(pixels, x, y, rng):
    angle, off = rng.uniform(0, np.pi), rng.uniform(-3.0, 3.0)
    rows, columns = np.indices(pixels.shape)
    distance = (columns - x) * np.sin(angle) - (rows - y) * np.cos(angle) - off
    pixels += rng.poisson(rng.uniform(300.0, 3000.0) * np.exp(-0.5 * (distance / 1.8) ** 2))


def asteroid(pixels, x, y, rng):
    image, angle, away = np.zeros(pixels.shape), rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 1.5) * 5.0
    add_star(image, x + away * np.cos(angle), y + away * np.sin(angle), 6000.0, 5.0, 3.0)
    pixels += rng.poisson(image)


@pytest.mark.parametrize("kind", [in_the_core, hot_pixel, satellite, asteroid])
@pytest.mark.parametrize(("fwhm", "beta", "ratio"), [(5.0, 3.0, 1.0), (4.0, None, 0.6)])
def test_other_light__is_flagged_in_every_photometer_and_in_no_other_star(kind, fwhm, beta, ratio):
    rng, form = np.random.default_rng(7), shape_and_table(fwhm, beta, ratio)
    for _ in range(2):
        image, xy, flux = field(rng, fwhm, beta, ratio)
        pixels, struck = noisy(image, rng), int(rng.integers(16))
        kind(pixels, *xy[struck], rng)
        near = np.arange(16) == struck
        if kind is satellite:  # it crosses others as well
            near[:] = True
        view = view_of(pixels, xy + rng.normal(0.0, 0.05, xy.shape), xy, flux, form)
        for photometer in PHOTOMETERS:
            pull, _, flags = measured(photometer, view, xy, flux).T
            assert is_contaminated(flags)[struck] or abs(pull[struck]) < 4.0, photometer.label
            assert not is_contaminated(flags[~near]).any(), photometer.label
            assert np.abs(pull[flags == 0]).max() < 6.0, photometer.label


# ---------------------------------------------------------------- stars with nothing wrong


@pytest.mark.parametrize(
    ("fwhm", "beta", "ratio", "fluxes"),
    [
        (5.0, 3.0, 1.0, (1e5, 1.2e6)),  # to just below saturation
        (5.0, None, 1.0, (1e5, 1e6)),
        (6.0, 3.0, 0.4, (3e4, 4e5)),  # trailed
        (2.0, 3.0, 1.0, (3e3, 1e5)),  # undersampled
        (4.0, 3.0, 1.0, (100.0, 2000.0)),  # faint
    ],
)
def test_clean_stars__are_not_called_contaminated(fwhm, beta, ratio, fluxes):
    rng, form = np.random.default_rng(3), shape_and_table(fwhm, beta, ratio)
    for _ in range(2):
        image, xy, flux = field(rng, fwhm, beta, ratio, np.geomspace(*fluxes, 4))
        view = view_of(noisy(image, rng), xy + rng.normal(0.0, 0.05, xy.shape), xy, flux, form)
        for photometer in (AperturePhotometer(), AperturePhotometer(forced=True), PSFPhotometer()):
            assert not is_contaminated(measured(photometer, view, xy, flux)[:, 2]).any()


def test_seeing__that_is_not_that_of_the_profile_contaminates_nothing():
    # the frame's stars are 8 % wider than the form that is known of them
    rng = np.random.default_rng(4)
    image, xy, flux = field(rng, 5.4, 3.0)
    view = view_of(noisy(image, rng), xy, xy, flux, shape_and_table(5.0, 3.0))
    assert not is_contaminated(measured(OptimalPhotometer(), view, xy, flux)[:, 2]).any()


@pytest.mark.parametrize("factor", [0.0, 0.3, 2.0])
def test_variable_star__is_not_contaminated_by_its_flux(factor):
    rng, form = np.random.default_rng(5), shape_and_table(5.0, 3.0)
    image, xy, flux = field(rng, 5.0, 3.0, fluxes=factor * FLUXES)
    view = view_of(noisy(image, rng), xy, xy[:0] if factor == 0 else xy, np.resize(FLUXES, 16), form)
    for photometer in PHOTOMETERS:
        assert not is_contaminated(measured(photometer, view, xy, flux)[:, 2]).any(), photometer.label


@pytest.mark.parametrize("photometer", [OptimalPhotometer(), PSFPhotometer(), AperturePhotometer(radius=12.0)])
def test_saturated_pixels_beside_stars__are_not_theirs(photometer):
    rng, form = np.random.default_rng(8), shape_and_table(5.0, 3.0)
    image, xy, flux = field(rng, 5.0, 3.0)
    pixels = noisy(image, rng)
    for x, y in np.rint(xy[:8]).astype(int):  # beyond 3.5 sigma
        pixels[y - 9 : y + 10, x + 8 : x + 20] = 60000.0
    view = view_of(pixels, xy, xy, flux, form, saturated=pixels >= 60000.0)
    pull, _, flags = measured(photometer, view, xy, flux).T
    assert np.abs(pull).max() < 5.0
    assert is_contaminated(flags[:8]).all()
    assert not flags[8:].any()


def test_saturated_star__is_flagged_as_such_and_says_nothing_about_its_profile():
    rng, form = np.random.default_rng(6), shape_and_table(5.0, 3.0)
    image, xy, flux = field(rng, 5.0, 3.0, fluxes=[3e6, 1e5])
    pixels = np.minimum(noisy(image, rng), 60000.0)
    view = view_of(pixels, xy, xy, flux, form, saturated=pixels >= 60000.0)
    found = AperturePhotometer().measure(view)
    flags = found.flags.astype(int)
    assert ((flags & SourceFlag.SATURATED) > 0).tolist() == [True, False] * 8
    assert not is_contaminated(flags).any()
    assert np.isnan(found.profile_chi2[::2]).all()
    assert np.all(np.abs(found.profile_chi2[1::2] - 1.0) < 0.5)


# ---------------------------------------------------------------- centroids


def test_centroid__away_from_where_the_transform_puts_the_star_is_not_believed():
    # another star, which no catalogue knows, draws detection and centroid
    rng, form = np.random.default_rng(8), shape_and_table(5.0, 3.0)
    image, xy, flux = field(rng, 5.0, 3.0)
    add_star(image, xy[5, 0] + 4.0, xy[5, 1], flux[5], 5.0, 3.0)
    detected = xy.copy()
    detected[5, 0] += 2.0
    found = AperturePhotometer().measure(view_of(noisy(image, rng), xy, detected, flux, form))
    assert np.hypot(found.x[5] - xy[5, 0], found.y[5] - xy[5, 1]) < 0.01
    assert found.flags[5] & SourceFlag.NOT_RECENTRED
    assert found.flags[5] & SourceFlag.CONTAMINATED
    assert not np.delete(found.flags, 5).any()


def test_centroid__that_the_transform_cannot_tell_is_believed():
    # of two pairs nobody knows how good the transform is
    rng, form = np.random.default_rng(9), shape_and_table(5.0, 3.0)
    image, xy, flux = field(rng, 5.0, 3.0)
    view = view_of(noisy(image, rng), xy + np.array([1.5, -1.0]), xy, flux, form, position_error=1.0)
    found = AperturePhotometer().measure(view)
    assert np.hypot(found.x - xy[:, 0], found.y - xy[:, 1]).max() < 0.15
    assert not found.flags.any()


# ---------------------------------------------------------------- frames whose stars are no ellipses


def badly_guided(rng, fwhm):
    """Sixteen stars with the faint tails that a jump of the telescope leaves: electrons, places and fluxes."""
    image = np.zeros((200, 200))
    tail = [(0.0, 0.0, 0.9), (2.0, 0.7, 0.04), (3.0, 1.0, 0.03), (4.0, 1.4, 0.03)]
    xy = 25.0 + 50.0 * np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2)
    xy += rng.uniform(-1, 1, xy.shape)
    flux = np.resize(FLUXES, 16)
    for (x, y), light in zip(xy, flux, strict=True):
        for dx, dy, share in tail:
            add_star(image, x + dx, y + dy, share * light, fwhm, 3.0)
    return image, xy, flux


@pytest.mark.parametrize("fwhm", [2.2, 3.0])
def test_badly_guided_frame__its_stars_are_not_contaminated_by_their_form(fwhm):
    rng = np.random.default_rng(11)
    image, xy, flux = badly_guided(rng, fwhm)
    pixels, struck = noisy(image, rng), 2
    pixels[round(xy[struck, 1] - 3.0), round(xy[struck, 0] - 3.0)] += 4000.0  # a hot pixel
    forms = moments.source_shapes(image, xy, np.full(16, 1.2 * fwhm / SIGMA_TO_FWHM))
    form = profile.Shape(*np.median(forms, axis=1)), shape_and_table(5.0, 3.0)[1]
    view = view_of(pixels, xy, xy, flux, form)
    for photometer in (AperturePhotometer(radius=6.0), OptimalPhotometer()):
        found = photometer.measure(view)
        assert np.flatnonzero(is_contaminated(found.flags)).tolist() == [struck], photometer.label


# ---------------------------------------------------------------- a star that is alone in its frame


@pytest.mark.parametrize("fwhm", [3.5, 5.8])
def test_star_alone__a_track_through_its_core_does_not_excuse_itself(fwhm):
    """The form of such a frame is that of the struck star."""
    (usual, table), rng = shape_and_table(fwhm, 3.0), np.random.default_rng(5)
    wrong = {photometer.label: 0 for photometer in (AperturePhotometer(), OptimalPhotometer(), PSFPhotometer())}
    n_clean = 0
    for number in range(16):
        image, xy, flux = np.zeros((64, 64)), 31.0 + rng.uniform(-0.5, 0.5, (1, 2)), np.array([6e4])
        add_star(image, *xy[0], flux[0], fwhm, 3.0)
        pixels = noisy(image, rng)
        if is_struck := number % 4 > 0:
            along, start = rng.integers(2), np.rint(xy[0] + rng.uniform(-2.0, 1.0, 2)).astype(int)
            for step in range(4):
                column, row = start + step * np.eye(2, dtype=int)[along]
                pixels[row, column] += rng.uniform(800.0, 6000.0)
        shape = profile.Shape(*moments.source_shapes(pixels, xy, np.array([1.1 * fwhm / SIGMA_TO_FWHM]))[:, 0])
        form = (shape if shape.is_known() else usual), table
        for photometer in (AperturePhotometer(), OptimalPhotometer(), PSFPhotometer()):
            pull, _, flags = measured(photometer, view_of(pixels, xy, xy, flux, form), xy, flux)[0]
            wrong[photometer.label] += bool(abs(pull) > 6.0 and not flags)
            n_clean += bool(not is_struck and is_contaminated(flags))
    assert wrong == dict.fromkeys(wrong, 0)
    assert n_clean == 0


# ---------------------------------------------------------------- a trail along a row of stars


@pytest.mark.parametrize("photometer", [AperturePhotometer(), OptimalPhotometer(), PSFPhotometer()])
def test_trail_along_most_stars__is_not_taken_for_their_form(photometer):
    rng, form = np.random.default_rng(3), shape_and_table(4.0, 3.0)
    flux = np.geomspace(2e5, 2e4, 11)
    xy = np.column_stack([np.tile(25.0 + 30.0 * np.arange(6), 2)[:11], np.repeat([60.0, 130.0], 6)[:11]])
    xy += rng.uniform(-0.5, 0.5, xy.shape)
    image = np.zeros((200, 200))
    for (x, y), light in zip(xy, flux, strict=True):
        add_star(image, x, y, light, 4.0, 3.0)
    image += 800.0 * np.exp(-0.5 * ((np.arange(200)[:, None] - 60.2) / 2.0) ** 2)
    found = photometer.measure(view_of(noisy(image, rng), xy, xy, flux, form))
    assert is_contaminated(found.flags).tolist() == [True] * 6 + [False] * 5


# ---------------------------------------------------------------- a profile that was not measured


def test_profile_that_was_not_measured__says_nothing_of_stars_that_do_not_look_like_it():
    xy, flux, (y, x) = np.array([[22.3, 24.2], [44.2, 40.7]]), np.array([3e5, 1.5e5]), np.mgrid[:64, :64]
    image = np.zeros((64, 64))
    for (x0, y0), light in zip(xy, flux, strict=True):
        distance = np.hypot(x - x0, y - y0)
        ring = 1 / (1 + np.exp((distance - 7.0) / 0.7)) / (1 + np.exp((2.8 - distance) / 0.7))
        image += light * ring / ring.sum()
    form = profile.Shape(5.0, 5.0, 0.0), profile.gaussian_profile().table()
    view = view_of(noisy(image, np.random.default_rng(0)), xy, xy, flux, form)
    photometer = AperturePhotometer(radius=11.0)
    assert is_contaminated(photometer.measure(view).flags).all()
    found = photometer.measure(replace(view, is_measured_profile=False))
    assert not is_contaminated(found.flags).any()
    assert found.profile_chi2.min() > 10.0
