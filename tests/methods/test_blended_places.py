"""Stars that overlap: their places in single frames, and the fluxes by PSF photometry that follow from them."""

from __future__ import annotations

import numpy as np
import pytest
from known_frames import measured, noisy, shape_and_table, view_of
from small_nights import add_star

from opticam_dask import AperturePhotometer, OptimalPhotometer, PSFPhotometer
from opticam_dask.flags import SourceFlag

#: In FWHM.
SEPARATIONS = (1.2, 1.5, 2.0, 3.0)
FWHM, N_FRAMES = 5.0, 14
PHOTOMETERS = [PSFPhotometer(), PSFPhotometer(forced=True), OptimalPhotometer(), AperturePhotometer()]


@pytest.fixture(scope="module", params=[(3.0, 0.6), (None, 0.1)], ids=["Moffat, 0.6 of the first", "Gaussian, 0.1"])
def pairs(request):
    """Rows (pull, distance, flags, separation, second) by label: 16 pairs a frame, of which one star is detected."""
    beta, ratio = request.param
    rng, form = np.random.default_rng(2), shape_and_table(FWHM, beta)
    rows = {photometer.label: [] for photometer in PHOTOMETERS}
    separation = np.repeat(SEPARATIONS, 8)
    for _ in range(N_FRAMES):
        first = 40.0 + 60.0 * np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2)
        first = first + rng.uniform(-0.5, 0.5, first.shape)
        angle = rng.uniform(0, 2 * np.pi, 16)
        away = separation[::2, None] * FWHM * np.column_stack([np.cos(angle), np.sin(angle)])
        xy = np.stack([first, first + away], axis=1).reshape(-1, 2)
        flux = np.tile([1e5, ratio * 1e5], 16)
        image = np.zeros((260, 260))
        for (x, y), light in zip(xy, flux, strict=True):
            add_star(image, x, y, light, FWHM, beta)
        # the transform is wrong by 0.05 pixel, the catalogue by 0.02
        predicted = xy + rng.normal(0.0, 0.05, 2) + rng.normal(0.0, 0.02, xy.shape)
        view = view_of(noisy(image, rng), predicted, first + 0.15 * away, flux, form)
        for photometer in PHOTOMETERS:
            found = measured(photometer, view, xy, flux)
            rows[photometer.label].append(np.column_stack([found, separation, np.arange(32) % 2]))
    return {label: np.concatenate(found) for label, found in rows.items()}


@pytest.mark.parametrize("separation", SEPARATIONS)
@pytest.mark.parametrize("second", [0, 1])
def test_psf__pulls_are_those_of_single_stars(pairs, separation, second):
    rows = pairs["psf"]
    pull = rows[(rows[:, 3] == separation) & (rows[:, 4] == second), 0]
    # 56 pulls: their width is known to a tenth, with 960 of them it is 0.98 to 1.02
    assert 0.65 < pull.std() < 1.35
    assert abs(pull.mean()) < 0.45


def test_psf__pulls_of_all_pairs_together(pairs):
    pull = pairs["psf"][:, 0]
    assert 0.9 < pull.std() < 1.1
    # a total light that is right to 0.1 % is a quarter of the error of these stars
    assert abs(pull.mean()) < 0.25


def test_places__are_right_to_a_twentieth_of_a_pixel(pairs):
    for label in ("psf", "optimal", "aperture"):
        rows = pairs[label]
        close = rows[:, 3] < 3.0  # further apart, a star that is not detected stays where it is predicted
        assert np.sqrt(np.mean(rows[close, 1] ** 2) / 2.0) < 0.05
        assert np.sqrt(np.mean(rows[close & (rows[:, 4] == 0), 1] ** 2) / 2.0) < 0.02


def test_forced_psf__knows_what_the_transform_does_not(pairs):
    pull = pairs["forced_psf"][:, 0]
    assert np.abs(pull).max() < 6.0
    assert pull.std() < 1.2


def test_flags__neighbours_are_blended_and_contaminate_nothing(pairs):
    for label, rows in pairs.items():
        flags, close = rows[:, 2].astype(int), rows[:, 3] < 2.0
        assert not np.any(flags & SourceFlag.CONTAMINATED), label
        if "psf" not in label:
            assert np.all(flags[close & (rows[:, 4] == 1)] & SourceFlag.BLENDED), label
        else:
            assert not np.any(flags & SourceFlag.BLENDED), label


def test_pair__one_star_in_eclipse_leaves_the_other_as_it_was():
    rng, form = np.random.default_rng(3), shape_and_table(FWHM, 3.0)
    xy, image = np.array([[60.0, 60.0], [67.5, 60.0]]), np.zeros((120, 120))
    add_star(image, *xy[0], 1e5, FWHM, 3.0)
    pulls = []
    for _ in range(20):
        view = view_of(noisy(image, rng), xy, xy[:1], np.array([1e5, 6e4]), form)
        found = measured(PSFPhotometer(), view, xy, np.array([1e5, 0.0]))
        assert not np.any(found[:, 2].astype(int) & SourceFlag.CONTAMINATED)
        pulls.append(found[:, 0])
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 0.7)
    assert np.std(pulls) < 1.3


@pytest.mark.parametrize(
    ("own", "beside", "is_told"),
    [(1.0, 1.0, False), (0.01, 1.0, True), (0.0, 1.0, True), (1.0, 40.0, True), (0.0, 0.0, False)],
    ids=["as in the catalogue", "eclipse", "total eclipse", "flare beside it", "both gone"],
)
def test_blended__is_what_the_frame_shows_of_a_star_and_its_neighbour(own, beside, is_told):
    """A star of 4e5 electrons, and one of 1.5e4 1.8 FWHM away that sheds less than 1 % into it by the catalogue."""
    rng, form = np.random.default_rng(8), shape_and_table(4.0, 3.0)
    xy = np.array([[60.2, 60.4], [66.9, 63.1], [25.3, 95.8]])
    catalogue = np.array([4e5, 1.5e4, 1e5])
    flux, image = catalogue * [own, beside, 1.0], np.zeros((120, 120))
    for (x, y), light in zip(xy, flux, strict=True):
        add_star(image, x, y, light, 4.0, 3.0)
    view = view_of(noisy(image, rng), xy, xy[flux > 1e3], catalogue, form)
    for photometer in (OptimalPhotometer(), AperturePhotometer(radius=3.0)):
        pull, _, flags = measured(photometer, view, xy, flux).T
        is_blended = (flags.astype(int) & int(SourceFlag.BLENDED)) > 0
        assert is_blended[0] == is_told
        assert not is_blended[2]
        assert is_told or abs(pull[0]) < 5.0
