"""Sums of a few frames each, for sources that are lost in the read noise of a single frame."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains, tasks
from opticam_dask.api.steps.frames import (
    chain_of,
    placeholders,
    records_of_aligned,
    require_reference,
    step,
    with_chain,
)
from opticam_dask.cluster import blocks
from opticam_dask.flags import FrameFlag
from opticam_dask.kernels.images.coadd import are_turned
from opticam_dask.lightcurves.indexes import pixel_coordinates, with_indexes
from opticam_dask.steps.calibrate import rebinned_response


@step
def coadd(ds: xr.Dataset, ref: xr.Dataset | None = None, *, frames: int) -> xr.Dataset:
    """Sums of a few frames each, which can be searched, aligned and measured like single frames.

    Frames are moved onto the first of their sum by whole pixels. Nothing is interpolated, so that the noise of a pixel
    is still its own and the errors of fluxes are right; stars are wider by 1/12 square pixel of variance.

    Lazy frames stay so: which of them can be added is found out along with the sums, but what a sum is labelled with
    must be known before. So a sum of lazy frames is of all that its headers promise, or, where one of them cannot be
    added, NaN and flagged. After `persist` (or on NumPy) such a frame is known and left out of its sum alone.

    Parameters
    ----------
    ds : Dataset
        Aligned frames, as `align` returns them.
    ref : Dataset, optional
        Reference stars, as `reference` returns them; by default those that the frames are aligned to.
    frames : int
        How many frames that follow each other in one night make one sum; a sum ends earlier at the end of a night,
        and, where transforms are known, before the field turns by more than a pixel at its corners.

    Returns
    -------
    Dataset
        Frames as `calibrate` returns them, along ``frame`` the sums: ``image`` in electrons, ``exposure_time`` added,
        ``time``, ``mjd_utc`` and ``bmjd_tdb`` the means of the frames that were added, weighted with their exposures,
        ``file`` the first one's; ``n_coadded`` is how many. Frames that are set aside are in no sum; a sum of none is
        NaN and flagged by the steps. Pixels hit by a cosmic ray in one frame have no value. Go on with `background`,
        `detect`, ``align(..., ref)`` and `photometry`. ``flux_err_sys`` has the error of a master flat as if all frames
        of a sum lay alike, which is never less than it is.

    Raises
    ------
    ValueError
        When the frames are not aligned, or to another camera's reference, or ``frames`` is no number of frames.
    """
    chain = chain_of(ds, chains.ALIGNED, "coadd")
    _check(chain, frames)
    if ref is not None:
        require_reference("coadd", ref, ds)
    steps = chain.steps(placeholders(ds, chain))
    is_known = chain.is_known or not blocks.is_lazy(ds["transform"].data)
    if is_known:
        flags, transform = blocks.computed(ds["flags"].data, ds["transform"].data)
    else:
        flags = ds["scan_flags"].to_numpy() | np.uint32(FrameFlag.REDUCED)
        transform = np.broadcast_to(np.eye(3), (len(flags), 3, 3))
    usable = tasks.can_be_added(flags, transform)
    bins = _bins(ds["night"].to_numpy().astype(str), transform, usable, int(frames), steps.image_shape)
    of_sums = _headers(ds, bins, steps.rebin_factor)
    made = _error_of_the_flat(ds, chain, steps.image_shape)
    added = _sums(ds, chain, bins, of_sums, steps.image_shape, is_known=is_known).assign(made)
    plain = replace(chain.parameters, rebin_factor=1, remove_cosmic_rays=False)
    setup = replace(chain.setup, parameters=plain, image_filter=None)
    masters = tuple(name.removeprefix("master_") for name in made)
    binning = chain.binning * steps.rebin_factor
    summed = chains.Chain(setup, steps.image_shape, binning, chains.CALIBRATED, masters, is_coadded=True)
    return with_chain(with_indexes(added), summed)


def _check(chain: chains.Chain, frames: Any) -> None:
    if isinstance(frames, bool) or not isinstance(frames, (int, np.integer)) or frames < 1:
        raise ValueError(f"coadd expected the number of frames of a sum, at least 1, got frames={frames!r}")
    if chain.errors:
        raise ValueError(
            f"coadd expected frames without errors of their pixels (extension {chain.errors}), which it cannot add: "
            "open them with an instrument of use_errors=False"
        )


def _sums(
    ds: xr.Dataset,
    chain: chains.Chain,
    bins: _Bins,
    of_sums: Mapping[str, np.ndarray],
    shape: tuple[int, int],
    *,
    is_known: bool,
) -> xr.Dataset:
    """The sums, still to be computed, and what is known of them."""
    sizes = _chunks(bins, ds)
    if sizes is not None:
        ds = ds.assign(raw=ds["raw"].chunk(frame=sizes[0]))
    records = records_of_aligned(
        tasks.CoaddTask(chain, "coadd"),
        ds,
        counts=None if sizes is None else sizes[1],
        bin=bins.number,
        is_used=bins.is_used,
        level=of_sums["saturation"][bins.number],
    )
    image = blocks.picked(records, "image", shape, float)
    n_coadded = of_sums["n_coadded"] if is_known else blocks.picked(records, "n_coadded", (), np.int32)
    about = {"units": "electron pixel-1", "long_name": "sums of calibrated frames"}
    of_flags = schema.variable("frames", "flags").all_attributes()
    return xr.Dataset(
        {
            "raw": (("frame", "y", "x"), image, about),
            "image": (("frame", "y", "x"), image, about),
            "flags": ("frame", of_sums["scan_flags"] | np.uint32(1), of_flags),
            "n_coadded": ("frame", n_coadded, {"units": "1", "long_name": "frames in the sum"}),
        },
        coords={name: ("frame", values, ds[name].attrs) for name, values in of_sums.items() if name != "n_coadded"}
        | pixel_coordinates(shape),
        attrs=dict(ds.attrs),
    )


def _error_of_the_flat(ds: xr.Dataset, chain: chains.Chain, shape: tuple[int, int]) -> dict[str, Any]:
    """Masters of the sums: a flat that changes nothing, with the relative variance of the one that frames had."""
    if "flat" not in chain.masters:
        return {}
    masters = [ds[f"master_{name}"].data for name in chain.masters]
    record = blocks.whole(functools.partial(_relative_variance, chain=chain), *masters)
    values = {
        "flat": np.ones(shape),
        "flat_variance": blocks.picked_one(record, "flat_variance", shape, float),
        "bad_responses": np.zeros(shape, dtype=bool),
    }
    return {
        f"master_{name}": (("y", "x"), array, schema.variable("calibration", name).all_attributes())
        for name, array in values.items()
    }


def _relative_variance(*masters: np.ndarray, chain: chains.Chain) -> dict[str, np.ndarray]:
    response, error = rebinned_response(chain.steps([one.reshape(-1) for one in masters]))
    return {"flat_variance": np.nan_to_num(error / response, posinf=0.0) ** 2}


@dataclass(frozen=True)
class _Bins:
    """Which frames make which sum.

    Attributes
    ----------
    number : ndarray of int, shape (frame,)
        Sum of each frame, from 0 in the order of the frames.
    is_used : ndarray of bool, shape (frame,)
        Whether the frame is to be added.
    """

    number: np.ndarray
    is_used: np.ndarray


def _bins(night: np.ndarray, transform: np.ndarray, usable: np.ndarray, size: int, shape: tuple[int, int]) -> _Bins:
    number = np.zeros(len(night), dtype=np.int64)
    for index, frames in enumerate(_runs(night, transform, usable, size, shape)):
        number[frames] = index
    return _Bins(number, usable)


def _runs(
    night: np.ndarray, transform: np.ndarray, usable: np.ndarray, size: int, shape: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Frames of each sum, in order."""
    ends = np.flatnonzero(np.append(night[1:] != night[:-1], True)) + 1
    start = 0
    for end in ends.tolist():
        while start < end:
            frames = np.arange(start, min(start + size, end))
            used = frames[usable[frames]]
            turned = used[are_turned(transform[used], transform[used[0]], shape)] if len(used) else used
            if len(turned):
                frames = np.arange(start, turned[0])
            yield frames
            start = int(frames[-1]) + 1


def _headers(ds: xr.Dataset, bins: _Bins, rebin_factor: int) -> dict[str, np.ndarray]:
    """What the headers of the sums would say."""
    n_sums = int(bins.number[-1]) + 1
    first = np.searchsorted(bins.number, np.arange(n_sums))
    n_used = np.bincount(bins.number, bins.is_used, minlength=n_sums).astype(np.int32)
    # where none can be used, all of them say when it was
    counts = bins.is_used | (n_used == 0)[bins.number]
    exposure = ds["exposure_time"].to_numpy() * counts
    # what cannot be added is that of the first frame
    found = {name: ds[name].to_numpy()[first] for name in ("night", *(entry.name for entry in schema.MANIFEST))}

    def added(values: np.ndarray) -> np.ndarray:
        return np.bincount(bins.number, np.where(counts, values, 0.0), minlength=n_sums)

    def mean(values: np.ndarray) -> np.ndarray:
        # days from the first frame: a product of a date and seconds would lose a millisecond
        start = values[first][bins.number]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(values[first] + added((values - start) * exposure) / added(exposure))

    gain = ds["gain"].to_numpy() * rebin_factor**2
    found |= {name: mean(ds[name].to_numpy()) for name in ("mjd_utc", "bmjd_tdb", "airmass")}
    found |= {name: added(ds[name].to_numpy() * gain) for name in ("saturation", "linearity_limit")}
    found["exposure_time"] = added(ds["exposure_time"].to_numpy())
    found["read_noise"] = np.sqrt(added((ds["read_noise"].to_numpy() * rebin_factor) ** 2))
    found |= {"gain": np.ones(n_sums), "dark_current": np.zeros(n_sums), "n_coadded": n_used}
    flags = np.zeros(n_sums, dtype=np.uint32)
    np.bitwise_or.at(flags, bins.number, ds["scan_flags"].to_numpy().astype(np.uint32))
    return found | {"scan_flags": flags}


def _chunks(bins: _Bins, ds: xr.Dataset) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Frames and sums of each chunk: about as many frames as now, and no sum in two; None on NumPy."""
    if ds["raw"].chunks is None:
        return None
    most = max(ds["raw"].chunks[0])
    n_frames = np.bincount(bins.number)
    frames, sums = [0], [0]
    for size in n_frames.tolist():
        if frames[-1] and frames[-1] + size > most:
            frames.append(0)
            sums.append(0)
        frames[-1] += size
        sums[-1] += 1
    return tuple(frames), tuple(sums)
