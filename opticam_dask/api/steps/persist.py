"""Results of the steps, computed once and kept in memory."""

from __future__ import annotations

from dataclasses import replace

import xarray as xr

from opticam_dask.api.steps import chains
from opticam_dask.api.steps.frames import chain_of, with_chain
from opticam_dask.cluster import blocks


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
