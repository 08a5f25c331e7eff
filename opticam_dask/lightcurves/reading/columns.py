"""Named arrays of light curves, without xarray.

xarray, pandas and ``dask.array`` take longer to import than a night of light curves takes to read, divide and write.
What is computed of light curves is computed of these; the functions that people call hand out Datasets, made of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask import schema

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False)
class NamedArray:
    """One array with the names of its dimensions; what reads it is called when the values are asked for, once.

    Attributes
    ----------
    dims : tuple of str
        Names of the dimensions.
    get : callable
        Gives the values, of NumPy or Dask.
    attrs : dict
        Unit and the like.
    """

    dims: tuple[str, ...]
    get: Callable[[], Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, dims: Collection[str], values: Any, attrs: Mapping[Any, Any] | None = None) -> NamedArray:
        """A column of values in memory, or of a Dask array."""
        return cls(tuple(dims), lambda: values, dict(attrs or {}))

    @functools.cached_property
    def data(self) -> Any:
        """The values, of NumPy or Dask."""
        return self.get()

    def to_numpy(self) -> np.ndarray:
        """The values in memory."""
        return np.asarray(self.data)

    def passed_on(self) -> Any:
        """The values, for a column made from this one; unlike ``data`` they are not kept in memory here."""
        return vars(self)["data"] if "data" in vars(self) else self.get()

    def mapped(self, function: Callable[[Any], Any]) -> NamedArray:
        """The column with other values of the same shape, computed when they are asked for."""
        return replace(self, get=lambda: function(self.passed_on()))

    def isel(self, chosen: Mapping[str, Any]) -> NamedArray:
        """Some of the values, by dimension: a number, a slice, or an array of numbers."""
        keys = [(axis, chosen[dim]) for axis, dim in enumerate(self.dims) if dim in chosen]
        if not keys:
            return self

        def taken() -> Any:
            values = self.data
            for axis, key in reversed(keys):  # a number takes its dimension away
                values = values[(slice(None),) * axis + (key,)]
            return np.ascontiguousarray(values) if isinstance(values, np.ndarray) and values.ndim else values

        left = tuple(dim for dim in self.dims if not isinstance(chosen.get(dim), (int, np.integer)))
        return replace(self, dims=left, get=taken)


@dataclass(frozen=True, eq=False)
class CurveArrays:
    """Columns along ``frame`` and ``source``, with the few words of an xarray Dataset that light curves need.

    Attributes
    ----------
    columns : dict of NamedArray
        By name.
    coords : tuple of str
        Columns that are coordinates.
    sizes : dict of int
        Lengths of the dimensions.
    attrs : dict
        Attributes of the whole, such as camera key and label.
    """

    columns: Mapping[str, NamedArray]
    coords: tuple[str, ...]
    sizes: Mapping[str, int]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: xr.Dataset) -> CurveArrays:
        """Columns of a Dataset; Dask arrays stay lazy. Its indexes are left out: :meth:`to_xarray` makes them again."""
        made = ("time", "source")
        columns = {
            str(name): NamedArray.of(tuple(map(str, one.dims)), one.data, one.attrs)
            for name, one in dataset.variables.items()
            if name not in made
        }
        coords = tuple(str(name) for name in dataset.coords if name not in made)
        return cls(columns, coords, {str(dim): size for dim, size in dataset.sizes.items()}, dict(dataset.attrs))

    def __getitem__(self, name: str) -> NamedArray:
        return self.columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    @property
    def variables(self) -> Mapping[str, NamedArray]:
        """All columns."""
        return self.columns

    @property
    def data_vars(self) -> list[str]:
        """Names of the columns that are no coordinates."""
        return [name for name in self.columns if name not in self.coords]

    @property
    def dims(self) -> Collection[str]:
        """Names of the dimensions."""
        return self.sizes.keys()

    def isel(self, **chosen: Any) -> CurveArrays:
        """Some of the frames, sources or radii; nothing is read for it."""
        sizes = dict(self.sizes)
        for dim, key in chosen.items():
            if isinstance(key, (int, np.integer)):
                del sizes[dim]
            else:
                sizes[dim] = len(range(sizes[dim])[key]) if isinstance(key, slice) else _length(np.asarray(key))
        columns = {name: column.isel(chosen) for name, column in self.columns.items()}
        return replace(self, columns=columns, sizes=sizes)

    def assign(self, **columns: NamedArray) -> CurveArrays:
        """With further columns, or others of their names."""
        return replace(self, columns={**self.columns, **columns})

    def assign_coords(self, columns: Mapping[str, NamedArray]) -> CurveArrays:
        """With further coordinates, or others of their names."""
        return replace(self.assign(**columns), coords=tuple(dict.fromkeys((*self.coords, *columns))))

    def assign_attrs(self, attrs: Mapping[str, Any]) -> CurveArrays:
        """With further attributes."""
        return replace(self, attrs={**self.attrs, **attrs})

    def with_attrs(self, attrs: Mapping[str, Any]) -> CurveArrays:
        """With other attributes."""
        return replace(self, attrs=dict(attrs))

    def with_sizes(self, **sizes: int) -> CurveArrays:
        """With other lengths of dimensions, where only some of the sources are read."""
        return replace(self, sizes={**self.sizes, **sizes})

    def only(self, names: Collection[str]) -> CurveArrays:
        """Columns of these names, and all coordinates."""
        kept = {name: one for name, one in self.columns.items() if name in names or name in self.coords}
        return replace(self, columns=kept)

    def to_xarray(self) -> xr.Dataset:
        """As a Dataset, indexed by time and by number of source; Dask arrays stay lazy."""
        import xarray as xr

        from opticam_dask.lightcurves.indexes import in_memory, with_indexes

        made = {name: in_memory(one.dims, one.data, one.attrs) for name, one in self.columns.items()}
        dataset = xr.Dataset(
            {name: made[name] for name in self.data_vars}, {name: made[name] for name in self.coords}, dict(self.attrs)
        )
        return with_indexes(dataset)


def _length(key: np.ndarray) -> int:
    return int(np.count_nonzero(key)) if key.dtype == bool else len(key)


def along(dim: str, values: Mapping[str, np.ndarray], coords: Collection[str] = ()) -> CurveArrays:
    """Columns in memory along one dimension.

    Parameters
    ----------
    dim : str
        Name of the dimension.
    values : dict of ndarray
        Values by name, all of one length.
    coords : collection of str, optional
        Names of those that are coordinates.
    """
    n = len(next(iter(values.values())))
    return CurveArrays({name: NamedArray.of([dim], one) for name, one in values.items()}, tuple(coords), {dim: n})


def together(parts: Sequence[CurveArrays], order: np.ndarray | None = None) -> CurveArrays:
    """Light curves one after the other along ``frame``, with the attributes of the first.

    A variable that only some parts have, such as ``flux_err_sys``, has its fill value in the others.

    Parameters
    ----------
    parts : sequence of CurveArrays
        Of one photometry label.
    order : ndarray of int, shape (frame,), optional
        Numbers of the frames of all parts in the order that is wanted.
    """
    first = parts[0]
    if len(parts) == 1 and order is None:
        return first

    def joined(name: str) -> NamedArray:
        column = next(part[name] for part in parts if name in part)
        if "frame" not in column.dims:
            return column
        axis = column.dims.index("frame")

        def get() -> Any:
            values = np.concatenate(_of_parts(parts, name, column.dims), axis=axis)
            return values if order is None else np.take(values, order, axis=axis)

        return replace(column, get=get)

    return replace(
        first,
        columns={name: joined(name) for name in dict.fromkeys(name for part in parts for name in part)},
        coords=tuple(dict.fromkeys(name for part in parts for name in part.coords)),
        sizes={**first.sizes, "frame": sum(part.sizes["frame"] for part in parts)},
    )


def _of_parts(parts: Sequence[CurveArrays], name: str, dims: Sequence[str]) -> list[Any]:
    """Values of a variable in each part; its fill value, lazy or not as the others are, where a part has none."""
    found = [part[name].passed_on() if name in part else None for part in parts]
    like = next(values for values in found if values is not None)

    def filled(part: CurveArrays) -> Any:
        shape = tuple(part.sizes[dim] for dim in dims)
        return np.full_like(like, schema.variable("photometry", name).fill, shape=shape)

    return [filled(part) if values is None else values for part, values in zip(parts, found, strict=True)]
