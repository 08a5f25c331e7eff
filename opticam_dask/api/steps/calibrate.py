"""Calibration of frames to electrons, and the master frames for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.arguments import require_callables
from opticam_dask.api.steps import chains
from opticam_dask.api.steps.chains import FrameTask
from opticam_dask.api.steps.frames import (
    chain_of,
    placeholders,
    records_over,
    require_same_camera,
    step,
    with_chain,
)
from opticam_dask.api.steps.reading import rebased
from opticam_dask.cluster import blocks
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.kernels.images import masters as masters_kernel
from opticam_dask.lightcurves.indexes import pixel_coordinates
from opticam_dask.passes.calibration import Calibration, Detector, find_calibration_frames, same_exposure
from opticam_dask.pipeline.stages import master_frames
from opticam_dask.store.store import Store


@step
def calibrate(
    ds: xr.Dataset,
    masters: xr.Dataset | None = None,
    *,
    bias: Any = None,
    dark: Any = None,
    flat: Any = None,
    fringe: Any = None,
    remove_cosmic_rays: bool = False,
    rebin_factor: int = 1,
    image_filter: Callable[[np.ndarray], np.ndarray] | None = None,
) -> xr.Dataset:
    """Frames in electrons.

    Parameters
    ----------
    ds : Dataset or DataArray
        Raw frames, as `open_frames` returns them, or their ``image``.
    masters : Dataset, optional
        Master frames, as `calibration_masters` returns them.
    bias, dark, flat, fringe : array, shape (ny, nx), optional
        Master frames of your own: bias in ADU, dark in ADU per second, flat as response (1 on average), fringes in
        any unit.
    remove_cosmic_rays : bool
        Replace cosmic rays (L.A.Cosmic).
    rebin_factor : int
        Number of pixels along each axis that are summed to one.
    image_filter : callable, optional
        ``array -> array`` on frames as read, before anything else.

    Returns
    -------
    Dataset
        ``image`` in electrons, ``saturated``, ``flags``; the frames as read are ``raw``.

    Raises
    ------
    ValueError
        When the frames are in electrons already, or a master has another shape.
    """
    require_callables(image_filter=image_filter)
    chain = chain_of(ds, 0, "calibrate")
    if chain.depth:
        raise ValueError("calibrate expected frames in ADU, these are in electrons already")
    own = {"bias": bias, "dark": dark, "flat": flat, "fringe": fringe}
    made = _masters_of(masters, own, chain.shape)
    parameters = {"remove_cosmic_rays": remove_cosmic_rays, "rebin_factor": rebin_factor}
    chain = chain.further(chains.CALIBRATED, parameters=parameters, image_filter=image_filter)
    about = {} if masters is None else masters.attrs
    if masters is not None and "key" in about:
        require_same_camera("calibrate", "set of masters", masters, ds)
    if about.get("binning", chain.binning) != chain.binning:
        raise ValueError(f"calibrate expected masters of binning {chain.binning}, got {about['binning']}")
    if "dark_only_for" in about:
        other = [t for t in np.unique(ds["exposure_time"]).tolist() if not same_exposure(t, about["dark_only_for"])]
        if other:
            raise ValueError(
                f"calibrate expected frames of {about['dark_only_for']:g} s as the darks are, found {other[0]:g} s: "
                "give calibration_masters biases as well, so that darks can be scaled"
            )
    chain = replace(chain, masters=tuple(name.removeprefix("master_") for name in made))
    ds = rebased(ds).rename(image="raw").assign(made)
    steps = chain.steps(placeholders(ds, chain))
    records = records_over(FrameTask(chain, "calibrate"), ds)
    image = {"units": "electron pixel-1", "long_name": "calibrated frames"}
    flags = schema.variable("frames", "flags").all_attributes()
    found = {
        "image": (("frame", "y", "x"), blocks.picked(records, "image", steps.image_shape, float), image),
        "saturated": (
            ("frame", "y", "x"),
            blocks.picked(records, "saturated", steps.image_shape, bool),
            {"units": "1", "long_name": "pixels at or above the saturation"},
        ),
        "flags": ("frame", blocks.picked(records, "flags", (), np.uint32), flags),
    }
    ds = ds.drop_vars(["y", "x"], errors="ignore")
    if rebin_factor > 1:
        ds = ds.rename_dims(y="raw_y", x="raw_x")
    return with_chain(ds.assign(found).assign_coords(pixel_coordinates(steps.image_shape)), chain)


def _masters_of(masters: xr.Dataset | None, mine: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """Variables of the masters, by ``master_<name>``; lazy ones stay so."""
    given: dict[str, Any] = {} if masters is None else {str(name): one.data for name, one in masters.data_vars.items()}
    own = {name: _array(value) for name, value in mine.items() if value is not None}
    if "dark" in own:
        own["hot_pixels"] = np.zeros(shape, dtype=bool)
        given = {name: values for name, values in given.items() if name not in chains.DARK_FACTS}
    if "flat" in own and own["flat"].shape == shape:
        bad = blocks.picked_one(blocks.whole(_bad_responses, own["flat"]), "bad", shape, bool)
        own |= {"flat_variance": np.zeros(shape), "bad_responses": bad}
    given |= own
    found: dict[str, Any] = {}
    for name, values in given.items():
        if name in chains.DARK_FACTS:
            found[f"master_{name}"] = ((), values)
            continue
        if values.shape != shape:
            raise ValueError(f"calibrate expected a {name} of {shape} pixels as the frames have, got {values.shape}")
        found[f"master_{name}"] = (("y", "x"), values, schema.variable("calibration", name).all_attributes())
    return found


def _array(value: Any) -> Any:
    values = getattr(value, "data", value)
    return values if blocks.is_lazy(values) else np.asarray(value)


def _bad_responses(flat: np.ndarray) -> dict[str, np.ndarray]:
    return {"bad": masters_kernel.find_bad_responses(flat)}


def calibration_masters(
    *,
    key: str,
    biases: Any = None,
    darks: Any = None,
    flats: Any = None,
    fringes: Any = None,
    reduction: str | Path | None = None,
    instrument: Instrument | None = None,
    exposure_time: float | None = None,
    chunks: Literal["auto"] | None = "auto",
) -> xr.Dataset:
    """Master bias, dark, flat and fringes of a camera, as a reduction makes them: headers are read now, pixels later.

    Lazy masters are made anew by each computation that needs them; ``.load()`` makes them once.

    Parameters
    ----------
    key : str
        Camera key such as ``1:g``.
    biases, darks, flats, fringes : path or sequence of path, optional
        Directories or files.
    reduction : path or URL, optional
        Output directory of a reduction whose masters are read instead of that.
    instrument : Instrument, optional
        What the headers mean; by default ``OPTICAM_MX``.
    exposure_time : float, optional
        Exposure time of the frames, in seconds: without biases, darks must be exposed as long; by
        default that of the first dark.
    chunks : "auto" or None
        None makes them at once, as NumPy. Masters of a reduction are read at once whatever this is.

    Returns
    -------
    Dataset
        ``bias`` (ADU), ``dark`` (ADU per second), ``flat`` (response, 1 on average), ``fringe`` (about 0), their
        variances, and the pixels that are bad, dims (y, x), for `calibrate`.

    Raises
    ------
    ValueError
        When no frames are given, or they do not fit the camera or each other; when a reduction is given together with
        frames or an exposure time.
    """
    given: dict[Any, Any] = {"bias": biases, "dark": darks, "flat": flats, "fringe": fringes}
    known = {kind: paths for kind, paths in given.items() if paths is not None}
    if bool(known) is (reduction is not None):
        raise ValueError(
            "calibration_masters expected directories of biases, darks, flats or fringes, or a reduction that has "
            f"masters, got {'both' if known else 'none'}"
        )
    if reduction is not None:
        if instrument is not None or exposure_time is not None:
            raise ValueError("calibration_masters of a reduction takes neither instrument nor exposure_time")
        return _stored_masters(reduction, key)
    instrument = instrument or OPTICAM_MX()
    calibration = Calibration.of(*(find_calibration_frames(kind, paths, instrument) for kind, paths in known.items()))
    assert calibration is not None  # some are given
    planned = master_frames.PlannedMasters.of(calibration, instrument, key, exposure_time)
    record, shape = blocks.whole(planned, waits=chunks is not None), planned.detector.shape
    found = {
        name: blocks.picked_one(record, name, shape, schema.variable("calibration", name).dtype)
        for kind in planned.kinds
        for name in master_frames.VARIABLES[kind]
    }
    attributes = {"key": key, "binning": planned.detector.binning}
    if "dark" in planned.kinds:
        with_bias = "bias" in planned.kinds
        for name in chains.DARK_FACTS if with_bias else chains.DARK_FACTS[:1]:
            found[name] = blocks.picked_one(record, name, (), float)
        attributes |= {} if with_bias else {"dark_only_for": planned.exposure_time}
    return _as_dataset(found, attributes)


def _stored_masters(out_directory: str | Path, key: str) -> xr.Dataset:
    """Masters of a camera of a reduction, read."""
    store = Store.open(out_directory)
    camera = store.camera(key)
    part, record = camera.parts[0], json.loads(store.attributes["parameters"])
    calibration = Calibration.from_record(record)
    if calibration is None:
        raise ValueError(f"calibration_masters expected a reduction that has masters, {out_directory} has none")
    groups = calibration.groups(Detector(camera.key, part.shape, part.binning))
    attributes = {"key": camera.key, "binning": part.binning}
    if "dark" in groups and "bias" not in groups:
        attributes["dark_only_for"] = store.master(groups["dark"]).attributes["exposure_time"]
    return _as_dataset(master_frames.read_dataset(store, groups), attributes)


def _as_dataset(found: dict[str, Any], attributes: dict[str, Any]) -> xr.Dataset:
    variables = {
        name: ((), values)
        if name in chains.DARK_FACTS
        else (("y", "x"), values, schema.variable("calibration", name).all_attributes())
        for name, values in found.items()
    }
    return xr.Dataset(variables, attrs=attributes)
