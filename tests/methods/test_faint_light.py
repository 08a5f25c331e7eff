"""Light over a star of which no pixel stands out (faint trails, a raised sky): it is flagged."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from known_frames import measured, noisy, shape_and_table, view_of
from small_nights import add_star

from opticam_dask import AperturePhotometer, DefaultLocalBackground, OptimalPhotometer, PSFPhotometer
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.sources.profiles import intruders

PHOTOMETERS = [
    AperturePhotometer(),
    OptimalPhotometer(),
    PSFPhotometer(),
    AperturePhotometer(forced=True),
    AperturePhotometer(local_background_estimator=DefaultLocalBackground()),
    OptimalPhotometer(local_background_estimator=DefaultLocalBackground()),
]
LABELS = [photometer.label for photometer in PHOTOMETERS]

#: Stars of FWHM 4, 40 pixels apart; sky of 100 electrons.
SIDE, FWHM = 360, 4.0
FLUX = np.geomspace(5e3, 1e6, 81)
SIGMA = FWHM / 2.3548


def stars(rng, *, width=lambda x, y: FWHM):
    """Electrons without noise, and places: 81 stars in no order of brightness."""
    image, grid = np.zeros((SIDE, SIDE)), 20.0 + 40.0 * np.arange(9)
    xy = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2) + rng.uniform(-3, 3, (81, 2))
    flux = rng.permutation(FLUX)
    for (x, y), light in zip(xy, flux, strict=True):
        add_star(image, x, y, light, width(x, y), 3.0)
    return image, xy, flux


def trails(image, xy, rng):
    """Six trails of 20 to 150 electrons a pixel, one to three times as wide as stars, some dotted; who is near one."""
    rows, columns = np.indices(image.shape)
    is_near = np.zeros(len(xy), dtype=bool)
    for number in range(6):
        star, angle = xy[rng.integers(len(xy))], rng.uniform(0, np.pi)
        off, sigma = rng.uniform(-8.0, 8.0), SIGMA * rng.uniform(1.0, 3.0)

        def across(x, y, star=star, angle=angle, off=off):
            return (x - star[0]) * np.sin(angle) - (y - star[1]) * np.cos(angle) - off

        light = np.exp(rng.uniform(np.log(20.0), np.log(150.0))) * np.exp(-0.5 * (across(columns, rows) / sigma) ** 2)
        if number % 3 == 0:  # an aeroplane
            along = columns * np.cos(angle) + rows * np.sin(angle)
            light *= 0.5 * (1.0 + np.tanh(6.0 * np.cos(2.0 * np.pi * along / 30.0)))
        image += light
        is_near |= np.abs(across(*xy.T)) < 4.0 * sigma + 6.0 * SIGMA
    return is_near


def rows_of(paint, seed, n_frames=3):
    """Rows (pull, flags, is near) by label."""
    rng, form = np.random.default_rng(seed), shape_and_table(FWHM, 3.0)
    rows = {label: [] for label in LABELS}
    for _ in range(n_frames):
        image, xy, flux = stars(rng)
        is_near = paint(image, xy, rng)
        pixels = noisy(image, rng)
        for photometer in PHOTOMETERS:
            view = view_of(pixels, xy + rng.normal(0.0, 0.05, xy.shape), xy[np.argsort(-flux)], flux, form)
            pull, _, flags = measured(photometer, view, xy, flux).T
            rows[photometer.label].append(np.column_stack([pull, flags, is_near]))
    return {label: np.concatenate(found).T for label, found in rows.items()}


@pytest.fixture(scope="module")
def crossed():
    return rows_of(trails, 2)


@pytest.fixture(scope="module")
def clean():
    return rows_of(lambda image, xy, rng: np.zeros(len(xy), dtype=bool), 3)


@pytest.mark.parametrize("label", LABELS)
def test_trail__that_changes_a_flux_by_six_errors_is_flagged(crossed, label):
    pull, flags, _ = crossed[label]
    wild = np.abs(pull) > 6.0
    assert np.count_nonzero(wild) >= 6
    assert (flags[wild] != 0).all()


@pytest.mark.parametrize("label", LABELS)
def test_trail__stars_beside_it_are_left_alone(crossed, label):
    _, flags, is_near = crossed[label]
    assert not flags[is_near == 0].any()


@pytest.mark.parametrize("label", LABELS)
def test_clean_stars__to_a_signal_of_a_thousand_errors_have_no_flag(clean, label):
    assert not clean[label][1].any()


def test_seeing__that_changes_over_the_field_is_no_other_light():
    # the form that is known is that of the middle of the field
    rng, form = np.random.default_rng(4), shape_and_table(FWHM, 3.0)
    image, xy, flux = stars(rng, width=lambda x, y: FWHM * (1.0 + 0.04 * (x - 180.0) / 180.0))
    view = view_of(noisy(image, rng), xy, xy[np.argsort(-flux)], flux, form)
    for photometer in PHOTOMETERS[:3]:
        flags = measured(photometer, view, xy, flux)[:, 2].astype(int)
        assert np.count_nonzero(flags & SourceFlag.CONTAMINATED) <= 1, photometer.label


def test_forms_of_light__are_trails_and_points_of_brightest_pixel_one():
    forms = intruders.forms_of_light(21, 10)[0].reshape(-1, 21, 21)
    assert forms.shape[0] > 100
    assert forms.max() <= 1.0
    first = intruders.forms_of_light(21, 10)
    assert first is intruders.forms_of_light(21, 10)  # made once
    with pytest.raises(ValueError, match="read-only"):
        first[0][0] = 0.0


def test_several_radii__light_far_out_contaminates_the_wide_ones():
    rng = np.random.default_rng(6)
    (image, xy, flux), form = stars(rng), shape_and_table(FWHM, 3.0)
    rows, columns = np.indices(image.shape)
    for x, y in xy[::3]:
        image += 60.0 * np.exp(-0.5 * (np.hypot(columns - x, rows - y - 12.0) / (1.5 * SIGMA)) ** 2)
    view = view_of(noisy(image, rng), xy, xy[np.argsort(-flux)], flux, form)
    with mock.patch.object(intruders, "find_amplitudes", wraps=intruders.find_amplitudes) as found:
        flags = AperturePhotometer(radius=(2.5, 5.0, 10.0)).measure(view).flags & SourceFlag.CONTAMINATED
    assert found.call_count <= 2  # once for those that do not fit, once for what is typical of the frame
    narrow, middle, wide = np.count_nonzero(flags, axis=0)
    assert wide > 15
    assert narrow < 0.5 * wide
    assert narrow <= middle <= wide
