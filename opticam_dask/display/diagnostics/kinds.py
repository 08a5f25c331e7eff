"""Kinds of diagnostic plots, by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from opticam_dask.display.diagnostics.frames import create_gifs, plot_background_meshes, plot_quality
from opticam_dask.display.diagnostics.inputs import Targets
from opticam_dask.display.diagnostics.noise import plot_noise, plot_rms_vs_flux, plot_snrs
from opticam_dask.display.diagnostics.sources import plot_apertures, plot_growth_curves, plot_psfs

#: What can be drawn, by the word of the command line.
KINDS: dict[str, Callable[..., list[Path]]] = {
    "growth-curves": plot_growth_curves,
    "psfs": plot_psfs,
    "snrs": plot_snrs,
    "noise": plot_noise,
    "rms": plot_rms_vs_flux,
    "apertures": plot_apertures,
    "meshes": plot_background_meshes,
    "quality": plot_quality,
    "gifs": create_gifs,
}


def plot(out_directory: str | Path, kind: str, *, label: str = "aperture", targets: Targets = None) -> list[Path]:
    """Draw one kind of plot and return its files.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    kind : str
        A key of :data:`KINDS`.
    label : str
        Photometry label, for the kinds that need one.
    targets : int or str, sequence of them, or dict of them by camera key, optional
        Source ids, for the kinds that draw single sources; by default all sources.

    Raises
    ------
    ValueError
        For another kind, or when what is needed is not there.
    """
    if kind not in KINDS:
        raise ValueError(f"a plot is one of {', '.join(KINDS)}, got {kind!r}")
    options: dict[str, Any] = {}
    if kind in ("growth-curves", "snrs", "noise", "rms", "apertures"):
        options["label"] = label
    if kind in ("growth-curves", "apertures"):
        options["targets"] = targets
    return KINDS[kind](out_directory, **options)
