"""Timing analyses of differential light curves: spectra, periodograms, folding, correlations and lags."""

from opticam_dask.api.analysis.analyzer import Analyzer as Analyzer  # pickles of before name it here
