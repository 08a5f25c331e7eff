"""Sky meshes, quality and animations of the frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask import locations
from opticam_dask.display import plotting, products
from opticam_dask.display.diagnostics.inputs import (
    catalogues,
    display_steps,
    keep_figure,
    reference_frame,
    typical_fwhm,
)
from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.images.matching import align
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.frame_steps import FrameProblem, FrameSteps, entry_of
from opticam_dask.store.camera import Camera
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import xarray as xr


def plot_background_meshes(out_directory: str | Path, *, save: bool = True, show: bool = False) -> list[Path]:
    """Write ``diag/background_meshes.pdf``: the sky mesh of the reference frame of each camera.

    Raises
    ------
    ValueError
        When no camera has a reference frame with a sky mesh.
    """
    panels = {}
    for camera in Store.open(out_directory).cameras:
        if not camera.reference.is_whole:
            continue
        part, index = reference_frame(camera)
        if part.mesh_shape is None:
            continue
        meshes = [
            part.background.read(name, index, index + 1)[0] for name in ("background_mesh", "background_rms_mesh")
        ]
        steps = display_steps(part)
        image = load_image(steps, entry_of(part.manifest(), index)).electrons
        panels[camera.key] = (image, meshes[0], meshes[1], steps.box_size)
    if not panels:
        raise ValueError(
            f"{out_directory} has no sky mesh: it has no reference frame yet, or its background is a function of yours"
        )
    return keep_figure(
        plotting.plot_background_meshes(panels), out_directory, ("diag", "background_meshes.pdf"), save, show
    )


def plot_quality(out_directory: str | Path, *, save: bool = True, show: bool = False) -> list[Path]:
    """Write ``diag/<key>_quality.pdf``: seeing, sky, transparency, airmass and more against time.

    Raises
    ------
    ValueError
        When there is no frame, or nothing is known of any.
    """
    written = []
    for camera in Store.open(out_directory).cameras:
        if camera.parts:
            figure = plotting.plot_quality({camera.key: products.frames_of(camera, with_quality=True)})
            written += keep_figure(figure, out_directory, ("diag", f"{camera.name}_quality.pdf"), save, show)
    return written


def create_gifs(
    out_directory: str | Path, *, max_frames: int = 200, milliseconds: int = 200, overwrite: bool = True
) -> list[Path]:
    """Write ``cat/<key>_images.gif``: the frames with circles where the transforms put the sources.

    Titles are blue for the reference frame, black for aligned frames and red for those that are not.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    max_frames : int
        Frames of each camera at most, evenly spaced, the reference among them; 0 takes all.
    milliseconds : int
        Time that each frame is shown.
    overwrite : bool
        Replace an animation that is there.

    Raises
    ------
    ValueError
        When there is no catalogue.
    """
    if max_frames < 0 or milliseconds <= 0:
        raise ValueError(f"max_frames must be at least 0 and milliseconds above 0, got {max_frames} and {milliseconds}")
    written = []
    for camera, catalogue in catalogues(out_directory).items():
        file = locations.file_in(out_directory, "cat", f"{camera.name}_images.gif")
        if overwrite or not file.exists():
            plotting.write_animation(_pictures(camera, catalogue, max_frames), file, milliseconds=milliseconds)
            written.append(file)
    return written


def _pictures(camera: Camera, catalogue: xr.Dataset, max_frames: int) -> Iterator[plotting.Picture]:
    """Read and yield the chosen frames of a camera one by one, in time order within each part."""
    reference, index = reference_frame(camera)
    xy = np.column_stack([catalogue["x"], catalogue["y"]])
    radius = 2.0 * typical_fwhm(camera)
    parts = camera.parts
    begins = np.cumsum([0, *(part.n_frames for part in parts)])
    at = next(int(begin) + index for part, begin in zip(parts, begins, strict=False) if part.night == reference.night)
    chosen = evenly_spaced(int(begins[-1]), max_frames, at)
    for part, begin in zip(parts, begins, strict=False):
        mine = chosen[(chosen >= begin) & (chosen < begin + part.n_frames)] - begin
        if not len(mine):
            continue
        steps = display_steps(part)
        manifest = part.manifest()
        flags, transforms = (part.frames[name] for name in ("flags", "transform"))
        for number in mine.tolist():
            usable = flags[number] != 0 and not flags[number] & np.uint32(UNUSABLE)
            state = "reference" if begin + number == at else "aligned" if usable else "unaligned"
            places = align.apply_transform(transforms[number], xy) if usable else np.full(xy.shape, np.nan)
            entry = entry_of(manifest, number)
            title = f"{camera.key}  {Path(entry['file']).name}  ({state})"
            yield plotting.Picture(_pixels(steps, entry), places, radius, title, state)


def _pixels(steps: FrameSteps, entry: Mapping[str, Any]) -> np.ndarray:
    """A frame to look at; empty where it cannot be read."""
    try:
        return load_image(steps, entry).electrons
    except FrameProblem:
        return np.full(steps.image_shape, np.nan)


def evenly_spaced(n_frames: int, n_chosen: int, keep: int) -> np.ndarray:
    """Indices of at most ``n_chosen`` of ``n_frames`` frames, evenly spaced, ``keep`` among them; 0 takes all."""
    if n_chosen == 0 or n_chosen >= n_frames:
        return np.arange(n_frames)
    chosen = np.unique(np.linspace(0, n_frames - 1, n_chosen).round().astype(int))
    chosen[np.argmin(np.abs(chosen - keep))] = keep
    return chosen
