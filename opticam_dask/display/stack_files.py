"""The stacks of a reduction as FITS images for other programs, with world coordinates."""

from __future__ import annotations

from pathlib import Path

from astropy.io import fits

from opticam_dask import locations
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
        with locations.replacing(file) as temporary:
            _stack_of(camera).writeto(temporary, overwrite=True)
        written.append(file)
    if not written:
        raise ValueError(f"there is no stack {f'of {key} ' if key else ''}in {out_directory} yet")
    return written


def _stack_of(camera: Camera) -> fits.HDUList:
    about, coverage = camera.reference.attributes, camera.reference["coverage"]
    world = _world_coordinates(camera)
    header = fits.Header(world)
    header["BUNIT"] = ("electron", "in each pixel")
    header["CAMERA"] = _ascii(camera.key)
    header["NCOMBINE"] = (int(coverage.max(initial=0)), "largest number of frames in a pixel")
    header["REFFILE"] = (_ascii(about["reference_file"]), "frame that gives the pixels")
    header["REFNIGHT"] = _ascii(about["reference_night"])
    if world:
        header["WCSORIG"] = (_ascii(camera.catalog.attributes["wcs_origin"]), "where the coordinates are from")
    stack = fits.PrimaryHDU(camera.reference["image"], header)
    return fits.HDUList([stack, fits.ImageHDU(coverage, fits.Header(world), "COVERAGE")])


def _world_coordinates(camera: Camera) -> dict[str, str | int | float]:
    """FITS keywords of the world coordinates, which the catalogue has; none where it is not on the sky."""
    return dict(camera.catalog.attributes.get("wcs", {})) if camera.catalog.is_whole else {}


def _ascii(text: str) -> str:
    """Text as headers can hold it."""
    return str(text).encode("ascii", "replace").decode()
