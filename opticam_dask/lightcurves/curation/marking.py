"""Put marks on frames, measurements and comparisons of a reduction, and take them back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from opticam_dask import locations
from opticam_dask.lightcurves import selection
from opticam_dask.lightcurves.curation.marks import COLUMNS, KINDS, TRANSFORM, marks_of
from opticam_dask.lightcurves.curation.transforms import transform_of_pairs
from opticam_dask.lightcurves.light_curve_files import write_light_curves
from opticam_dask.lightcurves.targets import Target, rows_of_sources, source_number
from opticam_dask.store import ownership
from opticam_dask.store.camera import Camera
from opticam_dask.store.store import Store


def mark(
    out_directory: str | Path,
    kind: Literal["cloud", "junk", "keep", "transform"],
    key: str,
    *,
    frames: Sequence[str] = (),
    times: tuple[Any, Any] | None = None,
    sources: Sequence[Target] = (),
    pairs: Sequence[tuple[int, float, float]] = (),
    label: str = "",
    why: str = "",
    who: str = "",
) -> list[int]:
    """Mark frames, measurements or comparisons.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    kind : {"cloud", "junk", "keep", "transform"}
        What is the matter. Fluxes that are cloud or junk are left out of light curves, exports and everything that is
        made of them, unless they are marked keep as well. What is marked keep is used although a program finds fault
        with it (outliers, comparisons). A transform says where the stars of a frame are that could not be aligned: the
        next ``reduce`` or ``repair`` measures the frame with it, flagged ``by_hand``.
    key : str
        Camera key such as ``1:g``.
    frames : sequence of str
        Names of the files of frames.
    times : (start, end), optional
        Frames between these times, both included: MJD (UTC, mid-exposure), datetime64 or ISO text.
    sources : sequence of int, str, (float, float) or SkyCoord
        Sources to mark; by default all. Without frames and times: these sources as comparisons.
    pairs : sequence of (int, float, float)
        For a transform: two or more sources of the catalogue, each with its x and y in the frame (pixels, as reduced).
        Where the frame has detections near the places that follow, the transform is fitted to them.
    label : str
        Photometry label; by default all.
    why, who : str
        Reason, and who says so; by default the name of the user.

    Returns
    -------
    list of int
        Numbers of the new marks.

    Raises
    ------
    ValueError
        When there is no such frame or source, no frame in that time, or nothing is said to be marked; when pairs do not
        make a transform.
    store.StoreError
        When there is no store.
    ownership.OwnedError
        While a run works on the store.
    """
    camera = Store.open(out_directory).camera(key)
    if kind == TRANSFORM:
        if len(frames) != 1 or times is not None or sources or label:
            raise ValueError(
                "a transform is that of one frame (frames), with pairs of stars, for all sources and labels"
            )
        return [mark_transform(out_directory, camera.key, frames[0], pairs, why=why, who=who)]
    if pairs:
        raise ValueError(f"pairs of stars make a mark of the kind transform, got {kind!r}")
    spans = _spans(camera, frames, times)
    numbers = [source_number(out_directory, camera.key, source) for source in sources]
    if not spans and not numbers:
        raise ValueError("say what is marked: frames or times, sources, or both")
    return mark_spans(out_directory, kind, key, spans, sources=numbers, label=label, why=why, who=who)


def mark_spans(
    out_directory: str | Path,
    kind: str,
    key: str,
    spans: Sequence[tuple[float, float]],
    *,
    sources: Sequence[int] = (),
    label: str = "",
    why: str = "",
    who: str = "",
) -> list[int]:
    """Mark the frames of some spans of time; see :func:`mark`.

    Parameters
    ----------
    out_directory, kind, key, label, why, who
        Where, what, on which camera and photometry, why and by whom, as :func:`mark` takes them.
    spans : sequence of (float, float)
        First and last mid-exposure, MJD (UTC); none: the sources as comparisons.
    sources : sequence of int
        Numbers of the sources; by default all.

    Returns
    -------
    list of int
        Numbers of the new marks.

    Raises
    ------
    ValueError, store.StoreError, ownership.OwnedError
        As :func:`mark`.
    """
    if kind not in KINDS:
        raise ValueError(f"a mark is one of {', '.join(KINDS)}, got {kind!r}")
    store = Store.open(out_directory)
    camera = store.camera(key)
    if label and label not in camera.labels:
        raise ValueError(f"no photometry {label!r} of {camera.key}; there is {', '.join(camera.labels) or 'none'}")
    rows_of_sources(camera.catalog["source_id"], sources, camera.key)
    if not spans and kind == "cloud":
        raise ValueError("a source as a comparison is junk or keep; cloud needs frames or times")
    entry = {"kind": kind, "key": camera.key, "label": label, "why": why, "who": who or ownership.user_name()}
    entry |= {"when": _now(), "undone_by": "", "undone_when": "", "transform": ""}
    rows = [
        {**entry, "source_id": number, "mjd_start": start, "mjd_end": end}
        for start, end in spans or [(np.nan, np.nan)]
        for number in sources or [0]
    ]
    return _add(out_directory, store, rows)


def mark_transform(
    out_directory: str | Path,
    key: str,
    frame: str,
    pairs: Sequence[tuple[int, float, float]],
    *,
    why: str = "",
    who: str = "",
) -> int:
    """Give a frame that could not be aligned a transform by stars that were matched by eye; see :func:`mark`.

    Returns
    -------
    int
        Number of the mark.

    Raises
    ------
    ValueError, store.StoreError, ownership.OwnedError
        As :func:`mark`.
    """
    store = Store.open(out_directory)
    camera = store.camera(key)
    found = transform_of_pairs(camera, frame, pairs)
    entry = {"kind": TRANSFORM, "key": camera.key, "label": "", "why": why, "who": who or ownership.user_name()}
    entry |= {"when": _now(), "undone_by": "", "undone_when": "", "transform": found.as_json()}
    span = {"source_id": 0, "mjd_start": found.mjd_utc, "mjd_end": found.mjd_utc}
    return _add(out_directory, store, [entry | span])[0]


def _add(out_directory: str | Path, store: Store, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Add rows to the list of marks; return their numbers."""
    with ownership.own(out_directory):
        before = marks_of(store, undone=True)
        first = int(before.index.max()) + 1 if len(before) else 1
        added = pd.DataFrame(rows, index=pd.RangeIndex(first, first + len(rows), name="number"))
        store.write_marks(_columns(pd.concat([before, added[before.columns]]) if len(before) else added))
        _write_files(out_directory, store, added)
    return added.index.tolist()


def unmark(out_directory: str | Path, numbers: Sequence[int], *, who: str = "") -> None:
    """Take marks back; they stay on the list of :func:`marks` with ``undone=True``.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    numbers : sequence of int
        Numbers of the marks.
    who : str
        Who takes them back; by default the name of the user.

    Raises
    ------
    ValueError
        When a number is not that of a mark.
    ownership.OwnedError
        While a run works on the store.
    """
    store = Store.open(out_directory)
    with ownership.own(out_directory):
        table = marks_of(store, undone=True)
        there = table.index[table["undone_when"] == ""].tolist()
        if unknown := [number for number in numbers if number not in there]:
            raise ValueError(f"no mark {', '.join(map(str, unknown))}; there is {', '.join(map(str, there)) or 'none'}")
        table.loc[list(numbers), ["undone_by", "undone_when"]] = [who or ownership.user_name(), _now()]
        store.write_marks(_columns(table))
        _write_files(out_directory, store, table.loc[list(numbers)])


def _write_files(out_directory: str | Path, store: Store, changed: pd.DataFrame) -> None:
    """Make the light curves again that marks were put on or taken from, and write their files anew."""
    changed = changed[changed["kind"] != TRANSFORM]
    for camera in store.cameras:
        of_camera = set(changed.loc[changed["key"] == camera.key, "label"])
        if of_camera and camera.product("differential").group_names:
            # it takes a while to import, and only a few stores keep some
            from opticam_dask.lightcurves.curation.kept_curves import make_kept_curves_again

            make_kept_curves_again(out_directory, camera, set(camera.labels) if "" in of_camera else of_camera)
    for label in {label for camera in store.cameras for label in camera.labels}:
        keys = set(changed.loc[changed["label"].isin(("", label)), "key"])
        if keys and locations.location(out_directory).joinpath("lcs", label).is_dir():
            write_light_curves(out_directory, label, keys=keys)


@contextmanager
def warnings_told() -> Iterator[list[str]]:
    """Warnings, of light curves that cannot be made again, become lines, which the list has in the end."""
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield lines
    lines += [str(warning.message) for warning in caught]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _spans(camera: Camera, frames: Sequence[str], times: tuple[Any, Any] | None) -> list[tuple[float, float]]:
    """Spans of time that are meant, in MJD."""
    known = {
        Path(str(file)).name: float(mjd)
        for part in camera.parts
        for file, mjd in zip(part.frames["file"].tolist(), part.frames["mjd_utc"].tolist(), strict=True)
    }
    names = [Path(name).name for name in frames]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no frame {', '.join(unknown)} of {camera.key}; the first is {next(iter(known), 'none')}")
    found = [(known[name], known[name]) for name in names]
    if times is not None:
        first, last = (selection.as_days(value, "mjd_utc") for value in times)
        start, end = sorted((-np.inf if first is None else first, np.inf if last is None else last))
        if not any(start <= mjd <= end for mjd in known.values()):
            raise ValueError(
                f"no frame of {camera.key} between MJD {start:.6f} and {end:.6f}; there are some from "
                f"{min(known.values()):.6f} to {max(known.values()):.6f}"
            )
        found.append((start, end))
    return found


def _columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    """A table of marks as the store keeps it."""
    return {name: values.tolist() for name, values in table.reset_index()[list(COLUMNS)].items()}
