"""The level of the sky away from what is wrong with a frame, and at every level: right to the noise of an aperture.

An aperture of 49 pixels has 7 times the noise of a pixel; the level it takes off is held to a part of that.
"""

from __future__ import annotations

import numpy as np
import pytest
from zoomed_meshes import smooth_windows

from opticam_dask.kernels.images.sky import background, sky_level, smooth_zoom, subtraction
from opticam_dask.kernels.images.sky.disks import Disks

BOX, SHAPE, LEVEL = (16, 16), (208, 240), 100.0
ROWS, COLUMNS = np.indices(SHAPE)
NOTHING = Disks(np.empty((0, 2)), np.empty(0))


def _level(image, box=BOX, disks=NOTHING, saturated=None):
    """Level of the sky at every pixel of a frame."""
    image = image.astype(np.float32)
    mesh, rms_mesh = background.sky_mesh(image, box)
    frame = subtraction.subtract_sky(image.copy(), mesh, rms_mesh, box, 5.0)
    level = subtraction.count_sky(frame, mesh, rms_mesh, disks, saturated).level(rms_mesh, (image.shape, box))
    side = max(image.shape)
    return smooth_windows(level, image.shape, box, np.zeros(1, int), np.zeros(1, int), side)[
        0, : image.shape[0], : image.shape[1]
    ]


def _patch(image, rng):
    image[60:90, 125:155] = 65535.0
    return np.hypot(np.maximum(np.abs(COLUMNS - 139.5) - 15, 0), np.maximum(np.abs(ROWS - 74.5) - 15, 0))


def _galaxy(image, rng):
    away = np.hypot(COLUMNS - 120.0, ROWS - 100.0)
    image += rng.poisson(1500.0 * np.exp(-away / 4.0))
    return away


def _bled_star(image, rng):
    away = np.hypot(COLUMNS - 120.0, ROWS - 100.0)
    image += rng.poisson(20000.0 * np.exp(-away / 3.0))
    image[40:161, 118:123] = 60000.0
    return np.hypot(COLUMNS - 120.0, np.maximum(np.abs(ROWS - 100.0) - 60.0, 0.0))


def _satellite(image, rng):
    away = np.abs(ROWS - 0.7 * COLUMNS - 20.0) / np.hypot(1.0, 0.7)
    image += rng.poisson(3000.0 * np.exp(-0.5 * (away / 1.5) ** 2))
    return away


def _dead_quadrant(value):
    def spoil(image, rng):
        image[:100, :120] = value
        return np.hypot(np.maximum(COLUMNS - 119, 0), np.maximum(ROWS - 99, 0))

    return spoil


def _amplifier(image, rng):
    image[:, 112:] += 400.0
    return np.abs(COLUMNS - 111.5)


def _nebula(image, rng):
    image += rng.poisson(np.where(COLUMNS > 150, 300.0, 300.0 * np.exp(-np.maximum(150 - COLUMNS, 0) / 2.0)))
    return np.maximum(150.0 - COLUMNS, 0.0)


DEFECTS = {
    "saturated patch": _patch, "galaxy": _galaxy, "bled star": _bled_star, "satellite": _satellite,
    "quadrant of NaN": _dead_quadrant(np.nan), "quadrant of 0": _dead_quadrant(0.0), "amplifier": _amplifier,
    "edge of a nebula": _nebula,
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_sky__40_pixels_from_a_defect_is_what_it_is_without_it(name):
    changes = []
    for seed in range(4):
        clean = np.random.default_rng(seed).poisson(LEVEL, SHAPE).astype(float)
        spoilt = clean.copy()
        away = DEFECTS[name](spoilt, np.random.default_rng(100 + seed))
        of_amplifier = np.where((name == "amplifier") & (COLUMNS > 111), 400.0, 0.0)
        saturated = spoilt >= 60000.0
        change = _level(spoilt, saturated=saturated if saturated.any() else None) - _level(clean) - of_amplifier
        changes.append(change[away > 40])
    # photon noise of the aperture is 70 electrons, its light in a change of the sky 49 times that
    assert np.abs(49.0 * np.mean(changes, axis=0)).max() < 0.7 * 70.0
    assert np.abs(49.0 * np.array(changes)).max() < 70.0


@pytest.mark.parametrize("read_noise", [0.0, 3.0])
@pytest.mark.parametrize("level", [0.5, 3.0, 200.0, 50000.0])
def test_sky__of_any_level_is_unbiased(level, read_noise):
    noise, bias = np.hypot(np.sqrt(level), read_noise), []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        image = np.rint(rng.poisson(level, SHAPE) + rng.normal(0.0, read_noise, SHAPE))
        bias.append(np.mean(_level(image)) - level)
    assert abs(np.mean(bias)) * 49.0 < 0.05 * 7.0 * noise


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_sky__in_steep_twilight_is_right_within_the_noise(angle):
    """The sky triples across 200 pixels, in a straight line and as an exponential."""
    along = np.cos(angle) * COLUMNS + np.sin(angle) * ROWS
    for truth in (LEVEL * (1.0 + along / 100.0), LEVEL * 3.0 ** (along / 200.0)):
        deviations = [_level(np.random.default_rng(seed).poisson(truth)) - truth for seed in range(6)]
        relative = 49.0 * np.mean(deviations, axis=0) / (7.0 * np.sqrt(truth))
        inside = relative[12:-12, 12:-12]
        assert abs(inside.mean()) < 0.1
        assert np.abs(inside).max() < 0.6


def test_smooth_zoom__is_exact_for_planes_and_a_step_stays_where_it_is():
    shape, box = (203, 317), (20, 32)
    y, x = ((np.arange(-(-size // side)) + 0.5) * side - 0.5 for size, side in zip(shape, box, strict=True))
    plane = smooth_windows(3.0 * y[:, None] + 2.0 * x, shape, box, np.array([0, 193]), np.array([0, 307]), 10)
    rows, columns = np.indices((10, 10))
    np.testing.assert_allclose(plane[0], 3.0 * rows + 2.0 * columns, atol=1e-9)
    np.testing.assert_allclose(plane[1], 3.0 * (rows + 193) + 2.0 * (columns + 307), atol=1e-9)
    step = np.where(np.arange(len(x)) < 5, 0.0, 1000.0) + 0.0 * y[:, None]
    zoomed = smooth_windows(step, shape, box, np.array([0]), np.array([0]), 317)[0, :203]
    assert not zoomed[:, : 32 * 5 - 16 - 64].any()


def test_smooth_zoom__gives_the_same_bits_in_any_window_and_sums_of_boxes():
    shape, box = (203, 317), (20, 32)
    mesh = np.random.default_rng(0).normal(100.0, 5.0, (11, 10))
    whole = smooth_windows(mesh, shape, box, np.array([0]), np.array([0]), 317)[0, :203]
    windows = smooth_windows(mesh, shape, box, np.array([3, 150]), np.array([7, 290]), 20)
    np.testing.assert_array_equal(windows[0], whole[3:23, 7:27])
    np.testing.assert_array_equal(windows[1], whole[150:170, 290:310])
    np.testing.assert_allclose(smooth_zoom.box_sums(mesh, shape, box)[2, 3], whole[40:60, 96:128].sum())
    places = np.array([0, 5000, 203 * 317 - 1])
    np.testing.assert_allclose(smooth_zoom.at_places(mesh, shape, box, places), whole.ravel()[places])


def test_smooth__of_a_frame_that_stars_cover_is_the_level_of_what_is_left():
    share = np.zeros((4, 4))
    share[0, 1], share[2, 3] = 0.2, 0.1
    values = np.where(share > 0, 100.0, np.nan)
    assert sky_level.smooth(values, share, 1.0) == pytest.approx(np.full((4, 4), 100.0))


@pytest.mark.parametrize("angle", [0.0, 0.8, 2.4])
def test_sky__in_moonlight_between_stars_that_cover_most_of_the_frame(angle):
    # 4 x 4 boxes, sky in strips at the edges alone: the mesh, full of light and filtered, does not tell the slope
    box, shape = (60, 60), (240, 240)
    rows, columns = np.indices(shape)
    rng = np.random.default_rng(4)
    sky = 1500.0 * (1.0 + 0.4 * ((columns - 120) * np.cos(angle) + (rows - 120) * np.sin(angle)) / 240)
    xy = np.stack(np.meshgrid([25, 72, 120, 168, 215], [30, 78, 125, 172, 212]), -1).reshape(-1, 2).astype(float)
    stars = np.zeros(shape)
    for x, y in xy:
        stars += 800.0 * np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / 8.0**2)
    level = _level(rng.poisson(sky + stars), box, Disks(xy, np.full(len(xy), 28.0)))
    assert np.abs(level - sky).max() < 10.0  # a quarter of the noise of a pixel; was 300
