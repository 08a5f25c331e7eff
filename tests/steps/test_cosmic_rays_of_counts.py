"""Cosmic rays of frames of counts: those of astroscrappy on their electrons, in whole counts where these are needed."""

from __future__ import annotations

import importlib.metadata

import astroscrappy
import numpy as np
import pytest
from compiled_kernels import needs_compiled
from small_nights import add_star

from opticam_dask.frames.scanning import FitsReader
from opticam_dask.kernels import compiled
from opticam_dask.kernels.images import calibrate
from opticam_dask.kernels.images.counts import Counts
from opticam_dask.kernels.sources.profiles.profile import Shape
from opticam_dask.methods.finders import DefaultFinder
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.frame_steps import FrameSteps
from opticam_dask.steps.pixels import ImagePixels, KeptPixels, RawPixels, keep_pixels, read_pixels

ASTROSCRAPPY = tuple(map(int, importlib.metadata.version("astroscrappy").split(".")[:2]))


def hit_counts(seed: int, shape: tuple[int, int] = (70, 150), *, gain: float = 1.0, sky: float = 300.0) -> np.ndarray:
    """A frame of stars, of which one is saturated, with tracks of cosmic rays, also across other tracks and borders."""
    rng, image = np.random.default_rng(seed), np.full(shape, sky)
    for _ in range(9):
        add_star(image, rng.uniform(0, shape[1]), rng.uniform(0, shape[0]), 10 ** rng.uniform(3.0, 5.5))
    add_star(image, 0.7 * shape[1], 0.4 * shape[0], 3e6)
    image = rng.poisson(image) / gain + 100.0 + rng.normal(0.0, 1.0, shape)
    for _ in range(25):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        for step in range(rng.integers(1, 9)):
            row, column = y + rng.integers(-1, 2) + step // 2, x + step
            if 0 <= row < shape[0] and 0 <= column < shape[1]:
                image[row, column] += rng.uniform(50, 60_000)
    return np.clip(np.rint(image), 0, 65_535).astype(np.uint16)


@pytest.mark.parametrize(
    ("gain", "offset", "read_noise", "saturation", "sky"),
    [
        (1.0, 0.0, 1.0, np.inf, 300.0),
        (2.37, 12.3, 5.0, 60_000.0 * 2.37, 300.0),
        (0.31, 150.0, 0.0, 3e3, 40.0),
        (1.0, 100.0, 0.0, np.inf, 0.3),
    ],
)
@pytest.mark.parametrize("form", [pytest.param("compiled", marks=needs_compiled), "numpy"])
def test_counts__have_the_cosmic_rays_that_astroscrappy_finds(
    monkeypatch, form, gain, offset, read_noise, saturation, sky
):
    if form == "numpy":
        monkeypatch.setattr(compiled, "native", None)
    raw = hit_counts(int(10 * gain), gain=gain, sky=sky)
    electrons = (raw * gain - offset).astype(np.float32)
    wanted, cleaned = astroscrappy.detect_cosmics(
        electrons, sigclip=4.5, sigfrac=0.3, objlim=5.0, niter=4, gain=1.0, readnoise=read_noise,
        satlevel=min(saturation, 3e38), sepmed=True, cleantype="meanmask",
    )  # fmt: skip
    kept = raw.copy()
    clean, mask = calibrate.remove_cosmic_rays(Counts(raw, gain, offset), read_noise=read_noise, saturation=saturation)
    assert wanted.sum() > 30
    np.testing.assert_array_equal(raw, kept)
    if ASTROSCRAPPY < (1, 3) and wanted.mean() > 0.5:  # it rounds otherwise, which shows where nearly all is marked
        assert np.count_nonzero(mask != wanted) <= 2
        return
    np.testing.assert_array_equal(mask, wanted)
    np.testing.assert_array_equal(clean.replaced.places, np.flatnonzero(wanted))
    np.testing.assert_array_equal(clean.replaced.electrons, cleaned[wanted])
    assert np.array_equal(clean.raw[~wanted], raw[~wanted])
    inside = (cleaned[wanted] > -offset) & (cleaned[wanted] < 65_535 * gain - offset)
    assert inside.mean() > 0.9
    away = clean.raw[wanted] * gain - offset - cleaned[wanted]
    assert np.abs(away[inside]).max() <= 0.5 * gain * 1.001


def steps_of(raw: np.ndarray, box_size: tuple[int, int]) -> FrameSteps:
    """Steps of a frame from which cosmic rays are removed."""
    return FrameSteps(
        reader=FitsReader(0), shape=raw.shape, rebin_factor=1, remove_cosmic_rays=True, background=None,
        box_size=box_size, finder=DefaultFinder(9, border_width=5), threshold=5.0, n_slots=30,
    )  # fmt: skip


@pytest.mark.parametrize("read_as", ["u2", "f4"], ids=["counts", "electrons"])
def test_saturated_stars_lose_no_pixel__whatever_was_subtracted(read_as):
    image = np.full((90, 90), 300.0)
    add_star(image, 45.2, 44.8, 2e7, 3.0)
    raw = np.minimum(np.random.default_rng(3).poisson(image), 60_000).astype(read_as)
    steps = steps_of(raw, (30, 30))
    entry = {
        "file": "memory", "pixels": raw, "gain": 2.37, "dark_current": 10.0, "exposure_time": 30.0, "read_noise": 1.4,
        "saturation": 60_000.0, "linearity_limit": np.nan, "file_size": 0, "file_mtime": 0.0,
    }  # fmt: skip
    found = load_image(steps, entry | {"memory": {}})
    assert found.saturated.any()
    assert not found.cosmic_rays[found.saturated].any()
    np.testing.assert_allclose(found.electrons[found.saturated], 60_000.0 * 2.37 - 300.0, rtol=1e-6)


def test_pixels_of_counts__are_those_of_the_whole_frame():
    raw = hit_counts(7)
    steps = steps_of(raw, (35, 30))
    entry = {
        "file": "memory", "pixels": raw, "gain": 2.37, "dark_current": 0.1, "exposure_time": 5.0, "read_noise": 1.4,
        "saturation": 60_000.0, "linearity_limit": 40_000.0,
    }  # fmt: skip
    x0, y0 = np.array([-4, 20, 60, 100, 130]), np.array([5, 30, -3, 25, 50])
    entry["file_size"], entry["file_mtime"] = 0, 0.0
    whole, cut = (read_pixels(steps, entry | {"memory": {}}, whole_frames=way) for way in (True, False))
    assert isinstance(whole, ImagePixels)
    assert isinstance(cut, RawPixels)
    result = {"x": x0 + 10.0, "y": y0 + 10.0}
    kept = KeptPixels.of(keep_pixels(steps, entry | {"memory": {}}, result, Shape(1.7, 1.7, 0.0)).arrays)
    restored = kept.pixels(steps, entry)
    hit = whole.cosmic_rays(x0, y0, 21)
    assert np.count_nonzero(hit) > 10
    places = np.random.default_rng(1).permutation(raw.size)
    for pixels in (cut, restored):
        for name in ("electrons", "cosmic_rays", "saturated", "non_linear"):
            np.testing.assert_array_equal(*(getattr(one, name)(x0, y0, 21) for one in (pixels, whole)), err_msg=name)
    for found, wanted in zip(cut.at(places), whole.at(places), strict=True):
        np.testing.assert_array_equal(found, wanted)
