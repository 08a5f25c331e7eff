"""Kernels for what is measured of one source."""
