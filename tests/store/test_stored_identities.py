"""What a store says of functions and classes stays the same when their modules move."""

from __future__ import annotations

import functools
import importlib
import json
import operator
import pickle
from pathlib import Path

import opticam_dask as opticam
from opticam_dask import identities
from opticam_dask.frames.fits_files import FitsReader
from opticam_dask.kernels.images.matching import align
from opticam_dask.lightcurves.timing_inputs import TimingCurve
from opticam_dask.parameters import ReductionParameters
from opticam_dask.passes.calibration import CalibrationFrames
from opticam_dask.pipeline.reduction import Setup

#: Root attributes of a store written by version 0.1 with flat modules, with the parameters of ``_setup``.
BEFORE = json.loads((Path(__file__).parents[1] / "data" / "parameters-1.2.json").read_text(encoding="utf-8"))


def _setup(out):
    return Setup(
        out,
        opticam.OPTICAM_MX(),
        ReductionParameters(barycenter=False),
        background=functools.partial(operator.call, opticam.DefaultBackground(16)),
        finder=opticam.DefaultFinder(5, border_width=4),
        aperture_selector=max,
        frames_per_block=2,
    )


def test_parameters__of_a_store_of_flat_modules_are_those_of_the_same_call_now(tmp_path):
    now = json.loads(identities.parameters_json(_setup(tmp_path).record()))
    assert {name: now[name] for name in BEFORE["parameters"]} == BEFORE["parameters"]
    assert identities.parameters_hash(BEFORE["parameters"]) == BEFORE["parameters_hash"]


def test_describe__names_functions_and_classes_of_the_package_as_before_they_had_a_room():
    assert identities.describe(opticam.BiasCorrector) == {"name": "opticam_dask.correctors.BiasCorrector"}
    assert identities.describe(align.apply_transform)["function"] == "opticam_dask.kernels.align.apply_transform"


def test_stored_modules__are_there():
    for module in identities._STORED_MODULES:
        importlib.import_module(module)


def test_pickles__written_with_the_names_of_modules_of_before_are_read():
    """A pickle holds the name of the module of a class, as protocol 0 spells it."""
    for kept, now, before in (
        (ReductionParameters(threshold=4.0), "opticam_dask.parameters", "opticam_dask.config"),
        (opticam.AperturePhotometer(radius=5.0), "opticam_dask.methods.photometers", "opticam_dask.photometers"),
        (opticam.OPTICAM_MX(), "opticam_dask.frames.instruments", "opticam_dask.instruments"),
        (opticam.DefaultFinder(5, 4), "opticam_dask.methods.finders", "opticam_dask.finders"),
        (opticam.Analyzer, "opticam_dask.api.analysis.analyzer", "opticam_dask.api.analysis"),
        (opticam.Analyzer, "opticam_dask.api.analysis.analyzer", "opticam_dask.analysis"),
        (FitsReader(), "opticam_dask.frames.fits_files", "opticam_dask.fits_files"),
        (CalibrationFrames, "opticam_dask.passes.calibration", "opticam_dask.calibration"),
        (TimingCurve, "opticam_dask.lightcurves.timing_inputs", "opticam_dask.timing_inputs"),
    ):
        written = pickle.dumps(kept, protocol=0)
        assert f"c{now}\n".encode() in written
        read = pickle.loads(written.replace(f"c{now}\n".encode(), f"c{before}\n".encode()))
        assert type(read) is type(kept)
        assert identities.describe(read) == identities.describe(kept)


def test_names_now__lead_to_modules():
    for now in identities.NAMES_NOW.values():
        importlib.import_module(now)
