"""Timing analyses of differential light curves: spectra, periodograms, folding, correlations and lags."""
