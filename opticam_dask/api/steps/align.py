"""Choice of the reference frame, and alignment of all frames to it, whose results can be kept in memory."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains, tasks
from opticam_dask.api.steps.frames import (
    chain_of,
    gathered_over,
    grown_by,
    require_reference,
    shared_of,
    step,
    with_chain,
)
from opticam_dask.api.steps.reading import probing_tasks, rebased
from opticam_dask.cluster import blocks
from opticam_dask.kernels.images.stack import stack_selection
from opticam_dask.pipeline import plan
from opticam_dask.pipeline.stages import references


@step
def reference(
    ds: xr.Dataset,
    *,
    frame: int | Literal["best"] = "best",
    n_alignment_sources: int = 30,
    transform_type: Any = "affine",
) -> xr.Dataset:
    """Stars of the frame that all others are aligned to.

    Parameters
    ----------
    ds : Dataset
        Frames with their sources, as `detect` returns them.
    frame : int or "best"
        Index of the frame along ``frame``; ``"best"`` is that of 9 evenly spaced ones of the first night which matches
        the others best, as in a reduction.
    n_alignment_sources : int
        How many of the brightest stars are used.
    transform_type : {"affine", "translation"}
        Kind of transform between frames: affine, or a shift alone; `align` uses the same.

    Returns
    -------
    Dataset
        ``alignment_x``, ``alignment_y``, ``alignment_flux`` (alignment_source), NaN-padded; ``reference_index`` (place
        of the frame) and ``reference_facts``, lazily if the frames are.

    Raises
    ------
    ValueError
        When no source was looked for yet, or there is no such frame.
    """
    chain = chain_of(ds, chains.DETECTED, "reference")
    n_frames = ds.sizes["frame"]
    if frame == "best":
        night = ds["night"].to_numpy().astype(str)
        names, counts = np.unique(night, return_counts=True)
        first = plan.credible_nights(dict(zip(names.tolist(), counts.tolist(), strict=True)))[0]
        of_night = np.flatnonzero(night == first)
        chosen = of_night[stack_selection(len(of_night), references.N_PROBES)]
    elif isinstance(frame, (int, np.integer)) and not isinstance(frame, bool) and -n_frames <= frame < n_frames:
        chosen = np.array([int(frame) % n_frames])
    else:
        raise ValueError(f'reference expected "best" or a frame of the {n_frames} there are, got {frame!r}')
    parameters = {"n_alignment_sources": n_alignment_sources, "transform_type": transform_type}
    task = tasks.ProbeTask(chain.further(chains.DETECTED, parameters=parameters), "probe")
    probed, masters = rebased(ds).isel(frame=chosen), shared_of(ds, chain, chains.CALIBRATED)
    chunks = ds["raw"].chunks[0] if ds["raw"].chunks else (n_frames,)
    n_surveyed = len(stack_selection(n_frames, chain.parameters.stack_frames))
    n_tasks = probing_tasks(len(chosen), n_surveyed, chunks, blocks.n_inputs(masters))
    finish = functools.partial(tasks.probed, transform_type=transform_type, n_alignment_sources=n_alignment_sources)
    record = gathered_over(task, probed, n_tasks=n_tasks, merge=_flat, finish=finish, index=chosen)
    dim = ("alignment_source",)
    found: dict[str, Any] = {}
    for name in ("alignment_x", "alignment_y", "alignment_flux"):
        values = blocks.picked_one(record, name, (n_alignment_sources,), float)
        found[name] = (dim, values, schema.variable("reference", name).all_attributes())
    found["reference_facts"] = (
        "fact",
        blocks.picked_one(record, "reference_facts", (len(chains.REFERENCE_FACTS),), float),
    )
    found["reference_index"] = ((), blocks.picked_one(record, "reference_index", (), np.int64))
    dataset = xr.Dataset(found, coords={"fact": list(chains.REFERENCE_FACTS)}, attrs=dict(ds.attrs))
    return dataset.assign_attrs(n_alignment_sources=n_alignment_sources, transform_type=transform_type)


def _flat(probes: list[Any]) -> list[Any]:
    return [one for some in probes for one in some]


@step
def align(
    ds: xr.Dataset,
    ref: xr.Dataset,
    *,
    rotation_limit: float | None = None,
    translation_limit: float | tuple[float, float] | None = None,
    scale_limit: float | None = None,
    merge: bool = True,
) -> xr.Dataset:
    """Transform from the reference frame to each frame.

    Parameters
    ----------
    ds : Dataset
        Frames with their sources, as `detect` returns them.
    ref : Dataset
        Reference stars, as `reference` returns them.
    rotation_limit, translation_limit, scale_limit : float, optional
        Frames that are rotated (degrees), shifted along x or y (pixels) or scaled (factor above 1) by more are set
        aside; None is no limit.
    merge : bool
        Add the results to ``ds``; otherwise they are returned alone.

    Returns
    -------
    Dataset
        ``transform`` (frame, row, column), reference to frame; ``transform_rms``, ``n_matched``, ``flags``, ``fwhm``
        and form (``star_...``, ``form_terms``) of the stars of the reference frame, and what the mesh leaves behind.

    Raises
    ------
    ValueError
        When no source was looked for yet, or the reference is of another camera.
    """
    chain = chain_of(ds, chains.DETECTED, "align")
    require_reference("align", ref, ds)
    parameters = {
        "rotation_limit": rotation_limit,
        "translation_limit": translation_limit,
        "scale_limit": scale_limit,
        "n_alignment_sources": ref.attrs["n_alignment_sources"],
        "transform_type": ref.attrs["transform_type"],
    }
    chain = chain.further(chains.ALIGNED, parameters=parameters)
    ds = ds.assign_coords(
        {name: ref[name].variable for name in ("alignment_x", "alignment_y", "alignment_flux", "reference_facts")}
    )
    return grown_by(ds, chain, "align", chain.survey_names, merge)


@step
def persist(ds: xr.Dataset) -> xr.Dataset:
    """Compute the results of the steps for every frame once, and keep them; pixels are not kept.

    Stacks, catalogues and light curves of the dataset, or of a part of it, then take it as it is. Without this, each of
    them searches and aligns its frames again when it is computed.

    Parameters
    ----------
    ds : Dataset
        Aligned frames, as `align` returns them.

    Returns
    -------
    Dataset
        The same values; in the memory of the workers where there is a ``Client``, of this process otherwise: meshes,
        detections and a transform for each frame.

    Raises
    ------
    ValueError
        When the frames are not aligned.
    """
    chain = chain_of(ds, chains.ALIGNED, "persist")
    beside = ("alignment_x", "alignment_y", "alignment_flux", "reference_facts")
    names = [name for name in (*chain.survey_names, *beside) if name in ds]
    values = blocks.kept(*(ds[name].data for name in names))
    kept = {name: ds[name].copy(data=one) for name, one in zip(names, values, strict=True)}
    return with_chain(ds.assign(kept), replace(chain, is_known=True))
