"""The stack of aligned frames."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains, tasks
from opticam_dask.api.steps.frames import CHAIN, chain_of, placeholders, records_of_aligned, require_same_camera
from opticam_dask.cluster import blocks
from opticam_dask.kernels.images.stack import combine_groups, mean_rms, stack_groups, stack_selection
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM


def stack(ds: xr.Dataset, ref: xr.Dataset | None = None, *, stack_frames: int = 256) -> xr.Dataset:
    """Mean of the aligned frames on the grid of the reference frame, without light that only a few of them show.

    Parameters
    ----------
    ds : Dataset
        Of `align`.
    ref : Dataset, optional
        Of `reference`; by default the one that the frames are aligned to.
    stack_frames : int
        At most so many frames, evenly spaced; 0 stacks all.

    Returns
    -------
    Dataset
        ``image`` (electrons) and ``coverage`` (y, x), and what `catalog` needs to know of the frames.

    Raises
    ------
    ValueError
        When the frames are not aligned, or to another camera's reference.
    """
    chain = chain_of(ds, chains.ALIGNED, "stack")
    if ref is not None:
        require_same_camera("stack", "reference", ref, ds)
    n_frames = ds.sizes["frame"]
    groups = stack_groups(0, n_frames, n_frames, stack_frames)
    records = records_of_aligned(tasks.StackTask(chain, "stack"), ds, stack_group=groups)
    shape = chain.steps(placeholders(ds, chain)).image_shape
    record = blocks.gathered(records, tasks.add_stacks, functools.partial(_stacked, shape=shape))
    n_stacked = len(stack_selection(n_frames, stack_frames))
    found: dict[str, Any] = {}
    for name in ("image", "coverage"):
        entry = schema.variable("stack", name)
        found[name] = (entry.dims, blocks.picked(record, name, shape, entry.dtype)[0], entry.all_attributes())
    for name, dims, sizes in (
        ("frame_rms", ("frame",), (n_frames,)),
        ("transform", ("stacked", "row", "column"), (n_stacked, 3, 3)),
        ("stack_facts", ("stack_fact",), (4,)),
    ):
        found[name] = (dims, blocks.picked(record, name, sizes, float)[0])
    dataset = xr.Dataset(
        found, coords={"stack_fact": ["seeing", "saturation", "sharpest", "rms"]}, attrs=dict(ds.attrs)
    )
    dataset.encoding = {CHAIN: chain, "opticam_frames": ds}
    return dataset


def _stacked(merged: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """Stack of the sums of its groups, and what its frames say about it."""
    sums, facts = merged
    every = [facts[index] for index in sorted(facts)]
    frames = [one for one in every if one["group"] >= 0]
    of_groups = {
        group: [f["background_rms"] for f in frames if f["group"] == group and f["is_stacked"]] for group in sums
    }
    rms = np.array([mean_rms(np.array(of_groups[group])) for group in sorted(sums)])
    image, coverage = combine_groups([sums[group] for group in sorted(sums)], rms)
    used = [f for f in frames if f["is_stacked"] and np.isfinite(f["transform"]).all()]
    transform = np.full((len(frames), 3, 3), np.nan)
    transform[: len(used)] = [f["transform"] for f in used] if used else np.nan
    median = {name: median_of(np.array([f[name] for f in frames])) for name in ("fwhm", "level", "semiminor_sigma")}
    of_stacked = mean_rms(np.array([f["background_rms"] for f in used]))
    return {
        "image": image,
        "coverage": coverage,
        "frame_rms": np.array([f["background_rms"] if f["group"] >= 0 else np.nan for f in every]),
        "transform": transform,
        "stack_facts": np.array(
            [median["fwhm"], median["level"], SIGMA_TO_FWHM * median["semiminor_sigma"], of_stacked]
        ),
    }


def median_of(values: np.ndarray) -> float:
    """Median of the finite values; NaN where there is none."""
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")
