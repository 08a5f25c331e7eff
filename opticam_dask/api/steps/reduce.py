"""Durable reduction of the frames of a dataset into a Zarr store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from opticam_dask.api.reducer import Reducer
from opticam_dask.api.steps.frames import chain_of, step
from opticam_dask.cluster import connections
from opticam_dask.lightcurves.results import open_reduction
from opticam_dask.methods.frame_view import Photometer
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import parameter_names


@step
def reduce(ds: xr.Dataset, to: str | Path, *photometers: Photometer, client: Any = None, **options: Any) -> xr.DataTree:
    """The durable reduction of the frames of a dataset with the parameters of its steps.

    Parameters
    ----------
    ds : Dataset
        Frames that steps have been through, or just opened ones; they are read from their files again.
    to : path
        Output directory.
    *photometers : Photometer
        By default `AperturePhotometer`.
    client : Client or str, optional
        Where blocks run: a Dask client, the address of a scheduler, or ``"none"`` for this process; by default the
        ``Client`` that you have connected, if there is one.
    **options
        Further arguments of :class:`~opticam_dask.Reducer`.

    Returns
    -------
    DataTree
        The reduction, opened.

    Raises
    ------
    ValueError
        When the frames are not from files, or calibrated with master frames: the Reducer takes their directories.
    """
    chain = chain_of(ds, 0, "reduce")
    if chain.masters:
        raise ValueError(
            "reduce expected frames without masters: give Reducer the directories of biases, darks and flats"
        )
    chosen = chain.parameters
    usual = type(chosen)()
    given = {name: value for name in parameter_names() if (value := getattr(chosen, name)) != getattr(usual, name)}
    if chain.setup.image_filter is not None:
        given["image_filter"] = chain.setup.image_filter
    reducer = Reducer(
        to,
        list(ds["file"].to_numpy()),
        instrument=chain.setup.instrument,
        background=chain.setup.background,
        finder=chain.setup.finder,
        client=connections.current_client() if client is None else client,
        **{**given, **options},
    )
    reducer.create_catalogs()
    reducer.photometry(list(photometers) or [AperturePhotometer()])
    return open_reduction(to)
