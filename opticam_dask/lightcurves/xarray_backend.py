"""The xarray engine for directories of frames: ``xr.open_dataset(directory, engine="opticam")``.

xarray imports this module whenever it looks for an engine, so heavy packages are imported inside its functions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

if TYPE_CHECKING:
    from opticam_dask.frames.instruments import Instrument
    from opticam_dask.lightcurves.results import ObservedCamera

_SUFFIXES = (".fits", ".fit", ".fts")

#: This many entries of a directory are looked at to guess whether it holds frames.
_LOOKED_AT = 100


class _LazyFrames(BackendArray):
    """Frames of one camera, each read when it is asked for."""

    def __init__(self, observed: ObservedCamera) -> None:
        self._observed = observed
        self.shape = (len(observed.files), *observed.shape)
        self.dtype = observed.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.typing.ArrayLike:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        chosen, rows, columns = key
        numbers = np.arange(self.shape[0])[chosen]
        images = [self._image(int(number))[rows][..., columns] for number in np.atleast_1d(numbers)]
        if not images:
            return np.empty((0, *np.empty(self.shape[1:], np.uint8)[rows][..., columns].shape), self.dtype)
        return np.stack(images) if np.ndim(numbers) else images[0]

    def _image(self, number: int) -> np.ndarray:
        file, shape = self._observed.files[number], self._observed.shape
        image = np.asarray(self._observed.reader.read(file), dtype=self.dtype)
        if image.shape != shape:
            raise ValueError(f"{file} has shape {image.shape}, {shape} was expected: open the directory again.")
        return image


class OpticamBackend(BackendEntrypoint):
    """Opens FITS frames, or directories of them with everything below them.

    ``xr.open_dataset(directory, engine="opticam", key="1:g", instrument=...)`` gives the frames of one camera as
    ``image (frame, y, x)`` with coordinates along ``frame``. Without ``key``, and with several cameras, names get the
    camera key: ``image_1_g (frame_1_g, y_1_g, x_1_g)``; ``xr.open_datatree`` gives a branch a camera instead (``1-g``).
    Headers are read at once, pixels when they are asked for, with ``chunks={}`` as one Dask chunk a frame.
    """

    description = "Frames of the OPTICAM cameras, or of another instrument, as FITS files"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "key", "instrument")
    supports_groups = True

    def open_dataset(  # type: ignore[override]  # each engine has options of its own
        self,
        filename_or_obj: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        drop_variables: str | Iterable[str] | None = None,
        key: str | None = None,
        instrument: Instrument | None = None,
    ) -> xr.Dataset:
        """Open the frames of a directory lazily.

        Parameters
        ----------
        filename_or_obj : path or sequence of path
            Directories or files, of this machine or remote (``s3://...``).
        drop_variables : str or iterable of str, optional
            Variables that are left out.
        key : str, optional
            Camera key such as ``1:g`` (``1-g`` works as well, and ``g`` where one camera has this filter).
        instrument : Instrument, optional
            What the headers mean; by default ``OPTICAM_MX``.

        Raises
        ------
        FileNotFoundError
            When a path does not exist.
        ValueError
            When there is no usable frame, or no such key.
        """
        observed = _observed(filename_or_obj, instrument)
        if key is not None:
            from opticam_dask.store.store import key_of

            name = key_of(key, list(observed), filename_or_obj)
            observed = {name: observed[name]}
        if len(observed) == 1:
            (dataset,) = (_dataset(one) for one in observed.values())
        else:
            dataset = xr.merge([_suffixed(name, _dataset(one)) for name, one in observed.items()])
        return _without(dataset, drop_variables)

    def open_groups_as_dict(  # type: ignore[override]  # each engine has options of its own
        self,
        filename_or_obj: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        drop_variables: str | Iterable[str] | None = None,
        instrument: Instrument | None = None,
    ) -> dict[str, xr.Dataset]:
        """Open the frames of a directory lazily, a group a camera (``/1-g``)."""
        from opticam_dask.store.camera import group_name

        observed = _observed(filename_or_obj, instrument)
        groups = {f"/{group_name(name)}": _without(_dataset(one), drop_variables) for name, one in observed.items()}
        return {"/": xr.Dataset(), **groups}

    def open_datatree(  # type: ignore[override]  # each engine has options of its own
        self,
        filename_or_obj: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        drop_variables: str | Iterable[str] | None = None,
        instrument: Instrument | None = None,
    ) -> xr.DataTree:
        """Open the frames of a directory lazily, a branch a camera (``1-g``)."""
        groups = self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables, instrument=instrument)
        return xr.DataTree.from_dict(groups)

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether this is a directory with frames right in it, and no store of Zarr. Files are left to others."""
        if not isinstance(filename_or_obj, (str, os.PathLike)) or not os.path.isdir(filename_or_obj):
            return False
        directory = Path(filename_or_obj)
        with os.scandir(directory) as entries:
            names = [entry.name.lower() for entry, _ in zip(entries, range(_LOOKED_AT), strict=False)]
        if any((directory / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata")):
            return False
        return any(name.removesuffix(".gz").removesuffix(".fz").endswith(_SUFFIXES) for name in names)


def _observed(paths: Any, instrument: Instrument | None) -> dict[str, ObservedCamera]:
    from opticam_dask.lightcurves import results

    given = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    return results.observed_cameras([os.fspath(path) for path in given], instrument)


def _dataset(observed: ObservedCamera) -> xr.Dataset:
    ny, nx = observed.shape
    image = xr.Variable(
        ("frame", "y", "x"),
        indexing.LazilyIndexedArray(_LazyFrames(observed)),
        {"units": observed.attributes["units"], "long_name": "frames as they were read"},
        {"preferred_chunks": {"frame": 1, "y": ny, "x": nx}, "dtype": observed.dtype},
    )
    attributes = {name: value for name, value in observed.attributes.items() if name != "units"}
    return xr.Dataset({"image": image}, coords=observed.coordinates, attrs=attributes).set_xindex("time")


def _suffixed(key: str, dataset: xr.Dataset) -> xr.Dataset:
    """Dataset with the camera key in the names of variables and dimensions: cameras differ in number of frames."""
    suffix = "".join(one if one.isalnum() else "_" for one in key)
    names = [*dataset.variables, *dataset.dims]
    renamed = dataset.rename({name: f"{name}_{suffix}" for name in names}).drop_attrs(deep=False)
    renamed[f"image_{suffix}"].attrs.update(dataset.attrs)
    return renamed


def _without(dataset: xr.Dataset, names: str | Iterable[str] | None) -> xr.Dataset:
    if names is None:
        return dataset
    dropped = [names] if isinstance(names, str) else list(names)
    return dataset.drop_vars(dropped, errors="ignore")
