"""Calibration of frames to electrons, and the master frames for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains
from opticam_dask.api.steps.chains import FrameTask
from opticam_dask.api.steps.frames import chain_of, frames_of, records_over, require_same_camera, with_chain
from opticam_dask.cluster import blocks
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.kernels.images import masters as masters_kernel
from opticam_dask.passes.calibration import Calibration, find_calibration_frames, same_exposure
from opticam_dask.pipeline.stages import master_frames


def calibrate(
    ds: xr.Dataset | xr.DataArray,
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
        Of `open_frames`, or its ``image``.
    masters : Dataset, optional
        Of `calibration_masters`.
    bias, dark, flat, fringe : array, shape (ny, nx), optional
        Masters of one's own: ADU, ADU per second, response (1 on average), and fringes in any unit.
    remove_cosmic_rays : bool
        Replace cosmic rays (L.A.Cosmic).
    rebin_factor : int
        Sum so many pixels along each axis.
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
    ds = frames_of(ds) if isinstance(ds, xr.DataArray) else ds
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
    chain = replace(
        chain,
        masters=tuple(name.removeprefix("master_") for name in made),
        dark_time=None if dark is not None else about.get("dark_exposure_time"),
        dark_gain=None if dark is not None else about.get("dark_gain"),
    )
    ds = ds.rename(image="raw").assign(made)
    steps = chain.steps([value[1] for value in made.values()])
    records = records_over(FrameTask(chain, "calibrate"), ds)
    image = {"units": "electron pixel-1", "long_name": "calibrated frames", "made_from": "raw"}
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
    if rebin_factor > 1:
        ds = ds.rename_dims(y="raw_y", x="raw_x")
    return with_chain(ds.assign(found), chain)


def _masters_of(masters: xr.Dataset | None, mine: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """Variables of the masters, by ``master_<name>``."""
    given: dict[str, Any] = {} if masters is None else {str(k): v.to_numpy() for k, v in masters.data_vars.items()}
    own = {name: np.asarray(value) for name, value in mine.items() if value is not None}
    if "dark" in own:
        own["hot_pixels"] = np.zeros(shape, dtype=bool)
    if "flat" in own and own["flat"].shape == shape:
        own |= {"flat_variance": np.zeros(shape), "bad_responses": masters_kernel.find_bad_responses(own["flat"])}
    given |= own
    for name, values in given.items():
        if values.shape != shape:
            raise ValueError(f"calibrate expected a {name} of {shape} pixels as the frames have, got {values.shape}")
    return {
        f"master_{name}": (("y", "x"), values, schema.variable("calibration", name).all_attributes())
        for name, values in given.items()
    }


def calibration_masters(
    *,
    key: str,
    biases: Any = None,
    darks: Any = None,
    flats: Any = None,
    fringes: Any = None,
    instrument: Instrument | None = None,
    exposure_time: float | None = None,
) -> xr.Dataset:
    """Master bias, dark, flat and fringes of a camera from their frames, as a reduction makes them; this computes.

    Parameters
    ----------
    key : str
        Camera key such as ``1:g``.
    biases, darks, flats, fringes : path or sequence of path, optional
        Directories or files.
    instrument : Instrument, optional
        What the headers mean; by default ``OPTICAM_MX``.
    exposure_time : float, optional
        Of the frames, in seconds: without biases, darks must be exposed as long; by default that of the first dark.

    Returns
    -------
    Dataset
        ``bias`` (ADU), ``dark`` (ADU per second), ``flat`` (response, 1 on average), ``fringe`` (about 0), their
        variances and what is wrong with which pixel, dims (y, x), for `calibrate`.

    Raises
    ------
    ValueError
        When no frames are given, or they do not fit the camera or each other.
    """
    instrument = instrument or OPTICAM_MX()
    given: dict[Any, Any] = {"bias": biases, "dark": darks, "flat": flats, "fringe": fringes}
    found = [find_calibration_frames(kind, paths, instrument) for kind, paths in given.items() if paths is not None]
    calibration = Calibration.of(*found)
    if calibration is None:
        raise ValueError("calibration_masters expected directories of biases, darks, flats or fringes, got none")
    return master_frames.make_dataset(calibration, instrument, key, exposure_time).assign_attrs(key=key)
