"""Frames of one camera as a dataset, and the helpers that every step on such a dataset uses."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains
from opticam_dask.api.steps.chains import Chain, FrameTask
from opticam_dask.api.steps.reading import (
    SOURCE,
    BlankWhereUnreadable,
    OpenedFrames,
    even,
    is_as_read,
    pixels_of,
    rebased,
)
from opticam_dask.api.steps.tasks import AlignTask, KnownTask, SurveyedTask
from opticam_dask.cluster import blocks
from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.kernels.sources.profiles import field_form
from opticam_dask.lightcurves.indexes import box_coordinates, pixel_coordinates, with_indexes
from opticam_dask.lightcurves.results import table_of_frames
from opticam_dask.pipeline import plan
from opticam_dask.store.store import key_of

logger = logging.getLogger(__name__)

#: What steps need to know of each frame, and its type.
_HEADERS: dict[str, Any] = {
    entry.name: object if entry.dtype == "str" else np.dtype(entry.dtype) for entry in schema.MANIFEST
}

#: Where a dataset keeps the chain of its frames; in the encoding, so that it is not written to disk.
CHAIN = "opticam_chain"
#: Where an image keeps the dataset that it is of, in whose place its steps can be called.
DATASET = "opticam_dataset"
#: Where a stack and its catalogue keep the survey of the frames that were stacked.
SURVEY = "opticam_survey"
#: Where a catalogue keeps all of its sources.
EVERYTHING = "opticam_catalog"
#: Where a catalogue keeps the stages of its sources: which were found, and which were placed when.
STAGES = "opticam_stages"


def open_frames(
    data_directory: str | Path | Sequence[str | Path],
    key: str | None = None,
    *,
    chunks: int | Literal["auto"] | None = "auto",
    instrument: Instrument | None = None,
    target_coord: tuple[float, float] | None = None,
    barycenter: bool = True,
) -> xr.Dataset:
    """Open the frames of one camera: headers are read now, pixels when they are asked for.

    Parameters
    ----------
    data_directory : path or URL, or sequence of them
        Directories or files.
    key : str, optional
        Camera key such as ``1:g`` (``1-g`` works as well, and ``g`` where one camera has this filter); may be left
        out where there is one camera.
    chunks : int or "auto" or None
        Frames of a chunk; ``"auto"`` is the block size of a reduction; None reads all frames at once, as NumPy.
    instrument : Instrument, optional
        What the headers mean; by default ``OPTICAM_MX``.
    target_coord : (float, float), optional
        RA and DEC in degrees that go before those of the headers.
    barycenter : bool
        Compute barycentric times.

    Returns
    -------
    Dataset
        ``image (frame, y, x)`` in ADU, in time order, and along ``frame`` what the headers say: ``file``, ``mjd_utc``,
        ``bmjd_tdb``, ``night``, ``exposure_time``, ``gain``, ...; ``time`` is an index. A frame that cannot be read is
        blank, and flagged with the reason by the steps.

    Raises
    ------
    FileNotFoundError
        When a path does not exist.
    ValueError
        When there is no usable frame, or no such key.
    """
    if not (
        chunks in (None, "auto")
        or (isinstance(chunks, (int, np.integer)) and not isinstance(chunks, bool) and chunks > 0)
    ):
        raise ValueError(f'open_frames expected chunks of "auto", None or a number of frames, got {chunks!r}')
    instrument = instrument or OPTICAM_MX()
    usable = table_of_frames(data_directory, instrument)
    known = sorted(set(usable["key"]))
    if key is None and len(known) > 1:
        raise ValueError(f"expected a camera key (key=...), one of {', '.join(known)}, got None")
    key = known[0] if key is None else key_of(key, known, data_directory)
    table = usable[usable["key"] == key]
    planned = plan.plan_parts(table, instrument, barycenter=barycenter, target_coord=target_coord)
    main = max(planned, key=lambda part: sum(len(p.manifest["file"]) for p in planned if p.shape == part.shape))
    parts = [part for part in planned if (part.shape, part.binning) == (main.shape, main.binning)]
    if n_others := len(table) - sum(len(part.manifest["file"]) for part in parts):
        logger.warning("%s: %d frames of another shape than %s are left out", key, n_others, main.shape)
    coordinates = _headers_of(parts)
    files = coordinates["file"][1].tolist()
    dtype = np.result_type(*(np.dtype(part.dtype) for part in parts))
    size = plan.frames_per_block(main.shape, dtype) if chunks == "auto" else chunks
    reader = BlankWhereUnreadable(scanning.reader_of(instrument), main.shape)
    images = blocks.lazy_frames(files, reader, main.shape, dtype, size or len(files))
    (image,) = (images,) if size else blocks.computed(images)
    source = OpenedFrames(tuple(files), reader, main.shape, images)
    about = {"key": key, "camera": main.camera, "filter": main.filter, "binning": main.binning}
    dataset = xr.Dataset(
        {"image": (("frame", "y", "x"), image, {"units": "adu", "long_name": "frames as they were read"})},
        coords=coordinates | pixel_coordinates(main.shape) | {"key": ("frame", np.full(len(files), key, dtype=object))},
        attrs=about | {"instrument": instrument.name},
    )
    dataset.encoding = {SOURCE: source}
    if len(parts) > 1:
        dataset = rebased(dataset.isel(frame=np.argsort(dataset["mjd_utc"].to_numpy(), kind="stable")))
    chain = Chain.of(instrument, main.shape, main.binning)
    return with_chain(with_indexes(dataset), replace(chain, **_told_beside(files[0], instrument)))


def _told_beside(file: str, instrument: Instrument) -> dict[str, Any]:
    """What the file of a frame says of its pixels beyond their values, by the names of `Chain`."""
    path = scanning.file_of(file)
    found, _ = scanning.read_headers(path, scanning.reader_of(instrument))
    header = next((one.header for one in found if str(one.name) == file), found[0].header)
    return {"errors": header.errors, "has_overscan": header.has_overscan}


def _headers_of(parts: Sequence[plan.PlannedPart]) -> dict[str, Any]:
    """What the headers say about the frames of some parts, as coordinates."""
    headers = {name: np.concatenate([part.manifest[name] for part in parts]) for name in _HEADERS if name != "file"}
    headers["file"] = np.concatenate([part.names for part in parts])
    found = {name: ("frame", headers[name], schema.variable("frames", name).all_attributes()) for name in _HEADERS}
    nights = [np.full(len(part.manifest["file"]), part.night.split(".")[0], dtype=object) for part in parts]
    return found | {"night": ("frame", np.concatenate(nights), {"long_name": "night: date of its evening"})}


def with_chain(dataset: xr.Dataset, chain: Chain) -> xr.Dataset:
    """A dataset that carries the chain of steps of its frames."""
    result = dataset.copy()
    result.encoding = {**dataset.encoding, CHAIN: chain}
    return with_image(result)


def with_image(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset whose ``image`` knows it; xarray forgets that as soon as a value of the image is changed."""
    if "image" in dataset.variables:
        whole = dataset.copy()
        whole["image"].encoding = {}
        dataset["image"].encoding = {DATASET: whole}
    return dataset


def frames_of(image: xr.DataArray) -> xr.Dataset:
    """Dataset of frames, or of a part of them, from their ``image``.

    Raises
    ------
    ValueError
        When the array is none of that.
    """
    whole = image.encoding.get(DATASET)
    if not isinstance(whole, xr.Dataset) or "frame" not in image.dims:
        raise ValueError(
            "expected the image of open_frames or of a step, or some of its frames (isel(frame=[0]) for one): an image "
            "that was changed belongs into its Dataset, before calibrate"
        )
    place = {name: row for row, name in enumerate(names_of_frames(whole))}
    rows = [place.get(name, -1) for name in names_of_frames(image)]
    if -1 in rows:
        raise ValueError("expected frames of one dataset: join the datasets, not their images")
    found = whole if rows == list(range(len(place))) else whole.isel(frame=rows)
    if not whole.encoding[CHAIN].depth:  # also pixels that are in memory
        found = found.drop_vars("image").assign(image=image.variable)
    return with_chain(found, whole.encoding[CHAIN])


_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def step(function: Callable[Concatenate[xr.Dataset, _Given], _Result]) -> Callable[Concatenate[Any, _Given], _Result]:
    """A step on a dataset of frames that takes their ``image`` as well."""

    @functools.wraps(function)
    def run(ds: Any, *given: _Given.args, **options: _Given.kwargs) -> _Result:
        return function(frames_of(ds) if isinstance(ds, xr.DataArray) else ds, *given, **options)

    return run


def chain_of(dataset: xr.Dataset, depth: int, step: str) -> Chain:
    """Chain of a dataset, which must have been through the steps that the next one needs.

    Raises
    ------
    ValueError
        One line that says what is missing and how to get there.
    """
    if not isinstance(dataset, xr.Dataset):
        raise ValueError(f"{step} expected a Dataset of open_frames, got {type(dataset).__name__}")
    chain = dataset.encoding.get(CHAIN)
    if not isinstance(chain, Chain):
        raise ValueError(
            f"{step} expected frames that open_frames has opened and steps have been through; this dataset does not "
            "know them (merging or reading from disk loses them): begin with open_frames"
        )
    pixels = dataset.get("image" if chain.depth == 0 else "raw")
    if pixels is None or pixels.dims not in (("frame", "y", "x"), ("frame", "raw_y", "raw_x")):
        has = "none" if pixels is None else f"dims {pixels.dims}"
        raise ValueError(
            f"{step} expected frames as read with dims ('frame', 'y', 'x'), found {has}: rename and transpose after "
            "the steps, and select one frame with isel(frame=[0])"
        )
    if pixels.shape[1:] != chain.shape:
        raise ValueError(
            f"{step} expected whole frames of {chain.shape} (y, x), found {pixels.shape[1:]}: crop images and stacks "
            "after the steps"
        )
    if pixels.chunks is not None and max(map(len, pixels.chunks[1:])) > 1:
        raise ValueError(
            f"{step} expected whole frames: chunks must not split y and x, found {len(pixels.chunks[1])} along y and "
            f'{len(pixels.chunks[2])} along x; use chunk({{"y": -1, "x": -1}}) or open_frames(..., chunks="auto")'
        )
    if not dataset.sizes["frame"]:
        raise ValueError(f"{step} expected at least one frame, the selection is empty")
    if depth and chain.depth < 1:
        raise ValueError(f"{step} expected frames in electrons, got ADU: use calibrate(ds) first")
    _require_headers(dataset, step)
    if chain.depth and "image" in dataset and DATASET not in dataset["image"].encoding:
        raise ValueError(
            f"{step} expected the image of calibrate, but it was changed since: change the frames before calibrate, or "
            "give image_filter= there"
        )
    if chain.depth < depth:
        before = {chains.SKY: "background", chains.DETECTED: "detect", chains.ALIGNED: "align"}
        missing = [
            f"{name}(ds{', ref' * (name == 'align')})" for at, name in before.items() if chain.depth < at <= depth
        ]
        raise ValueError(
            f"{step} expected frames that have been through {before[depth]}: use {', '.join(missing)} first"
        )
    return chain


def _require_headers(dataset: xr.Dataset, step: str) -> None:
    """Refuse frames without what their headers say, of two cameras, or that were joined along with their reference."""
    if missing := [name for name in (*_HEADERS, "night") if name not in dataset.variables]:
        raise ValueError(f"{step} expected what the headers say of each frame, do not drop {', '.join(missing)}")
    if "key" in dataset.variables and len(keys := set(dataset["key"].to_numpy().ravel().tolist())) > 1:
        raise ValueError(
            f"{step} expected frames of one camera, got {', '.join(sorted(keys))}: go on with one dataset each"
        )
    for name, values in dataset.variables.items():
        if str(name).startswith(("master_", "alignment_", "reference_facts")) and "frame" in values.dims:
            raise ValueError(
                f"{step} expected one {name} for all frames: join frames of one reference with "
                'xr.concat(..., data_vars="minimal"), or before calibrate'
            )


def _table(dataset: xr.Dataset, **more: np.ndarray) -> np.ndarray:
    """What the headers say, a row a frame."""
    return table_of({name: dataset[name].to_numpy().astype(dtype) for name, dtype in _HEADERS.items()} | more)


def shared_of(dataset: xr.Dataset, chain: Chain, depth: int) -> list[Any]:
    """What every task needs beside its frames: masters, and the stars of the reference frame."""
    given = [dataset[f"master_{name}"].data for name in chain.masters]
    if depth >= chains.ALIGNED:
        given += [dataset[f"alignment_{name}"].data for name in ("x", "y", "flux")] + [dataset["reference_facts"].data]
    return given


def records_over(task: FrameTask, dataset: xr.Dataset, known: Sequence[str] = (), **more: np.ndarray) -> Any:
    """Records of all frames of a dataset; each task gets the named variables of its own frames."""
    given = [dataset[name].data for name in known]
    shared = shared_of(dataset, task.chain, task.chain.depth)
    return blocks.chunk_records(task, pixels_of(dataset), _table(dataset, **more), shared, known=given)


def gathered_over(
    task: FrameTask,
    dataset: xr.Dataset,
    known: Sequence[str] = (),
    *,
    n_tasks: int,
    merge: Callable[[list[Any]], Any],
    finish: Callable[[Any], Any],
    **more: np.ndarray,
) -> Any:
    """Run a task on all frames and join what it finds into one record, as `blocks.gathered` does.

    Parameters
    ----------
    task : FrameTask
        What is run on some frames at a time.
    dataset : Dataset
        The frames.
    known : sequence of str
        Variables of the dataset that each task gets for its own frames.
    n_tasks : int
        Number of tasks where the tasks read the frames themselves; otherwise there is a task a chunk.
    merge, finish : callable
        Join some results into one, and make the record of the last one.
    **more : ndarray, shape (frame,)
        Further columns of the table of frames that the tasks get.

    Returns
    -------
    array of object, shape (1,)
        The record.
    """
    pixels = pixels_of(dataset)
    if isinstance(pixels, blocks.FrameFiles) and not known:
        pixels = replace(pixels, chunks=even(len(pixels.files), n_tasks))
    given = [dataset[name].data for name in known]
    shared = shared_of(dataset, task.chain, task.chain.depth)
    table = _table(dataset, **more)
    return blocks.gathered(task, pixels, table, shared, merge=merge, finish=finish, known=given)


def found_before(dataset: xr.Dataset) -> tuple[AlignTask, tuple[str, ...]]:
    """Task that gives records of aligned frames, and the variables that it takes from the dataset."""
    chain: Chain = dataset.encoding[CHAIN]
    names = chain.survey_names
    if chain.is_known and set(names) <= set(dataset.variables):
        return KnownTask(chain, "aligned", names), names
    return AlignTask(chain, "align"), ()


@dataclass(frozen=True, eq=False)
class KeptRecords:
    """What a survey has found out about some of the frames of a chain.

    Attributes
    ----------
    chain : Chain
        Steps that the frames have been through.
    kept : array of object, shape ()
        The `tasks.Kept` of the survey.
    """

    chain: Chain
    kept: Any

    def tells(self, dataset: xr.Dataset) -> bool:
        """Whether the survey may have looked at frames of this dataset, whose files are read when they are needed."""
        return self.chain is dataset.encoding[CHAIN] and is_as_read(dataset)


def names_of_frames(dataset: xr.Dataset | xr.DataArray) -> tuple[tuple[Any, ...], ...]:
    """Identity of each frame of a dataset: file, extension and plane."""
    columns = (dataset[name].to_numpy().tolist() for name in ("file", "extension", "plane"))
    return tuple(zip(*columns, strict=True))


def records_of_aligned(
    task: FrameTask,
    dataset: xr.Dataset,
    beside: Sequence[Any] = (),
    kept: Any = None,
    counts: tuple[int, ...] | None = None,
    **more: np.ndarray,
) -> Any:
    """Records that a task makes from records of aligned frames; each frame also brings its row of ``more``.

    ``beside`` are further arrays that every task needs, ``kept`` is what a survey has found out about some frames
    (a `tasks.Kept`), so that only the others are aligned; ``counts`` are the records of each chunk where they are not
    one a frame.
    """
    table = table_of({"index": np.arange(dataset.sizes["frame"])} | more)
    chain: Chain = dataset.encoding[CHAIN]
    masters = shared_of(dataset, chain, chains.CALIBRATED)
    if kept is None:
        first, names = found_before(dataset)
        aligned = records_over(first, dataset, names)
    else:
        before = SurveyedTask(chain, "aligned")
        aligned = blocks.chunk_records(before, pixels_of(dataset), _table(dataset), [*masters, kept])
    return blocks.chunk_records(task, aligned, table, [*masters, *beside], counts=counts)


def table_of(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Columns as a table, a row a frame."""
    table = np.empty(len(next(iter(columns.values()))), dtype=[(name, one.dtype) for name, one in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table


def variables_of(records: Any, names: Sequence[str], steps: Any) -> dict[str, Any]:
    """Variables of the records, with the attributes of the schema."""
    found = {}
    for name in names:
        # the form of the frame's stars has the names of that of each source
        groups = ("frames",) if name.startswith("star_") else ("sources", "frames", "background")
        stored = name.removeprefix("star_")
        group = next(one for one in groups if stored in {entry.name for entry in schema.GROUPS[one]})
        entry = schema.variable(group, stored)
        sizes = {"slot": steps.n_slots, "row": 3, "column": 3, "moment": 3, "term": field_form.N_TERMS}
        if steps.mesh_shape is not None:
            sizes |= dict(zip(("mesh_y", "mesh_x"), steps.mesh_shape, strict=True))
        shape = tuple(sizes[dim] for dim in entry.dims[1:])
        dtype = object if entry.dtype == "str" else entry.dtype
        found[name] = (entry.dims, blocks.picked(records, name, shape, dtype), entry.all_attributes())
    return found


def added(dataset: xr.Dataset, found: Mapping[str, Any], chain: Chain, merge: bool) -> xr.Dataset:
    """Results of a step, added to its dataset or alone. Older results of this step and of later steps are dropped."""
    of_later = {name for depth, names in chains.MADE.items() if depth >= chain.depth for name in names}
    dataset = dataset.drop_vars([name for name in dataset.variables if name in of_later or name in found])
    if merge:
        return with_chain(dataset.assign(found), chain)
    alone = xr.Dataset(found, coords=dataset.coords, attrs=dataset.attrs)
    return with_chain(alone, chain)


def grown_by(ds: xr.Dataset, chain: Chain, name: str, names: Sequence[str], merge: bool) -> xr.Dataset:
    """A dataset with the variables of one more step, which becomes the last of its chain."""
    steps = chain.steps(placeholders(ds, chain))
    records = records_over((AlignTask if chain.depth >= chains.ALIGNED else FrameTask)(chain, name), ds)
    if chain.depth >= chains.ALIGNED and not blocks.is_lazy(records):
        chain = replace(chain, is_known=True)
    found = variables_of(records, names, steps)
    if chain.depth < chains.DETECTED:  # from then on these are the names of the positions of sources
        found |= pixel_coordinates(steps.image_shape)
    if steps.mesh_shape is not None:
        found |= box_coordinates(steps.mesh_shape, steps.box_size)
    return added(ds, found, chain, merge)


def placeholders(ds: xr.Dataset, chain: Chain) -> list[np.ndarray]:
    """Masters without values, for questions about the steps that need no values."""
    return [np.zeros(ds[f"master_{name}"].size, dtype=ds[f"master_{name}"].dtype) for name in chain.masters]


def reference_star(ds: xr.Dataset) -> list[float] | str | None:
    """Identity of a reference: the position of its brightest star; while that is lazy, how it is computed."""
    if "alignment_x" not in ds:
        return None
    star = [ds[f"alignment_{axis}"].data for axis in "xy"]
    return str(star[0].name) if blocks.is_lazy(star[0]) else [float(values[0]) for values in star]


def require_same_reference(step: str, cat: xr.Dataset, ds: xr.Dataset) -> None:
    """Refuse a catalogue that was made on another reference frame than the frames are aligned to."""
    known, own = cat.attrs.get("reference_star"), reference_star(ds)
    if known is None or own is None or isinstance(known, str) is not isinstance(own, str):
        return  # where one of them is still lazy nobody can tell
    if not (known == own if isinstance(known, str) else np.array_equal(known, own, equal_nan=True)):
        raise ValueError(
            f"{step} expected a catalogue of the reference that the frames are aligned to, got one of another: use "
            "align(ds, ref) with the ref that open_catalog gives with it, or that it was stacked on"
        )


def require_reference(step: str, ref: xr.Dataset, ds: xr.Dataset) -> None:
    """Refuse what is no reference, or that of another camera."""
    require_same_camera(step, "reference", ref, ds)
    if "alignment_x" not in ref or "frame" in ref.dims:
        raise ValueError(f"{step} expected a reference: use reference(ds) first")


def require_same_camera(step: str, what: str, other: xr.Dataset, ds: xr.Dataset) -> None:
    """Refuse a reference or a catalogue of another camera than the frames."""
    if not isinstance(other, xr.Dataset):
        raise ValueError(f"{step} expected a {what}, a Dataset, got {type(other).__name__}")
    if other.attrs.get("key") != ds.attrs.get("key"):
        raise ValueError(
            f"{step} expected a {what} of {ds.attrs.get('key')}, got one of {other.attrs.get('key')}: make it from "
            "frames of the same camera"
        )
