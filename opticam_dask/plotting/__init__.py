"""Figures from datasets: the only place that imports matplotlib.

Every function returns a ``matplotlib.figure.Figure`` that belongs to no window and no global state; nothing here
is called by kernels, blocks or the store.
"""

from matplotlib.figure import Figure

from opticam_dask.plotting.animation import Picture, write_animation
from opticam_dask.plotting.curves import plot_comparisons, plot_relative_light_curve
from opticam_dask.plotting.frames import plot_alignment, plot_background, plot_header_times, plot_quality
from opticam_dask.plotting.images import plot_background_meshes, plot_catalogs
from opticam_dask.plotting.noise import plot_noise, plot_rms_vs_flux, plot_snrs
from opticam_dask.plotting.profiles import plot_apertures, plot_growth_curves, profile_pages
from opticam_dask.plotting.style import save_figure, save_pages, show_in_notebook

__all__ = [
    "Figure",
    "Picture",
    "plot_alignment",
    "plot_apertures",
    "plot_background",
    "plot_background_meshes",
    "plot_catalogs",
    "plot_comparisons",
    "plot_growth_curves",
    "plot_header_times",
    "plot_noise",
    "plot_quality",
    "plot_relative_light_curve",
    "plot_rms_vs_flux",
    "plot_snrs",
    "profile_pages",
    "save_figure",
    "save_pages",
    "show_in_notebook",
    "write_animation",
]
