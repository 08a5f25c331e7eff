"""Sky background of each frame, and its subtraction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask.api.arguments import plain
from opticam_dask.api.steps import chains
from opticam_dask.api.steps.chains import FrameTask
from opticam_dask.api.steps.frames import chain_of, grown_by, placeholders, records_over
from opticam_dask.cluster import blocks
from opticam_dask.methods.backgrounds import DefaultBackground

SKY = ("background", "background_rms", "flags", "message")

MESHES = ("background_mesh", "background_rms_mesh")


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
        Of `calibrate`.
    box_size : int or (int, int), optional
        Box of the sky mesh in pixels, ``(ny, nx)``; by default 1/32 of the shorter side.
    estimator : callable, optional
        One's own ``image -> Background2D``-like; there is no mesh then, unless it is a `DefaultBackground`.
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
    if isinstance(estimator, DefaultBackground):
        box_size = estimator.box_size if box_size is None else box_size
    estimator = plain(estimator)
    chain = chain_of(ds, chains.CALIBRATED, "background").further(
        chains.SKY, parameters={"box_size": box_size}, background=estimator
    )
    return grown_by(ds, chain, "background", (*SKY, *(() if estimator else MESHES)), merge)


def subtract_background(ds: xr.Dataset) -> xr.DataArray:
    """Frames without their sky, lazily.

    Parameters
    ----------
    ds : Dataset
        Of `background`.

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
    coords = xr.Coordinates(kept, indexes=ds.coords.xindexes if "time" in ds.xindexes else {})
    return xr.DataArray(values, dims=("frame", "y", "x"), coords=coords, attrs=attributes, name="image")


class _Subtracted(FrameTask):
    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        steps = self.steps(shared)
        found = []
        for entry in chains.entries_of(images, table):
            result = self.reduced(None, steps, entry)
            found.append({"image": np.nan if result.subtracted is None else result.subtracted})
        return found
