"""Stars on a nebula, which is brighter than the sky and as wide as a box of its mesh, are found and do no harm."""

from __future__ import annotations

import numpy as np
import pytest
import small_nights
from small_nights import FIELD, add_stars
from small_stacks import stacked, steps_for

from opticam_dask.passes.catalog import make_catalog
from opticam_dask.passes.stack_sources.finding import find_sources

SHAPE, N_FRAMES, SKY = (200, 200), 20, 100.0
#: On the nebula, five pixels from its middle and more.
ON_IT = np.array([(130.2, 135.6, 3e4), (115.5, 140.2, 1.2e4), (141.0, 122.3, 6e3)])
MIDDLE, RADIUS = (127.0, 131.0), 18.0


def nebula(height, radius=RADIUS):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return height * np.exp(-((columns - MIDDLE[0]) ** 2 + (rows - MIDDLE[1]) ** 2) / 2.0 / radius**2)


def stack_of(light, stars, seed):
    image = light.copy()
    add_stars(image, stars)
    return stacked(image, 4.0, np.random.default_rng(seed))


@pytest.mark.parametrize(("height", "radius"), [(100.0, 18.0), (1000.0, 18.0), (400.0, 10.0), (400.0, 30.0)])
def test_stars_on_a_nebula_are_in_the_catalogue_with_their_own_light(height, radius):
    stars = np.concatenate([FIELD, ON_IT])
    found = make_catalog(stack_of(nebula(height, radius), stars, 1), steps_for(SHAPE), 100).arrays
    xy, is_star = np.column_stack([found["x"], found["y"]]), found["is_star"]
    usual = np.median([found["flux"][np.argmin(np.hypot(*(xy - star[:2]).T))] / star[2] for star in FIELD])
    for x, y, flux in ON_IT:
        nearest = np.argmin(np.hypot(*(xy - (x, y)).T))
        assert np.hypot(*(xy[nearest] - (x, y))) < 0.25
        assert is_star[nearest]
        # of its segment, which a noisier place makes smaller
        assert found["flux"][nearest] == pytest.approx(usual * flux, rel=0.4)
    # what else there is of the nebula is no star
    others = [np.hypot(*(stars[:, :2] - place).T).min() for place in xy[is_star]]
    assert max(others) < 1.0


def test_a_nebula_alone_has_no_stars():
    found = make_catalog(stack_of(nebula(1000.0), FIELD, 2), steps_for(SHAPE), 100).arrays
    xy = np.column_stack([found["x"], found["y"]])[found["is_star"]]
    assert len(xy) == len(FIELD)
    assert max(np.hypot(*(FIELD[:, :2] - place).T).min() for place in xy) < 1.0


def test_measured_on_a_nebula__the_star_is_right_and_the_error_of_the_totals_says_what_it_does_to_others(tmp_path):
    rng = np.random.default_rng(3)
    for number in range(N_FRAMES):
        dx, dy = rng.normal(0.0, 0.5, 2)
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        away = (columns - MIDDLE[0] - dx) ** 2 + (rows - MIDDLE[1] - dy) ** 2
        image = SKY + 400.0 * np.exp(-away / 2.0 / RADIUS**2)
        add_stars(image, [*FIELD, ON_IT[0]], (dx, dy))
        small_nights.write_frame(
            tmp_path / f"frames/{number:02d}.fits", small_nights.read_out(image, rng), 10.0 * number
        )
    night = small_nights.reduce_frames(tmp_path)
    curves = night.curves()
    on_it = night.source_at(*ON_IT[0, :2])
    pull = (curves["total"].to_numpy()[:, on_it] - ON_IT[0, 2]) / curves["total_err"].to_numpy()[:, on_it]
    assert np.abs(np.mean(pull)) < 1.0
    assert np.mean(curves["total_err"].to_numpy()[:, on_it]) < 0.04 * ON_IT[0, 2]
    error = night.group("2024-01-01/psf").attrs["total_err"]
    assert error < 0.01
    for x, y, flux in FIELD[:3]:  # bright, and far from it
        total = curves["total"].to_numpy()[:, night.source_at(x, y)]
        assert np.mean(total) == pytest.approx(flux, rel=2.0 * error)


def test_patches_that_lie_in_each_others_boxes_are_flattened_once():
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    along, across = (columns - 100 + rows - 100) / np.sqrt(2.0), (columns - rows) / np.sqrt(2.0)
    light = 2000.0 * np.exp(-((along / 18.0) ** 2) / 2.0 - (across / 5.0) ** 2 / 2.0)
    light += 300.0 * np.exp(-((columns - 136) ** 2 + (rows - 64) ** 2) / 2.0 / 6.0**2)
    stars = [(30.0, 170.0, 5e4), (170.0, 175.0, 4e4), (28.0, 28.0, 3e4)]
    night, steps = stack_of(light, stars, 4), steps_for(SHAPE)
    found = find_sources(night, steps)
    left = found.stack.pixels[60:69, 132:141]  # the middle of the hill
    assert found.stack.in_patch[64, 136]
    assert np.abs(np.median(left)) < 80.0  # of 300; taken off twice it would be below the sky by as much
