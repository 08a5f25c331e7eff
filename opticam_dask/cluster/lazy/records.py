"""Records: what one task makes of whole arrays or of all frames, and the arrays that are taken from it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from opticam_dask.cluster import tasks


def picked(records: da.Array | np.ndarray, name: str, shape: tuple[int, ...], dtype: Any) -> da.Array | np.ndarray:
    """One variable of the records of all frames, shape (frame, ...).

    Parameters
    ----------
    records : array of dict, shape (frame,)
        Records, as ``blocks.chunk_records`` makes them.
    name : str
        Name of the variable.
    shape : tuple of int
        Shape of its values of one frame.
    dtype : dtype
        Type of its values.
    """
    if not isinstance(records, da.Array):
        return _pick(records, name, shape, np.dtype(dtype))
    axes = tuple(f"axis{number}" for number in range(len(shape)))
    return da.blockwise(
        _pick,
        ("frame", *axes),
        records,
        ("frame",),
        variable=name,
        shape=tuple(shape),
        dtype_of=np.dtype(dtype),
        new_axes=dict(zip(axes, shape, strict=True)),
        name=f"{name}-{tokenize(records.name, name, shape, np.dtype(dtype))}",
        dtype=dtype,
        meta=np.empty((0,) * (1 + len(shape)), dtype=dtype),
        concatenate=True,
        align_arrays=False,
    )


def _pick(records: np.ndarray, variable: str, shape: tuple[int, ...], dtype_of: np.dtype) -> np.ndarray:
    values = np.empty((len(records), *shape), dtype=dtype_of)
    for index, record in enumerate(records):
        values[index] = record[variable]
    return values


class _OfRecord(MaterializedLayer):
    """Layer of an array that `picked_one` takes from a record; tasks that need the array take it themselves."""

    def __init__(self, mapping: Any, record: str, variable: tuple[Any, ...]) -> None:
        super().__init__(mapping)
        self.record, self.variable = record, variable


def picked_one(records: da.Array | np.ndarray, name: str, shape: tuple[int, ...], dtype: Any) -> da.Array | np.ndarray:
    """One variable of a single record.

    Parameters
    ----------
    records : array of dict, shape (1,)
        The record, as ``blocks.gathered`` or `whole` make it.
    name : str
        Name of the variable.
    shape : tuple of int
        Shape of its values.
    dtype : dtype
        Type of its values.
    """
    variable = (name, tuple(shape), np.dtype(dtype))
    if not isinstance(records, da.Array):
        return _pick_one(records, *variable)
    own = f"{name}-{tokenize(records.name, *variable)}"
    graph = {(own, *(0,) * len(shape)): (_pick_one, (records.name, 0), *variable)}
    layer, meta = _OfRecord(graph, records.name, variable), np.empty((0,) * len(shape), dtype=dtype)
    # Dask's own annotations do not know that its arrays are collections
    joined = HighLevelGraph.from_collections(own, layer, dependencies=[records])  # type: ignore[list-item]
    return da.Array(joined, own, chunks=tuple((size,) for size in shape), dtype=dtype, meta=meta)


def _pick_one(records: np.ndarray, variable: str, shape: tuple[int, ...], dtype_of: np.dtype) -> np.ndarray:
    return np.asarray(_pick(records, variable, shape, dtype_of)[0])


#: Place of an input of a task, and what it takes of that: all (None), one of several arrays, or a variable of a record.
Taken = tuple[int, int | tuple[Any, ...] | None]


def inputs_of(arrays: Sequence[Any]) -> tuple[list[da.Array | np.ndarray], tuple[Taken, ...]]:
    """Inputs from which a task gets the values of some arrays.

    Arrays that are variables of one record share the record as their input, and all arrays in memory share one input,
    so that a task does not depend on a task for each array.

    Parameters
    ----------
    arrays : sequence of array
        Arrays that the task needs, lazy ones and ones in memory.

    Returns
    -------
    inputs : list of array
        Inputs of the task, each with one chunk.
    taken : tuple of Taken
        For each array the place of its input, and what is taken of it.
    """
    inputs: dict[str, da.Array | np.ndarray] = {}
    taken: list[tuple[str, Any]] = []
    here: list[np.ndarray] = []
    for one in arrays:
        layer = one.dask.layers.get(one.name) if isinstance(one, da.Array) else None
        if not isinstance(one, da.Array):
            inputs["here"] = np.empty(1, dtype=object)
            taken.append(("here", len(here)))
            here.append(np.asarray(one))
        elif isinstance(layer, _OfRecord):
            inputs[layer.record] = record_array(_without(one.dask, one.name), layer.record)
            taken.append((layer.record, layer.variable))
        else:
            inputs[one.name] = one.rechunk(-1)
            taken.append((one.name, None))
    if here:
        inputs["here"][0] = here
    places = {name: place for place, name in enumerate(inputs)}
    return list(inputs.values()), tuple((places[name], what) for name, what in taken)


def _without(graph: HighLevelGraph, name: str) -> HighLevelGraph:
    """A graph without its last layer, which Dask might keep though nobody needs it."""
    layers = {key: one for key, one in graph.layers.items() if key != name}
    needed = {key: one for key, one in graph.dependencies.items() if key != name}
    return HighLevelGraph(layers, needed)


class Joined(MaterializedLayer):
    """Layer of one task that joins records; ``reads`` says whether it has made them from files as well."""

    def __init__(self, mapping: Any, *, reads: bool) -> None:
        super().__init__(mapping)
        self.reads = reads


def record_array(graph: HighLevelGraph, name: str) -> da.Array:
    """The array of one record that is the last layer of a graph."""
    return da.Array(graph, name, ((1,),), dtype=object, meta=np.empty(0, dtype=object))


def task_of(
    run: Callable[..., np.ndarray], inputs: Sequence[da.Array | np.ndarray], name: str, *, inlines: bool
) -> da.Array:
    """Array of one record, made by one task from its inputs; where an input is a joined record, the same task joins it.

    With ``inlines`` the task also makes, by itself, those inputs that another task would make from files. Without it
    they stay tasks of their own, as something else may need the same record.
    """
    keys: list[Any] = []
    layers, needed = dict[str, Any](), dict[str, set[str]]()
    own = set[str]()
    for one in inputs:
        if not isinstance(one, da.Array):
            keys.append(one)
            continue
        graph, last = one.dask, one.dask.layers[one.name]
        if isinstance(last, Joined) and (inlines or not last.reads):
            graph = _without(graph, one.name)
            keys.append(last.mapping[one.name, 0])
            own |= one.dask.dependencies[one.name]
        else:
            keys.append((one.name, *(0,) * one.ndim))
            own.add(one.name)
        layers |= graph.layers
        needed |= graph.dependencies
    task = {(name, 0): (run, *keys)}
    layer = Joined(task, reads=True) if inlines else MaterializedLayer(task)
    return record_array(HighLevelGraph(layers | {name: layer}, needed | {name: own}), name)


def n_inputs(arrays: Sequence[Any]) -> int:
    """Number of tasks, or of values in memory, that tasks need to get for some arrays to be known."""
    return len(inputs_of(arrays)[0])


def take(inputs: Sequence[Any], taken: Taken) -> np.ndarray:
    """One of the arrays that `inputs_of` was asked for, from what the task got."""
    place, what = taken
    if what is None:
        return np.asarray(inputs[place])
    return np.asarray(inputs[place][0][what]) if isinstance(what, int) else _pick_one(inputs[place], *what)


def whole(function: Callable[..., Any], *arrays: da.Array | np.ndarray, waits: bool = False) -> da.Array | np.ndarray:
    """Record that a function makes of whole arrays: by one task, or at once where all of them are NumPy.

    Parameters
    ----------
    function : callable
        ``function(*arrays)`` gives the record.
    *arrays : array
        In any chunks.
    waits : bool
        It is made by a task also where all arrays are NumPy.

    Returns
    -------
    array of object, shape (1,)
    """
    packed = cloudpickle.dumps(function)
    if not waits and not any(map(is_lazy, arrays)):
        return _run_whole(*map(np.asarray, arrays), function=packed)
    inputs, taken = inputs_of(arrays)
    name = f"{name_of(function)}-{tokenize(packed, taken, [getattr(one, 'name', one) for one in arrays])}"
    return task_of(functools.partial(_run_whole, function=packed, taken=taken), inputs, name, inlines=False)


def _run_whole(*given: np.ndarray, function: bytes, taken: tuple[Taken, ...] | None = None) -> np.ndarray:
    record = np.empty(1, dtype=object)
    arrays = given if taken is None else [take(given, one) for one in taken]
    with tasks.one_thread:
        record[0] = tasks.unpacked(function)(*arrays)
    return record


def name_of(function: Callable[..., Any]) -> str:
    """What the tasks are called on the dashboard."""
    return str(getattr(function, "name", None) or getattr(function, "__name__", "step"))


def computed(*arrays: da.Array | np.ndarray) -> tuple[np.ndarray, ...]:
    """Values of some arrays, computed together by the scheduler in use."""
    return tuple(np.asarray(one) for one in dask.compute(*arrays))


def kept(*arrays: da.Array | np.ndarray) -> tuple[da.Array | np.ndarray, ...]:
    """Arrays computed once and kept in the memory of the workers, chunk by chunk."""
    persisted: tuple[da.Array | np.ndarray, ...] = dask.persist(*arrays)
    return persisted


def is_lazy(values: Any) -> bool:
    """Whether an array waits to be computed."""
    return isinstance(values, da.Array)
