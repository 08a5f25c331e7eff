"""Library of camera definitions: of this package, and users' own in folders or installed packages."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from opticam_dask.frames.instruments import OPTICAM_MX, Instrument, read_definition

#: Folders of definitions, as in PATH.
FOLDERS_VARIABLE = "OPTICAM_DASK_INSTRUMENTS"
#: Where packages name their definitions: an `Instrument`, a dictionary, or what returns one of them.
ENTRY_POINTS = "opticam_dask.instruments"
_OWN_FOLDER = Path("~/.config/opticam_dask/instruments")
#: Entry of a definition that says how its headers are known: keywords, and a regular expression for each.
RECOGNISE = "_recognise"


def known_instruments() -> dict[str, Instrument]:
    """Instrument definitions by name: the user's own first, then of installed packages, then of this package.

    Users' own are the ``.json`` files in the folders of the environment variable ``OPTICAM_DASK_INSTRUMENTS`` and in
    ``~/.config/opticam_dask/instruments``; packages name theirs by entry points of the group
    ``opticam_dask.instruments``. The name is that of the file, without ``.json``, or of the entry point.

    Raises
    ------
    ValueError
        When a definition is not valid.
    """
    return {name: _instrument(values) for name, values in _definitions().items()}


def load_instrument(name: str | os.PathLike[str]) -> Instrument:
    """The definition of a file, or one that is known by name.

    Parameters
    ----------
    name : path or str
        JSON file, or a name of :func:`known_instruments` in any case.

    Raises
    ------
    ValueError
        When there is no such file and no such name, or the definition is not valid.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return Instrument.from_json(path)
    found = _definitions()
    by_name = {known.casefold(): values for known, values in found.items()}
    values = by_name.get(str(name).casefold())
    if values is None:
        raise ValueError(f"there is no file {name}, and no definition of this name: {', '.join(sorted(found))}")
    return _instrument(values)


def recognised(header: Mapping[str, Any]) -> str:
    """Name of the definition that a header is known for; empty without one.

    The definition with the most signs in these headers; the user's own go before those of this package.
    """
    best, most = "", 0
    for name, values in _definitions().items():
        signs = values.get(RECOGNISE, {}) if isinstance(values, Mapping) else {}
        if len(signs) > most and all(
            re.search(words, str(header.get(key, "")).strip()) for key, words in signs.items()
        ):
            best, most = name, len(signs)
    return best


def _definitions() -> dict[str, Any]:
    """Known definitions by name: dictionaries, or instruments."""
    found: dict[str, Any] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            found.setdefault(path.stem, read_definition(path))
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        loaded = entry.load()
        found.setdefault(entry.name, loaded() if callable(loaded) else loaded)
    for path in _shipped():
        found.setdefault(path.name.removesuffix(".json"), json.loads(path.read_text(encoding="utf-8")))
    found.setdefault("opticam", OPTICAM_MX().to_dict() | {RECOGNISE: {"INSTRUME": "^OPTICAM"}, "_is_default": True})
    return found


def _folders() -> list[Path]:
    named = [Path(part) for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    return [*named, _OWN_FOLDER.expanduser()]


def _shipped() -> Iterator[Any]:
    folder = resources.files("opticam_dask.frames.definitions")
    yield from sorted((path for path in folder.iterdir() if path.name.endswith(".json")), key=lambda path: path.name)


def _instrument(values: Any) -> Instrument:
    if isinstance(values, Instrument):
        return values
    if isinstance(values, Mapping) and values.get("_is_default"):
        return OPTICAM_MX()
    return Instrument.from_json(values)
