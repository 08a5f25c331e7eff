"""Results of the steps, computed once and kept in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask.api.steps import chains
from opticam_dask.api.steps.frames import (
    KEPT,
    KeptRecords,
    chain_of,
    names_of_frames,
    records_of_aligned,
    with_chain,
)
from opticam_dask.api.steps.tasks import FoundTask
from opticam_dask.cluster import blocks

#: Results of aligned frames are kept by `catalog` where all of them take up no more than this (bytes).
_MOST_KEPT = 2**29


def persist(ds: xr.Dataset) -> xr.Dataset:
    """Compute the results of the steps for every frame once, and keep them; pixels are not kept.

    Stacks, catalogues and light curves of the dataset, or of a part of it, then take it as it is. Without this, each
    of them that is computed for itself searches and aligns its frames again.

    Parameters
    ----------
    ds : Dataset
        Of `align`.

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


def computed_and_kept(ds: xr.Dataset | None, *arrays: Any) -> tuple[np.ndarray, ...]:
    """Values of arrays that come from aligned frames; what was found out about these is kept beside the dataset.

    Light curves of the same frames, or of some of them, take it from there: each frame is aligned once. Nothing is kept
    where it is known already, or would take up too much memory.
    """
    if ds is None or not all(map(blocks.is_lazy, arrays)):
        return blocks.computed(*arrays)
    chain = chain_of(ds, chains.ALIGNED, "catalog")
    known = [ds[name] for name in chain.survey_names if name in ds]
    n_bytes = sum(one.dtype.itemsize * math.prod(one.shape) for one in known)
    if chain.is_known or n_bytes > _MOST_KEPT or KEPT in ds.encoding:
        return blocks.computed(*arrays)
    *kept, records = blocks.kept(*arrays, records_of_aligned(FoundTask(chain, "keep"), ds))
    ds.encoding[KEPT] = KeptRecords(chain, names_of_frames(ds), records)
    return blocks.computed(*kept)
