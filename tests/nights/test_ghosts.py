"""What is no star does not decide how wide stars are, and what stands out of nothing is no source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_nights import FIELD, SIGMA_TO_FWHM, add_star, add_stars
from small_stacks import stacked, steps_for

from opticam_dask import Reducer, generate_observations, open_reduction
from opticam_dask.kernels.images.bad_columns import without_lines
from opticam_dask.passes.catalog import make_catalog, missing_sources

#: FWHM, from its moments in a Gaussian window, of a Moffat star of FWHM 4.
WIDTH = 4.59


def stars(shape=(200, 200), fwhm=4.0, scale=1.0):
    image = np.zeros(shape)
    for x, y, flux in FIELD:
        add_star(image, x, y, scale * flux, fwhm)
    return image


def test_dark_corners_of_a_round_aperture_give_no_sources(tmp_path):
    """Where the sky mesh cannot follow the sky, whole boxes stand out of the noise of the frames."""
    generate_observations(tmp_path / "frames", n_images=60, binning_scale=8)
    reducer = Reducer(tmp_path / "out", tmp_path / "frames", client="none", figures=False, verbose=False)
    reducer.create_catalogs()
    for key in ("1-g", "2-r", "3-i"):
        catalog = open_reduction(tmp_path / "out")[f"{key}/catalog"].to_dataset().load()
        assert catalog.sizes["source"] == 6
        assert catalog["is_star"].all()
        assert catalog.attrs["fwhm"] == pytest.approx(1.77, abs=0.02)
        assert catalog.attrs["warnings"] == []


def test_galaxies_are_kept_and_marked_and_do_not_widen_apertures():
    rng = np.random.default_rng(3)
    image = stars()
    places = [(30.0, 90.0), (60.0, 190.0), (120.0, 60.0), (170.0, 170.0), (170.0, 30.0), (75.0, 30.0), (150.0, 110.0)]
    galaxies = [(x, y, 1.2e6) for x, y in places if 15 < x < 185 and 15 < y < 185]
    add_stars(image, galaxies, fwhm=9.0, beta=None, ratio=0.7)
    found = make_catalog(stacked(image, WIDTH, rng), steps_for(image.shape), 100)
    xy = np.column_stack([found.arrays["x"], found.arrays["y"]])
    for x, y, _ in galaxies:
        nearest = np.argmin(np.hypot(*(xy - (x, y)).T))
        assert np.hypot(*(xy[nearest] - (x, y))) < 1.0
        assert not found.arrays["is_star"][nearest]
    assert found.fwhm == pytest.approx(WIDTH, rel=0.02)


def test_a_patch_of_sky_that_the_mesh_does_not_follow_is_no_source():
    rng = np.random.default_rng(4)
    image = stars()
    rows, columns = np.mgrid[:200, :200]
    for x, y in ((20, 85), (172, 28), (20, 180), (172, 172)):
        image += 10.0 * np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / 12.0**2)
    found = make_catalog(stacked(image, WIDTH, rng), steps_for(image.shape), 100)
    xy = np.column_stack([found.arrays["x"], found.arrays["y"]])
    for source in xy:
        assert np.hypot(*(FIELD[:, :2] - source).T).min() < 1.0
    assert len(xy) >= 8


def test_catalogue_that_is_wider_than_the_seeing_is_told():
    rng = np.random.default_rng(5)
    night = stacked(stars(fwhm=6.0), 3.6, rng)
    found = make_catalog(night, steps_for((200, 200)), 100)
    assert any("6." in warning and "3.6" in warning and "apertures" in warning for warning in found.warnings)
    assert not make_catalog(replace(night, seeing=found.fwhm), steps_for((200, 200)), 100).warnings


def test_saturated_stars_are_stars_but_do_not_set_the_width():
    rng = np.random.default_rng(6)
    limit = 3000.0
    image = np.minimum(stars(scale=2.0), limit)
    found = make_catalog(replace(stacked(image, WIDTH, rng), saturation=limit), steps_for(image.shape), 100)
    assert found.arrays["is_star"].all()
    assert found.arrays["fwhm"][0] > 5.5  # flat top
    assert found.fwhm == pytest.approx(WIDTH, rel=0.02)


def test_missing_sources__what_frames_and_catalogue_do_not_share():
    rng = np.random.default_rng(8)
    catalog = rng.uniform(0, 500, (30, 2))
    same = [catalog[:20] + rng.normal(0, 0.2, (20, 2)) for _ in range(5)]
    assert missing_sources(catalog, same, 4.0, 100) == (0.0, 0.0)
    other = [np.concatenate([xy[:4], rng.uniform(600, 900, (36, 2))]) for xy in same]
    of_frames, of_catalog = missing_sources(catalog, other, 4.0, 100)
    assert of_frames == pytest.approx(0.9)
    assert of_catalog > 0.8
    assert np.isnan(missing_sources(catalog, [], 4.0, 100)).all()


def test_width_of_a_star_is_that_of_its_light():
    image = np.zeros((100, 100))
    add_star(image, 50.3, 49.8, 1e5, 5.0, None)
    found = make_catalog(stacked(image, np.nan, np.random.default_rng(1)), steps_for(image.shape), 10)
    assert found.fwhm == pytest.approx(np.sqrt((5.0 / SIGMA_TO_FWHM) ** 2 + 1 / 12) * SIGMA_TO_FWHM, rel=0.02)


@pytest.mark.parametrize(("name", "number"), [("row", 60), ("row", 164), ("column", 72)])
def test_stars_on_a_hot_row_or_column_are_in_the_catalogue_and_the_line_is_named(name, number):
    image = stars()
    lines = image if name == "row" else image.T
    for beside, share in ((-1, 0.25), (0, 0.5), (1, 0.25)):  # the frames lie half a pixel apart
        lines[number + beside] += 400.0 * share
    catalog = make_catalog(stacked(image, WIDTH, np.random.default_rng(1)), steps_for(image.shape), 100)
    assert sum(f"{name} {number} (" in warning for warning in catalog.warnings) == 1
    xy = np.column_stack([catalog.arrays["x"], catalog.arrays["y"]])
    assert len(xy) == len(FIELD)
    assert max(np.hypot(*(xy - star[:2]).T).min() for star in FIELD) < 0.5
    assert catalog.arrays["is_star"].all()


def test_bled_columns_of_saturated_stars_are_left_as_they_are():
    image, is_saturated = np.zeros((200, 200)), np.zeros((200, 200), dtype=bool)
    image[:, 80], is_saturated[60:90, 80] = 500.0, True
    same, lines = without_lines(image, np.ones(image.shape), is_saturated)
    assert not lines
    np.testing.assert_array_equal(same, image)
    flat, lines = without_lines(image, np.ones(image.shape), np.zeros_like(is_saturated))
    assert lines == ["column 80 (rows 0 to 199, 500 electrons)"]
    assert not flat.any()
