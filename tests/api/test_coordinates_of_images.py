"""Frames, meshes and stacks say where their pixels are; a window of frames is no frame."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from small_nights import FIELD, INSTRUMENT, KEY, add_stars, read_out, write_frame

import opticam_dask as opticam

N_FRAMES, SIDE = 3, 200
CAMERA = opticam.Instrument.from_json(INSTRUMENT)
PIXELS = np.arange(SIDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory, rng = tmp_path_factory.mktemp("coordinates"), np.random.default_rng(5)
    for number in range(N_FRAMES):
        image = add_stars(np.full((SIDE, SIDE), 150.0), FIELD)
        write_frame(directory / f"f{number}.fits", read_out(image, rng), 60.0 * number)
    return directory


@pytest.fixture(scope="module")
def frames(folder: Path) -> xr.Dataset:
    return opticam.open_frames(folder, key=KEY, instrument=CAMERA, chunks=2)


def test_images__have_pixels_along_their_axes(folder, frames) -> None:
    sky = opticam.background(opticam.calibrate(frames), box_size=48)
    found = opticam.detect(sky)
    ref = opticam.reference(found)
    ds = opticam.align(found, ref)
    images = [frames["image"], sky["image"], opticam.subtract_background(ds), opticam.stack(ds, ref)["image"]]
    images += [opticam.coadd(ds, ref, frames=2)["image"], opticam.background(ds)["image"]]
    images += [opticam.open_observations(folder, instrument=CAMERA)[KEY]]
    for image in images:
        for axis in "xy":
            np.testing.assert_array_equal(image.coords[axis], PIXELS)
            assert image.coords[axis].attrs["units"] == "pixel"
    assert ds["x"].dims == ("frame", "slot")  # positions of sources have these names


def test_meshes__have_the_centres_of_their_boxes(frames) -> None:
    mesh = opticam.background(opticam.calibrate(frames), box_size=48)["background_mesh"]
    np.testing.assert_array_equal(mesh["mesh_x"], [23.5, 71.5, 119.5, 167.5, 215.5])
    assert mesh["mesh_y"].attrs["units"] == "pixel"


def test_pixels_of_rebinned_frames__are_counted_as_positions_in_them_are(frames) -> None:
    ds = opticam.calibrate(frames, rebin_factor=2)
    np.testing.assert_array_equal(ds["image"].coords["x"], np.arange(SIDE // 2))


def test_brightest_pixel__is_at_its_star(frames) -> None:
    with dask.config.set(scheduler="sync"):
        image = frames["image"].isel(frame=0).compute()
    at = image.isel(image.argmax(...))
    assert abs(float(at["x"]) - FIELD[0, 0]) < 1.0
    assert abs(float(at["y"]) - FIELD[0, 1]) < 1.0


def test_window_of_the_frames__is_refused_as_before(frames) -> None:
    with pytest.raises(ValueError, match="whole frames"):
        opticam.calibrate(frames.sel(x=slice(10, 50)))
