"""Sky mesh and its images against photutils."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import photutils
import pytest
from packaging.version import Version
from photutils.background import Background2D
from zoomed_meshes import mesh_windows

from opticam_dask import DefaultBackground
from opticam_dask.kernels.images.sky import background, subtraction
from opticam_dask.kernels.images.sky.disks import Disks, newly_covered


def _field(shape, seed=0, n_stars=30):
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = rng.normal(200.0, 12.0, shape) + 0.1 * x + 0.05 * y
    for _ in range(n_stars):
        x0, y0 = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        image += rng.uniform(100, 20_000) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 2.0**2)
    return image


def _photutils(image, box, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # a box with 90 % of its pixels left is left out by photutils 3.0 and used by 3.1: here it is left out by both
        return Background2D(image, box, exclude_percentile=10.0 - 1e-9, **options)


CASES = {
    "flat": (np.random.default_rng(1).normal(100, 10, (256, 256)), (16, 16)),
    "stars and gradient": (_field((256, 256)), (32, 32)),
    "crowded": (_field((200, 200), n_stars=400), (25, 25)),
    "boxes do not divide": (_field((203, 317)), (20, 32)),
    "one box": (_field((64, 64), n_stars=2), (64, 64)),
    "one row of boxes": (_field((40, 200)), (32, 20)),
    "constant": (np.full((64, 96), 7.0), (16, 16)),
    "large boxes, flat": (np.random.default_rng(3).normal(100, 10, (256, 320)), (64, 64)),
    "large boxes, stars and a steep gradient": (_field((256, 256), n_stars=60) + np.arange(256.0), (64, 64)),
    "large boxes, crowded": (_field((260, 260), n_stars=60), (52, 65)),
    "large boxes that do not divide": (_field((300, 401)), (63, 66)),
    "large boxes, whole numbers": (np.random.default_rng(4).poisson(40.0, (192, 192)).astype(float), (64, 64)),
    "large boxes, few counts": (np.random.default_rng(5).poisson(0.3, (192, 192)).astype(float), (64, 64)),
    "heavy tails": (np.random.default_rng(6).standard_t(3.0, (192, 192)), (48, 48)),
    "lopsided": (np.random.default_rng(7).exponential(10.0, (192, 192)), (48, 48)),
    "far from zero": (np.random.default_rng(8).normal(1e7, 1.0, (192, 192)), (48, 48)),
    "narrow boxes": (_field((90, 300)), (4, 50)),
    "whole numbers": (np.random.default_rng(2).poisson(5.0, (128, 128)).astype(float), (16, 16)),
}


@pytest.mark.parametrize("name", CASES)
def test_sky_mesh__equals_photutils(name):
    image, box = CASES[name]
    mesh, rms = background.sky_mesh(image, box)
    reference = _photutils(image, box)
    np.testing.assert_allclose(mesh, reference.background_mesh, rtol=1e-9)
    np.testing.assert_allclose(rms, reference.background_rms_mesh, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_zoom_mesh__equals_photutils(name):
    image, box = CASES[name]
    reference = _photutils(image, box)
    zoomed = background.zoom_mesh(reference.background_mesh, image.shape, box)
    np.testing.assert_allclose(zoomed, reference.background, rtol=1e-9)


def test_sky_mesh__nan_pixels_equal_photutils():
    image = _field((203, 317))
    image[30:90, 40:140] = image[150:, 200:] = np.nan
    mesh, rms = background.sky_mesh(image, (20, 32))
    reference = _photutils(image, (20, 32))
    np.testing.assert_allclose(mesh, reference.background_mesh, rtol=1e-9)
    np.testing.assert_allclose(rms, reference.background_rms_mesh, rtol=1e-9)


@pytest.mark.parametrize("box", [(16, 16), (48, 48)])
def test_sky_mesh__scattered_nan_and_infinite_pixels_equal_photutils(box):
    rng = np.random.default_rng(9)
    image = _field((240, 240))
    image[rng.random(image.shape) < 0.07] = np.nan  # some boxes lose more than 10 % with the clip, others do not
    image[rng.random(image.shape) < 0.01] = np.inf
    mesh, rms = background.sky_mesh(image, box)
    reference = _photutils(image, box)
    assert reference.n_pixels_mesh.min() <= 0.9 * box[0] * box[1] < reference.n_pixels_mesh.max()
    np.testing.assert_allclose(mesh, reference.background_mesh, rtol=1e-9)
    np.testing.assert_allclose(rms, reference.background_rms_mesh, rtol=1e-9)


@pytest.mark.parametrize("box", [(16, 16), (48, 48)])
def test_sky_mesh__one_box_left_fills_the_mesh(box):
    image = np.full((144, 144), np.nan)
    image[: box[0], : box[1]] = _field(box, n_stars=0)
    mesh, rms = background.sky_mesh(image, box)
    assert np.ptp(mesh) == 0.0
    np.testing.assert_allclose(mesh[0, 0], _photutils(image, box).background_mesh[0, 0], rtol=1e-9)
    np.testing.assert_allclose(rms[0, 0], np.std(image[: box[0], : box[1]]), rtol=0.05)


@pytest.mark.parametrize("box", [(16, 16), (48, 48)])
@pytest.mark.parametrize("value", [-1e6, -1e9, -1e12, 1e12])
def test_sky_mesh__outliers_cost_no_digits(value, box):
    rng = np.random.default_rng(10)
    image = rng.normal(100.0, 10.0, (144, 144))
    image[rng.integers(0, 144, 40), rng.integers(0, 144, 40)] = value
    mesh, rms = background.sky_mesh(image, box)
    reference = _photutils(image, box)
    np.testing.assert_allclose(mesh, reference.background_mesh, rtol=1e-9)
    np.testing.assert_allclose(rms, reference.background_rms_mesh, rtol=1e-9)


def test_sky_mesh__pixels_too_large_to_square_cost_their_box_only():
    image = np.random.default_rng(13).normal(100.0, 10.0, (128, 128))
    expected, _ = background.sky_mesh(image, (16, 16))
    image[40, 40] = 1e200
    mesh, rms = background.sky_mesh(image, (16, 16))
    assert np.isfinite(rms).all()
    np.testing.assert_allclose(mesh, expected, atol=3 * 10.0 / 16)


def _two_levels(seed, side):
    """An amplifier edge through the box: clipped outliers above and below make its median jump to the other level."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0.0, 0.02, (side, side))
    image[:, side // 2 :] += 1.0
    image[:, : side // 2] -= 1.0
    n_outliers = 6 * side**2 // 400
    outliers = rng.permutation(side**2)
    image.ravel()[outliers[:n_outliers]] = rng.uniform(3.0, 9.0, n_outliers)
    image.ravel()[outliers[n_outliers : 2 * n_outliers]] = rng.uniform(-4.0, -1.5, n_outliers)
    return image


@pytest.mark.parametrize("side", [20, 40])
def test_sky_mesh__boxes_with_two_levels_equal_photutils(side):
    for seed in range(20):
        image = _two_levels(seed, side)
        mesh, rms = background.sky_mesh(image, (side, side))
        reference = _photutils(image, (side, side))
        np.testing.assert_allclose(mesh, reference.background_mesh, rtol=0, atol=1e-12)
        np.testing.assert_allclose(rms, reference.background_rms_mesh, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sky_mesh__crowded_and_gappy_boxes_equal_photutils(dtype):
    """From no light and no gap to more of both than a clip is expected to take away, in one frame."""
    rng = np.random.default_rng(13)
    bright, faint, missing = (
        share.ravel() for share in np.meshgrid([0, 0.05, 0.09, 0.3, 0.45], [0, 0.04, 0.2], [0, 0.06, 0.09])
    )
    boxes = rng.normal(500.0, 20.0, (len(bright) + 3, 48 * 48))
    for pixels, *shares in zip(boxes, bright, faint, missing, strict=False):
        ends = np.cumsum([int(share * pixels.size) for share in shares])
        order = rng.permutation(pixels.size)
        pixels[order[: ends[0]]] += rng.exponential(400.0, ends[0])
        pixels[order[ends[0] : ends[1]]] -= rng.exponential(400.0, ends[1] - ends[0])
        pixels[order[ends[1] : ends[2]]] = np.nan
    image = boxes.reshape(6, 8, 48, 48).swapaxes(1, 2).reshape(288, 384).astype(dtype)
    mesh, rms = background.sky_mesh(image, (48, 48))
    reference = _photutils(image.astype(float), (48, 48))
    tolerance = {"rtol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12}
    np.testing.assert_allclose(mesh, reference.background_mesh, **tolerance)
    np.testing.assert_allclose(rms, reference.background_rms_mesh, **tolerance)


def test_sky_mesh__boxes_of_large_tails_equal_photutils():
    rng = np.random.default_rng(12)
    boxes = rng.normal(100.0, 10.0, (16, 4096))
    z = rng.normal(0.0, 1.0, boxes[:, ::17].shape)
    boxes[:, ::17] = 104.0 + 10.0 * z * np.abs(z)
    image = boxes.reshape(4, 4, 64, 64).swapaxes(1, 2).reshape(256, 256)
    mesh, rms = background.sky_mesh(image, (64, 64))
    reference = _photutils(image, (64, 64))
    np.testing.assert_allclose(mesh, reference.background_mesh, rtol=1e-9)
    np.testing.assert_allclose(rms, reference.background_rms_mesh, rtol=1e-9)


@pytest.mark.skipif(
    Version(photutils.__version__) >= Version("3.1"), reason="photutils clips that box as all others since 3.1"
)
def test_sky_mesh__corner_box_with_two_levels_equals_photutils():
    # photutils 3.0 clips the corner box of a frame that boxes do not divide in another way than all the others
    for seed in range(20):
        image = np.full((198, 198), np.nan)
        image[100:, 100:] = _two_levels(seed, 100)[1:99, 1:99]
        mesh, rms = background.sky_mesh(image, (100, 100))
        reference = _photutils(image, (100, 100))
        np.testing.assert_allclose(mesh, reference.background_mesh, rtol=0, atol=1e-12)
        np.testing.assert_allclose(rms, reference.background_rms_mesh, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, ">f4", ">i2"])
def test_sky_mesh__dtype_of_the_image_does_not_matter(dtype):
    image = np.random.default_rng(11).poisson(300.0, (96, 96)).astype(dtype)
    for found, expected in zip(
        background.sky_mesh(image, (24, 24)), background.sky_mesh(image.astype(float), (24, 24)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5 if image.dtype == np.float32 else 0)
    reference = _photutils(image.astype(image.dtype.newbyteorder("=")), (24, 24))  # float32 inside
    np.testing.assert_allclose(background.sky_mesh(image, (24, 24))[0], reference.background_mesh, rtol=1e-5)


def test_sky_mesh__a_box_has_the_same_bits_in_any_frame():
    image = _field((256, 256), n_stars=60)
    level, scatter = background._box_statistics(image, (64, 64))
    for row, column in ((0, 0), (1, 3), (3, 2)):
        alone = image[64 * row : 64 * row + 64, 64 * column : 64 * column + 64].copy()
        found = background._box_statistics(alone, (64, 64))
        np.testing.assert_array_equal(found[0][0, 0], level[row, column])
        np.testing.assert_array_equal(found[1][0, 0], scatter[row, column])


def test_sky_mesh__does_not_touch_its_input():
    image = _field((64, 64), n_stars=2)
    image[3, 3] = np.nan
    image.flags.writeable = False
    background.sky_mesh(image, (16, 16))


@pytest.mark.parametrize("image", [np.full((64, 64), np.nan), np.where(np.indices((64, 64))[0] % 2, 1.0, np.nan)])
def test_sky_mesh__nothing_left_is_refused(image):
    with pytest.raises(ValueError, match="no box of 16 x 16 pixels"):
        background.sky_mesh(image, (16, 16))


def test_sky_mesh__box_larger_than_the_frame_is_refused():
    with pytest.raises(ValueError, match="does not fit a frame of 10 x 20"):
        background.sky_mesh(np.zeros((10, 20)), (16, 16))


def test_windows_of_a_zoomed_mesh__bits_do_not_depend_on_the_window():
    image = _field((203, 317))
    mesh, _ = background.sky_mesh(image, (20, 32))
    whole = background.zoom_mesh(mesh, image.shape, (20, 32))
    rng = np.random.default_rng(0)
    for size in (5, 11, 31):
        y0, x0 = rng.integers(-10, 200, 20), rng.integers(-10, 310, 20)
        windows = mesh_windows(mesh, image.shape, (20, 32), y0, x0, size)
        for index in range(20):
            alone = mesh_windows(
                mesh, image.shape, (20, 32), y0[index : index + 1] - 2, x0[index : index + 1] - 3, size + 7
            )[0]
            np.testing.assert_array_equal(windows[index], alone[2 : 2 + size, 3 : 3 + size])
            rows = slice(max(y0[index], 0), max(min(y0[index] + size, 203), 0))
            columns = slice(max(x0[index], 0), max(min(x0[index] + size, 317), 0))
            inside = windows[index][np.isfinite(windows[index])]
            np.testing.assert_allclose(inside, whole[rows, columns].ravel(), rtol=1e-12)


def test_fill__neighbours_are_sought_once_for_the_same_boxes(monkeypatch):
    trees, tree = [], background.KDTree
    monkeypatch.setattr(background, "KDTree", lambda known: trees.append(len(known)) or tree(known))
    background._nearest_known.cache_clear()
    mesh = np.add.outer(np.arange(7.0), np.zeros(9))
    mesh[3, 4:6] = np.nan
    for factor in (1.0, 2.0, 3.0):
        filled = background.fill(np.stack([factor * mesh, mesh]))
        np.testing.assert_allclose(filled[0], factor * filled[1])
        np.testing.assert_allclose(filled[1][3, 4:6], 3.0, atol=0.2)
    assert trees == [61]
    others = np.where(np.arange(7)[:, None] > 3, np.nan, 1.0) * np.ones(9)
    np.testing.assert_allclose(background.fill(others[None]), 1.0)
    assert trees == [61, 36]


def test_default_background__is_photutils_and_equals_the_mesh():
    image = _field((256, 256))
    found = DefaultBackground(box_size=32)(image)
    mesh, rms = background.sky_mesh(image, (32, 32))
    assert isinstance(found, Background2D)
    np.testing.assert_allclose(found.background, background.zoom_mesh(mesh, image.shape, (32, 32)), rtol=1e-9)
    np.testing.assert_allclose(found.background_rms_median, np.median(rms), rtol=1e-9)


def test_default_background__equal_by_parameters_and_survives_pickling():
    estimator = DefaultBackground(box_size=(16, 32))
    assert pickle.loads(pickle.dumps(estimator)) == estimator
    assert hash(estimator) == hash(DefaultBackground((np.int64(16), 32)))
    assert estimator != DefaultBackground(16)
    assert repr(estimator) == "DefaultBackground(box_size=(16, 32))"


@pytest.mark.parametrize("box", [0, (1, 2, 3), -4, 2.5, None, "16", np.nan])
def test_default_background__nonsense_is_refused(box):
    with pytest.raises(ValueError, match="box_size must be"):
        DefaultBackground(box)


def test_default_box_size__follows_the_frame():
    assert background.default_box_size((2048, 2048)) == (64, 64)
    assert background.default_box_size((512, 700)) == (16, 16)
    assert background.default_box_size((100, 100)) == (16, 16)
    assert background.default_box_size((12, 40)) == (12, 16)


# ---------------------------------------------------------------- the sky taken off


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "box"), [((256, 256), (16, 16)), ((203, 317), (20, 32)), ((64, 64), (64, 64))])
def test_subtract_sky__is_the_frame_minus_the_zoomed_mesh(shape, box, dtype):
    image = _field(shape, n_stars=shape[0] // 32).astype(dtype)
    image[5, 7] = image[40, 41] = np.nan
    mesh, rms_mesh = background.sky_mesh(image, box)
    expected = image - background.zoom_mesh(mesh, shape, box)
    threshold = 3.0 * background.zoom_mesh(rms_mesh, shape, box)
    frame = subtraction.subtract_sky(image.copy(), mesh, rms_mesh, box, 3.0)
    np.testing.assert_allclose(frame.image, expected, rtol=1e-6, atol=1e-9 if dtype is np.float64 else 2e-3)
    assert frame.image.dtype == dtype
    with np.errstate(invalid="ignore"):
        flagged = np.flatnonzero(frame.image > threshold)
        deviant = np.flatnonzero(~(np.abs(frame.image) < 5.0 / 3.0 * threshold + 3.0))
    np.testing.assert_array_equal(frame.flagged, flagged)
    np.testing.assert_array_equal(frame.deviant, deviant)


@pytest.mark.parametrize("box", [16, 64])
def test_sky_mesh__of_a_float32_frame_deviates_by_a_hundred_thousandth_of_the_rms(box):
    rng = np.random.default_rng(4)
    image = np.rint(_field((512, 512), n_stars=100) + rng.uniform(0, 3e4))
    found = background.sky_mesh(image.astype(np.float32), (box, box))
    for single, double in zip(found, background.sky_mesh(image, (box, box)), strict=True):
        assert np.abs(single - double).max() < 1e-5 * 12.0


def test_count_sky__is_the_mean_over_pixels_counted_one_by_one():
    image = _field((200, 260), n_stars=25).astype(np.float32)
    image[100, 50] = np.nan
    mesh, rms_mesh = background.sky_mesh(image, (20, 26))
    frame = subtraction.subtract_sky(image.copy(), mesh, rms_mesh, (20, 26), 5.0)
    xy = np.array([[30.2, 40.7], [32.0, 44.0], [259.3, 0.0], [-4.0, 100.0], [130.0, 250.0]])
    radius = np.array([9.0, 12.3, 7.0, 6.5, 3.0])
    found = subtraction.count_sky(frame, mesh, rms_mesh, Disks(xy, radius))
    rows, columns = np.indices(image.shape)
    counts = np.abs(frame.image) < 5.0 * background.zoom_mesh(rms_mesh, image.shape, (20, 26)) + 3.0
    for (x, y), reach in zip(xy, radius, strict=True):
        counts &= (columns - x) ** 2 + (rows - y) ** 2 > reach**2
    numbers, above, zoomed = (
        pixels.astype(float).reshape(10, 20, 10, 26).sum(axis=(1, 3))
        for pixels in (
            counts, np.where(counts, frame.image, 0.0), background.zoom_mesh(mesh, image.shape, (20, 26))
        )
    )  # fmt: skip
    np.testing.assert_array_equal(found.number, numbers)
    # the rounding of bright stars, in a mean over 520 pixels
    np.testing.assert_allclose(found.mean, zoomed / 520 + above / numbers, atol=0.5 / 400)


def _poisson_sky(seed, shape=(320, 360), level=200.0, slope=0.0):
    rows, columns = np.indices(shape)
    truth = level + slope * (rows + 0.5 * columns)
    return np.random.default_rng(seed).poisson(truth).astype(float), truth


def _corrected(image, box, xy, radius):
    mesh, rms_mesh = background.sky_mesh(image, box)
    frame = subtraction.subtract_sky(image.copy(), mesh, rms_mesh, box, 5.0)
    found = subtraction.count_sky(frame, mesh, rms_mesh, Disks(xy, radius))
    level = found.level(rms_mesh, (image.shape, box))
    return mesh, level - mesh, background.zoom_mesh(rms_mesh, image.shape, box)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_level__makes_a_poisson_sky_right_to_a_few_hundredths_of_an_electron(slope):
    before, after, scatter = [], [], []
    for seed in range(12):
        image, truth = _poisson_sky(seed, slope=slope)
        mesh, offset, rms = _corrected(image, (16, 16), np.empty((0, 2)), np.empty(0))
        deviation = background.zoom_mesh(mesh + offset, image.shape, (16, 16)) - truth
        before.append(np.mean(background.zoom_mesh(mesh, image.shape, (16, 16)) - truth))
        after.append(np.mean(deviation))
        scatter.append(np.std(deviation / rms))
    # the mode estimate lies 2.5 / 6 electron below the mean
    assert abs(np.mean(before) + 0.4) < 0.05
    assert abs(np.mean(after)) < 0.03
    if not slope:
        np.testing.assert_allclose(np.mean(scatter), background.mesh_error((16, 16)), rtol=0.1)


def test_level__is_right_under_a_star_that_is_kept_away_from():
    deviations = []
    for seed in range(30):
        image, truth = _poisson_sky(seed)
        rows, columns = np.indices(image.shape)
        xy = np.array([[100.3, 90.8], [250.1, 200.2]])
        for x, y in xy:
            image += 3000.0 / (2 * np.pi * 2.25) * np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / 2.25)
        mesh, offset, _ = _corrected(image, (16, 16), xy, np.full(2, 8.0))
        level = background.zoom_mesh(mesh + offset, image.shape, (16, 16))
        deviations += [level[round(y), round(x)] - truth[round(y), round(x)] for x, y in xy]
    assert abs(np.mean(deviations)) < 0.2


def test_taken_out__leaves_a_sky_without_what_a_faint_star_adds():
    deviations = []
    xy, flux, grid = np.array([[100.0, 90.0]]), 800.0, ((320, 360), (16, 16))
    for seed in range(40):
        image, _ = _poisson_sky(seed)
        image[87:94, 97:104] += flux / 49.0
        mesh, rms_mesh = background.sky_mesh(image, (16, 16))
        frame = subtraction.subtract_sky(image.copy(), mesh, rms_mesh, (16, 16), 5.0)
        found = subtraction.count_sky(frame, mesh, rms_mesh, Disks(np.empty((0, 2)), np.empty(0)))
        level = found.level(rms_mesh, grid)
        hidden, nothing = Disks(xy, np.array([6.0])), Disks(np.empty((0, 2)), np.empty(0))
        places = newly_covered(hidden, nothing, image.shape)
        electrons = image.ravel()[places]
        counted = subtraction.was_sky(electrons, mesh, rms_mesh, level, grid, places)
        clean = subtraction.taken_out(found, level, places[counted], electrons[counted], grid)
        deviations.append([m[5, 6] - 200.0 for m in (level, clean.level(rms_mesh, grid))])
    with_star, without = np.mean(deviations, axis=0)
    assert with_star > 0.25
    assert abs(without) < 0.1


def test_taken_out__equals_what_was_never_counted():
    image, _ = _poisson_sky(3, slope=0.2)
    image[80:100, 90:110] += 300.0
    image[200, 130] = np.nan
    mesh, rms_mesh = background.sky_mesh(image, (16, 16))
    frame = subtraction.subtract_sky(image.copy(), mesh, rms_mesh, (16, 16), 5.0)
    grid = image.shape, (16, 16)
    seen = Disks(np.array([[100.0, 90.0]]), np.array([14.0]))
    hidden = Disks(np.array([[120.0, 95.0], [131.0, 199.0], [359.5, 10.0]]), np.array([9.0, 12.0, 8.0]))
    both = Disks(np.concatenate([seen.xy, hidden.xy]), np.concatenate([seen.radius, hidden.radius]))
    expected = subtraction.count_sky(frame, mesh, rms_mesh, both)
    found = subtraction.count_sky(frame, mesh, rms_mesh, seen)
    level = found.level(rms_mesh, grid)
    places = newly_covered(hidden, seen, image.shape)
    electrons = image.ravel()[places]
    counted = subtraction.was_sky(electrons, mesh, rms_mesh, level, grid, places)
    after = subtraction.taken_out(found, level, places[counted], electrons[counted], grid)
    np.testing.assert_array_equal(after.number, expected.number)
    # both find the middle of a box from its pixels, along the slope of the mesh or of the level
    np.testing.assert_allclose(after.level(rms_mesh, grid), expected.level(rms_mesh, grid), atol=0.1)


def test_meshes_of_a_frame__are_zoomed_once_for_its_sky_and_its_photometry():
    image, _ = _poisson_sky(5)
    mesh, rms_mesh = background.sky_mesh(image, (16, 16))
    subtraction._widened_values.cache_clear()
    frame = subtraction.subtract_sky(image.copy(), mesh, rms_mesh, (16, 16), 5.0)
    grid, places = (image.shape, (16, 16)), np.arange(500)
    found = subtraction.was_sky(image.ravel()[places], mesh.copy(), rms_mesh.copy(), mesh, grid, places)
    np.testing.assert_array_equal(found, ~np.isin(places, frame.deviant))
    assert subtraction._widened_values.cache_info().misses == 2


def test_level__where_nothing_is_sky_it_is_that_of_the_nearest_sky():
    image, _ = _poisson_sky(0)
    image[:160] = np.nan
    mesh, offset, _ = _corrected(image, (16, 16), np.array([[200.0, 240.0]]), np.array([500.0]))
    np.testing.assert_allclose(offset, 0.0, atol=1.0)  # the mean of the zoomed mesh over a box is not its middle
    mesh, offset, _ = _corrected(image, (16, 16), np.empty((0, 2)), np.empty(0))
    np.testing.assert_allclose((mesh + offset)[:9], 200.0, atol=3.0)


@pytest.mark.parametrize("dtype", [float, np.float32])
def test_sky_mesh__a_saturated_patch_leaves_the_sky_around_it_alone(dtype):
    sky = np.random.default_rng(3).normal(200.0, 12.0, (160, 160))
    image, saturated = sky.astype(dtype), np.zeros((160, 160), dtype=bool)
    saturated[90:125, 40:70] = True
    saturated[20:140, 120:122] = True  # a bled column is clipped, or its boxes are full
    image[saturated] = 65535.0
    found = background.sky_mesh(image, (16, 16), saturated=saturated)
    for mesh, expected in zip(found, background.sky_mesh(sky, (16, 16)), strict=True):
        np.testing.assert_allclose(mesh, expected, atol=4.0)
    nothing = background.sky_mesh(image, (16, 16), saturated=np.zeros_like(saturated))
    np.testing.assert_array_equal(nothing, background.sky_mesh(image, (16, 16)))


@pytest.mark.parametrize("box", [38, 48, 60])
def test_sky_mesh__of_a_small_window_with_wide_stars_is_that_of_its_sky(box):
    rng, (y, x) = np.random.default_rng(2), np.mgrid[:64, :64]
    image = rng.normal(200.0, 14.0, (64, 64))
    for x0, y0, light in ((22.3, 24.2, 2000.0), (44.2, 40.7, 1000.0)):
        distance = np.hypot(x - x0, y - y0)
        image += light / (1 + np.exp((distance - 7.0) / 0.7)) / (1 + np.exp((2.8 - distance) / 0.7))
    level, scatter = background.sky_mesh(image, (box, box))
    assert np.abs(level - 200.0).max() < 4.0
    assert np.abs(scatter - 14.0).max() < 4.0
