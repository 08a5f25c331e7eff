"""The catalogue finds stars that others hide, puts them where they are, and invents none."""

from __future__ import annotations

import numpy as np
import pytest
import sep
from photutils.detection import DAOStarFinder
from scipy.spatial import KDTree
from small_nights import SIGMA_TO_FWHM, add_star, add_stars
from small_stacks import RMS, stacked, steps_for

from opticam_dask.passes.catalog import make_catalog

N_FRAMES = 20


def field(stars, shape, fwhm, beta, **form):
    image = add_stars(np.zeros(shape), stars, fwhm=fwhm, beta=beta, **form)
    return image


def night_of(image, seeing, seed):
    return stacked(image, seeing, np.random.default_rng(seed), coverage=N_FRAMES)


def width_of(fwhm, beta):
    """FWHM of a single star from its moments in a Gaussian window, as catalogues have it."""
    image = field([(60.3, 59.6, 1e6)], (120, 120), fwhm, beta)
    return make_catalog(stacked(image, np.nan, np.random.default_rng(0), coverage=1000), steps_for((120, 120)), 1).fwhm


def pairs(separation, seed):
    """Eight pairs, the second star 0.6 of the first, and six single stars."""
    rng, stars = np.random.default_rng(seed), []
    for number in range(8):
        x, y = 40 + 70 * (number % 4) + rng.uniform(), 60 + 120 * (number // 4) + rng.uniform()
        flux, angle = 10 ** rng.uniform(4.3, 5.3), rng.uniform(0, 2 * np.pi)
        stars += [(x, y, flux), (x + separation * np.cos(angle), y + separation * np.sin(angle), 0.6 * flux)]
    stars += [
        (35 + 45 * number + rng.uniform(), 120 + 5 * rng.uniform(), 10 ** rng.uniform(4, 5.3)) for number in range(6)
    ]
    return np.array(stars)


@pytest.mark.parametrize(
    ("separation", "fwhm", "beta"),
    [(7.0, 5.4, 3.0), (9.0, 5.8, 2.5), (7.0, 5.0, None), (6.0, 5.0, 3.0), (2.6, 2.1, 3.0)],
)
def test_companions_are_found_and_placed_to_a_twentieth_of_a_pixel(separation, fwhm, beta):
    stars, width = pairs(separation, 0), width_of(fwhm, beta)
    found = make_catalog(night_of(field(stars, (300, 300), fwhm, beta), width, 1), steps_for((300, 300)), 100)
    xy = np.column_stack([found.arrays["x"], found.arrays["y"]])
    assert len(xy) == len(stars)
    assert KDTree(xy).query(stars[:, :2])[0].max() < 0.05
    assert found.arrays["is_star"].all()
    assert found.fwhm == pytest.approx(width, rel=0.01)
    assert found.arrays["fwhm"] == pytest.approx(width, rel=0.05)
    assert np.all(np.diff(found.arrays["flux"]) <= 0)
    assert found.arrays["source_id"].tolist() == list(range(1, len(stars) + 1))


@pytest.mark.parametrize(
    ("fwhm", "beta", "form"),
    [
        (1.8, 3.0, {}),
        (4.5, 2.2, {}),
        (5.5, None, {}),
        (6.0, 3.0, {"ratio": 0.4, "angle": 0.5}),
        (9.0, None, {"ratio": 0.6, "angle": 1.2}),
    ],
)
def test_bright_single_stars_have_no_companions(fwhm, beta, form):
    rng = np.random.default_rng(2)
    stars = [
        (30 + 48 * (number % 6) + rng.uniform(), 30 + 48 * (number // 6) + rng.uniform(), 10 ** rng.uniform(4.3, 6.8))
        for number in range(30)
    ]
    image = field(stars, (300, 300), fwhm, beta, **form)
    found = make_catalog(night_of(image, np.nan, 3), steps_for((300, 300), border_width=0), 200)
    assert len(found.arrays["x"]) == 30


def test_changing_seeing_and_stars_that_differ_make_no_companions():
    """Each star of the stack is a sum of other widths, as when frames cover only parts of it."""
    rng = np.random.default_rng(5)
    image = np.zeros((300, 300))
    for number in range(30):
        x, y = 30 + 48 * (number % 6) + rng.uniform(), 30 + 48 * (number // 6) + rng.uniform()
        flux = 10 ** rng.uniform(4.3, 6.3)
        for width in (4.0, 5.0, 6.5, 8.0):
            add_star(image, x, y, flux / 4, width * (1 + 0.03 * np.sin(number)), 3.0)
    found = make_catalog(night_of(image, np.nan, 6), steps_for((300, 300), border_width=0), 200)
    assert len(found.arrays["x"]) == 30


def test_a_galaxy_is_not_taken_to_pieces():
    rng = np.random.default_rng(7)
    stars = [
        (30 + 48 * (n % 6) + rng.uniform(), 30 + 48 * (n // 6) + rng.uniform(), 10 ** rng.uniform(4, 5))
        for n in range(30)
    ]
    image = field(stars, (300, 300), 5.0, 3.0)
    add_star(image, 150.3, 55.7, 4e5, 12.0, None, ratio=0.6)
    add_star(image, 54.0, 150.0, 8e5, 11.0, 2.5, ratio=0.8, angle=1.0)
    found = make_catalog(night_of(image, width_of(5.0, 3.0), 8), steps_for((300, 300), border_width=0), 200)
    assert len(found.arrays["x"]) == 32
    assert np.count_nonzero(~found.arrays["is_star"]) == 2


def test_a_crowded_field_is_as_complete_as_that_of_other_programs():
    """400 stars in 264 x 264 pixels: as dense as 1500 in 512 x 512."""
    rng, size, fwhm = np.random.default_rng(1), 264, 3.6
    stars = np.column_stack([rng.uniform(8, size - 8, (400, 2)), 10 ** rng.uniform(2.5, 4.8, 400)])
    night = night_of(field(stars, (size, size), fwhm, 3.0), width_of(fwhm, 3.0), 2)
    found = make_catalog(night, steps_for((size, size), border_width=0), 2000)
    rms = RMS / np.sqrt(N_FRAMES)
    n_pixels = 4 * np.pi * (fwhm / SIGMA_TO_FWHM) ** 2 * 1.3  # of a Moffat star
    is_bright = stars[:, 2] > 10 * np.sqrt(n_pixels * rms**2 + stars[:, 2] / N_FRAMES)
    order = np.argsort(-stars[:, 2])

    def matches(xy):
        """Which stars are found, brightest first, each source once; and how many sources are none."""
        tree, taken, hit = KDTree(xy), set(), np.zeros(len(stars), dtype=bool)
        for number in order:
            near = [one for one in tree.query_ball_point(stars[number, :2], 1.5) if one not in taken]
            if near:
                taken.add(min(near, key=lambda one: np.hypot(*(xy[one] - stars[number, :2]))))
                hit[number] = True
        return np.mean(hit[is_bright]), len(xy) - len(taken)

    ours, spurious = matches(np.column_stack([found.arrays["x"], found.arrays["y"]]))
    others = []
    for factor, share in ((1.5, 1e-4), (3.0, 5e-4), (3.0, 1e-5)):
        listed = sep.extract(night.image.astype(np.float32), factor * rms, deblend_nthresh=64, deblend_cont=share)
        others.append(matches(np.column_stack([listed["x"], listed["y"]])))
    for factor in (3.0, 5.0):
        listed = DAOStarFinder(threshold=factor * rms, fwhm=fwhm)(night.image)
        x, y = (
            next(listed[name] for name in listed.colnames if name in names)
            for names in (("xcentroid", "x_centroid"), ("ycentroid", "y_centroid"))
        )
        others.append(matches(np.column_stack([np.asarray(x), np.asarray(y)])))
    print(f"complete to S/N 10: {ours:.3f} ({spurious} spurious); others {others}")
    assert ours >= max(complete for complete, _ in others)
    assert spurious <= 0.03 * len(found.arrays["x"])
