"""Kernels that measure single sources: fluxes and their errors, positions, widths, profiles."""
