"""Sky background of each frame, and its subtraction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask.api.arguments import plain, require_callables
from opticam_dask.api.steps import chains
from opticam_dask.api.steps.chains import FrameTask
from opticam_dask.api.steps.frames import chain_of, grown_by, placeholders, records_over, step
from opticam_dask.cluster import blocks
from opticam_dask.lightcurves.indexes import pixel_coordinates
from opticam_dask.methods.backgrounds import DefaultBackground

SKY = ("background", "background_rms", "flags", "message")

MESHES = ("background_mesh", "background_rms_mesh")


@step
def background(
    ds: xr.Dataset,
    *,
    box_size: int | tuple[int, int] | None = None,
    estimator: Callable[[np.ndarray], Any] | None = None,
    merge: bool = True,
) -> xr.Dataset:
    """Sky background of each frame.

    Parameters
    ----------
    ds : Dataset
        Calibrated frames, as `calibrate` returns them.
    box_size : int or (int, int), optional
        Box of the sky mesh in pixels, ``(ny, nx)``; by default 1/32 of the shorter side.
    estimator : callable, optional
        Function of your own, ``image -> Background2D``-like; the result then has no mesh, unless it is a
        `DefaultBackground`.
    merge : bool
        Add the results to ``ds``; otherwise they are returned alone.

    Returns
    -------
    Dataset
        ``background_mesh``, ``background_rms_mesh`` (frame, mesh_y, mesh_x); ``background``, ``background_rms`` and
        ``flags`` (frame), electrons per pixel.

    Raises
    ------
    ValueError
        When the frames are in ADU, or a box is larger than a frame.
    """
    require_callables(estimator=estimator)
    if isinstance(estimator, DefaultBackground):
        box_size = estimator.box_size if box_size is None else box_size
    estimator = plain(estimator)
    chain = chain_of(ds, chains.CALIBRATED, "background").further(
        chains.SKY, parameters={"box_size": box_size}, background=estimator
    )
    return grown_by(ds, chain, "background", (*SKY, *(() if estimator else MESHES)), merge)


@step
def subtract_background(ds: xr.Dataset) -> xr.DataArray:
    """Frames without their sky, lazily.

    Parameters
    ----------
    ds : Dataset
        Frames with their sky, as `background` returns them.

    Returns
    -------
    DataArray, dims (frame, y, x)
        Electrons; NaN in frames without a sky.

    Raises
    ------
    ValueError
        When the frames have no sky yet.
    """
    chain = chain_of(ds, chains.SKY, "subtract_background")
    steps = chain.steps(placeholders(ds, chain))
    dtype = np.float32 if steps.has_mesh else np.float64
    records = records_over(_Subtracted(replace(chain, depth=chains.SKY), "subtract_background"), ds)
    values = blocks.picked(records, "image", steps.image_shape, dtype)
    attributes = {"units": "electron pixel-1", "long_name": "frames without their sky"}
    kept = {name: one for name, one in ds.coords.items() if set(one.dims) <= {"frame"}}
    coords = xr.Coordinates(kept, indexes={name: one for name, one in ds.xindexes.items() if name in kept})
    clean = xr.DataArray(values, dims=("frame", "y", "x"), coords=coords, attrs=attributes, name="image")
    return clean.assign_coords(pixel_coordinates(steps.image_shape))


class _Subtracted(FrameTask):
    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        steps = self.steps(shared)
        found = []
        for entry in self.entries(images, table):
            result = self.reduced(None, steps, entry)
            found.append({"image": np.nan if result.subtracted is None else result.subtracted})
        return found
