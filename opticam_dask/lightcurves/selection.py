"""Parts of light curves and frames: by time, night, source and flag; on every dataset as ``dataset.opticam``.

Flags are told by their names: every array of flags says in its attributes which bit means what (``flag_masks`` and
``flag_meanings`` of the CF conventions). Flags along ``frame`` alone choose frames; flags of single measurements, along
``frame`` and ``source``, blank what was measured. Measurements are not read: they stay as lazy as they were. Of what is
along ``frame`` alone, times, nights and flags are read, if they are asked about.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr

import opticam_dask
from opticam_dask.kernels.units import MJD_OF_1970
from opticam_dask.lightcurves.indexes import by_time
from opticam_dask.lightcurves.interactive_plots import plot_along_time
from opticam_dask.lightcurves.targets import numbers_in, rows_of_sources
from opticam_dask.text import Fold, counted, definitions, table, wrap

TimeLike = float | str | np.datetime64 | None


def select(
    dataset: xr.Dataset,
    *,
    night: str | Iterable[str] | None = None,
    time: tuple[TimeLike, TimeLike] | None = None,
    time_name: str = "mjd_utc",
    source: int | str | Sequence[int | str] | None = None,
    without: str | Iterable[str] = (),
    only: str | Iterable[str] = (),
) -> xr.Dataset:
    """Part of a dataset of light curves or frames, lazily.

    Parameters
    ----------
    dataset : Dataset
        As from :func:`~opticam_dask.light_curves`, or the ``frames`` or ``photometry/<label>`` of a night of
        :func:`~opticam_dask.open_reduction`.
    night : str or iterable of str, optional
        Nights such as ``2024-01-01``.
    time : (start, end), optional
        Frames from ``start`` on and before ``end``; None is no limit. Days (MJD), or UTC as text
        (``2024-01-01T22:30``) or ``numpy.datetime64``. Frames without a time are in no range.
    time_name : str
        Time that ``time`` is about: ``mjd_utc`` or ``bmjd_tdb``.
    source : int or str, or sequence of them, optional
        Numbers of the catalogue or names, in the order that is wanted. A single number takes the dimension away.
    without : str or iterable of str
        Names of flags. Frames that carry one are left out; measurements that carry one are NaN. Once a single source
        is chosen its flags are along ``frame`` alone, and frames in which it carries one are left out.
    only : str or iterable of str
        Names of flags. Only frames that carry one of them stay; of flags of measurements, all others are NaN.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        For a night, source, flag or time that the dataset does not have; the message names those it has.
    """
    if night is not None:
        dataset = dataset.isel(frame=np.flatnonzero(_is_of_nights(dataset, _as_list(night))))
    if time is not None:
        dataset = dataset.isel(frame=np.flatnonzero(_is_within(dataset, time, time_name)))
    if source is not None:
        dataset = dataset.isel(source=_rows_of(dataset, source))
    for names, wanted in ((_as_list(without), False), (_as_list(only), True)):
        if names:
            dataset = _by_flags(dataset, names, wanted)
    return dataset


def flag_arrays(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """Arrays of flags of a dataset, by name: every array whose attributes say what its bits mean."""
    return {str(name): dataset[name] for name, values in dataset.variables.items() if "flag_masks" in values.attrs}


def meanings(flags: xr.DataArray) -> dict[str, int]:
    """Bit mask of each name of an array of flags.

    Raises
    ------
    ValueError
        When the array does not say what its bits mean.
    """
    masks, names = flags.attrs.get("flag_masks"), flags.attrs.get("flag_meanings")
    if masks is None or names is None:
        raise ValueError(
            f"{flags.name!r} has no flag_masks and flag_meanings in its attributes: it is no array of flags"
        )
    return dict(zip(str(names).split(), (int(mask) for mask in np.atleast_1d(masks)), strict=True))


def decode_flags(flags: xr.DataArray) -> xr.Dataset:
    """Array of flags as booleans, a variable for each name, lazily.

    Parameters
    ----------
    flags : DataArray of unsigned int
        With ``flag_masks`` and ``flag_meanings``.

    Returns
    -------
    Dataset
        A boolean variable for each name of ``flag_meanings``, with the dimensions and coordinates of ``flags``.

    Raises
    ------
    ValueError
        When the array does not say what its bits mean.
    """
    plain = flags.drop_attrs()
    return xr.Dataset({name: _has_bits(plain, mask) for name, mask in meanings(flags).items()})


def _has_bits(flags: xr.DataArray, mask: int) -> xr.DataArray:
    return (flags & flags.dtype.type(mask)) != 0


def _as_list(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _is_of_nights(dataset: xr.Dataset, nights: Sequence[str]) -> np.ndarray:
    if "night" not in dataset.coords or dataset["night"].dims != ("frame",):
        raise ValueError("the dataset does not say which night its frames belong to: it is of one night, or no dataset "
                         "of light_curves")  # fmt: skip
    known = dataset["night"].to_numpy().astype(str)
    if unknown := [night for night in nights if night not in known]:
        has = ", ".join(sorted(set(known.tolist()))) or "none"
        raise ValueError(f"no frame of the night {', '.join(unknown)}; there are {has}")
    return np.isin(known, list(nights))


def _is_within(dataset: xr.Dataset, limits: tuple[TimeLike, TimeLike], name: str) -> np.ndarray:
    if name not in dataset.variables:
        raise ValueError(f"the dataset has no time {name!r}")
    if len(limits) != 2:
        raise ValueError(f"time must be (start, end), got {limits!r}")
    first, last = (as_days(value, name) for value in limits)
    times = dataset[name].to_numpy()
    # a time that is not known compares as false
    inside = np.isfinite(times)
    if first is not None:
        inside &= times >= first
    if last is not None:
        inside &= times < last
    return inside


def as_days(value: TimeLike, name: str) -> float | None:
    """Limit of a range of time as days, None where there is none."""
    if value is None:
        return None
    if isinstance(value, (str, np.datetime64)):
        if name != "mjd_utc":
            raise ValueError(f"dates are UTC: give a range of {name} in days")
        try:
            date = np.array(value, dtype="datetime64[us]")
        except ValueError as error:
            raise ValueError(f"time must be days or a date such as 2024-01-01T22:30, got {value!r}") from error
        days = np.nan if np.isnat(date) else float(date.astype(np.int64)) / 86_400e6 + MJD_OF_1970
    else:
        days = float(value)
    if np.isnan(days):
        raise ValueError(f"a limit of time is not known ({value!r}): give None for no limit")
    return days


def _rows_of(dataset: xr.Dataset, source: int | str | Sequence[int | str]) -> int | list[int]:
    """Where sources, by number or name, are along the dimension ``source``."""
    if "source" not in dataset.dims:
        raise ValueError("the dataset has no dimension source to choose from")
    is_one, key = isinstance(source, (int, np.integer, str)), dataset.attrs.get("key", "this key")
    known = {name: dataset[name].to_numpy() for name in ("source_id", "name") if name in dataset.variables}
    rows = rows_of_sources(known["source_id"], numbers_in(known, key, source), key).tolist()
    return rows[0] if is_one else rows


def _by_flags(dataset: xr.Dataset, names: Sequence[str], wanted: bool) -> xr.Dataset:
    """Choose by flags: measurements first, as long as frames are all there."""
    masks = _masks_of(dataset, names)
    cells = {name: mask for name, mask in masks.items() if dataset[name].dims != ("frame",)}
    frames = {name: mask for name, mask in masks.items() if name not in cells}
    for keep in _kept(dataset, cells, wanted):
        dataset = dataset.assign(
            {
                name: values.where(keep).transpose(*values.dims).assign_attrs(values.attrs)
                for name, values in dataset.data_vars.items()
                if set(keep.dims) <= set(values.dims) and values.dtype.kind == "f"
            }
        )
    for keep in _kept(dataset, frames, wanted):
        dataset = dataset.isel(frame=np.flatnonzero(keep.to_numpy()))
    return dataset


def _masks_of(dataset: xr.Dataset, names: Sequence[str]) -> dict[str, int]:
    """Bits that the names mean, by array of flags."""
    known = {name: meanings(values) for name, values in flag_arrays(dataset).items()}
    every = sorted({meaning for bits in known.values() for meaning in bits})
    if unknown := [name for name in names if name not in every]:
        raise ValueError(f"no flag {', '.join(unknown)}; there are {', '.join(every) or 'none'}")
    masks = {array: sum(bits[name] for name in set(names) & set(bits)) for array, bits in known.items()}
    return {array: mask for array, mask in masks.items() if mask}


def _kept(dataset: xr.Dataset, masks: dict[str, int], wanted: bool) -> list[xr.DataArray]:
    """What stays: one array of booleans, or none where no array of flags is asked about."""
    carrying = [_has_bits(dataset[name].drop_attrs(), mask) for name, mask in masks.items()]
    if not carrying:
        return []
    anything = carrying[0]
    for other in carrying[1:]:
        anything = anything | other
    return [anything if wanted else ~anything]


class StepMethods:
    """The steps of a reduction as methods of what they start from.

    Parameters
    ----------
    data : Dataset or DataArray
        A dataset, or the ``image`` of one, in whose place it stands.
    """

    def __init__(self, data: Any) -> None:
        self._data = data

    def subtract_background(self) -> xr.DataArray:
        """Frames without their sky; see :func:`~opticam_dask.subtract_background`."""
        return opticam_dask.subtract_background(self._data)

    def reduce(self, to: Any, *photometers: Any, **options: Any) -> xr.DataTree:
        """The durable reduction of the frames; see :func:`~opticam_dask.reduce`."""
        return opticam_dask.reduce(self._data, to, *photometers, **options)

    def calibrate(self, *given: Any, **options: Any) -> xr.Dataset:
        """Frames in electrons; see :func:`~opticam_dask.calibrate`."""
        return opticam_dask.calibrate(self._data, *given, **options)

    def background(self, *given: Any, **options: Any) -> xr.Dataset:
        """Sky background of each frame; see :func:`~opticam_dask.background`."""
        return opticam_dask.background(self._data, *given, **options)

    def detect(self, *given: Any, **options: Any) -> xr.Dataset:
        """Sources of each frame; see :func:`~opticam_dask.detect`."""
        return opticam_dask.detect(self._data, *given, **options)

    def reference(self, *given: Any, **options: Any) -> xr.Dataset:
        """Stars of the frame that all others are aligned to; see :func:`~opticam_dask.reference`."""
        return opticam_dask.reference(self._data, *given, **options)

    def align(self, *given: Any, **options: Any) -> xr.Dataset:
        """Transform from the reference frame to each frame; see :func:`~opticam_dask.align`."""
        return opticam_dask.align(self._data, *given, **options)

    def persist(self) -> xr.Dataset:
        """Results of the steps, computed once and kept; see :func:`~opticam_dask.persist`."""
        return opticam_dask.persist(self._data)

    def coadd(self, *given: Any, **options: Any) -> xr.Dataset:
        """Sums of a few frames each; see :func:`~opticam_dask.coadd`."""
        return opticam_dask.coadd(self._data, *given, **options)

    def stack(self, *given: Any, **options: Any) -> xr.Dataset:
        """Mean of the aligned frames; see :func:`~opticam_dask.stack`."""
        return opticam_dask.stack(self._data, *given, **options)

    def catalog(self, *given: Any, **options: Any) -> xr.Dataset:
        """Sources of a stack; see :func:`~opticam_dask.catalog`."""
        return opticam_dask.catalog(self._data, *given, **options)

    def add_sources(self, *given: Any, **options: Any) -> xr.Dataset:
        """A catalogue with further sources; see :func:`~opticam_dask.add_sources`."""
        return opticam_dask.add_sources(self._data, *given, **options)

    def photometry(self, *given: Any, **options: Any) -> xr.Dataset:
        """Light curves of the sources of a catalogue; see :func:`~opticam_dask.photometry`."""
        return opticam_dask.photometry(self._data, *given, **options)

    def relative(self, *given: Any, **options: Any) -> xr.Dataset:
        """Differential light curve; see :func:`~opticam_dask.relative`."""
        return opticam_dask.relative(self._data, *given, **options)


@xr.register_dataset_accessor("opticam")
class OpticamAccessor(StepMethods):
    """Methods of a dataset of light curves or frames as ``dataset.opticam``; its display is a summary.

    Parameters
    ----------
    dataset : Dataset
        The dataset.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        super().__init__(dataset)
        self._dataset = dataset

    def select(self, **chosen: Any) -> xr.Dataset:
        """Part of the dataset; see :func:`~opticam_dask.select`."""
        return select(self._dataset, **chosen)

    def flags(self, name: str = "flags") -> xr.Dataset:
        """One array of flags as booleans, a variable for each name; see :func:`decode_flags`.

        Raises
        ------
        ValueError
            When there is no such array of flags.
        """
        known = flag_arrays(self._dataset)
        if name not in known:
            raise ValueError(f"no array of flags {name!r}; there are {', '.join(known) or 'none'}")
        return decode_flags(known[name])

    def by_time(self) -> xr.Dataset:
        """Along ``time`` instead of ``frame``, for ``to_dataframe``."""
        return by_time(self._dataset)

    @property
    def nights(self) -> list[str]:
        """Nights that have frames, in order."""
        if "night" not in self._dataset.coords:
            return []
        return sorted(set(self._dataset["night"].to_numpy().astype(str).ravel().tolist()))

    def _facts(self) -> list[tuple[str, str]]:
        """What can be said without reading anything but times and nights, which are there."""
        dataset, attributes = self._dataset, self._dataset.attrs
        facts = [
            (name, str(attributes[name])) for name in ("key", "label", "target", "comparisons") if name in attributes
        ]
        facts += [(f"{dim}s", f"{size:,}") for dim, size in dataset.sizes.items() if dim in ("frame", "source")]
        if "mjd_utc" in dataset.coords and not dataset["mjd_utc"].chunks:
            times = dataset["mjd_utc"].to_numpy()
            known = times[np.isfinite(times)]
            if len(known):
                facts.append(("MJD (UTC)", f"{known.min():.5f} to {known.max():.5f}"))
        return facts

    def __repr__(self) -> str:
        return f"<opticam: {', '.join(f'{name} {value}' for name, value in self._facts())}>"

    def _repr_html_(self) -> str:
        dataset, folds = self._dataset, []
        if self.nights and dataset["night"].dims == ("frame",):
            names, counts = np.unique(dataset["night"].to_numpy().astype(str), return_counts=True)
            rows = [(str(name), f"{count:,}") for name, count in zip(names, counts, strict=True)]
            folds.append(Fold(counted(len(rows), "night"), table(("night", "frames"), rows)))
        variables = [
            (str(name), ", ".join(map(str, values.dims)), str(values.attrs.get("units", "")),
             str(values.attrs.get("long_name", "")))
            for name, values in dataset.variables.items()
        ]  # fmt: skip
        folds.append(Fold(counted(len(variables), "variable"), table(("name", "dims", "unit", "what"), variables)))
        for name, values in flag_arrays(dataset).items():
            folds.append(Fold(f"names in {name}", table(("flag", "bit"), list(meanings(values).items()))))
        return wrap("Light curves" if "flux" in dataset else "Dataset", definitions(self._facts()), folds)


@xr.register_dataarray_accessor("opticam")
class OpticamArrayAccessor(StepMethods):
    """Methods of the image of frames, of light curves and of flags as ``array.opticam``.

    Parameters
    ----------
    array : DataArray
        The array.
    """

    def __init__(self, array: xr.DataArray) -> None:
        super().__init__(array)
        self._array = array

    def by_time(self) -> xr.DataArray:
        """Along ``time`` instead of ``frame``, for ``to_dataframe``."""
        return by_time(self._array)

    def flags(self) -> xr.Dataset:
        """An array of flags as booleans, a variable for each name; see :func:`decode_flags`."""
        return decode_flags(self._array)


@xr.register_datatree_accessor("opticam")
class OpticamTreeAccessor:
    """Summary of a tree of :func:`~opticam_dask.open_reduction` as ``tree.opticam``.

    Parameters
    ----------
    tree : DataTree
        The tree of a reduction.
    """

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    @property
    def cameras(self) -> dict[str, xr.DataTree]:
        """Branches of the cameras, by camera key."""
        return {str(one.attrs["key"]): one for one in self._tree.children.values() if "key" in one.attrs}

    def _rows(self) -> list[tuple[str, str, int, str]]:
        """Key, night, number of frames and photometry labels of each part."""
        return [
            (key, str(name), int(part.attrs["n_frames"]), ", ".join(map(str, _labels(part))) or "none")
            for key, camera in self.cameras.items()
            for name, part in camera.children.items()
            if "n_frames" in part.attrs
        ]

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for key, _, n_frames, _ in self._rows():
            counts[key] = counts.get(key, 0) + n_frames
        return f"<opticam reduction: {', '.join(f'{n:,} frames of {key}' for key, n in counts.items()) or 'empty'}>"

    def _repr_html_(self) -> str:
        tree, rows = self._tree, self._rows()
        facts: list[tuple[str, object]] = [
            (told, tree.attrs[name])
            for name, told in (
                ("instrument", "instrument"), ("created", "created"), ("opticam_dask_version", "made with version"),
                ("schema_version", "layout"),
            )
            if name in tree.attrs
        ]  # fmt: skip
        facts.append(("frames", f"{sum(row[2] for row in rows):,}"))
        facts += [
            (f"catalogue of {key}", counted(camera["catalog"].sizes["source"], "source"))
            for key, camera in self.cameras.items()
            if "catalog" in camera.children
        ]
        folds = [
            Fold(
                counted(len(rows), "night") + " of " + counted(len(self.cameras), "camera"),
                table(("camera", "night", "frames", "photometry"), [(k, n, f"{f:,}", p) for k, n, f, p in rows]),
                is_open=len(rows) <= 10,
            ),
            Fold("parameters", definitions(_parameters(str(tree.attrs.get("parameters", ""))))),
        ]
        return wrap("Reduction", definitions(facts), folds)


def _labels(part: xr.DataTree) -> list[str]:
    return list(map(str, part["photometry"].children)) if "photometry" in part.children else []


def _parameters(record: str) -> list[tuple[str, object]]:
    """Names and values of a record of parameters; nothing where it is none."""
    try:
        return [(str(name), json.dumps(value)) for name, value in json.loads(record).items()]
    except (ValueError, AttributeError):
        return []


plot_along_time()
