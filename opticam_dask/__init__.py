"""Dask-parallel reduction of multi-camera fast photometry: FITS frames to light curves in one Zarr store.

Names are imported when they are first used, so that ``import opticam_dask`` and the command line start at once.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

__version__ = metadata.version("opticam-dask")

_HOME = {
    "Analyzer": "api.analysis",
    "AperturePhotometer": "methods.photometers",
    "BaseBackground": "methods.backgrounds",
    "BaseLocalBackground": "methods.local_backgrounds",
    "BasePhotometer": "methods.photometers",
    "BiasCorrector": "api.correctors",
    "DarkNoiseCorrector": "api.correctors",
    "DefaultBackground": "methods.backgrounds",
    "DefaultFinder": "methods.finders",
    "DefaultLocalBackground": "methods.local_backgrounds",
    "DifferentialPhotometer": "api.differential_photometer",
    "FakeReader": "frames.scanning",
    "FitsReader": "frames.scanning",
    "FlatFieldCorrector": "api.correctors",
    "Instrument": "frames.instruments",
    "OPTICAM_MX": "frames.instruments",
    "OptimalPhotometer": "methods.photometers",
    "PSFPhotometer": "methods.psf_photometer",
    "Reducer": "api.reducer",
    "connect": "cluster.executors",
    "browse": "display.browser",
    "differential_light_curves": "lightcurves.results",
    "export_light_curves": "lightcurves.exports",
    "find_sky": "api.sky",
    "generate_flats": "frames.synthetic",
    "generate_gappy_observations": "frames.synthetic",
    "generate_instrument_json_template": "frames.instruments",
    "generate_observations": "frames.synthetic",
    "light_curves": "lightcurves.results",
    "match_cameras": "lightcurves.camera_matching",
    "observation_truth": "frames.synthetic",
    "open_observations": "lightcurves.results",
    "open_reduction": "lightcurves.results",
    "provenance": "lightcurves.results",
    "relative_light_curve": "lightcurves.differential",
    "scan": "frames.scanning",
    "select": "lightcurves.selection",
    "simulate_calibration_frames": "frames.simulated_fields",
    "simulate_observations": "frames.simulated_fields",
    "write_report": "display.report",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
