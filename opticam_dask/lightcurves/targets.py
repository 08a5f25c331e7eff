"""Targets by number, by place on the sky or by name, looked up in the catalogue of a camera."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask.kernels.units import ARCSECONDS_PER_DEGREE
from opticam_dask.locations import file_word, require_name
from opticam_dask.store.store import Store
from opticam_dask.text import shown

#: A source is meant when it lies within this of a place, arcseconds: as good as coordinates found by eye.
RADIUS = 3.0
#: This many sources are listed when none is meant.
_LISTED = 3
#: Numbers of several sources in one word, as people write lists.
_NUMBERS = re.compile(r"\d+(, ?\d+)+,?|\d+,")
_SEXAGESIMAL = re.compile(r"[+-]?[\d:.]+")

#: A number of the catalogue, a name, ``(RA, Dec)`` in degrees or as text, or an astropy ``SkyCoord``.
Target = Any


def source_number(out_directory: str | Path, key: str, target: Target, radius: float = RADIUS) -> int:
    """Number of a target in the catalogue of a camera.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key : str
        Camera key such as ``1:g``.
    target : int, str, (float, float) or SkyCoord
        Number of the catalogue; name that the observer gave or of the sky catalogue; right ascension and declination
        (ICRS), degrees, or as text (``"05:34:31.9 +22:00:52"``); or a place of astropy's, in any frame.
    radius : float
        Largest distance of the source from the place, arcseconds.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        When no source is meant; the message lists the nearest ones, or names that are alike.
    """
    if isinstance(target, (list, tuple)) and len(target) == 1:
        target = target[0]
    if isinstance(target, (int, np.integer)) and not isinstance(target, bool):
        return int(target)
    if isinstance(target, str) and target.strip().isdecimal():
        return int(target)
    place = _as_place(target)
    catalog = _catalog(out_directory, key, "name" if place is None else "ra")
    if place is None:
        return number_of_name(catalog, key, str(target).strip())
    return _by_place(catalog, key, place, radius)


def source_numbers(out_directory: str | Path, key: str, given: Any, radius: float = RADIUS) -> list[int]:
    """Numbers of one or several targets in the catalogue of a camera, as :func:`source_number` finds them.

    ``(RA, Dec)`` is one target only as a pair of floats or a place of astropy's; in a sequence a place may be text.
    Whole numbers with commas, as ``1,2,9``, are one source each.
    """
    is_pair = isinstance(given, tuple) and len(given) == 2 and all(isinstance(one, float) for one in given)
    is_one = isinstance(given, (int, np.integer, str)) or hasattr(given, "icrs") or is_pair
    found: list[int] = []
    for one in [given] if is_one else given:
        is_list = isinstance(one, str) and _NUMBERS.fullmatch(one.strip())
        numbers = one.replace(",", " ").split() if is_list else [one]
        found += [source_number(out_directory, key, number, radius) for number in numbers]
    return found


def numbers_in(known: Mapping[str, Any], key: str, given: Any) -> list[int]:
    """Numbers of the sources that are meant by one or several numbers or names.

    Parameters
    ----------
    known : dict of array
        ``source_id`` of the sources there are and, where they have any, ``name``: a dataset of light curves will do.
    key : str
        Camera key, for the message.
    given : int or str, or sequence of them
        Numbers, or names of the observer or of the sky catalogue.

    Raises
    ------
    ValueError
        When no source has a name; the message says which names are alike.
    """
    is_one = isinstance(given, (int, np.integer, str))
    return [
        number_of_name(known, key, one) if isinstance(one, str) and not one.strip().isdecimal() else int(one)
        for one in ([given] if is_one else given)
    ]


def rows_of_sources(known: Sequence[int] | np.ndarray, wanted: Sequence[int], key: str) -> np.ndarray:
    """Rows of a catalogue that hold some sources.

    Parameters
    ----------
    known : sequence of int
        Numbers of the sources of the catalogue.
    wanted : sequence of int
        Numbers of the sources to look up.
    key : str
        Camera key of the catalogue, for the message.

    Returns
    -------
    ndarray of int, shape (len(wanted),)

    Raises
    ------
    ValueError
        When one is not in the catalogue; the message says which numbers are.
    """
    row_of = {int(number): row for row, number in enumerate(known)}
    if missing := [int(number) for number in wanted if int(number) not in row_of]:
        raise ValueError(
            f"no source {', '.join(map(str, missing))} in the catalogue of {key}; it has {_spans(sorted(row_of))}"
        )
    return np.array([row_of[int(number)] for number in wanted], dtype=int)


def label_of(target: Target) -> str:
    """Name of a target in the name of a file."""
    if hasattr(target, "icrs"):
        target = (f"{target.icrs.ra.deg:.5f}", f"{target.icrs.dec.deg:+.5f}")
    words = [str(part) for part in target] if isinstance(target, (list, tuple)) else str(target).split()
    if len(words) == 2 and all(_SEXAGESIMAL.fullmatch(word) for word in words):  # colons are no letters of files
        words = [word.replace(":", "-") for word in words]
    return file_word(" ".join(words))


def kept_name(prefix: str | None, target: Target) -> str:
    """Name of a light curve in the store and its files: a prefix that was asked for, or that of the target.

    Raises
    ------
    ValueError
        When the prefix is none that the store takes: before anything is measured or written.
    """
    return require_name("prefix", prefix) if prefix else f"target_{label_of(target)}"


def _catalog(out_directory: str | Path, key: str, needed: str) -> dict[str, np.ndarray]:
    """Catalogue of a camera that has a variable: names, or coordinates."""
    catalog = Store.open(out_directory).camera(key).whole_catalog().read_all()
    if needed not in catalog:
        raise ValueError(
            f"it is not known where on the sky {key} looked: opticam-dask sky {out_directory} finds out, by stars of a "
            "catalogue (--sky-catalog FILE) or a plate-solved frame (--wcs FILE); or give the number of the source"
        )
    return catalog


def _as_place(target: Target) -> tuple[float, float] | None:
    """Right ascension and declination (ICRS), degrees; None for a name."""
    if hasattr(target, "icrs"):
        return float(target.icrs.ra.deg), float(target.icrs.dec.deg)
    if isinstance(target, str):
        parts: Sequence[Any] = target.replace(",", " ").split()
        is_place = len(parts) == 2 and all(part[0].isdigit() or part[0] in "+-." for part in parts)
        if not is_place:
            return None
    else:
        parts = list(target) if isinstance(target, (tuple, list, np.ndarray)) else [target]
    if len(parts) != 2:
        raise ValueError(f"a target is a number, a name, or RA and Dec, got {shown(str(target))}")
    from opticam_dask.frames.sky_catalogs import place_of  # half a second of astropy: not for numbers

    return place_of(*parts)


def _by_place(catalog: Mapping[str, np.ndarray], key: str, place: tuple[float, float], radius: float) -> int:
    from opticam_dask.frames.sky_coordinates import separations

    if not (radius > 0 and math.isfinite(radius)):
        raise ValueError(f"the radius must be a number of arcseconds above 0, got {radius}")
    away = separations(*place, catalog["ra"], catalog["dec"]) * ARCSECONDS_PER_DEGREE
    order = np.argsort(np.where(np.isfinite(away), away, np.inf), kind="stable")
    if len(order) and away[order[0]] <= radius:
        return int(catalog["source_id"][order[0]])
    nearest = ", ".join(
        f"{int(catalog['source_id'][row])} ({away[row]:.1f} arcseconds away)" for row in order[:_LISTED]
    )
    raise ValueError(
        f"no source of {key} within {radius:g} arcseconds of RA {place[0]:.6f}, Dec {place[1]:+.6f} degrees; "
        f"the nearest are {nearest or 'none'}"
    )


def number_of_name(catalog: Mapping[str, Any], key: str, name: str) -> int:
    """Number of the source of a name, in any case; ``catalog`` has ``source_id`` and ``name``.

    Raises
    ------
    ValueError
        When no source has it; the message says which names are alike.
    """
    wanted = _plain(name)
    names = [str(known) for known in catalog.get("name", ())]
    if rows := [row for row, known in enumerate(names) if known and _plain(known) == wanted]:
        return int(catalog["source_id"][rows[0]])
    known = [entry for entry in names if entry]
    alike = [entry for entry in known if wanted in _plain(entry) or _plain(entry) in wanted] or known
    raise ValueError(
        f"no source of {key} has the name {shown(name)}; of {len(known)} names: {', '.join(alike[:6]) or 'none'}"
    )


def _plain(name: str) -> str:
    return "".join(name.lower().split())


def _spans(numbers: Sequence[int]) -> str:
    """Numbers of the sources there are, as a person would say it: consecutive ones as ``1 to 15``."""
    if not numbers:
        return "no sources"
    ordered = sorted(numbers)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))
