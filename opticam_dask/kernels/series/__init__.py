"""Kernels for series over frames: times, light curves, periodicities."""
