"""Dask-parallel reduction of multi-camera fast photometry: FITS frames to light curves in one Zarr store.

Names are imported when they are first used, so that ``import opticam_dask`` and the command line start at once.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

__version__ = metadata.version("opticam-dask")

_HOME = {
    "Analyzer": "analysis",
    "AperturePhotometer": "photometers",
    "BaseBackground": "backgrounds",
    "BaseLocalBackground": "local_backgrounds",
    "BasePhotometer": "photometers",
    "BiasCorrector": "correctors",
    "DarkNoiseCorrector": "correctors",
    "DefaultBackground": "backgrounds",
    "DefaultFinder": "finders",
    "DefaultLocalBackground": "local_backgrounds",
    "DifferentialPhotometer": "differential_photometer",
    "FakeReader": "frames",
    "FitsReader": "frames",
    "FlatFieldCorrector": "correctors",
    "Instrument": "instruments",
    "OPTICAM_MX": "instruments",
    "OptimalPhotometer": "photometers",
    "PSFPhotometer": "psf_photometer",
    "Reducer": "reducer",
    "connect": "cluster",
    "browse": "browser",
    "differential_light_curves": "results",
    "export_light_curves": "exports",
    "generate_flats": "synthetic",
    "generate_gappy_observations": "synthetic",
    "generate_instrument_json_template": "instruments",
    "generate_observations": "synthetic",
    "light_curves": "results",
    "match_cameras": "camera_matching",
    "observation_truth": "synthetic",
    "open_observations": "results",
    "open_reduction": "results",
    "provenance": "results",
    "relative_light_curve": "lightcurves",
    "scan": "frames",
    "select": "selection",
    "simulate_calibration_frames": "simulated_fields",
    "simulate_observations": "simulated_fields",
    "write_report": "report",
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
