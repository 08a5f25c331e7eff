"""Total fluxes rest on the star profile of the night: they are right whatever sky, guiding and neighbours are like."""

from __future__ import annotations

import numpy as np
import pytest
from small_nights import FIELD, add_stars, read_out, reduce_frames, write_frame

from opticam_dask import AperturePhotometer, OptimalPhotometer, PSFPhotometer

LABELS = ("aperture", "optimal", "psf")
ROWS, COLUMNS = np.indices((200, 200)) / 200.0
STARS = [tuple(star) for star in FIELD]


def _night(directory, stars, sky, *, n_frames=8, fwhm=4.0, jitter=0.6, seed=8, **options):
    """A night of Moffat stars (beta 3), reduced with all photometers; ``jitter`` is the error of guiding in pixels."""
    rng = np.random.default_rng(seed)
    for frame in range(n_frames):
        image, shift = np.array(sky, dtype=float), rng.normal(0.0, jitter, 2)
        add_stars(image, stars, shift, fwhm=fwhm)
        write_frame(directory / "frames" / f"f{frame:03d}.fits", read_out(image, rng), 10.0 * frame)
    return reduce_frames(directory, AperturePhotometer(), OptimalPhotometer(), PSFPhotometer(), **options)


def _totals(night, label, stars):
    """Median over the frames of the total flux of each star, relative to the truth."""
    total = night.curves(label)["total"].to_numpy()
    return np.array([np.nanmedian(total[:, night.source_at(x, y)]) / flux for x, y, flux in stars])


def _about(night):
    return night.group(f"{night.night}/psf").attrs


#: Sky of each night in electrons a pixel.
SKIES = {
    "moonlight from one side": 1000.0 * (1.0 + 2.0 * COLUMNS),
    "moonlight along a diagonal": 600.0 * (1.0 + COLUMNS + ROWS),
    "twilight": 500.0 + 1500.0 * COLUMNS**2 + 500.0 * ROWS**2,
}


@pytest.fixture(scope="module", params=sorted(SKIES))
def bright_sky_night(request, tmp_path_factory):
    return _night(tmp_path_factory.mktemp("sky"), FIELD, SKIES[request.param])


@pytest.mark.parametrize("label", LABELS)
def test_totals__under_a_sky_that_is_not_level(bright_sky_night, label):
    # the middle of the stars: near the edge of the frame the mesh of the sky has its own say
    assert abs(np.median(_totals(bright_sky_night, label, FIELD[:5])) - 1.0) < 0.01


#: Places in a pixel that all stars of a night share, in all frames.
PLACES = {"corner": (0.5, 0.5), "anywhere": (0.27, 0.39)}


@pytest.fixture(scope="module", params=sorted(PLACES))
def guided_night(request, tmp_path_factory):
    x, y = PLACES[request.param]
    stars = [(101 + x, 163 + y, 2e5), (48 + x, 120 + y, 1.5e5), (72 + x, 60 + y, 1e5), (147 + x, 86 + y, 7e4)]
    sky = np.full((200, 200), 100.0)
    return _night(tmp_path_factory.mktemp("guided"), stars, sky, n_frames=6, jitter=0.0), stars


def test_totals__when_guiding_is_perfect(guided_night):
    night, stars = guided_night
    assert _about(night)["source"] == night.night
    for label in LABELS:
        np.testing.assert_allclose(_totals(night, label, stars), 1.0, atol=0.01)


#: Two of five stars are close doubles that are not told apart; or it is the brightest alone.
DOUBLES = {
    "four of ten": (STARS, [(2.5, 1.0, 0.33, 1), (-2.0, 2.0, 0.5, 3), (2.2, 0.0, 0.6, 5), (0.0, 2.8, 0.6, 7)]),
    "the brightest": (STARS[:7], [(2.5, 1.0, 0.45, 0)]),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(DOUBLES))
def test_totals__of_single_stars_among_doubles(tmp_path, name):
    stars, companions = DOUBLES[name]
    doubles = {index for *_, index in companions}
    beside = [(FIELD[i][0] + dx, FIELD[i][1] + dy, FIELD[i][2] * share) for dx, dy, share, i in companions]
    night = _night(tmp_path, [*stars, *beside], np.full((200, 200), 100.0))
    single = [star for star in stars if STARS.index(star) not in doubles][:4]
    for label in LABELS:
        assert abs(np.median(_totals(night, label, single)) - 1.0) < 0.01


def test_totals__in_a_small_window(tmp_path):
    stars = [(20.3, 22.2, 2e5), (48.7, 45.1, 1e5), (50.2, 17.7, 5e4)]
    night = _night(tmp_path, stars, np.full((68, 68), 100.0), fwhm=4.5)
    assert _about(night)["source"] == night.night
    for label in LABELS:
        np.testing.assert_allclose(_totals(night, label, stars), 1.0, atol=0.01)


def test_totals__of_a_field_with_more_stars_than_the_catalogue_keeps(tmp_path):
    rng = np.random.default_rng(5)
    places = [np.array([100.0, 100.0])]
    while len(places) < 45:
        place = rng.uniform(8.0, 192.0, 2)
        if all(np.hypot(*(place - other)) > 14.0 for other in places):
            places.append(place)
    flux = np.sort(10 ** rng.uniform(3.3, 5.2, len(places)))[::-1]
    stars = [(x, y, light) for (x, y), light in zip(places, flux, strict=True)]
    night = _night(tmp_path, stars, np.full((200, 200), 100.0), catalogs={"max_catalog_sources": 12})
    assert night.catalog.sizes["source"] == 12
    places = np.column_stack([night.catalog["x"], night.catalog["y"]])
    kept = [star for star in stars if np.hypot(*(places - star[:2]).T).min() < 1.5]
    assert len(kept) >= 10
    for label in ("optimal", "psf"):
        assert abs(np.median(_totals(night, label, kept)) - 1.0) < 0.01


def test_totals__without_a_star_that_is_bright_enough_say_what_they_may_lack(tmp_path):
    faint = [(x, y, 2000.0 + 50.0 * i) for i, (x, y, _) in enumerate(FIELD)]
    night = _night(tmp_path, faint, np.full((200, 200), 100.0))
    about = _about(night)
    assert about["source"] == "gaussian"
    # a Gaussian lacks 14 to 29 % of the light of a Moffat star
    assert about["total_err"] >= 0.2
    for label in LABELS:
        curves = night.curves(label)
        error = np.hypot(curves["flux_err"], curves["flux_err_sys"]) * curves.get("aperture_correction", 1.0)
        for x, y, flux in faint:
            star = night.source_at(x, y)
            total = np.median(curves["total"].to_numpy()[:, star])
            assert abs(total - flux) < 1.5 * np.median(error.to_numpy()[:, star])
