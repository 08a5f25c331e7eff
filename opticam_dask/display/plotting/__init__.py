"""Figures from datasets: the only place that imports matplotlib.

Every function returns a ``matplotlib.figure.Figure`` that belongs to no window and no global state; nothing here
is called by kernels, blocks or the store. Matplotlib is imported when the first function is asked for: most commands
draw nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from opticam_dask.display.plotting.animation import Picture, write_animation
    from opticam_dask.display.plotting.curves import plot_comparisons, plot_relative_light_curve
    from opticam_dask.display.plotting.fitted_curves import plot_fit
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

#: The module of each name.
_HOME = {
    "Figure": "matplotlib.figure",
    "Picture": "opticam_dask.display.plotting.animation",
    "plot_alignment": "opticam_dask.display.plotting.frames",
    "plot_apertures": "opticam_dask.display.plotting.profiles",
    "plot_background": "opticam_dask.display.plotting.frames",
    "plot_background_meshes": "opticam_dask.display.plotting.images",
    "plot_catalogs": "opticam_dask.display.plotting.images",
    "plot_comparisons": "opticam_dask.display.plotting.curves",
    "plot_correlations": "opticam_dask.display.plotting.timing",
    "plot_cross_spectra": "opticam_dask.display.plotting.timing",
    "plot_folded": "opticam_dask.display.plotting.timing",
    "plot_fit": "opticam_dask.display.plotting.fitted_curves",
    "plot_growth_curves": "opticam_dask.display.plotting.profiles",
    "plot_header_times": "opticam_dask.display.plotting.frames",
    "plot_lag_distributions": "opticam_dask.display.plotting.timing",
    "plot_lags": "opticam_dask.display.plotting.timing",
    "plot_noise": "opticam_dask.display.plotting.noise",
    "plot_quality": "opticam_dask.display.plotting.frames",
    "plot_relative_light_curve": "opticam_dask.display.plotting.curves",
    "plot_rms_vs_flux": "opticam_dask.display.plotting.noise",
    "plot_snrs": "opticam_dask.display.plotting.noise",
    "plot_spectra": "opticam_dask.display.plotting.timing",
    "plot_timing_light_curves": "opticam_dask.display.plotting.timing",
    "profile_pages": "opticam_dask.display.plotting.profiles",
    "save_figure": "opticam_dask.display.plotting.style",
    "save_pages": "opticam_dask.display.plotting.style",
    "Scale": "opticam_dask.display.plotting.timing",
    "show_in_notebook": "opticam_dask.display.plotting.style",
    "write_animation": "opticam_dask.display.plotting.animation",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
