"""A detector with many warm pixels: those that matter against the sky are bad, and no others."""

from __future__ import annotations

import numpy as np
import pytest
import small_nights
from small_nights import FIELD

from opticam_dask import relative_light_curve
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.images import masters
from opticam_dask.passes.calibration import as_masters

SHAPE, EXPOSURE, N_FRAMES = (200, 200), 10.0, 40
#: Electrons per pixel and frame of the sky; electrons per second of the dark current, and the read noise.
SKY, DARK, READ_NOISE = 100.0, 0.05, 3.0
DARK_TIME, N_DARKS = 60.0, 15


def _dark_current():
    """1.5 % of the pixels have a dark current of a heavy tail: their median is 8 times that of the others."""
    rng, rates = np.random.default_rng(11), np.full(SHAPE, DARK)
    warm = rng.choice(rates.size, int(0.015 * rates.size), replace=False)
    rates.ravel()[warm] = 0.25 * (1.0 + rng.pareto(1.3, len(warm)))
    return rates


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    directory, rng, dark = tmp_path_factory.mktemp("warm"), np.random.default_rng(5), _dark_current()
    painted = []
    for shift in rng.normal(0, 0.7, (5, 2)):
        image = small_nights.add_stars(np.full(SHAPE, SKY), FIELD, shift)
        painted.append(image)
    for number in range(N_FRAMES):
        pixels = small_nights.read_out(painted[number % 5] + dark * EXPOSURE, rng, READ_NOISE)
        file = directory / f"frames/f{number:02d}.fits"
        small_nights.write_frame(file, pixels, number * EXPOSURE, EXPTIME=EXPOSURE)
    for number in range(N_DARKS):
        for name, time in (("darks", DARK_TIME), ("biases", 0.0)):
            pixels = small_nights.read_out(dark * time, rng, READ_NOISE)
            small_nights.write_frame(directory / f"{name}/{number:02d}.fits", pixels, number, EXPTIME=time)
    return small_nights.reduce_frames(
        directory, biases=directory / "biases", darks=directory / "darks", frames_per_block=20
    )


def test_warm_pixels__hardly_flag_a_measurement_and_fluxes_and_errors_are_right(night):
    found = night.curves()
    flagged = (found["flags"].to_numpy() & np.uint32(SourceFlag.BAD_PIXEL)) != 0
    assert np.mean(flagged) < 0.02
    pulls = np.empty((N_FRAMES, len(FIELD)))
    for row, (x, y, flux) in enumerate(FIELD):
        column = night.source_at(x, y)
        pulls[:, row] = ((found["total"] - flux) / found["total_err"]).to_numpy()[:, column]
    # 400 measurements: the width is known to 4 %; the mean of a star holds its share of the errors of the master dark
    width = np.std(pulls - pulls.mean(axis=0)) / np.sqrt(1 - 1 / N_FRAMES)
    assert 0.9 < width < 1.1
    assert abs(np.mean(pulls)) < 0.3


def test_warm_pixels__leave_comparisons_to_choose(night):
    assert len(relative_light_curve(night.out, night.key, 4, "auto").attrs["comparisons"]) >= 4


def test_hot_pixels__are_bad_where_they_are_noisier_than_the_sky_and_there_alone():
    rng = np.random.default_rng(3)
    dark = rng.normal(0.5, 0.03, (60, 80))
    dark[5, 5], dark[9, 9], dark[20, 30] = 30.0, 5.0, np.nan  # electrons per second, at gain 1
    hot, excess = masters.find_hot_pixels(dark, np.full(dark.shape, 0.03**2), np.full(10, 20.0), 1.0)
    found = as_masters({"dark": dark, "hot_pixels": hot, "dark_excess": excess}, 20.0, 1.0)

    def bad(sky, exposure_time):
        raw = rng.poisson(sky + np.nan_to_num(dark) * exposure_time).astype(np.uint16)
        layers = found.layers_of(raw, gain=1.0, exposure_time=exposure_time, read_noise=2.0)
        return set(zip(*np.nonzero(layers["bad_pixels"]), strict=True))

    assert bad(100.0, 10.0) == {(5, 5), (20, 30)}  # 300 and 50 electrons of dark current, a sky of 100
    assert bad(1000.0, 10.0) == {(20, 30)}
    assert bad(100.0, 1.0) == {(20, 30)}
    assert bad(10.0, 10.0) == {(5, 5), (9, 9), (20, 30)}


def test_unstable_pixels__are_found_among_the_darks_and_steady_ones_are_not():
    rng = np.random.default_rng(4)
    times, rates = np.full(12, 20.0), np.full((40, 50), 0.5)
    rates[3, 4] = 8.0  # warm, and steady
    darks = rng.poisson(rates * 20.0, (12, 40, 50)) + rng.normal(0, 3.0, (12, 40, 50))
    darks[:, 30, 20] += np.where(rng.random(12) < 0.5, 0.0, 200.0)  # a random telegraph of 10 electrons per second
    mean, _ = masters.combine(darks / 20.0)
    hot, excess = masters.find_hot_pixels(mean, masters.spread(darks / 20.0), times, 1.0)
    assert hot[3, 4]
    assert excess[3, 4] == 0.0
    assert set(zip(*np.nonzero(excess), strict=True)) == {(30, 20)}
    assert 3000.0 < excess[30, 20] < 20000.0  # (200 / 2)^2 electrons squared
    pixels = masters.HotPixels.of(mean, hot, excess, 20.0)
    # steady current: its photons; a telegraph: no less in short exposures, with the square of the time in long ones
    steady, jumping = (int(np.flatnonzero(pixels.index == row * 50 + x)[0]) for row, x in ((3, 4), (30, 20)))
    assert pixels.variance(60.0, 1.0)[steady] == pytest.approx(3.0 * pixels.variance(20.0, 1.0)[steady])
    assert pixels.variance(60.0, 1.0)[jumping] > 8.0 * pixels.variance(20.0, 1.0)[jumping]
