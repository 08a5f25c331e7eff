"""Figures from datasets: the only place that imports matplotlib.

Every function returns a ``matplotlib.figure.Figure`` that belongs to no window and no global state; nothing here
is called by kernels, blocks or the store.
"""

from matplotlib.figure import Figure

from opticam_dask.display.plotting.animation import Picture, write_animation
from opticam_dask.display.plotting.curves import plot_comparisons, plot_relative_light_curve
from opticam_dask.display.plotting.fits import plot_fit
from opticam_dask.display.plotting.frames import plot_alignment, plot_background, plot_header_times, plot_quality
from opticam_dask.display.plotting.images import plot_background_meshes, plot_catalogs
from opticam_dask.display.plotting.noise import plot_noise, plot_rms_vs_flux, plot_snrs
from opticam_dask.display.plotting.profiles import plot_apertures, plot_growth_curves, profile_pages
from opticam_dask.display.plotting.style import save_figure, save_pages, show_in_notebook
from opticam_dask.display.plotting.timing import (
    Scale,
    plot_correlations,
    plot_cross_spectra,
    plot_folded,
    plot_lag_distributions,
    plot_lags,
    plot_spectra,
    plot_timing_light_curves,
)

__all__ = [
    "Figure",
    "Picture",
    "Scale",
    "plot_alignment",
    "plot_apertures",
    "plot_background",
    "plot_background_meshes",
    "plot_catalogs",
    "plot_comparisons",
    "plot_correlations",
    "plot_cross_spectra",
    "plot_fit",
    "plot_folded",
    "plot_growth_curves",
    "plot_header_times",
    "plot_lag_distributions",
    "plot_lags",
    "plot_noise",
    "plot_quality",
    "plot_relative_light_curve",
    "plot_rms_vs_flux",
    "plot_snrs",
    "plot_spectra",
    "plot_timing_light_curves",
    "profile_pages",
    "save_figure",
    "save_pages",
    "show_in_notebook",
    "write_animation",
]
