"""What plots need of a reduction: catalogues, the sources that were asked for, reference frames, typical widths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import locations
from opticam_dask.display import plotting
from opticam_dask.display.plotting import Figure
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.frames.scanning import FitsReader
from opticam_dask.passes.calibration import Calibration
from opticam_dask.pipeline import preparation
from opticam_dask.pipeline.reduction import Setup
from opticam_dask.steps.frame_steps import FrameProblem, FrameSteps, load_image
from opticam_dask.store import layout

#: Source ids by camera key, or the same ids for all of them; None is all sources.
Targets = int | Sequence[int] | Mapping[str, int | Sequence[int]] | None


def aperture_axes(record: Mapping[str, Any], fwhm: float) -> tuple[float, float, float] | None:
    """Semi-axes (pixels) and angle (degrees) of the aperture of a photometer; None when it has none.

    Parameters
    ----------
    record : mapping
        Attributes of the photometer, as the store keeps them.
    fwhm : float
        Of the catalogue, in pixels: the radius when none is given.
    """
    if "radius" not in record and "semimajor_axis" not in record:
        return None
    if record.get("semimajor_axis") is not None:
        return float(record["semimajor_axis"]), float(record["semiminor_axis"]), float(record["orientation"])
    radius = record.get("radius")
    unit = fwhm if radius is None or record.get("radius_unit", "pixel") != "pixel" else 1.0
    radius = 1.0 if radius is None else radius
    # of several radii the first is the one that all others are compared with
    radius = unit * float(radius[0] if isinstance(radius, Sequence) else radius)
    return radius, radius, 0.0


def pixels_of(steps: FrameSteps, entry: Mapping[str, Any]) -> np.ndarray:
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


def catalogues_of(out_directory: str | Path) -> dict[str, xr.Dataset]:
    """Catalogue of each camera key that has one."""
    path = layout.require_store(out_directory)
    found = {}
    for key in layout.keys(path):
        if layout.has_product(path, f"{figure_name(key)}/catalog"):
            arrays = layout.read_product(path, f"{figure_name(key)}/catalog")
            found[key] = xr.Dataset({name: ("source", values) for name, values in arrays.items()})
    if not found:
        raise ValueError(f"no camera has a catalogue in {out_directory}: reduce its frames first")
    return found


def chosen_sources(key: str, catalogue: xr.Dataset, targets: Targets) -> np.ndarray:
    """Rows of the catalogue that hold the sources asked for."""
    numbers = catalogue["source_id"].to_numpy()
    wanted = targets.get(key, targets.get(figure_name(key), ())) if isinstance(targets, Mapping) else targets
    if wanted is None:
        return np.arange(len(numbers))
    ids = [int(wanted)] if isinstance(wanted, (int, np.integer)) else [int(one) for one in wanted]
    row_of = {int(number): row for row, number in enumerate(numbers)}
    if unknown := [number for number in ids if number not in row_of]:
        has = f"1 to {numbers.max()}" if len(numbers) else "no source"
        raise ValueError(f"{key} has no source {', '.join(map(str, unknown))} in its catalogue; it has {has}")
    return np.array([row_of[number] for number in ids], dtype=int)


def figure_name(key: str) -> str:
    """A camera key as it stands in names of files."""
    return layout.group_name(key)


def stack_image(out_directory: str | Path, key: str) -> np.ndarray:
    """Stack of the reference night, in electrons."""
    return layout.read_product(layout.require_store(out_directory), f"{figure_name(key)}/reference")["image"].astype(
        float
    )


def typical_fwhm(out_directory: str | Path, key: str) -> float:
    """FWHM of the catalogue's stars, in pixels."""
    return float(layout.read_attributes(layout.require_store(out_directory), f"{figure_name(key)}/catalog")["fwhm"])


def reference_image(out_directory: str | Path, key: str) -> tuple[Path, layout.Part, int]:
    """Store, part and index of the reference frame of a key.

    Raises
    ------
    ValueError
        When its night is not in the store any more.
    """
    path = layout.require_store(out_directory)
    attributes = layout.read_attributes(path, f"{figure_name(key)}/reference")
    for part in layout.parts(path, key):
        if part.night == attributes["reference_night"]:
            return path, part, int(attributes["reference_index"])
    raise ValueError(f"the night {attributes['reference_night']} of the reference frame of {key} is not in the store")


def display_steps(out_directory: str | Path, part: layout.Part) -> FrameSteps:
    """Steps that calibrate a frame to look at it: cosmic rays stay, the sky stays."""
    attributes = layout.read_attributes(layout.require_store(out_directory))
    extension = (attributes.get("instrument_definition") or {}).get("extension")
    parameters = preparation.stored_parameters(out_directory)
    # the instrument gives defaults of the finder, which is not run here; what matters is where the image is
    setup = Setup(locations.location(out_directory), OPTICAM_MX(), parameters, reader=FitsReader(extension))
    record = json.loads(attributes["parameters"])
    setup = replace(setup, calibration=Calibration.from_record(record))
    return replace(setup.steps_of(part), remove_cosmic_rays=False)


def photometer_record(out_directory: str | Path, key: str, label: str) -> dict[str, Any] | None:
    """Attributes of the photometer that a photometry was made with; None when there is no such photometry."""
    path = layout.require_store(out_directory)
    for part in layout.parts(path, key):
        if label in layout.photometry_labels(path, part):
            attributes = layout.read_attributes(path, f"{part.group}/photometry/{label}")
            # what was measured: a best aperture has been chosen there
            return dict(json.loads(attributes.get("prepared", attributes["parameters"])))
    return None


def aperture_of(out_directory: str | Path, key: str, label: str) -> tuple[float, float, float]:
    """Semi-axes (pixels) and angle (degrees) of the aperture of a photometry label."""
    record = photometer_record(out_directory, key, label)
    axes = None if record is None else aperture_axes(record, typical_fwhm(out_directory, key))
    if axes is None:
        raise ValueError(f"photometry {label!r} of {key} has no aperture whose noise could be computed")
    return axes


def keep_figure(figure: Figure, out_directory: str | Path, names: Sequence[str], save: bool, show: bool) -> list[Path]:
    """Show a figure, save it in the output directory, or both; return the files."""
    if show:
        plotting.show_in_notebook(figure)
    if not save:
        return []
    file = locations.file_in(out_directory, *names)
    with locations.replacing(file) as temporary:
        plotting.save_figure(figure, temporary)
    return [file]
