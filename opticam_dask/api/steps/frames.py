"""Frames of one camera as a dataset, and the helpers that every step on such a dataset uses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains
from opticam_dask.api.steps.chains import Chain, FrameTask
from opticam_dask.api.steps.tasks import AlignTask, KeptTask, KnownTask
from opticam_dask.cluster import blocks
from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.kernels.sources.profiles import field_form
from opticam_dask.lightcurves.indexes import with_indexes
from opticam_dask.lightcurves.results import table_of_frames
from opticam_dask.pipeline import plan

logger = logging.getLogger(__name__)

#: What steps need to know of each frame, and its type.
_HEADERS: dict[str, Any] = {
    entry.name: object if entry.dtype == "str" else np.dtype(entry.dtype) for entry in schema.MANIFEST
}

#: Where a dataset keeps the chain of its frames; in the encoding, so that it is not written to disk.
CHAIN = "opticam_chain"
#: Where a dataset keeps what was found out about its frames on the way to a catalogue.
KEPT = "opticam_kept"
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
        Camera key such as ``1:g``; may be left out where there is one camera.
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
    instrument = instrument or OPTICAM_MX()
    usable = table_of_frames(data_directory, instrument)
    known = sorted(set(usable["key"]))
    names = [name for name in known if key in (name, name.replace(":", "-")) or (key is None and len(known) == 1)]
    if not names:
        raise ValueError(f"expected a camera key (key=...), one of {', '.join(known)}, got {key!r}")
    table = usable[usable["key"] == names[0]]
    planned = plan.plan_parts(table, instrument, barycenter=barycenter, target_coord=target_coord)
    main = max(planned, key=lambda part: sum(len(p.manifest["file"]) for p in planned if p.shape == part.shape))
    parts = [part for part in planned if (part.shape, part.binning) == (main.shape, main.binning)]
    if n_others := len(table) - sum(len(part.manifest["file"]) for part in parts):
        logger.warning("%s: %d frames of another shape than %s are left out", names[0], n_others, main.shape)
    coordinates = _headers_of(parts)
    files = coordinates["file"][1].tolist()
    if name := _errors_beside(files[0], instrument):
        logger.warning(
            "%s: the errors of the pixels (extension %s) are left alone by the steps; reduce uses them", names[0], name
        )
    dtype = np.result_type(*(np.dtype(part.dtype) for part in parts))
    size = plan.frames_per_block(main.shape, dtype) if chunks == "auto" else chunks
    reader = _BlankWhereUnreadable(scanning.reader_of(instrument), main.shape)
    images = blocks.lazy_frames(files, reader, main.shape, dtype, size or len(files))
    (image,) = (images,) if size else blocks.computed(images)
    about = {"key": names[0], "camera": main.camera, "filter": main.filter, "binning": main.binning}
    dataset = xr.Dataset(
        {"image": (("frame", "y", "x"), image, {"units": "adu", "long_name": "frames as they were read"})},
        coords=coordinates,
        attrs=about | {"instrument": instrument.name},
    )
    if len(parts) > 1:
        dataset = dataset.isel(frame=np.argsort(dataset["mjd_utc"].to_numpy(), kind="stable"))
    return with_chain(with_indexes(dataset), Chain.of(instrument, main.shape, main.binning))


def _errors_beside(file: str, instrument: Instrument) -> str:
    """Name of the extension with the errors of the pixels of a frame; empty where there is none."""
    path = scanning.file_of(file)
    found, _ = scanning.read_headers(path, scanning.choice_of(instrument))
    return next((one.header.errors for one in found if str(one.name) == file), "")


def _headers_of(parts: Sequence[plan.PlannedPart]) -> dict[str, Any]:
    """What the headers say about the frames of some parts, as coordinates."""
    headers = {name: np.concatenate([part.manifest[name] for part in parts]) for name in _HEADERS if name != "file"}
    headers["file"] = np.concatenate([part.names for part in parts])
    found = {name: ("frame", headers[name], schema.variable("frames", name).all_attributes()) for name in _HEADERS}
    nights = [np.full(len(part.manifest["file"]), part.night.split(".")[0], dtype=object) for part in parts]
    return found | {"night": ("frame", np.concatenate(nights), {"long_name": "night: date of its evening"})}


class _BlankWhereUnreadable:
    """Reads frames; one that cannot be read is blank, so that one bad frame does not stop all others."""

    def __init__(self, reader: scanning.Reader, shape: tuple[int, int]) -> None:
        self._reader, self._shape = reader, shape

    def read(self, path: str) -> np.ndarray:
        """Pixels, (ny, nx)."""
        try:
            image = self._reader.read(path)
        except scanning.FrameError:
            return np.zeros(self._shape, dtype=np.uint8)
        return image if image.shape == self._shape else np.zeros(self._shape, dtype=np.uint8)


def with_chain(dataset: xr.Dataset, chain: Chain) -> xr.Dataset:
    """A dataset that carries the chain of steps of its frames."""
    result = dataset.copy()
    result.encoding = {**dataset.encoding, CHAIN: chain}
    if not chain.depth:  # so that the array alone can be calibrated
        result["image"].encoding = {CHAIN: chain}
    return result


def frames_of(image: xr.DataArray) -> xr.Dataset:
    """Dataset of frames, or of a part of them, from their ``image``.

    Raises
    ------
    ValueError
        When the array is none of that.
    """
    chain = image.encoding.get(CHAIN)
    if not isinstance(chain, Chain):
        raise ValueError(
            "expected the image of open_frames, or some of its frames; steps after calibrate need the Dataset"
        )
    return with_chain(image.to_dataset(name="image"), chain)


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
        raise ValueError(f"{step} expected frames as read with dims ('frame', 'y', 'x'), found {has}")
    if pixels.shape[1:] != chain.shape or (pixels.chunks is not None and max(map(len, pixels.chunks[1:])) > 1):
        raise ValueError(
            f"{step} expected whole frames of {chain.shape}: chunks must not split y and x; use "
            'chunk({"y": -1, "x": -1}) or open_frames(..., chunks="auto")'
        )
    if not dataset.sizes["frame"]:
        raise ValueError(f"{step} expected at least one frame, the selection is empty")
    if depth and chain.depth < 1:
        raise ValueError(f"{step} expected frames in electrons, got ADU: use calibrate(ds) first")
    if depth and "image" in dataset and dataset["image"].attrs.get("made_from") != "raw":
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


def _table(dataset: xr.Dataset, **more: np.ndarray) -> np.ndarray:
    """What the headers say, a row a frame."""
    names = {**_HEADERS, **{name: values.dtype for name, values in more.items()}}
    table = np.empty(dataset.sizes["frame"], dtype=list(names.items()))
    for name in names:
        table[name] = more[name] if name in more else dataset[name].to_numpy()
    return table


def _shared(dataset: xr.Dataset, chain: Chain, depth: int) -> list[Any]:
    """What every task needs beside its frames: masters, and the stars of the reference frame."""
    given = [dataset[f"master_{name}"].data.reshape(-1) for name in chain.masters]
    if depth >= chains.ALIGNED:
        given += [dataset[f"alignment_{name}"].data for name in ("x", "y", "flux")] + [dataset["reference_facts"].data]
    return given


def records_over(
    task: FrameTask,
    dataset: xr.Dataset,
    known: Sequence[str] = (),
    counts: tuple[int, ...] | None = None,
    **more: np.ndarray,
) -> Any:
    """Records of all frames of a dataset; each task gets the named variables of its own frames.

    ``counts`` are the records of each chunk where they are not one a frame.
    """
    pixels = dataset["raw" if "raw" in dataset else "image"].data
    given = [dataset[name].data for name in known]
    shared = _shared(dataset, task.chain, task.chain.depth)
    return blocks.chunk_records(task, pixels, _table(dataset, **more), shared, known=given, counts=counts)


def surveyed(dataset: xr.Dataset) -> Any:
    """Records of aligned frames, for stacking and measuring: taken from the dataset, or computed."""
    chain: Chain = dataset.encoding[CHAIN]
    names = chain.survey_names
    if chain.is_known and set(names) <= set(dataset.variables):
        return records_over(KnownTask(chain, "aligned", names), dataset, names)
    if (records := kept_records(dataset)) is not None:
        pixels, shared = dataset["raw"].data, _shared(dataset, chain, chain.depth)
        if not blocks.is_lazy(pixels):
            (records,) = blocks.computed(records)
        return blocks.chunk_records(KeptTask(chain, "aligned"), pixels, _table(dataset), shared, known=[records])
    return records_over(AlignTask(chain, "align"), dataset)


@dataclass(frozen=True, eq=False)
class KeptRecords:
    """Results of aligned frames that were computed on the way to a catalogue, for those frames or some of them.

    Attributes
    ----------
    chain : Chain
        Of the frames.
    frames : tuple
        What tells the frames apart, in their order.
    records : array of object, shape (frame, 1, 1)
        Of `FoundTask`.
    """

    chain: Chain
    frames: tuple[tuple[Any, ...], ...]
    records: Any

    def of(self, dataset: xr.Dataset) -> Any:
        """Records of the frames of a dataset; None where they are not known."""
        wanted = names_of_frames(dataset)
        if wanted == self.frames:
            return self.records
        place = {name: index for index, name in enumerate(self.frames)}
        rows = [place.get(name) for name in wanted]
        return None if None in rows else self.records[np.array(rows, dtype=int)]


def kept_records(dataset: xr.Dataset) -> Any:
    """What was found out about the frames of a dataset on the way to a catalogue; None where it was not kept."""
    kept = dataset.encoding.get(KEPT)
    return kept.of(dataset) if kept is not None and kept.chain is dataset.encoding[CHAIN] else None


def names_of_frames(dataset: xr.Dataset) -> tuple[tuple[Any, ...], ...]:
    """What tells the frames of a dataset apart: file, extension and plane."""
    columns = (dataset[name].to_numpy().tolist() for name in ("file", "extension", "plane"))
    return tuple(zip(*columns, strict=True))


def records_of_aligned(task: FrameTask, dataset: xr.Dataset, **more: np.ndarray) -> Any:
    """Records made by a task from those of aligned frames; each frame also brings its row of ``more``."""
    rows = {"index": np.arange(dataset.sizes["frame"])} | more
    table = np.empty(dataset.sizes["frame"], dtype=[(name, values.dtype) for name, values in rows.items()])
    for name, values in rows.items():
        table[name] = values
    return blocks.chunk_records(task, surveyed(dataset), table, _shared(dataset, task.chain, chains.CALIBRATED))


def variables_of(dataset: xr.Dataset, records: Any, names: Sequence[str], steps: Any) -> dict[str, Any]:
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
    """Results of a step, added to its dataset or alone; results of an older step of the same name are replaced."""
    if merge:
        return with_chain(dataset.drop_vars([n for n in found if n in dataset]).assign(found), chain)
    alone = xr.Dataset(found, coords=dataset.coords, attrs=dataset.attrs)
    return with_chain(alone, chain)


def grown_by(ds: xr.Dataset, chain: Chain, name: str, names: Sequence[str], merge: bool) -> xr.Dataset:
    """A dataset with the variables of one more step, which becomes the last of its chain."""
    steps = chain.steps(placeholders(ds, chain))
    records = records_over((AlignTask if chain.depth >= chains.ALIGNED else FrameTask)(chain, name), ds)
    if chain.depth >= chains.ALIGNED and not blocks.is_lazy(records):
        chain = replace(chain, is_known=True)
    return added(ds, variables_of(ds, records, names, steps), chain, merge)


def placeholders(ds: xr.Dataset, chain: Chain) -> list[np.ndarray]:
    """Masters without values, for questions about the steps that need no values."""
    return [np.zeros(chain.shape, dtype=ds[f"master_{name}"].dtype) for name in chain.masters]


def reference_star(ds: xr.Dataset) -> list[float] | None:
    """Position of the brightest reference star, which tells references apart; None while it is lazy."""
    if "alignment_x" not in ds or blocks.is_lazy(ds["alignment_x"].data):
        return None
    return [float(ds[f"alignment_{axis}"].to_numpy()[0]) for axis in "xy"]


def require_same_reference(step: str, cat: xr.Dataset, ds: xr.Dataset) -> None:
    """Refuse a catalogue that was made on another reference frame than the frames are aligned to."""
    known, own = cat.attrs.get("reference_star"), reference_star(ds)
    if known is not None and own is not None and not np.array_equal(known, own, equal_nan=True):
        raise ValueError(
            f"{step} expected a catalogue of the reference that the frames are aligned to, got one of another: use "
            "align(ds, ref) with the ref that open_catalog gives with it, or that it was stacked on"
        )


def require_same_camera(step: str, what: str, other: xr.Dataset, ds: xr.Dataset) -> None:
    """Refuse a reference or a catalogue of another camera than the frames."""
    if other.attrs.get("key") != ds.attrs.get("key"):
        raise ValueError(
            f"{step} expected a {what} of {ds.attrs.get('key')}, got one of {other.attrs.get('key')}: make it from "
            "frames of the same camera"
        )
