"""Kernels for the pixels of one frame, and for the sources found in it."""
