"""Contradictions between the headers of one night, told once with a count and an example."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opticam_dask.kernels.units import SECONDS_PER_DAY

if TYPE_CHECKING:
    import pandas as pd

#: Frames of a night that point further from the middle of the others, degrees.
_SAME_POINTING = 1.0
#: Sites of one night further apart than this, degrees of latitude (one kilometre).
_SAME_SITE = 0.009
#: Exposures overlap where the next one begins earlier than the end by this share of the exposure time,
_OVERLAP_SHARE = 0.1
#: and by this many seconds.
_OVERLAP_SECONDS = 1.0
#: MJD of 1970-01-01, from which computers count.
_MJD_1970 = 40587.0
#: MJD of 1976-01-01: no CCD was at a telescope before.
_FIRST_CCD = 42778.0
#: A clock that passes midnight goes on within this many days; and so do the frames beside it.
_GOES_ON = 1.0 / 24.0
#: Names are in the order of time as long as fewer steps than this share go back.
_MOST_BACK = 0.1


@dataclass(frozen=True)
class _Frames:
    """Frames of one key and night in the order of time, column by column."""

    columns: pd.DataFrame

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name].to_numpy()


def contradictions(table: pd.DataFrame) -> list[str]:
    """List the contradictions between the frames of a key and night.

    Parameters
    ----------
    table : pandas.DataFrame
        Table of a `Scan`.

    Returns
    -------
    list of str
        One line for each kind of contradiction, key and night: gains, binning against shape, sites, pointings, exposure
        times against the times between frames, times that go back from one name to the next, and dates that stay when
        the clock passes midnight.
    """
    lines = []
    for (key, night), rows in table.groupby(["key", "night"], sort=True):
        if len(rows) > 1:
            lines += [f"{key} {night}: {sentence}" for sentence in _of_night(_Frames(rows))]
    for key, rows in table.groupby("key", sort=True):  # a date too early is another night
        lines += [f"{key}: {sentence}" for sentence in _midnights(_Frames(rows))]
    return lines


def time_gaps(table: pd.DataFrame) -> list[tuple[str, str, str, float, float]]:
    """Find steps in time of more than ten times the median step of a key and night.

    Parameters
    ----------
    table : pandas.DataFrame
        Table of a scan.

    Returns
    -------
    list of (key, file_before, file_after, gap_s, median_s)
        Steps between successive frames in seconds.
    """
    gaps = []
    for (key, _night), frames in table.groupby(["key", "night"], sort=True):
        ordered = frames.sort_values(["mjd_utc", "file"], kind="stable")
        files, steps = ordered["file"].to_numpy(), np.diff(ordered["mjd_utc"].to_numpy()) * SECONDS_PER_DAY
        median_step = float(np.median(steps[steps > 0.0])) if (steps > 0.0).any() else math.inf
        for index in np.flatnonzero(steps > 10.0 * median_step):
            gaps.append((str(key), files[index], files[index + 1], float(steps[index]), median_step))
    return gaps


def _of_night(frames: _Frames) -> Iterator[str]:
    yield from _gains(frames)
    yield from _binnings(frames)
    yield from _sites(frames)
    yield from _pointings(frames)
    yield from _clock(frames)
    yield from _overlaps(frames)
    yield from _steps_back(frames)


def _example(frames: _Frames, is_so: np.ndarray) -> str:
    return f"{int(is_so.sum())} of {is_so.size} frames, e.g. {os.path.basename(frames['file'][int(np.argmax(is_so))])}"


def _gains(frames: _Frames) -> Iterator[str]:
    gains, counts = np.unique(frames["gain"], return_counts=True)
    if gains.size > 1:
        is_other = frames["gain"] != gains[np.argmax(counts)]
        listed = ", ".join(f"{gain:g}" for gain in gains[:5]) + ", ..." * (gains.size > 5)
        yield f"the gain is not the same in all frames: {listed} ({_example(frames, is_other)})"


def _binnings(frames: _Frames) -> Iterator[str]:
    pairs = frames.columns[["ny", "nx", "binning"]].drop_duplicates()
    shapes = pairs[["ny", "nx"]].drop_duplicates()
    if len(pairs) > len(shapes):
        binnings, counts = np.unique(frames["binning"], return_counts=True)
        is_other = frames["binning"] != binnings[np.argmax(counts)]
        listed = ", ".join(map(str, binnings))
        yield f"frames of one shape have the binnings {listed} ({_example(frames, is_other)})"


def _sites(frames: _Frames) -> Iterator[str]:
    latitude, longitude = frames["latitude"], frames["longitude"]
    is_one_place = np.all(latitude == latitude[0]) and np.all(longitude == longitude[0])
    if is_one_place or not np.isfinite(latitude).any():
        return
    places, counts = np.unique(np.column_stack([latitude, longitude]), axis=0, return_counts=True)
    usual = places[np.argmax(counts)]
    away = np.hypot(latitude - usual[0], (longitude - usual[1]) * np.cos(np.deg2rad(usual[0])))
    if (is_far := away > _SAME_SITE).any():
        yield f"the site of the telescope is not the same in all frames ({_example(frames, is_far)})"


def _pointings(frames: _Frames) -> Iterator[str]:
    ra, dec = np.deg2rad(frames["ra"]), np.deg2rad(frames["dec"])
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    if not (is_known := np.isfinite(vectors).all(axis=-1)).any():
        return
    middle = np.median(vectors[is_known], axis=0)
    middle /= np.linalg.norm(middle) or 1.0
    away = np.rad2deg(np.arccos(np.clip(vectors @ middle, -1.0, 1.0)))
    if (is_far := is_known & (away > _SAME_POINTING)).any():
        yield (
            f"frames point more than {_SAME_POINTING:g} degree away from the others, and their barycentric times are "
            f"for where they point ({_example(frames, is_far)})"
        )


def _clock(frames: _Frames) -> Iterator[str]:
    tomorrow = time.time() / SECONDS_PER_DAY + _MJD_1970 + 1.0
    if (is_unset := (frames["mjd_utc"] < _FIRST_CCD) | (frames["mjd_utc"] > tomorrow)).any():
        yield f"frames of before 1976 or of the future: was the clock of the camera set? ({_example(frames, is_unset)})"


def _overlaps(frames: _Frames) -> Iterator[str]:
    starts = frames["mjd_utc"] * SECONDS_PER_DAY - 0.5 * frames["exposure_time"]
    order = np.argsort(starts, kind="stable")
    steps, needed = np.diff(starts[order]), frames["exposure_time"][order][:-1]
    is_short = np.zeros(starts.size, dtype=bool)
    is_short[order[:-1]] = (steps > 0.0) & (steps < needed * (1.0 - _OVERLAP_SHARE) - _OVERLAP_SECONDS)
    if is_short.any():
        yield (
            f"exposures take longer than the time to the next frame: the exposure times or the times are wrong "
            f"({_example(frames, is_short)})"
        )


def _steps_back(frames: _Frames) -> Iterator[str]:
    files, times = frames["file"], frames["mjd_utc"]
    order = np.argsort(files, kind="stable")
    is_back = np.diff(times[order]) < 0.0
    if not is_back.any() or is_back.mean() > 3 * _MOST_BACK:
        return
    # names with numbers of different lengths
    order = np.array(sorted(range(files.size), key=lambda index: _natural(str(files[index]))))
    is_back = np.diff(times[order]) < 0.0
    if is_back.any() and is_back.mean() <= _MOST_BACK:
        first = os.path.basename(files[order[1:][is_back][0]])
        yield f"the time goes back {int(is_back.sum())} time(s) in the order of names, first at {first}"


def _midnights(frames: _Frames) -> Iterator[str]:
    files, times = frames["file"], frames["mjd_utc"]
    plain = np.diff(times[np.argsort(files, kind="stable")])
    if not ((plain < -0.5) & (plain > -1.0)).any():  # hardly ever: the order of names with numbers takes its time
        return
    order = np.array(sorted(range(files.size), key=lambda index: _natural(str(files[index]))))
    steps, folders = np.diff(times[order]), np.array([os.path.dirname(name) for name in files[order]])
    goes_on = (steps >= 0.0) & (steps < _GOES_ON)
    beside = np.append(False, goes_on[:-1]) | np.append(goes_on[1:], False)
    beside &= folders[1:] == folders[:-1]
    if (is_midnight := beside & (steps < _GOES_ON - 1.0) & (steps > -1.0)).any():
        first = os.path.basename(files[order[1:][is_midnight][0]])
        yield (
            f"the clock passes midnight at {first}, and the date stays: the times of this frame and of those after it "
            "are a day too early (the header may have the date of the evening)"
        )


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", name)]
