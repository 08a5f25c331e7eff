"""The steps of a reduction on datasets: frames in, light curves out, lazily on Dask arrays and at once on NumPy.

Each step takes a dataset and gives one with what it found added (``merge=False`` gives that alone). The numbers are
those of the durable reduction bit for bit; a step is one task a chunk, and nothing is computed while the graph is
built. `catalog` alone computes: how many sources there are is known from the stack only.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api import frame_chains as chains
from opticam_dask.api.frame_chains import Chain, FrameTask
from opticam_dask.api.reducer import Reducer
from opticam_dask.cluster import blocks
from opticam_dask.flags import FrameFlag, flag_attributes
from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.kernels.images import masters as masters_kernel
from opticam_dask.kernels.images.stack import combine_groups, stack_groups, stack_selection
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM
from opticam_dask.kernels.sources.profile import Profile, gaussian_profile
from opticam_dask.lightcurves.differential import compute_relative
from opticam_dask.lightcurves.indexes import with_indexes
from opticam_dask.lightcurves.results import open_reduction
from opticam_dask.methods.frame_view import CatalogFacts
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import parameter_names
from opticam_dask.passes import catalog as catalog_pass
from opticam_dask.passes import second_pass, star_profiles
from opticam_dask.passes.calibration import Calibration, find_calibration_frames, same_exposure
from opticam_dask.passes.second_pass import Photometer
from opticam_dask.pipeline import master_frames, plan, references

logger = logging.getLogger(__name__)

#: What steps need to know of each frame, and its type.
_HEADERS: dict[str, Any] = {
    entry.name: object if entry.dtype == "str" else np.dtype(entry.dtype) for entry in schema.MANIFEST
}

#: Where a dataset keeps the chain of its frames, and a catalogue all of its sources: not in what is written to disk.
_CHAIN, _EVERYTHING, _FOUND_ONES = "opticam_chain", "opticam_catalog", "opticam_found"

_SKY = ("background", "background_rms", "flags", "message")
_MESHES = ("background_mesh", "background_rms_mesh")
_CORRECTED = ("background_offset_mesh", "background_mean_mesh", "background_n_sky")
_FOUND = ("fwhm", "n_sources")
_ALIGNED = ("transform", "transform_rms", "n_matched")


# ---------------------------------------------------------------- frames


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
    paths = [data_directory] if isinstance(data_directory, (str, Path)) else list(data_directory)
    scan = scanning.scan(scanning.find_files(paths), instrument)
    if not len(scan.table):
        raise ValueError(f"no usable frame in {', '.join(map(str, paths))}: {scan.set_aside[:3]}")
    known = sorted(set(scan.table["key"]))
    names = [name for name in known if key in (name, name.replace(":", "-")) or (key is None and len(known) == 1)]
    if not names:
        raise ValueError(f"expected a camera key (key=...), one of {', '.join(known)}, got {key!r}")
    table = scan.table[scan.table["key"] == names[0]]
    planned = plan.plan_parts(table, instrument, barycenter=barycenter, target_coord=target_coord)
    main = max(planned, key=lambda part: sum(len(p.manifest["file"]) for p in planned if p.shape == part.shape))
    parts = [part for part in planned if (part.shape, part.binning) == (main.shape, main.binning)]
    if n_others := len(table) - sum(len(part.manifest["file"]) for part in parts):
        logger.warning("%s: %d frames of another shape than %s are left out", names[0], n_others, main.shape)
    manifest = {name: np.concatenate([part.manifest[name] for part in parts]) for name in _HEADERS if name != "file"}
    files = [f"{part.data_root}/{name}" if part.data_root else name for part in parts for name in part.manifest["file"]]
    manifest["file"] = np.array(files, dtype=object)
    night = np.concatenate([np.full(len(p.manifest["file"]), p.night.split(".")[0], dtype=object) for p in parts])
    coordinates = {
        name: ("frame", manifest[name], schema.variable("frames", name).all_attributes()) for name in _HEADERS
    }
    coordinates["night"] = ("frame", night, {"long_name": "night: date of its evening"})
    dtype = np.result_type(*(np.dtype(part.dtype) for part in parts))
    size = plan.frames_per_block(main.shape, dtype) if chunks == "auto" else chunks
    reader = _BlankWhereUnreadable(scanning.FitsReader(instrument.extension), main.shape)
    images = blocks.lazy_frames(files, reader, main.shape, dtype, size or len(files))
    (image,) = (images,) if size else blocks.computed(images)
    attributes = {"units": "adu", "long_name": "frames as they were read"}
    dataset = xr.Dataset(
        {"image": (("frame", "y", "x"), image, attributes)},
        coords=coordinates,
        attrs={
            "key": names[0],
            "camera": main.camera,
            "filter": main.filter,
            "binning": main.binning,
            "instrument": instrument.name,
        },
    )
    dataset = with_indexes(
        dataset.isel(frame=np.argsort(manifest["mjd_utc"], kind="stable")) if len(parts) > 1 else dataset
    )
    return _with_chain(dataset, Chain.of(instrument, main.shape, main.binning))


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


def _with_chain(dataset: xr.Dataset, chain: Chain) -> xr.Dataset:
    result = dataset.copy()
    result.encoding = {**dataset.encoding, _CHAIN: chain}
    if not chain.depth:  # so that the array alone can be calibrated
        result["image"].encoding = {_CHAIN: chain}
    return result


def frames_of(image: xr.DataArray) -> xr.Dataset:
    """Dataset of the ``image`` of `open_frames`, or a part of it.

    Raises
    ------
    ValueError
        When the array is none of that.
    """
    chain = image.encoding.get(_CHAIN)
    if not isinstance(chain, Chain):
        raise ValueError(
            "expected the image of open_frames, or some of its frames; steps after calibrate need the Dataset"
        )
    return _with_chain(image.to_dataset(name="image"), chain)


def _chain_of(dataset: xr.Dataset, depth: int, step: str) -> Chain:
    """Chain of a dataset that has been through the steps which another one needs.

    Raises
    ------
    ValueError
        One line that says what is missing and how to get there.
    """
    if not isinstance(dataset, xr.Dataset):
        raise ValueError(f"{step} expected a Dataset of open_frames, got {type(dataset).__name__}")
    chain = dataset.encoding.get(_CHAIN)
    if not isinstance(chain, Chain):
        raise ValueError(
            f"{step} expected frames that open_frames has opened and steps have been through; this dataset does not "
            "know them (merging or reading from disk loses them): begin with open_frames"
        )
    pixels = dataset.get("image" if chain.depth == 0 else "raw")
    if pixels is None or pixels.dims != ("frame", "y", "x"):
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
    needed = {chains.SKY: "background", chains.DETECTED: "detect", chains.ALIGNED: "align"}
    if chain.depth < depth:
        raise ValueError(f"{step} expected frames that {needed[depth]} has been through: use {needed[depth]}(ds) first")
    return chain


def _table(dataset: xr.Dataset, **more: np.ndarray) -> np.ndarray:
    """What the headers say, a row a frame."""
    names = {**_HEADERS, **{name: values.dtype for name, values in more.items()}}
    table = np.empty(dataset.sizes["frame"], dtype=list(names.items()))
    for name in names:
        table[name] = more[name] if name in more else dataset[name].to_numpy()
    return table


def _shared(dataset: xr.Dataset, chain: Chain, reference: xr.Dataset | None) -> list[Any]:
    """What every task needs beside its frames: masters, and the stars of the reference frame."""
    given = [dataset[f"master_{name}"].data.reshape(-1) for name in chain.masters]
    if chain.depth >= chains.ALIGNED or reference is not None:
        source = dataset if reference is None else reference
        given += [source[f"alignment_{name}"].data for name in ("x", "y", "flux")] + [source["reference_facts"].data]
    return given


def _records(task: FrameTask, dataset: xr.Dataset, reference: xr.Dataset | None = None, **more: np.ndarray) -> Any:
    """Records of all frames of a dataset."""
    pixels = dataset["raw" if "raw" in dataset else "image"].data
    return blocks.chunk_records(task, pixels, _table(dataset, **more), _shared(dataset, task.chain, reference))


def _variables(dataset: xr.Dataset, records: Any, names: Sequence[str], steps: Any) -> dict[str, Any]:
    """Variables of the records, as the schema describes them."""
    found = {}
    for name in names:
        group = next(g for g in ("sources", "frames", "background") if name in {e.name for e in schema.GROUPS[g]})
        entry = schema.variable(group, name)
        sizes = {"slot": steps.n_slots, "row": 3, "column": 3}
        if steps.mesh_shape is not None:
            sizes |= dict(zip(("mesh_y", "mesh_x"), steps.mesh_shape, strict=True))
        shape = tuple(sizes[dim] for dim in entry.dims[1:])
        dtype = object if entry.dtype == "str" else entry.dtype
        found[name] = (entry.dims, blocks.picked(records, name, shape, dtype), entry.all_attributes())
    return found


def _added(dataset: xr.Dataset, found: Mapping[str, Any], chain: Chain, merge: bool) -> xr.Dataset:
    """What a step found, added to its dataset or alone; the values of an older step of the same name give way."""
    if merge:
        return _with_chain(dataset.drop_vars([n for n in found if n in dataset]).assign(found), chain)
    alone = xr.Dataset(found, coords=dataset.coords, attrs=dataset.attrs)
    return _with_chain(alone, chain)


# ---------------------------------------------------------------- calibrate, background, detect


def calibrate(
    ds: xr.Dataset | xr.DataArray,
    masters: xr.Dataset | None = None,
    *,
    bias: Any = None,
    dark: Any = None,
    flat: Any = None,
    remove_cosmic_rays: bool = False,
    rebin_factor: int = 1,
    image_filter: Callable[[np.ndarray], np.ndarray] | None = None,
) -> xr.Dataset:
    """Frames in electrons.

    Parameters
    ----------
    ds : Dataset or DataArray
        Of `open_frames`, or its ``image``.
    masters : Dataset, optional
        Of `calibration_masters`.
    bias, dark, flat : array, shape (ny, nx), optional
        Masters of one's own: ADU, ADU per second, and response (1 on average).
    remove_cosmic_rays : bool
        Replace cosmic rays (L.A.Cosmic).
    rebin_factor : int
        Sum so many pixels along each axis.
    image_filter : callable, optional
        ``array -> array`` on frames as read, before anything else.

    Returns
    -------
    Dataset
        ``image`` in electrons, ``saturated``, ``flags``; the frames as read are ``raw``.

    Raises
    ------
    ValueError
        When the frames are in electrons already, or a master has another shape.
    """
    ds = frames_of(ds) if isinstance(ds, xr.DataArray) else ds
    chain = _chain_of(ds, 0, "calibrate")
    if chain.depth:
        raise ValueError("calibrate expected frames in ADU, these are in electrons already")
    made = _masters_of(masters, bias, dark, flat, chain.shape)
    parameters = {"remove_cosmic_rays": remove_cosmic_rays, "rebin_factor": rebin_factor}
    chain = chain.further(chains.CALIBRATED, parameters=parameters, image_filter=image_filter)
    about = {} if masters is None else masters.attrs
    if about.get("binning", chain.binning) != chain.binning:
        raise ValueError(f"calibrate expected masters of binning {chain.binning}, got {about['binning']}")
    if "dark_only_for" in about:
        other = [t for t in np.unique(ds["exposure_time"]).tolist() if not same_exposure(t, about["dark_only_for"])]
        if other:
            raise ValueError(
                f"calibrate expected frames of {about['dark_only_for']:g} s as the darks are, found {other[0]:g} s: "
                "give calibration_masters biases as well, so that darks can be scaled"
            )
    chain = replace(
        chain,
        masters=tuple(name.removeprefix("master_") for name in made),
        dark_time=None if dark is not None else about.get("dark_exposure_time"),
        dark_gain=None if dark is not None else about.get("dark_gain"),
    )
    ds = ds.rename(image="raw").assign(made)
    steps = chain.steps([value[1] for value in made.values()])
    records = _records(FrameTask(chain, "calibrate"), ds)
    image = {"units": "electron pixel-1", "long_name": "calibrated frames", "made_from": "raw"}
    flags = schema.variable("frames", "flags").all_attributes()
    found = {
        "image": (("frame", "y", "x"), blocks.picked(records, "image", steps.image_shape, float), image),
        "saturated": (
            ("frame", "y", "x"),
            blocks.picked(records, "saturated", steps.image_shape, bool),
            {"units": "1", "long_name": "pixels at or above the saturation"},
        ),
        "flags": ("frame", blocks.picked(records, "flags", (), np.uint32), flags),
    }
    if rebin_factor > 1:
        ds = ds.rename_dims(y="raw_y", x="raw_x")
    return _with_chain(ds.assign(found), chain)


def _masters_of(masters: xr.Dataset | None, bias: Any, dark: Any, flat: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """Variables of the masters, by ``master_<name>``."""
    given: dict[str, Any] = {} if masters is None else {str(k): v.to_numpy() for k, v in masters.data_vars.items()}
    own = {
        name: np.asarray(value) for name, value in (("bias", bias), ("dark", dark), ("flat", flat)) if value is not None
    }
    if "dark" in own:
        own["hot_pixels"] = np.zeros(shape, dtype=bool)
    if "flat" in own and own["flat"].shape == shape:
        own |= {"flat_variance": np.zeros(shape), "bad_responses": masters_kernel.find_bad_responses(own["flat"])}
    given |= own
    for name, values in given.items():
        if values.shape != shape:
            raise ValueError(f"calibrate expected a {name} of {shape} pixels as the frames have, got {values.shape}")
    return {
        f"master_{name}": (("y", "x"), values, schema.variable("calibration", name).all_attributes())
        for name, values in given.items()
    }


def calibration_masters(
    *,
    key: str,
    biases: Any = None,
    darks: Any = None,
    flats: Any = None,
    instrument: Instrument | None = None,
    exposure_time: float | None = None,
) -> xr.Dataset:
    """Master bias, dark and flat of a camera from their frames, as a reduction makes them; this computes.

    Parameters
    ----------
    key : str
        Camera key such as ``1:g``.
    biases, darks, flats : path or sequence of path, optional
        Directories or files.
    instrument : Instrument, optional
        What the headers mean; by default ``OPTICAM_MX``.
    exposure_time : float, optional
        Of the frames, in seconds: without biases, darks must be exposed as long; by default that of the first dark.

    Returns
    -------
    Dataset
        ``bias`` (ADU), ``dark`` (ADU per second), ``flat`` (response, 1 on average), their variances and what is wrong
        with which pixel, dims (y, x), for `calibrate`.

    Raises
    ------
    ValueError
        When no frames are given, or they do not fit the camera or each other.
    """
    instrument = instrument or OPTICAM_MX()
    given: dict[Any, Any] = {"bias": biases, "dark": darks, "flat": flats}
    found = [find_calibration_frames(kind, paths, instrument) for kind, paths in given.items() if paths is not None]
    calibration = Calibration.of(*found)
    if calibration is None:
        raise ValueError("calibration_masters expected directories of biases, darks or flats, got none")
    return master_frames.make_dataset(calibration, instrument, key, exposure_time)


def background(
    ds: xr.Dataset,
    *,
    box_size: int | tuple[int, int] | None = None,
    estimator: Callable[[np.ndarray], Any] | None = None,
    merge: bool = True,
) -> xr.Dataset:
    """Sky background of each frame.

    Parameters
    ----------
    ds : Dataset
        Of `calibrate`.
    box_size : int or (int, int), optional
        Box of the sky mesh in pixels, ``(ny, nx)``; by default 1/32 of the shorter side.
    estimator : callable, optional
        One's own ``image -> Background2D``-like; there is no mesh then.
    merge : bool
        Add to what came in.

    Returns
    -------
    Dataset
        ``background_mesh``, ``background_rms_mesh`` (frame, mesh_y, mesh_x); ``background``, ``background_rms`` and
        ``flags`` (frame), electrons per pixel.

    Raises
    ------
    ValueError
        When the frames are in ADU, or a box is larger than a frame.
    """
    chain = _chain_of(ds, chains.CALIBRATED, "background").further(
        chains.SKY, parameters={"box_size": box_size}, background=estimator
    )
    return _grown(ds, chain, "background", (*_SKY, *(() if estimator else _MESHES)), merge)


def _grown(ds: xr.Dataset, chain: Chain, name: str, names: Sequence[str], merge: bool) -> xr.Dataset:
    steps = chain.steps(_placeholders(ds, chain))
    records = _records(FrameTask(chain, name), ds)
    return _added(ds, _variables(ds, records, names, steps), chain, merge)


def _placeholders(ds: xr.Dataset, chain: Chain) -> list[np.ndarray]:
    """Masters as they are needed to know how steps work, which takes none of their values."""
    return [np.zeros(chain.shape, dtype=ds[f"master_{name}"].dtype) for name in chain.masters]


def subtract_background(ds: xr.Dataset) -> xr.DataArray:
    """Frames without their sky, lazily.

    Parameters
    ----------
    ds : Dataset
        Of `background`.

    Returns
    -------
    DataArray, dims (frame, y, x)
        Electrons; NaN in frames without a sky.

    Raises
    ------
    ValueError
        When the frames have no sky yet.
    """
    chain = _chain_of(ds, chains.SKY, "subtract_background")
    steps = chain.steps(_placeholders(ds, chain))
    dtype = np.float32 if steps.has_mesh else np.float64
    records = _records(_Subtracted(replace(chain, depth=chains.SKY), "subtract_background"), ds)
    values = blocks.picked(records, "image", steps.image_shape, dtype)
    attributes = {"units": "electron pixel-1", "long_name": "frames without their sky"}
    kept = {name: one for name, one in ds.coords.items() if set(one.dims) <= {"frame"}}
    coords = xr.Coordinates(kept, indexes=ds.coords.xindexes if "time" in ds.xindexes else {})
    return xr.DataArray(values, dims=("frame", "y", "x"), coords=coords, attrs=attributes, name="image")


class _Subtracted(FrameTask):
    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        steps = self._steps(shared)
        found = []
        for entry in chains.entries_of(images, table):
            result = self.reduced(None, steps, entry)
            found.append({"image": np.nan if result.subtracted is None else result.subtracted})
        return found


def detect(
    ds: xr.Dataset,
    *,
    threshold: float = 5.0,
    finder: Callable[[np.ndarray, np.ndarray], Any] | None = None,
    n_pixels: int | None = None,
    border_width: int | None = None,
    max_catalog_sources: int = 100,
    merge: bool = True,
) -> xr.Dataset:
    """Sources of each frame.

    Parameters
    ----------
    ds : Dataset
        Of `background`.
    threshold : float
        In units of the background RMS.
    finder : callable, optional
        One's own ``(image, threshold) -> QTable``.
    n_pixels, border_width, max_catalog_sources : int, optional
        As of a reduction; three times ``max_catalog_sources`` sources of a frame are kept.
    merge : bool
        Add to what came in.

    Returns
    -------
    Dataset
        ``x``, ``y``, ``flux``, ``semimajor_sigma``, ``semiminor_sigma``, ``orientation`` (frame, slot), brightest
        first and NaN-padded; ``n_sources``, ``fwhm``, ``flags`` (frame).

    Raises
    ------
    ValueError
        When the frames have no sky yet.
    """
    parameters = {
        "threshold": threshold,
        "n_pixels": n_pixels,
        "border_width": border_width,
        "max_catalog_sources": max_catalog_sources,
    }
    chain = _chain_of(ds, chains.SKY, "detect").further(chains.DETECTED, parameters=parameters, finder=finder)
    names = tuple(entry.name for entry in schema.SOURCES)
    return _grown(ds, chain, "detect", (*names, *_FOUND, "flags", "message"), merge)


# ---------------------------------------------------------------- reference, align, stack


def reference(
    ds: xr.Dataset,
    *,
    frame: int | Literal["best"] = "best",
    n_alignment_sources: int = 30,
    transform_type: Any = "affine",
) -> xr.Dataset:
    """Stars of the frame that all others are aligned to.

    Parameters
    ----------
    ds : Dataset
        Of `detect`.
    frame : int or "best"
        Place of the frame; ``"best"`` is that of 25 evenly spaced ones of the first night which matches the others
        best, as in a reduction.
    n_alignment_sources : int
        How many of the brightest stars are used.
    transform_type : {"affine", "translation"}
        As for `align`.

    Returns
    -------
    Dataset
        ``alignment_x``, ``alignment_y``, ``alignment_flux`` (alignment_source), NaN-padded; ``reference_index`` (place
        of the frame) and ``reference_facts``, lazily if the frames are.

    Raises
    ------
    ValueError
        When no source was looked for yet, or there is no such frame.
    """
    chain = _chain_of(ds, chains.DETECTED, "reference")
    n_frames = ds.sizes["frame"]
    if frame == "best":
        night = ds["night"].to_numpy().astype(str)
        names, counts = np.unique(night, return_counts=True)
        first = plan.credible_nights(dict(zip(names.tolist(), counts.tolist(), strict=True)))[0]
        of_night = np.flatnonzero(night == first)
        chosen = of_night[stack_selection(len(of_night), references.N_PROBES)]
    elif -n_frames <= int(frame) < n_frames:
        chosen = np.array([int(frame) % n_frames])
    else:
        raise ValueError(f"reference expected a frame of the {n_frames} there are, got {frame}")
    parameters = {"n_alignment_sources": n_alignment_sources, "transform_type": transform_type}
    task = chains.ProbeTask(chain.further(chains.DETECTED, parameters=parameters), "probe")
    records = _records(task, ds.isel(frame=chosen), index=chosen)
    finish = functools.partial(chains.probed, transform_type=transform_type, n_alignment_sources=n_alignment_sources)
    record = blocks.gathered(records, _flat, finish)
    dim = ("alignment_source",)
    found: dict[str, Any] = {}
    for name in ("alignment_x", "alignment_y", "alignment_flux"):
        values = blocks.picked(record, name, (n_alignment_sources,), float)[0]
        found[name] = (dim, values, schema.variable("reference", name).all_attributes())
    found["reference_facts"] = (
        "fact",
        blocks.picked(record, "reference_facts", (len(chains.REFERENCE_FACTS),), float)[0],
    )
    found["reference_index"] = ((), blocks.picked(record, "reference_index", (), np.int64)[0])
    dataset = xr.Dataset(found, coords={"fact": list(chains.REFERENCE_FACTS)}, attrs=dict(ds.attrs))
    return dataset.assign_attrs(n_alignment_sources=n_alignment_sources, transform_type=transform_type)


def _flat(probes: list[Any]) -> list[Any]:
    return [one for probe in probes for one in (probe if isinstance(probe, list) else [probe])]


def align(
    ds: xr.Dataset,
    ref: xr.Dataset,
    *,
    rotation_limit: float | None = None,
    translation_limit: float | tuple[float, float] | None = None,
    scale_limit: float | None = None,
    merge: bool = True,
) -> xr.Dataset:
    """Where each frame lies on the reference frame.

    Parameters
    ----------
    ds : Dataset
        Of `detect`.
    ref : Dataset
        Of `reference`.
    rotation_limit, translation_limit, scale_limit : float, optional
        As of a reduction.
    merge : bool
        Add to what came in.

    Returns
    -------
    Dataset
        ``transform`` (frame, row, column), reference to frame; ``transform_rms``, ``n_matched``, ``flags``, ``fwhm``
        of the stars of the reference frame, and what the sky mesh leaves behind.

    Raises
    ------
    ValueError
        When no source was looked for yet, or the reference is of another camera.
    """
    chain = _chain_of(ds, chains.DETECTED, "align")
    if "alignment_x" not in ref:
        raise ValueError("align expected a reference: use reference(ds) first")
    _require_same_camera("align", "reference", ref, ds)
    parameters = {
        "rotation_limit": rotation_limit,
        "translation_limit": translation_limit,
        "scale_limit": scale_limit,
        "n_alignment_sources": ref.attrs["n_alignment_sources"],
        "transform_type": ref.attrs["transform_type"],
    }
    chain = chain.further(chains.ALIGNED, parameters=parameters)
    ds = ds.assign(
        {name: ref[name].variable for name in ("alignment_x", "alignment_y", "alignment_flux", "reference_facts")}
    )
    names = (*_ALIGNED, *_FOUND, "flags", "message", *(entry.name for entry in schema.SOURCES))
    if chain.setup.background is None:
        names = (*names, *_MESHES, *_CORRECTED)
    return _grown(ds, chain, "align", names, merge)


def _require_same_camera(step: str, what: str, other: xr.Dataset, ds: xr.Dataset) -> None:
    if other.attrs.get("key") != ds.attrs.get("key"):
        raise ValueError(
            f"{step} expected a {what} of {ds.attrs.get('key')}, got one of {other.attrs.get('key')}: make it from "
            "frames of the same camera"
        )


def stack(ds: xr.Dataset, ref: xr.Dataset | None = None, *, stack_frames: int = 256) -> xr.Dataset:
    """Mean of the aligned frames on the grid of the reference frame, without what only a few of them show.

    Parameters
    ----------
    ds : Dataset
        Of `align`.
    ref : Dataset, optional
        Of `reference`; by default the one that the frames are aligned to.
    stack_frames : int
        At most so many frames, evenly spaced; 0 stacks all.

    Returns
    -------
    Dataset
        ``image`` (electrons) and ``coverage`` (y, x), and what `catalog` needs to know of the frames.

    Raises
    ------
    ValueError
        When the frames are not aligned, or to another camera's reference.
    """
    chain = _chain_of(ds, chains.ALIGNED, "stack")
    if ref is not None:
        _require_same_camera("stack", "reference", ref, ds)
    n_frames = ds.sizes["frame"]
    index = np.arange(n_frames)
    task = chains.StackTask(chain.further(chains.ALIGNED, parameters={"stack_frames": stack_frames}), "stack")
    groups = stack_groups(0, n_frames, n_frames, stack_frames)
    records = _records(task, ds, index=index, stack_group=groups)
    shape = chain.steps(_placeholders(ds, chain)).image_shape
    record = blocks.gathered(records, chains.add_stacks, functools.partial(_stacked, shape=shape))
    n_stacked = len(stack_selection(n_frames, stack_frames))
    found: dict[str, Any] = {}
    for name in ("image", "coverage"):
        entry = schema.variable("stack", name)
        found[name] = (entry.dims, blocks.picked(record, name, shape, entry.dtype)[0], entry.all_attributes())
    for name, dims, sizes in (
        ("frame_rms", ("frame",), (n_frames,)),
        ("transform", ("stacked", "row", "column"), (n_stacked, 3, 3)),
        ("stack_facts", ("stack_fact",), (3,)),
    ):
        found[name] = (dims, blocks.picked(record, name, sizes, float)[0])
    dataset = xr.Dataset(found, coords={"stack_fact": ["seeing", "saturation", "sharpest"]}, attrs=dict(ds.attrs))
    dataset.encoding = {_CHAIN: chain, "opticam_frames": ds}
    return dataset


def _stacked(merged: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """Stack of the sums of its groups, and what its frames say about it."""
    sums, facts = merged
    frames = [facts[index] for index in sorted(facts)]
    of_groups = {
        group: [f["background_rms"] for f in frames if f["group"] == group and f["is_stacked"]] for group in sums
    }
    rms = np.array([np.median(of_groups[group]) if of_groups[group] else 0.0 for group in sorted(sums)])
    image, coverage = combine_groups([sums[group] for group in sorted(sums)], rms)
    used = [f for f in frames if f["is_stacked"] and np.isfinite(f["transform"]).all()]
    transform = np.full((sum(f["group"] >= 0 for f in frames), 3, 3), np.nan)
    transform[: len(used)] = [f["transform"] for f in used] if used else np.nan
    median = {name: _median(np.array([f[name] for f in frames])) for name in ("fwhm", "level", "semiminor_sigma")}
    return {
        "image": image,
        "coverage": coverage,
        "frame_rms": np.array([f["background_rms"] for f in frames]),
        "transform": transform,
        "stack_facts": np.array([median["fwhm"], median["level"], SIGMA_TO_FWHM * median["semiminor_sigma"]]),
    }


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


# ---------------------------------------------------------------- catalogue and photometry


def catalog(
    deep: xr.Dataset, *, frames: xr.Dataset | None = None, aperture_selector: Callable[[np.ndarray], float] = np.median
) -> xr.Dataset:
    """Sources of a stack, and the star profile of its frames; this is the one step that computes.

    Parameters
    ----------
    deep : Dataset
        Of `stack`.
    frames : Dataset, optional
        Aligned frames whose bright stars give the star profile; by default those that were stacked.
    aperture_selector : callable
        Chooses the FWHM of the catalogue from those of its brightest stars.

    Returns
    -------
    Dataset
        Along ``source``, an index that holds the source id: ``x``, ``y`` on the reference frame, ``flux``, ``fwhm``,
        ...; along ``component`` the star profile, ``coefficient``.

    Raises
    ------
    ValueError
        When this is no stack, or there is nothing above the threshold.
    """
    chain = deep.encoding.get(_CHAIN)
    if "coverage" not in deep or not isinstance(chain, Chain):
        raise ValueError("catalog expected a stack that was not stored in between: use stack(ds, ref) first")
    frames = deep.encoding.get("opticam_frames") if frames is None else frames
    names = ("image", "coverage", "frame_rms", "transform", "stack_facts")
    image, coverage, rms, transforms, facts = blocks.computed(*(deep[name].data for name in names))
    known = transforms[np.isfinite(transforms).all(axis=(1, 2))]
    night = catalog_pass.StackedNight(image, coverage, rms, float(facts[0]), known, float(facts[1]), float(facts[2]))
    steps = chain.setup.steps(chain.shape, chain.binning)
    try:
        found = catalog_pass.make_catalog(night, steps, chain.parameters.max_catalog_sources, aperture_selector)
    except catalog_pass.NoCatalog as error:
        raise ValueError(f"no catalogue of {deep.attrs.get('key')}: {error}") from error
    for line in (*found.warnings, *found.left_out):
        logger.warning("%s: %s", deep.attrs.get("key"), line)
    arrays = {
        name: (entry.dims, values, entry.all_attributes())
        for name, values in found.arrays.items()
        if (entry := schema.variable("catalog", name))
    }
    dataset = xr.Dataset(arrays, attrs={"key": deep.attrs.get("key"), "fwhm": found.fwhm, "fwhm_units": "pixel"})
    dataset = dataset.set_coords("source_id").assign_attrs(background_rms=_median(rms))
    dataset = with_indexes(dataset)
    fitted = gaussian_profile() if frames is None else _fit_profile(frames, dataset)
    return _remembering(_with_profile(dataset, fitted))


def _with_profile(cat: xr.Dataset, fitted: Profile) -> xr.Dataset:
    entry = schema.variable("psf", "coefficient")
    cat = cat.assign(coefficient=(entry.dims, fitted.coefficients, entry.all_attributes()))
    return cat.assign_attrs(pixel_area=fitted.pixel_area, total_err=fitted.total_err)


def _remembering(cat: xr.Dataset) -> xr.Dataset:
    """A catalogue of which every part knows all sources: neighbours matter also where they are not measured."""
    result = cat.copy()
    result.encoding = {_EVERYTHING: cat}
    return result


def _fit_profile(ds: xr.Dataset, cat: xr.Dataset) -> Profile:
    """Star profile of some frames, in two rounds as in a reduction."""
    chain = _chain_of(ds, chains.ALIGNED, "catalog")
    flags = ds["flags"].data
    chosen = np.array(star_profiles.choose_frames(np.asarray(blocks.computed(flags)[0])), dtype=int)
    fitted: Profile | None = None
    for frames in (np.array(star_profiles.some_of(chosen.tolist()), dtype=int), chosen):
        if not len(frames):
            break
        sources = _sources(_with_profile(cat, fitted or gaussian_profile()))
        task = chains.RingsTask(chain, "profile", sources=sources, has_profile=fitted is not None)
        records = _records(task, ds.isel(frame=frames), index=frames)
        (found,) = blocks.computed(blocks.gathered(records, chains.join, _itself))
        rings = {index: rings for index, (_, rings) in found.ravel()[0].items()}
        fitted = star_profiles.fit(rings)
        if fitted is None:
            break
    if fitted is None:
        logger.warning("%s: too few bright stars to measure their profile; a Gaussian is used", ds.attrs.get("key"))
    return fitted or gaussian_profile()


def _itself(found: Any) -> Any:
    return found


def _sources(cat: xr.Dataset) -> dict[str, Any]:
    """What the second pass needs of a catalogue."""
    fitted = Profile(cat["coefficient"].to_numpy(), float(cat.attrs["pixel_area"]), float(cat.attrs["total_err"]))
    return {
        "catalog_xy": np.column_stack([cat["x"].to_numpy(), cat["y"].to_numpy()]),
        "catalog_flux": cat["flux"].to_numpy(),
        "fwhm": float(cat.attrs["fwhm"]),
        "profile": fitted.table(),
        "profile_err": fitted.total_err,
    }


def open_catalog(out_directory: str | Path, key: str, *, night: str | None = None) -> tuple[xr.Dataset, xr.Dataset]:
    """Reference stars and catalogue that a reduction has frozen, for `align` and `photometry`; nothing is written.

    Parameters
    ----------
    out_directory : path or URL
        Output directory of the reduction.
    key : str
        Camera key such as ``1:g``.
    night : str, optional
        Part whose star profile is used; by default the reference night.

    Returns
    -------
    reference, catalog : Dataset
        As of `reference` and `catalog`.

    Raises
    ------
    ValueError
        When the reduction has no catalogue of this key, or no star profile of this night.
    """
    tree = open_reduction(out_directory)
    name = key.replace(":", "-")
    if f"{name}/catalog" not in tree.groups and f"/{name}/catalog" not in tree.groups:
        has = ", ".join(str(one.attrs["key"]) for one in tree.children.values() if "key" in one.attrs)
        raise ValueError(f"open_catalog expected a camera key with a catalogue, one of {has or 'none'}, got {key!r}")
    stars, about = tree[f"{name}/reference"].to_dataset(), tree[f"{name}/reference"].attrs
    parameters = _parameters_of(tree.attrs)
    facts = [
        about.get(one, np.nan) for one in ("reference_fwhm", "reference_minor_fwhm", "pile_up_adu", "pile_up_gain")
    ]
    found: dict[str, Any] = {f"alignment_{one}": stars[f"alignment_{one}"].load() for one in ("x", "y", "flux")}
    found["reference_facts"] = ("fact", np.array(facts, dtype=float))
    found["reference_index"] = ((), int(about["reference_index"]))
    chosen = {one: parameters[one] for one in ("n_alignment_sources", "transform_type")}
    real_key = str(tree[name].attrs["key"])
    ref = xr.Dataset(found, coords={"fact": list(chains.REFERENCE_FACTS)}, attrs={"key": real_key, **chosen})
    first = f"{name}/{about['reference_night']}"
    of_night = first if night is None else f"{name}/{night}"
    if f"/{of_night}/psf" not in tree.groups:
        raise ValueError(
            f"open_catalog expected a night with a star profile, {night or about['reference_night']} has none"
        )
    profile = tree[f"{of_night}/psf"]
    fitted = Profile(
        profile["coefficient"].to_numpy(),
        float(profile.attrs.get("pixel_area", 0.0)),
        float(profile.attrs.get("total_err", 0.0)),
    )
    stored = tree[f"{name}/catalog"].to_dataset().load()
    cat = xr.Dataset({one: stored[one].variable for one in stored.variables}).set_coords("source_id")
    rms = tree[f"{first}/frames"]["background_rms"].to_numpy()
    cat = with_indexes(cat).assign_attrs(key=real_key, fwhm=float(stored.attrs["fwhm"]), background_rms=_median(rms))
    return ref, _remembering(_with_profile(cat, fitted))


def _parameters_of(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Parameters of a store, from the attributes of its root."""
    return dict(json.loads(attributes["parameters"]))


def add_sources(cat: xr.Dataset, xy: Sequence[tuple[float, float]], name: Sequence[str] | None = None) -> xr.Dataset:
    """A catalogue with further sources at positions of the reference frame.

    Parameters
    ----------
    cat : Dataset
        Of `catalog`.
    xy : sequence of (float, float)
        Positions on the reference frame, pixels.
    name : sequence of str, optional
        Names, one a position; empty for sources that were found.

    Returns
    -------
    Dataset
        The new sources have the next ids; their flux and form are not known (NaN).

    Raises
    ------
    ValueError
        When this is no catalogue, or positions and names do not fit.
    """
    places = np.asarray(xy, dtype=float)
    if "coefficient" not in cat or "source" not in cat.dims:
        raise ValueError("add_sources expected a catalogue: use catalog(stack(ds, ref)) first")
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise ValueError(f"add_sources expected positions [(x, y), ...] in pixels, got {xy!r}")
    names = [""] * len(places) if name is None else [str(one) for one in name]
    if len(names) != len(places):
        raise ValueError(f"add_sources expected a name for each of {len(places)} positions, got {len(names)}")
    everything = cat.encoding.get(_EVERYTHING, cat)
    start = int(everything["source_id"].max()) + 1 if everything.sizes["source"] else 1
    numbers = np.arange(start, start + len(places), dtype=np.int32)
    arrays: dict[str, Any] = {}
    for entry in schema.CATALOG:
        if entry.name not in cat.variables:
            continue
        fill = np.full(len(places), np.nan if entry.dtype == "float64" else entry.fill, dtype=entry.dtype)
        arrays[entry.name] = ("source", fill, cat[entry.name].attrs)
    arrays |= {
        "x": ("source", places[:, 0], cat["x"].attrs),
        "y": ("source", places[:, 1], cat["y"].attrs),
        "is_star": ("source", np.ones(len(places), dtype=bool), cat["is_star"].attrs),
        "source_id": ("source", numbers, cat["source_id"].attrs),
    }
    new = with_indexes(xr.Dataset(arrays).set_coords("source_id")).assign_coords(
        name=("source", np.array(names, dtype=object))
    )

    def grown(of: xr.Dataset) -> xr.Dataset:
        if "name" not in of.coords:
            of = of.assign_coords(name=("source", np.full(of.sizes["source"], "", dtype=object)))
        along = [str(v) for v in of.data_vars if "source" in of[v].dims]
        joined = xr.concat([of[along], new[along]], dim="source", combine_attrs="override")
        rest = of.drop_vars(along).drop_dims("source")
        return joined.assign({str(v): rest[v] for v in rest.data_vars}).assign_attrs(of.attrs)

    whole, part = grown(everything), grown(cat)
    part.encoding = {_EVERYTHING: whole, _FOUND_ONES: cat.encoding.get(_FOUND_ONES, everything)}
    return part


def photometry(ds: xr.Dataset, cat: xr.Dataset, photometer: Photometer | None = None) -> xr.Dataset:
    """Light curves of the sources of a catalogue.

    Parameters
    ----------
    ds : Dataset
        Of `align`; a part of the frames (``ds.sel(time=...)``) gives the same numbers as all of them.
    cat : Dataset
        Of `catalog`; a part of the sources (``cat.sel(source=[2, 3])``) gives the same numbers as all of them.
    photometer : Photometer, optional
        By default `AperturePhotometer`.

    Returns
    -------
    Dataset
        ``flux``, ``flux_err``, ``x``, ``y``, ``flags`` and what else the photometer measures, dims (frame, source) or
        (frame, source, radius); ``time`` and ``source`` are indexes.

    Raises
    ------
    ValueError
        When the frames are not aligned, the catalogue is of another camera or empty, or a radius is to be chosen.
    """
    chain = _chain_of(ds, chains.ALIGNED, "photometry")
    photometer = AperturePhotometer() if photometer is None else photometer
    if "coefficient" not in cat or "source_id" not in cat.variables:
        raise ValueError("photometry expected a catalogue: use catalog(stack(ds, ref)) first")
    _require_same_camera("photometry", "catalogue", cat, ds)
    if "source" not in cat.dims:
        cat = cat.expand_dims("source")
    if not cat.sizes["source"]:
        raise ValueError("photometry expected at least one source, the selection is empty")
    if getattr(photometer, "radius", None) == "best":
        raise ValueError('photometry expected a radius: "best" is judged by a whole night, which opticam.reduce does')
    everything = cat.encoding.get(_EVERYTHING, cat)
    found_ones = cat.encoding.get(_FOUND_ONES, everything)
    sources = _sources(found_ones)
    facts = CatalogFacts(
        sources["catalog_flux"], sources["fwhm"], float(cat.attrs["background_rms"]), sources["profile"]
    )
    prepared = photometer.prepare(facts) if hasattr(photometer, "prepare") else photometer
    numbers = everything["source_id"].to_numpy().tolist()
    rows = np.array([numbers.index(number) for number in cat["source_id"].to_numpy().tolist()], dtype=int)
    with_added = None if everything is found_ones else _sources(everything)
    task = chains.MeasureTask(chain, "photometry", prepared, sources, rows, with_added)
    records = _records(task, ds)
    radii = second_pass.measured_radii(photometer)
    steps = chain.steps(_placeholders(ds, chain))
    is_common = second_pass.has_common_error(steps, sources["profile_err"])
    names = (*schema.ALWAYS_MEASURED, *second_pass.measured_variables(photometer, has_common_error=is_common))
    kind = "photometry_radii" if radii else "photometry"
    sizes = {"source": len(rows), "radius": len(radii)}
    found: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        entry = schema.variable(kind, name)
        shape = tuple(sizes[dim] for dim in entry.dims[1:])
        found[name] = (entry.dims, blocks.picked(records, name, shape, entry.dtype), entry.all_attributes())
    coords: dict[str, Any] = {
        name: ("frame", ds[name].to_numpy(), ds[name].attrs) for name in ("mjd_utc", "bmjd_tdb", "night", "file")
    }
    coords["source_id"] = ("source", cat["source_id"].to_numpy(), cat["source_id"].attrs)
    if "name" in cat.coords:
        coords["name"] = ("source", cat["name"].to_numpy())
    coords["frame_flags"] = ("frame", blocks.picked(records, "frame_flags", (), np.uint32), _frame_flags())
    coords["fwhm"] = (
        "frame",
        blocks.picked(records, "fwhm", (), float),
        schema.variable("frames", "fwhm").all_attributes(),
    )
    if radii:
        coords["radius"] = ("radius", np.array(radii), schema.variable(kind, "radius").all_attributes())
    attributes = {"key": ds.attrs.get("key"), "label": photometer.label}
    if radii:
        attributes["radius_unit"] = getattr(photometer, "radius_unit", "pixel")
    return with_indexes(xr.Dataset(found, coords=coords, attrs=attributes))


def _frame_flags() -> dict[str, Any]:
    return {"units": "1", "long_name": "quality of the frame", **flag_attributes(FrameFlag)}


def relative(
    lc: xr.Dataset,
    target: int,
    comparisons: int | Sequence[int] | Literal["auto"] = "auto",
    **options: Any,
) -> xr.Dataset:
    """Differential light curve from any selection of light curves; it reads the sources that it needs.

    Parameters
    ----------
    lc : Dataset
        Of `photometry` or :func:`~opticam_dask.light_curves`, or a part of them by time, night, source or flag.
    target : int
        Id of the target.
    comparisons : int or sequence of int or "auto"
        Ids of the comparisons.
    **options
        ``weighting``, ``detrend``, ``detrend_without``, ``outliers`` as of
        :func:`~opticam_dask.relative_light_curve`.

    Returns
    -------
    Dataset
        ``relative_flux``, ``relative_flux_err`` and ``flags`` along ``frame``; ``time`` is an index.

    Raises
    ------
    ValueError
        When these are no light curves, the selection is empty, or a source is not in it.
    """
    if not isinstance(lc, xr.Dataset) or not {"flux", "flux_err", "flags", "source_id"} <= set(lc.variables):
        raise ValueError("relative expected light curves (flux, flux_err, flags): use photometry or light_curves first")
    if not lc.sizes.get("frame") or not lc.sizes.get("source"):
        raise ValueError(
            "relative expected at least one frame and two sources, the selection is empty or of one source"
        )
    wanted = None if isinstance(comparisons, str) else {int(target), *np.atleast_1d(comparisons).astype(int).tolist()}
    if wanted is not None and wanted <= set(lc["source_id"].to_numpy().tolist()):
        lc = lc.isel(source=np.flatnonzero(np.isin(lc["source_id"].to_numpy(), list(wanted))))
    return compute_relative(lc.load(), target, comparisons, **options)


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
        As of :class:`~opticam_dask.Reducer`; the ``Client`` of the session by default.
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
    chain = _chain_of(ds, 0, "reduce")
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
        client=client,
        **{**given, **options},
    )
    reducer.create_catalogs()
    reducer.photometry(list(photometers) or [AperturePhotometer()])
    return open_reduction(to)
