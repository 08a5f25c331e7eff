"""Differential light curves from any selection of light curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr

from opticam_dask.cluster import blocks
from opticam_dask.lightcurves.curation.marks import COMPARISON_MARK
from opticam_dask.lightcurves.differential import Comparing, check_relative, compute_relative, relative_dataset
from opticam_dask.lightcurves.field.conditions import CONDITIONS
from opticam_dask.lightcurves.indexes import with_indexes
from opticam_dask.lightcurves.targets import numbers_in


def relative(
    lc: xr.Dataset,
    target: int | str,
    comparisons: int | str | Sequence[int | str] | Literal["auto"] = "auto",
    **options: Any,
) -> xr.Dataset:
    """Differential light curve from any selection of light curves, lazily where they are lazy.

    Parameters
    ----------
    lc : Dataset
        Light curves, as `photometry` or :func:`~opticam_dask.light_curves` return them, or a part of them by time,
        night, source or flag.
    target : int or str
        Number of the target in the catalogue, or its name where the light curves have names.
    comparisons : int or str, sequence of them, or "auto"
        Numbers or names of the comparisons.
    **options
        ``weighting``, ``detrend``, ``detrend_without``, ``outliers``, ``without`` as of
        :func:`~opticam_dask.relative_light_curve`.

    Returns
    -------
    Dataset
        ``relative_flux``, ``relative_flux_err`` and ``flags`` along ``frame``, and ``radius`` where there are several,
        each by comparisons of its own where these are chosen; ``time`` is an index. What is found out
        with the fluxes stands in the attributes where these are in memory (``comparisons`` that were chosen and why,
        ``weights``, ``detrend``); of lazy light curves and with several radii, ``weight`` along ``source``
        says who the comparisons are.

    Raises
    ------
    ValueError
        When these are no light curves, the selection is empty, or a source is not in it or was never measured.
    """
    if not isinstance(lc, xr.Dataset) or not {"flux", "flux_err", "flags", "source_id"} <= set(lc.variables):
        raise ValueError("relative expected light curves (flux, flux_err, flags): use photometry or light_curves first")
    if not lc.sizes.get("frame") or lc.sizes.get("source", 0) < 2:
        raise ValueError(
            "relative expected at least one frame along frame and two sources along source, the selection has less"
        )
    lc = lc.transpose("frame", "source", ...)
    known = {name: lc[name].to_numpy() for name in ("source_id", "name") if name in lc.variables}
    key = str(lc.attrs.get("key", "this key"))
    (number,) = numbers_in(known, key, [target])
    chosen: Any = comparisons
    if not (isinstance(comparisons, str) and comparisons == "auto"):
        chosen = numbers_in(known, key, comparisons)
        if {number, *chosen} <= set(known["source_id"].tolist()):
            lc = lc.isel(source=np.flatnonzero(np.isin(known["source_id"], [number, *chosen])))
    if "radius" in lc.dims:
        each = [
            _weighted(relative(lc.isel(radius=row), number, chosen, **options), lc["source_id"])
            for row in range(lc.sizes["radius"])
        ]
        joined = xr.concat(each, lc["radius"], data_vars="all", coords="minimal", compat="override", join="override",
                           combine_attrs="drop_conflicts")  # fmt: skip
        return joined.transpose("frame", ..., "radius")
    if all(one.chunks is None for one in lc.variables.values()):
        return compute_relative(_measured(lc.load()), number, chosen, **options)
    check_relative(lc, number, chosen, Comparing(**options))
    return _lazily(lc, number, chosen, options)


#: Of light curves, what a relative flux is computed from and labelled with.
_NEEDED = (
    *(
        "flux",
        "flux_err",
        "flags",
        "marks",
        "source_id",
        COMPARISON_MARK,
        "mjd_utc",
        "bmjd_tdb",
        "night",
        "time",
        "source",
    ),
    *(*CONDITIONS, "frame_background"),
)


def _lazily(lc: xr.Dataset, target: int, comparisons: Any, options: dict[str, Any]) -> xr.Dataset:
    """The differential light curve as one task, which needs the fluxes of all frames."""
    part = lc.drop_vars([name for name in lc.variables if name not in _NEEDED])
    lazy = {str(name): one for name, one in part.variables.items() if one.chunks is not None}
    about = {name: (one.dims, dict(one.attrs)) for name, one in lazy.items()}
    task = RelativeTask(part.drop_vars(list(lazy)), about, target, comparisons, options)
    record = blocks.whole(task, *(one.data for one in lazy.values()))
    types = {"relative_flux": float, "relative_flux_err": float, "flags": np.uint32}
    types |= {"marks": np.uint8} if "marks" in part else {}
    n_frames, numbers = part.sizes["frame"], part["source_id"].to_numpy()
    found = {name: blocks.picked_one(record, name, (n_frames,), dtype) for name, dtype in types.items()}
    curve = relative_dataset(part.isel(source=[numbers.tolist().index(target)]), found)
    curve = _weighted(curve, part["source_id"], blocks.picked_one(record, "weight", (len(numbers),), float))
    kept = {name: lc.attrs[name] for name in ("key", "label", "radius") if name in lc.attrs}
    named = {} if isinstance(comparisons, str) else {"comparisons": comparisons}
    return curve.assign_attrs(kept | {"target": target, "weighting": options.get("weighting", "sum")} | named)


@dataclass(frozen=True, eq=False)
class RelativeTask:
    """Makes a differential light curve of the lazy variables of light curves.

    Attributes
    ----------
    others : Dataset
        The other variables.
    about : dict of (tuple of str, dict)
        Dims and attributes of the lazy ones, by name.
    target, comparisons, options
        Numbers of the target and of its comparisons, and options: arguments of `compute_relative`.
    """

    others: xr.Dataset
    about: Mapping[str, tuple[tuple[Any, ...], dict[str, Any]]]
    target: int
    comparisons: Any
    options: Mapping[str, Any]
    name: ClassVar[str] = "relative"

    def __call__(self, *arrays: np.ndarray) -> dict[str, Any]:
        """Values along ``frame`` by name, and the weight of each source."""
        pairs = zip(self.about.items(), arrays, strict=True)
        lazy = {name: xr.Variable(dims, values, attrs) for (name, (dims, attrs)), values in pairs}
        coords = {
            name: one for name, one in lazy.items() if name not in ("flux", "flux_err", "flags", "marks", "x", "y")
        }
        lc = self.others.assign_coords(coords).assign({name: one for name, one in lazy.items() if name not in coords})
        curve = compute_relative(_measured(lc), self.target, self.comparisons, **self.options)
        found = {str(name): one.to_numpy() for name, one in curve.data_vars.items()}
        return found | {"weight": _weights(curve, lc["source_id"])}


def _measured(lc: xr.Dataset) -> xr.Dataset:
    """Light curves in memory, without the empty slots of the catalogue, which are never measured."""
    is_there = lc["flags"].to_numpy().any(axis=0) | np.isfinite(lc["flux"].to_numpy()).any(axis=0)
    return lc if is_there.all() or not is_there.any() else lc.isel(source=is_there)


def _weights(curve: xr.Dataset, source_id: xr.DataArray) -> np.ndarray:
    """Weight of each source in a differential light curve in memory; 0 for all but its comparisons."""
    weights = dict(zip(curve.attrs["comparisons"], curve.attrs["weights"], strict=True))
    return np.array([weights.get(number, 0.0) for number in source_id.to_numpy().tolist()])


def _weighted(curve: xr.Dataset, source_id: xr.DataArray, weight: Any = None) -> xr.Dataset:
    """A differential light curve with given weights of its sources, by default the weights in its attributes."""
    if "weight" in curve:
        return curve
    attributes = {"units": "1", "long_name": "weight as a comparison; 0 for all other sources"}
    values = _weights(curve, source_id) if weight is None else weight
    return with_indexes(curve.assign(weight=("source", values, attributes)).assign_coords(source_id=source_id))
