"""Kernels in C against their form in NumPy, on the same pixels; and what happens where there is no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import numpy as np
import pytest
from compiled_kernels import needs_compiled
from zoomed_meshes import mesh_windows, smooth_windows

from opticam_dask.cluster import run_blocks
from opticam_dask.kernels import compiled
from opticam_dask.kernels.images import calibrate
from opticam_dask.kernels.images.sky import background
from opticam_dask.kernels.images.sky.box_statistics import box_statistics
from opticam_dask.kernels.sources.profiles import profile


def _sky(shape, seed, *, n_stars=20, level=300.0):
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = rng.poisson(level, shape).astype(float)
    for _ in range(n_stars):
        x0, y0 = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        image += rng.uniform(100, 30_000) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 2.0**2)
    return image


# ---------------------------------------------------------------- which form

_ASK = "from opticam_dask.kernels import compiled; print(compiled.form())"


def _form_with(value):
    environment = os.environ | {compiled.VARIABLE: value}
    return subprocess.run([sys.executable, "-c", _ASK], env=environment, capture_output=True, text=True)


def test_form__is_chosen_by_the_environment():
    assert _form_with("numpy").stdout.strip() == "numpy"
    assert "must be compiled or numpy, it is fast" in _form_with("fast").stderr


def test_form__of_other_sources_is_not_used_and_told(monkeypatch):
    old = types.ModuleType("opticam_dask.kernels.compiled.native")
    old.__file__ = "native.abi3.so"
    monkeypatch.setitem(sys.modules, old.__name__, old)
    monkeypatch.setattr(compiled, "native", old)  # as the import of the module leaves it
    monkeypatch.delenv(compiled.VARIABLE, raising=False)
    with pytest.warns(RuntimeWarning, match="built from other sources: install opticam_dask again"):
        assert compiled._native() is None
    monkeypatch.setenv(compiled.VARIABLE, "compiled")
    with pytest.raises(ImportError, match="other sources"):
        compiled._native()


def _form_of_worker(block):
    return compiled.form()


def test_tasks__use_the_form_of_the_process_that_started_them(monkeypatch):
    monkeypatch.setattr(compiled, "native", None)
    window = run_blocks.window_of_blocks(_form_of_worker, [0])
    monkeypatch.setattr(compiled, "native", compiled._available)
    assert window.compute(scheduler="synchronous").tolist() == ["numpy"]


def test_worker_without_compiled_kernels__refuses_a_reduction_that_was_started_with_them(monkeypatch):
    monkeypatch.setattr(compiled, "native", object())
    window = run_blocks.window_of_blocks(_form_of_worker, [0])
    monkeypatch.setattr(compiled, "_available", None)
    with pytest.raises(RuntimeError, match="has none: install opticam_dask there with a compiler"):
        window.compute(scheduler="synchronous")


# ---------------------------------------------------------------- boxes of the sky

BOXES = {
    "stars": _sky((128, 160), 1),
    "single precision": _sky((128, 160), 2).astype(np.float32),
    "few counts": np.random.default_rng(3).poisson(0.3, (64, 96)).astype(np.float32),
    "two values": np.where(np.random.default_rng(4).random((64, 64)) < 0.3, 1.0, 2.0),
    "constant": np.full((64, 64), -7.25, dtype=np.float32),
    "one wild pixel in each box": np.where(np.arange(4096).reshape(64, 64) % 257 == 0, -1e9, _sky((64, 64), 5)),
    "missing pixels": np.where(np.random.default_rng(6).random((96, 64)) < 0.05, np.nan, _sky((96, 64), 7)),
    "nothing but missing pixels": np.full((32, 32), np.nan),
    "far from zero": np.random.default_rng(8).normal(1e7, 1.0, (64, 64)),
    "heavy tails": np.random.default_rng(9).standard_cauchy((96, 96)),
    "half dark, half bright": np.repeat([[100.0], [5000.0]], 32, axis=0)
    + np.random.default_rng(10).normal(size=(64, 64)),
    "infinite range": np.where(np.random.default_rng(11).random((32, 32)) < 0.5, -1e300, 1e300),
}


def _boxes(image, size):
    ny, nx = (length // size for length in image.shape)
    return image[: ny * size, : nx * size].reshape(ny, size, nx, size).swapaxes(1, 2)


@needs_compiled
@pytest.mark.parametrize("size", [5, 16, 32])
@pytest.mark.parametrize("readmit", [True, False])
@pytest.mark.parametrize("name", BOXES)
def test_box_statistics__are_those_of_numpy(both, name, readmit, size):
    boxes = _boxes(BOXES[name], size)
    # single precision sums in NumPy: the reference is its double precision
    fast, exact = both(box_statistics, boxes, 0.5 * size**2, readmit=readmit)
    if boxes.dtype == np.float32:
        _, exact = both(box_statistics, boxes.astype(float), 0.5 * size**2, readmit=readmit)
    if name == "infinite range":
        return  # squares beyond any number: that it ends is all
    noise = np.fmax(np.fmax(exact[1], 1e-9 * np.abs(exact[0])), 1e-9)
    np.testing.assert_allclose(fast / noise, exact / noise, rtol=0, atol=1e-7)


@needs_compiled
def test_box_statistics__take_any_layout_of_pixels(both):
    image = _sky((64, 96), 12)
    wanted, _ = both(box_statistics, _boxes(image, 16), 100.0, readmit=True)
    mirrored = np.ascontiguousarray(image[::-1, ::-1])[::-1, ::-1]
    spread = np.zeros((128, 192))
    spread[::2, ::2] = image
    raw = bytearray(image.nbytes + 1)
    unaligned = np.frombuffer(raw, dtype=float, offset=1, count=image.size).reshape(image.shape)
    unaligned[:] = image
    for same in (np.asfortranarray(image), image.astype(">f8"), mirrored, spread[::2, ::2], unaligned):
        found, _ = both(box_statistics, _boxes(same, 16), 100.0, readmit=True)
        np.testing.assert_array_equal(found, wanted)


@needs_compiled
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 2, 0, 4), (2, 2, 4, 0), (2, 2, 1, 1)])
def test_box_statistics__of_few_or_no_pixels_end(shape):
    result = np.zeros((2, *shape[:2]))
    compiled.native.box_statistics(np.ones(shape), result, 0.0, True)
    expected = (1.0, 0.0) if np.prod(shape) else (np.nan, np.nan)
    np.testing.assert_array_equal(result, np.broadcast_to(np.reshape(expected, (2, 1, 1)), result.shape))


@needs_compiled
def test_compiled_kernels__read_values_whose_type_names_the_order_of_this_machine():
    """As those are that Zarr reads from an object store."""
    values = np.array([3.0, 1.0, 2.5])
    named = values.view(values.dtype.newbyteorder(sys.byteorder))
    assert memoryview(named).format != memoryview(values).format
    assert compiled.native.median(named) == 2.5
    with pytest.raises(TypeError, match="native"):
        compiled.native.median(named.astype(named.dtype.newbyteorder("S")))


@needs_compiled
def test_compiled_kernels__refuse_what_they_cannot_read():
    native, result = compiled.native, np.zeros((2, 1, 1))
    good = np.ones((1, 1, 4, 4))
    for boxes in (good.astype(">f8"), good.astype(np.int32), good[0], good[..., ::2], None, b"abc"):
        with pytest.raises(TypeError):
            native.box_statistics(boxes, result, 1.0, True)
    with pytest.raises(ValueError, match="shape"):
        native.box_statistics(good, np.empty((2, 1, 2)), 1.0, True)
    for wrong in (result[:, :, :0:-1], result.astype(np.float32), result[0]):
        with pytest.raises((TypeError, ValueError, BufferError)):
            native.box_statistics(good, wrong, 1.0, True)
    fixed = np.empty((2, 1, 1))
    fixed.flags.writeable = False
    with pytest.raises((TypeError, ValueError, BufferError)):
        native.box_statistics(good, fixed, 1.0, True)


@needs_compiled
def test_sky_mesh__is_the_same_by_both_forms(both):
    image = _sky((203, 317), 13).astype(np.float32)
    image[30:60, 40:90] = np.nan
    fast, plain = both(background.sky_mesh, image, (20, 32))
    np.testing.assert_allclose(fast[0], plain[0], atol=1e-5 * plain[1].min(), rtol=0)
    np.testing.assert_allclose(fast[1], plain[1], rtol=1e-5)


# ---------------------------------------------------------------- cosmic rays


def _hit(image, rng, n_rays):
    """Rays of one to seven pixels, at the borders of the frame too."""
    image = image.copy()
    for _ in range(n_rays):
        y, x = rng.integers(0, image.shape[0]), rng.integers(0, image.shape[1])
        for step in range(rng.integers(1, 8)):
            row, column = y + rng.integers(-1, 2) + step // 2, x + step
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                image[row, column] += rng.uniform(50, 5000)
    return image


@needs_compiled
@pytest.mark.parametrize("seed", range(12))
def test_cosmic_rays__are_those_of_astroscrappy_to_the_bit(both, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(17, 130, 2))
    image = _sky(shape, seed, n_stars=seed, level=rng.choice([0.5, 5.0, 300.0, 20_000.0])).astype(np.float32)
    image = _hit(image, rng, seed * 4)
    image[rng.random(shape) < (0.0, 0.01, 0.2)[seed % 3]] = np.nan
    image[20:30, 3:15] = np.nan if seed % 2 else 65_000.0
    options = {"read_noise": (0.0, 3.0, np.nan)[seed % 3], "saturation": (np.inf, 60_000.0)[seed % 2]}
    (clean, mask), (wanted, wanted_mask) = both(calibrate.remove_cosmic_rays, image, **options)
    np.testing.assert_array_equal(mask, wanted_mask)
    np.testing.assert_array_equal(clean, wanted)
    assert seed < 3 or mask.any()


@needs_compiled
def test_cosmic_rays__in_all_layouts_and_in_frames_too_small_for_the_compiled_form(both):
    rng = np.random.default_rng(3)
    image = _hit(_sky((64, 96), 3), rng, 20)
    (clean, mask), (wanted, _) = both(calibrate.remove_cosmic_rays, image, read_noise=3.0)
    np.testing.assert_array_equal(clean, wanted)
    assert mask.any()
    assert clean.dtype == float
    for same in (np.asfortranarray(image), image.astype(">f8")):
        np.testing.assert_array_equal(both(calibrate.remove_cosmic_rays, same, read_noise=3.0)[0][0], clean)
    small = image[:12, :40]
    np.testing.assert_array_equal(*(found[1] for found in both(calibrate.remove_cosmic_rays, small, read_noise=3.0)))


@needs_compiled
def test_cosmic_rays__refuse_masks_of_another_shape():
    pixels, mask = np.zeros((32, 32), dtype=np.float32), np.zeros((32, 32), dtype=bool)
    settings = (0.0, 1e30, 4.5, 0.3, 5.0, 4)
    with pytest.raises(ValueError, match="one shape"):
        compiled.native.cosmic_rays(pixels, mask[:31].copy(), mask, *settings)
    with pytest.raises(ValueError, match="one shape"):
        compiled.native.cosmic_rays(pixels[:8].copy(), mask[:8].copy(), mask[:8].copy(), *settings)
    with pytest.raises(TypeError):
        compiled.native.cosmic_rays(pixels.astype(float), mask, mask, *settings)


# ---------------------------------------------------------------- cut-outs

#: Windows within the frame, at its borders, beyond it, and of a source without a position.
CORNERS = np.array([[40, 50], [-7, 3], [150, 190], [-30, -30], [500, 20], [0, 0], [-(2**30), -(2**30)]])


@needs_compiled
@pytest.mark.parametrize(("box", "size"), [((16, 16), 21), ((20, 33), 7), ((160, 200), 41), ((5, 4), 30)])
def test_sky_in_windows__is_the_same_bits_by_both_forms(both, box, size):
    shape = (160, 200)
    mesh = np.random.default_rng(15).normal(300.0, 5.0, [-(-n // length) for n, length in zip(shape, box, strict=True)])
    fast, plain = both(smooth_windows, mesh, shape, box, *CORNERS.T, size)
    np.testing.assert_array_equal(fast, plain)
    assert np.isfinite(fast[0]).all()
    assert np.isnan(fast[3]).any()
    np.testing.assert_array_equal(*both(mesh_windows, mesh, shape, box, *CORNERS.T, size))
    single = np.asfortranarray(mesh.astype(np.float32))
    np.testing.assert_array_equal(*both(smooth_windows, single, shape, box, *CORNERS.T, size))
    np.testing.assert_array_equal(*both(mesh_windows, single, shape, box, *CORNERS.T, size))


@needs_compiled
def test_radius_and_light__are_the_same_bits_by_both_forms(both):
    xy = CORNERS + np.random.default_rng(16).uniform(8.0, 12.0, CORNERS.shape)
    xy[-1] = np.nan
    x0, y0 = CORNERS.T
    fast, plain = both(profile.elliptical_radius, xy, x0, y0, 21, profile.Shape(2.3, 1.7, 0.6))
    np.testing.assert_array_equal(fast, plain)
    table = profile.typical_profile().table()
    for radius in (fast, fast[:, ::2, ::-1], np.array([0.0, 29.999, 30.0, 31.0, np.nan, np.inf]), np.empty((0, 3))):
        np.testing.assert_array_equal(*both(profile.light_at, table, radius))


@needs_compiled
def test_kernels_of_cutouts__refuse_what_does_not_belong_together():
    native = compiled.native
    knots, along, corner, windows = np.ones((9, 9)), np.ones((15, 10)), np.array([0, 5]), np.empty((2, 3, 3))
    grid = (windows, (14, 15), (3, 3), -1.0, 1.0)
    native.zoom_windows(knots, along, along, corner, corner, *grid)
    for wrong in ((knots, along[:, :9].copy(), along, corner, corner), (knots, along, along, corner[:1], corner)):
        with pytest.raises(ValueError, match="belong together"):
            native.zoom_windows(*wrong, *grid)
    with pytest.raises(ValueError, match="belong together"):
        native.zoom_windows(knots, along, along, corner, corner, windows, (14, 16), (3, 3), -1.0, 1.0)
    with pytest.raises(ValueError, match="belong together"):
        native.elliptical_radius(np.ones((2, 3)), np.ones((2, 2)), np.ones((2, 4)), windows)
    with pytest.raises(ValueError, match="the table must reach"):
        native.light_at(np.ones(30), np.ones(5), np.empty(5), 30.0, 1.0)
    with pytest.raises(ValueError, match="a place for each"):
        native.light_at(np.ones(40), np.ones(5), np.empty(4), 30.0, 1.0)
