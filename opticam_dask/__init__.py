"""Dask-parallel reduction of multi-camera fast photometry: FITS frames to light curves in one Zarr store."""
