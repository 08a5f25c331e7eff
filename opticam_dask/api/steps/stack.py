"""The stack of aligned frames."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains, tasks
from opticam_dask.api.steps.chains import Chain
from opticam_dask.api.steps.frames import (
    CHAIN,
    SURVEY,
    chain_of,
    found_before,
    gathered_over,
    placeholders,
    require_reference,
    shared_of,
    step,
    with_image,
)
from opticam_dask.api.steps.reading import probing_and_joining, probing_tasks, rebased, survey_tasks
from opticam_dask.cluster import blocks
from opticam_dask.kernels.images import lasting
from opticam_dask.kernels.images.stack import combine_groups, mean_rms, mean_width, stack_groups, stack_selection
from opticam_dask.kernels.robust import finite_median
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM
from opticam_dask.lightcurves.indexes import pixel_coordinates
from opticam_dask.passes import star_profiles
from opticam_dask.pipeline.stages import references

#: What is found out about frames that are stacked is kept for their light curves where it takes up no more than this
#: (bytes), as every worker needs it; beyond it they are aligned again when they are measured, as all others are.
_MOST_KEPT = 2**27


@step
def stack(ds: xr.Dataset, ref: xr.Dataset | None = None, *, stack_frames: int = 256) -> xr.Dataset:
    """Mean of the aligned frames on the grid of the reference frame, without light that only a few of them show.

    Parameters
    ----------
    ds : Dataset
        Aligned frames, as `align` returns them.
    ref : Dataset, optional
        Reference stars, as `reference` returns them; by default those that the frames are aligned to.
    stack_frames : int
        The most frames that are stacked, evenly spaced; 0 stacks all.

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
        require_reference("stack", ref, ds)
    replace(chain.parameters, stack_frames=stack_frames)  # which says what is wrong with a number
    n_frames = ds.sizes["frame"]
    record, keeps = _survey(ds, chain, stack_frames)
    shape = chain.steps(placeholders(ds, chain)).image_shape
    n_stacked = len(stack_selection(n_frames, stack_frames))
    found: dict[str, Any] = {}
    for name in ("image", "coverage"):
        entry = schema.variable("stack", name)
        found[name] = (entry.dims, blocks.picked_one(record, name, shape, entry.dtype), entry.all_attributes())
    for name, dims, sizes in (
        ("frame_rms", ("stacked",), (n_stacked,)),
        ("transform", ("stacked", "row", "column"), (n_stacked, 3, 3)),
        ("stack_facts", ("stack_fact",), (4,)),
        ("bad_pixel", ("bad",), (lasting.most_bad(math.prod(shape)),)),
    ):
        dtype = np.int64 if name == "bad_pixel" else float
        found[name] = (dims, blocks.picked_one(record, name, sizes, dtype))
    dataset = xr.Dataset(
        found,
        coords={"stack_fact": ["seeing", "saturation", "sharpest", "rms"]} | pixel_coordinates(shape),
        attrs=dict(ds.attrs),
    )
    surveyed = blocks.picked_one(record, "survey", (), object)
    dataset.encoding = {CHAIN: chain, SURVEY: StackSurvey(ds, surveyed, keeps, stack_frames)}
    return with_image(dataset)


@dataclass(frozen=True, eq=False)
class StackSurvey:
    """Survey of the frames of a stack, which the catalogue is made of as well.

    Attributes
    ----------
    frames : Dataset
        Aligned frames of which some are stacked.
    surveyed : array of object, shape ()
        What the survey found about the frames that are stacked, a `Surveyed`.
    keeps : bool
        Whether ``surveyed`` keeps the results of every step, not only those that a stack needs.
    stack_frames : int
        The most frames that are stacked.
    """

    frames: xr.Dataset
    surveyed: Any
    keeps: bool
    stack_frames: int


def _survey(ds: xr.Dataset, chain: Chain, stack_frames: int) -> tuple[Any, bool]:
    """Record of the stack, and whether it keeps what was found out about the frames that are stacked."""
    n_frames = ds.sizes["frame"]
    groups = stack_groups(0, n_frames, n_frames, stack_frames)
    is_sampled, is_searched = (
        np.isin(np.arange(n_frames), some.candidates(n_frames, stack_frames)) for some in (star_profiles, lasting)
    )
    chosen = np.flatnonzero(groups >= 0)
    known = [ds[name] for name in chain.survey_names if name in ds]
    n_bytes = sum(one.dtype.itemsize * math.prod(one.shape[1:]) for one in known) * len(chosen)
    keeps = not chain.is_known and n_bytes <= _MOST_KEPT
    before, names = found_before(ds)
    record = gathered_over(
        tasks.SurveyTask(chain, "survey", before, keeps),
        ds if len(chosen) == n_frames else rebased(ds).isel(frame=chosen),
        names,
        n_tasks=_n_tasks(ds, chain, len(chosen)),
        merge=tasks.add_surveys,
        finish=_stacked,
        index=chosen,
        stack_group=groups[chosen],
        is_sampled=is_sampled[chosen],
        is_searched=is_searched[chosen],
    )
    return record, keeps


def _n_tasks(ds: xr.Dataset, chain: Chain, n_surveyed: int) -> int:
    """Number of tasks that survey ``n_surveyed`` frames, where the tasks read them."""
    chunks = ds["raw"].chunks[0] if ds["raw"].chunks else (ds.sizes["frame"],)
    masters, shared = (shared_of(ds, chain, depth) for depth in (chains.CALIBRATED, chains.ALIGNED))
    n_given = blocks.n_inputs(shared)
    if blocks.is_lazy(shared[-1]):
        n_probing = probing_tasks(references.N_PROBES, n_surveyed, chunks, blocks.n_inputs(masters))
        n_given += probing_and_joining(n_probing) - 1
    return survey_tasks(n_surveyed, chunks, n_given)


def _stacked(survey: tasks.Surveyed) -> dict[str, Any]:
    """Stack from the sums of its groups of frames, and numbers about the frames that went into it."""
    sums, facts = survey.sums, survey.facts
    frames = [facts[index] for index in sorted(facts)]
    of_groups = {
        group: [f["background_rms"] for f in frames if f["group"] == group and f["is_stacked"]] for group in sums
    }
    rms = np.array([mean_rms(np.array(of_groups[group])) for group in sorted(sums)])
    image, coverage = combine_groups([sums[group] for group in sorted(sums)], rms)
    used = [f for f in frames if f["is_stacked"] and np.isfinite(f["transform"]).all()]
    transform = np.full((len(frames), 3, 3), np.nan)
    transform[: len(used)] = [f["transform"] for f in used] if used else np.nan
    seeing, level = (finite_median(np.array([f[name] for f in frames])) for name in ("fwhm", "level"))
    sharpest = SIGMA_TO_FWHM * mean_width(np.array([f["semiminor_sigma"] for f in frames]))
    bad, most = lasting.bad_all_night(survey.sharp.values(), coverage.shape), lasting.most_bad(coverage.size)
    of_stacked = mean_rms(np.array([f["background_rms"] for f in used]))
    return {
        "survey": replace(survey, sums={}, sharp={}),  # what the catalogue needs
        "image": image,
        "coverage": coverage,
        "frame_rms": np.array([f["background_rms"] for f in frames]),
        "transform": transform,
        "bad_pixel": np.append(bad, np.full(most - len(bad), -1)),
        "stack_facts": np.array([seeing, level, sharpest, of_stacked]),
    }
