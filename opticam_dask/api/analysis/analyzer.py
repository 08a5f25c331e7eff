"""Timing analyses of the light curves of one target.

Lags are positive when the second light curve of a pair ``a x b`` lags the first. Times are in seconds, frequencies in
hertz. The formulas are in ``docs/timing.md``.
"""

from __future__ import annotations

from opticam_dask.api.analysis.pairs import PairAnalyses
from opticam_dask.api.analysis.phases import PhaseAnalyses
from opticam_dask.api.analysis.spectra import SpectralAnalyses


class Analyzer(SpectralAnalyses, PairAnalyses, PhaseAnalyses):
    """Timing analyses of the light curves of one target in several cameras.

    Parameters
    ----------
    out_directory : path, optional
        Output directory of a reduction: light curves are read from ``relative_light_curves/`` unless they are given,
        and plots go to ``plots/``. Without it nothing is saved.
    light_curves : mapping, optional
        By camera key: Datasets of :func:`~opticam_dask.relative_light_curve` (what
        :meth:`DifferentialPhotometer.get_relative_light_curve` returns), astropy ``TimeSeries``, lightkurve
        ``LightCurve``, stingray ``Lightcurve``, DataFrames with columns BMJD, rel_flux, rel_flux_err, or paths of CSV
        files. They are not changed.
    norm : {"mean", "max", "none"}
        What each light curve is divided by.
    prefix, phot_label : str, optional
        Which files, and the names of plots; may be left out where there is one.
    show_plots : bool
        Show plots in a notebook; with an output directory they are saved in any case.
    verbose : bool
        Print what happens.
    exclude_flags : int
        Frames with one of these bits of ``opticam_dask.flags.SourceFlag`` are left out, by default those that lie far
        off their neighbours; 0 keeps them. Frames without flux or error always are left out.

    Raises
    ------
    ValueError
        When no light curve is found, or one has fewer than two frames.
    TypeError
        For a light curve of an unknown kind.
    """
