"""Kernels for the comparison stars of a night: shared trends, coverage of the errors, zero point."""
