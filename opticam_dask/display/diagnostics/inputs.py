"""Input of the diagnostic plots: catalogues, stacks, frames and photometers of a reduction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask import locations, schema
from opticam_dask.display import plotting
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.frames.scanning import FitsReader
from opticam_dask.lightcurves.targets import Target, rows_of_sources, source_numbers
from opticam_dask.passes.calibration import Calibration
from opticam_dask.pipeline import preparation
from opticam_dask.pipeline.reduction import Setup
from opticam_dask.steps.frame_steps import FrameSteps
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import xarray as xr

#: Sources (numbers, names, places) by camera key, or the same for all of them; None is all sources.
Targets = Target | Sequence[Target] | Mapping[str, Target | Sequence[Target]] | None


# ---------------------------------------------------------------- what the plots are made of


def catalogues(out_directory: str | Path) -> dict[Camera, xr.Dataset]:
    """Catalogues of a reduction by camera."""
    import xarray as xr

    found = {}
    for camera in Store.open(out_directory).cameras:
        if camera.catalog.is_whole:
            arrays = camera.catalog.read_all()
            # magnitudes have one value a source and band
            names = [name for name in arrays if schema.variable("catalog", name).dims == ("source",)]
            found[camera] = xr.Dataset({name: ("source", arrays[name]) for name in names})
    if not found:
        raise ValueError(f"no camera has a catalogue in {out_directory}: reduce its frames first")
    return found


def chosen_rows(camera: Camera, catalogue: xr.Dataset, targets: Targets) -> np.ndarray:
    """Rows of the catalogue that hold the sources asked for."""
    numbers, key = catalogue["source_id"].to_numpy(), camera.key
    wanted = targets.get(key, targets.get(camera.name, ())) if isinstance(targets, Mapping) else targets
    if wanted is None:
        return np.arange(len(numbers))
    return rows_of_sources(numbers, source_numbers(camera.path.parent, key, wanted), key)


def stack_of(camera: Camera) -> np.ndarray:
    """Reference image of a camera, electrons."""
    return camera.reference["image"].astype(float)


def typical_fwhm(camera: Camera) -> float:
    """FWHM of the stars of a catalogue, pixels."""
    return float(camera.catalog.attributes["fwhm"])


def reference_frame(camera: Camera) -> tuple[Part, int]:
    """Part and index of the reference frame of a camera.

    Raises
    ------
    ValueError
        When its night is not in the store any more.
    """
    attributes = camera.reference.attributes
    night, part = attributes["reference_night"], camera.part(attributes["reference_night"])
    if part is None:
        raise ValueError(f"the night {night} of the reference frame of {camera.key} is not in the store")
    return part, int(attributes["reference_index"])


def display_steps(part: Part) -> FrameSteps:
    """Steps that calibrate a frame to look at it: cosmic rays stay, the sky stays."""
    out_directory, attributes = part.path.parent, Store(part.path).attributes
    extension = (attributes.get("instrument_definition") or {}).get("extension")
    parameters = preparation.stored_parameters(out_directory)
    # the instrument gives defaults of the finder, which is not run here; what matters is where the image is
    setup = Setup(out_directory, OPTICAM_MX(), parameters, reader=FitsReader(extension))
    setup = replace(setup, calibration=Calibration.from_record(json.loads(attributes["parameters"])))
    return replace(setup.steps_of(part), remove_cosmic_rays=False)


def photometer_record(camera: Camera, label: str) -> dict[str, Any] | None:
    """Attributes of the photometer that a photometry was made with; None when there is no such photometry."""
    for part in camera.parts:
        if label in part.labels:
            attributes = part.photometry(label).attributes
            # what was measured: a best aperture has been chosen there
            return dict(json.loads(attributes.get("prepared", attributes["parameters"])))
    return None


def keep_figure(
    figure: plotting.Figure, out_directory: str | Path, names: Sequence[str], save: bool, show: bool
) -> list[Path]:
    """Show a figure in a notebook, save it under a name below the output directory, or both; return the file."""
    if show:
        plotting.show_in_notebook(figure)
    if not save:
        return []
    file = locations.file_in(out_directory, *names)
    plotting.save_figure(figure, file)
    return [file]
