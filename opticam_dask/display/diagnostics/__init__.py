"""Diagnostic plots of a reduction: read their data from store and frames, draw and save them.

Every function takes an output directory and needs no ``Reducer``; each returns the files that it wrote.
"""

from opticam_dask.display.diagnostics.frames import create_gifs, plot_background_meshes, plot_quality
from opticam_dask.display.diagnostics.inputs import Targets, display_steps
from opticam_dask.display.diagnostics.kinds import KINDS, plot
from opticam_dask.display.diagnostics.noise import (
    noise_model,
    plot_noise,
    plot_rms_vs_flux,
    plot_snrs,
    source_statistics,
    statistics_of_sources,
)
from opticam_dask.display.diagnostics.sources import plot_apertures, plot_growth_curves, plot_psfs

__all__ = [
    "KINDS",
    "Targets",
    "create_gifs",
    "display_steps",
    "noise_model",
    "plot",
    "plot_apertures",
    "plot_background_meshes",
    "plot_growth_curves",
    "plot_noise",
    "plot_psfs",
    "plot_quality",
    "plot_rms_vs_flux",
    "plot_snrs",
    "source_statistics",
    "statistics_of_sources",
]
