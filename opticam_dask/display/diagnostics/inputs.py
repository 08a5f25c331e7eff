"""Input of the diagnostic plots: catalogues, stacks, frames and photometers of a reduction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import locations, schema
from opticam_dask.display import plotting
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.frames.scanning import FitsReader
from opticam_dask.lightcurves.targets import Target, rows_of_sources, source_numbers
from opticam_dask.passes.calibration import Calibration
from opticam_dask.pipeline import preparation
from opticam_dask.pipeline.reduction import Setup
from opticam_dask.steps.frame_steps import FrameSteps
from opticam_dask.store.camera import Camera, Part, group_name
from opticam_dask.store.store import Store

#: Sources (numbers, names, places) by camera key, or the same for all of them; None is all sources.
Targets = Target | Sequence[Target] | Mapping[str, Target | Sequence[Target]] | None


# ---------------------------------------------------------------- what the plots are made of


def catalogues(out_directory: str | Path) -> dict[str, xr.Dataset]:
    """Catalogues of a reduction by camera key."""
    found = {}
    for camera in Store.open(out_directory).cameras:
        if camera.catalog.is_whole:
            arrays = camera.catalog.read_all()
            of_sources = {name: values for name, values in arrays.items() if _is_of_sources(name)}
            found[camera.key] = xr.Dataset({name: ("source", values) for name, values in of_sources.items()})
    if not found:
        raise ValueError(f"no camera has a catalogue in {out_directory}: reduce its frames first")
    return found


def _is_of_sources(name: str) -> bool:
    """Whether a variable of a catalogue has one value a source; magnitudes have one a band."""
    return schema.variable("catalog", name).dims == ("source",)


def chosen_rows(out_directory: str | Path, key: str, catalogue: xr.Dataset, targets: Targets) -> np.ndarray:
    """Rows of the catalogue that hold the sources asked for."""
    numbers = catalogue["source_id"].to_numpy()
    wanted = targets.get(key, targets.get(group_name(key), ())) if isinstance(targets, Mapping) else targets
    if wanted is None:
        return np.arange(len(numbers))
    return rows_of_sources(numbers, source_numbers(out_directory, key, wanted), key)


def stack_of(out_directory: str | Path, key: str) -> np.ndarray:
    """Reference image of a camera, electrons."""
    return Store.open(out_directory).camera(key).reference["image"].astype(float)


def typical_fwhm(out_directory: str | Path, key: str) -> float:
    """FWHM of the stars of a catalogue, pixels."""
    return float(Store.open(out_directory).camera(key).catalog.attributes["fwhm"])


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


def display_steps(out_directory: str | Path, part: Part) -> FrameSteps:
    """Steps that calibrate a frame to look at it: cosmic rays stay, the sky stays."""
    attributes = Store.open(out_directory).attributes
    extension = (attributes.get("instrument_definition") or {}).get("extension")
    parameters = preparation.stored_parameters(out_directory)
    # the instrument gives defaults of the finder, which is not run here; what matters is where the image is
    setup = Setup(locations.location(out_directory), OPTICAM_MX(), parameters, reader=FitsReader(extension))
    record = json.loads(attributes["parameters"])
    setup = replace(setup, calibration=Calibration.from_record(record))
    return replace(setup.steps_of(part), remove_cosmic_rays=False)


def photometer_record(out_directory: str | Path, key: str, label: str) -> dict[str, Any] | None:
    """Attributes of the photometer that a photometry was made with; None when there is no such photometry."""
    for part in Store.open(out_directory).camera(key).parts:
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
