"""Figures from datasets: the only place that imports matplotlib.

Every function returns a ``matplotlib.figure.Figure`` that belongs to no window and no global state; nothing here
is called by kernels, blocks or the store.
"""

from matplotlib.figure import Figure

from opticam_dask.plotting.curves import plot_relative_light_curve
from opticam_dask.plotting.frames import plot_alignment, plot_background, plot_header_times
from opticam_dask.plotting.images import plot_catalogs
from opticam_dask.plotting.style import save_figure, show_in_notebook

__all__ = [
    "Figure",
    "plot_alignment",
    "plot_background",
    "plot_catalogs",
    "plot_header_times",
    "plot_relative_light_curve",
    "save_figure",
    "show_in_notebook",
]
