"""Defocused stars are rings: one source each, while two stars side by side stay two."""

import numpy as np
import pytest
from small_nights import add_star, read_out, reduce_frames, write_frame

from opticam_dask.kernels.images import detect, segments

FIELD = [(60.4, 70.2, 5e5), (150.3, 60.8, 3e5), (80.6, 160.3, 2e5), (170.9, 150.2, 1e5)]


def add_ring(image, x, y, flux, outer, inner=0.0, uneven=0.0, order=2):
    """Disk with a hole; its brightness varies by ``uneven`` around it, ``order`` times."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    radius, angle = np.hypot(columns - x, rows - y), np.arctan2(rows - y, columns - x)
    light = 1 / (1 + np.exp((radius - outer) / 0.8)) * (1 + uneven * np.cos(order * angle + 0.3))
    if inner:
        light /= 1 + np.exp((inner - radius) / 0.8)
    image += flux * light / light.sum()


def ring(**shape):
    return lambda image, x, y, flux: add_ring(image, x, y, flux, **shape)


def pair(separation, ratio, fwhm=5.0):
    """Two stars, ``separation`` FWHM apart."""

    def add(image, x, y, flux):
        angle = x + y
        add_star(image, x, y, flux, fwhm)
        dx, dy = separation * fwhm * np.cos(angle), separation * fwhm * np.sin(angle)
        add_star(image, x + dx, y + dy, ratio * flux, fwhm)

    return add


def two_rings(image, x, y, flux):
    add_ring(image, x - 13.0, y, flux, 10, 4)
    add_ring(image, x + 13.0, y, 0.6 * flux, 10, 4)


def count(add, n_frames):
    """How many sources the search of frames and that of the catalogue find for four stars (or pairs)."""
    rng = np.random.default_rng(23)
    electrons = np.full((230, 230), 100.0)
    for x, y, flux in FIELD:
        add(electrons, x, y, flux)
    image = electrons - 100.0 + rng.normal(0.0, 1.0, electrons.shape) * np.sqrt((electrons + 9.0) / n_frames)
    threshold = 5.0 * np.sqrt(109.0 / n_frames)
    of_frame = segments.find_sources(image, np.flatnonzero(image > threshold), 9)
    return len(of_frame["x"]), len(detect.segment_sources(image, threshold, 9))


@pytest.mark.parametrize("n_frames", [1, 10])
@pytest.mark.parametrize(
    "add",
    [
        ring(outer=15, inner=6),
        ring(outer=15, inner=6, uneven=0.3),
        ring(outer=15, inner=6, uneven=0.3, order=3),
        ring(outer=20, inner=13),
        ring(outer=5, inner=2),
        ring(outer=8),
        ring(outer=20),
        lambda image, x, y, flux: add_star(image, x, y, flux, fwhm=20.0),
    ],
    ids=["ring", "uneven", "three_parts", "thin", "small", "disk", "large_disk", "seeing"],
)
def test_sources__a_defocused_star_is_one(add, n_frames):
    assert count(add, n_frames) == (4, 4)


@pytest.mark.parametrize(("separation", "ratio"), [(1.4, 1.0), (1.7, 0.6), (2.0, 0.2)])
def test_sources__two_stars_are_two(separation, ratio):
    assert count(pair(separation, ratio), 10) == (8, 8)


def test_sources__two_defocused_stars_are_two():
    assert count(two_rings, 10) == (8, 8)


def test_catalog__one_source_a_defocused_star(tmp_path):
    rng = np.random.default_rng(23)
    for frame in range(6):
        image, shift = np.full((230, 230), 100.0), rng.normal(0, 0.6, 2)
        for x, y, flux in FIELD:
            add_ring(image, x + shift[0], y + shift[1], flux, 15, 6)
        write_frame(tmp_path / "frames" / f"f{frame:03d}.fits", read_out(image, rng), 10.0 * frame)
    night = reduce_frames(tmp_path, catalogs={"box_size": 60})
    columns = [night.source_at(x, y, within=2.0) for x, y, _ in FIELD]
    assert sorted(columns) == list(range(len(FIELD)))
    assert (night.frames["n_matched"] == 4).all()
