"""Dask-parallel reduction of multi-camera fast photometry: FITS frames to light curves in one Zarr store.

Names are imported when they are first used, so that ``import opticam_dask`` and the command line start at once. What
editors and type checkers see of them is in ``__init__.pyi``.
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = metadata.version("opticam-dask")

_HOME = {
    "add_sources": "api.steps.catalog",
    "align": "api.steps.align",
    "Analyzer": "api.analysis.analyzer",
    "AperturePhotometer": "methods.photometers",
    "background": "api.steps.background",
    "BaseBackground": "methods.backgrounds",
    "BaseLocalBackground": "methods.local_backgrounds",
    "BasePhotometer": "methods.photometers",
    "BiasCorrector": "api.correctors",
    "browse": "display.browser.server",
    "calibrate": "api.steps.calibrate",
    "calibration_masters": "api.steps.calibrate",
    "catalog": "api.steps.catalog",
    "coadd": "api.steps.coadd",
    "connect": "cluster.connections",
    "DarkNoiseCorrector": "api.correctors",
    "DefaultBackground": "methods.backgrounds",
    "DefaultFinder": "methods.finders",
    "DefaultLocalBackground": "methods.local_backgrounds",
    "detect": "api.steps.detect",
    "differential_light_curves": "lightcurves.results",
    "DifferentialPhotometer": "api.differential_photometer",
    "export_light_curves": "lightcurves.exports",
    "export_stacks": "display.stack_files",
    "FakeReader": "frames.scanning",
    "fetch_sample": "frames.samples.fetching",
    "find_sky": "api.sky",
    "fit_eclipse": "lightcurves.fitting.eclipses",
    "fit_sinusoid": "lightcurves.fitting.sinusoids",
    "fit_transit": "lightcurves.fitting.transits",
    "fits_in_store": "lightcurves.fitting.outcome",
    "FitsReader": "frames.scanning",
    "FlatFieldCorrector": "api.correctors",
    "FringeCorrector": "api.correctors",
    "generate_flats": "frames.simulation.synthetic",
    "generate_gappy_observations": "frames.simulation.synthetic",
    "generate_instrument_json_template": "frames.instruments",
    "guess_instrument": "frames.guessing.sampling",
    "known_instruments": "frames.definitions.library",
    "load_instrument": "frames.definitions.library",
    "generate_observations": "frames.simulation.synthetic",
    "Instrument": "frames.instruments",
    "light_curves": "lightcurves.results",
    "mark": "lightcurves.curation.marking",
    "marks": "lightcurves.curation.marks",
    "magnitudes": "lightcurves.field.magnitudes",
    "match_cameras": "passes.camera_matching",
    "Observer": "lightcurves.submission.observer",
    "observation_truth": "frames.simulation.synthetic",
    "open_catalog": "api.steps.catalog",
    "open_frames": "api.steps.frames",
    "open_observations": "lightcurves.results",
    "open_reduction": "lightcurves.results",
    "OPTICAM_MX": "frames.instruments",
    "OptimalPhotometer": "methods.photometers",
    "persist": "api.steps.align",
    "photometry": "api.steps.measure",
    "provenance": "store.provenance",
    "PSFPhotometer": "methods.psf_photometer",
    "read_observer": "lightcurves.submission.observer",
    "reduce": "api.steps.reduce",
    "Reducer": "api.reducer",
    "reference": "api.steps.align",
    "relative": "api.steps.relative",
    "relative_light_curve": "lightcurves.differential",
    "save_fit": "api.kept_fits",
    "scan": "frames.scanning",
    "select": "lightcurves.selection",
    "simulate_calibration_frames": "frames.simulation.simulated_detectors",
    "simulate_observations": "frames.simulation.simulated_fields",
    "stack": "api.steps.stack",
    "subtract_background": "api.steps.background",
    "unmark": "lightcurves.curation.marking",
    "write_report": "display.report",
    "write_submission": "lightcurves.submission.writing",
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


class _FormerModules(MetaPathFinder, Loader):
    """Former names of modules, which stand in pickles: they are found where the modules are now."""

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Say that there is a module of a former name; asked after all others."""
        if not fullname.startswith(f"{__name__}."):
            return None
        from opticam_dask.identities import NAMES_NOW

        return ModuleSpec(fullname, self) if fullname in NAMES_NOW else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Nothing is made."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of now in place of the former one."""
        from opticam_dask.identities import NAMES_NOW

        sys.modules[module.__name__] = importlib.import_module(NAMES_NOW[module.__name__])


sys.meta_path.append(_FormerModules())
