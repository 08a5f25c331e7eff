"""The stacks of a reduction as FITS images for other programs, with world coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import locations
from opticam_dask.frames.fits.writing import write_images
from opticam_dask.store.camera import Camera
from opticam_dask.store.store import Store


def export_stacks(out_directory: str | Path, *, key: str | None = None) -> list[Path]:
    """Write ``export/stack/<camera>_stack.fits``: the stack on which the sources of a camera were found.

    The first image is the mean of the aligned, sky-subtracted frames (electrons a pixel), the extension ``COVERAGE``
    has the number of frames in each pixel. Where the sources are on the sky, both headers have world coordinates.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key : str, optional
        Camera key such as ``1:g`` (``1-g`` works as well); by default all that have a stack.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        When there is no such key, or no stack yet.
    """
    store = Store.open(out_directory)
    cameras = store.cameras if key is None else [store.camera(key)]
    written = []
    for camera in (camera for camera in cameras if camera.reference.is_whole):
        file = locations.file_in(out_directory, "export", "stack", f"{camera.name}_stack.fits")
        write_images(file, _images_of(camera))
        written.append(file)
    if not written:
        raise ValueError(f"there is no stack {f'of {key} ' if key else ''}in {out_directory} yet")
    return written


def _images_of(camera: Camera) -> list[tuple[str | None, np.ndarray, dict[str, Any]]]:
    about, coverage = camera.reference.attributes, camera.reference["coverage"]
    of_catalog = camera.catalog.attributes if camera.catalog.is_whole else {}
    world = dict(of_catalog.get("wcs", {}))
    header = world | {
        "BUNIT": ("electron", "in each pixel"),
        "CAMERA": camera.key,
        "NCOMBINE": (int(coverage.max(initial=0)), "largest number of frames in a pixel"),
        "REFFILE": (about["reference_file"], "frame that gives the pixels"),
        "REFNIGHT": about["reference_night"],
    }
    if world:
        header["WCSORIG"] = (of_catalog["wcs_origin"], "where the coordinates are from")
    return [(None, camera.reference["image"], header), ("COVERAGE", coverage, world)]
