"""Arguments of a reduction, checked and converted: labels, instrument, calibration frames, directories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask.api.correctors import Corrector
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.locations import require_name
from opticam_dask.methods.backgrounds import DefaultBackground
from opticam_dask.methods.frame_view import Photometer
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.passes.calibration import sort_by_kind

if TYPE_CHECKING:  # they know astropy, which takes half a second
    from opticam_dask.frames.placed_sources import PlacedSource
    from opticam_dask.passes.sky_search import SkyQuery


def check_label(label: str) -> str:
    """Refuse a name of a photometry that cannot be the name of a group and of a folder.

    Raises
    ------
    ValueError
        When it has signs that some file system refuses, or is too long.
    """
    return require_name("a label", label)


def require_callables(**given: Any) -> None:
    """Refuse arguments that are neither None nor callable.

    Parameters
    ----------
    **given : callable or None
        The arguments, by the names that the message calls them.

    Raises
    ------
    TypeError
        When one of them is something else; the message has its name and its type.
    """
    for name, value in given.items():
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be a callable or None, got {type(value).__name__}")


def as_instrument(instrument: Instrument | type[Instrument] | None, extension: int | str | None) -> Instrument:
    """The instrument, with its image in another extension where one is given."""
    chosen = OPTICAM_MX() if instrument is None else instrument() if isinstance(instrument, type) else instrument
    return chosen if extension is None else replace(chosen, extension=extension)


def correctors(
    given: Mapping[type[Corrector], tuple[Any, Corrector | None]], calibration: Any, instrument: Instrument
) -> list[Corrector]:
    """Correctors of the kinds that were given: by directories, a corrector, or calibration frames of all kinds.

    Parameters
    ----------
    given : dict of (directories, Corrector)
        What was given of each kind; None where nothing was.
    calibration : path or sequence of path, optional
        Calibration frames of all kinds together, which stand in for kinds that were not given.
    instrument : Instrument
        What their headers mean.

    Raises
    ------
    ValueError
        When a kind is given twice.
    TypeError
        When a corrector is of another kind.
    """
    by_kind = {} if calibration is None else sort_by_kind(calibration, instrument)
    found = []
    for kind, (directories, own) in given.items():
        if own is not None and directories is not None:
            raise ValueError(f"{kind.kind} frames are given twice: as directories, and by a {kind.__name__}")
        if own is not None and not isinstance(own, kind):
            raise TypeError(f"expected a {kind.__name__}, got {type(own).__name__}")
        directories = by_kind.get(kind.kind) if directories is None else directories
        if own is not None or directories is not None:
            found.append(own or kind(data_directory=directories))
    return found


def plain(background: Callable[[np.ndarray], Any] | None) -> Callable[[np.ndarray], Any] | None:
    """None for the default background, for which the faster mesh of this package stands in; any other as given."""
    return None if type(background) is DefaultBackground else background


def paths(*directories: Any) -> list[str | Path]:
    """All directories and files that were given, singly or as sequences.

    Raises
    ------
    ValueError
        When there is none.
    """
    found: list[str | Path] = []
    for entry in directories:
        if isinstance(entry, (str, Path)):
            found.append(entry)
        elif entry is not None:
            found.extend(entry)
    if not found:
        raise ValueError("data_directory is missing: give the directory that holds the frames")
    return found


def photometers_by_label(
    photometer: Photometer | Sequence[Photometer] | None, label: str | None
) -> dict[str, Photometer]:
    """Photometers by their labels; without any the usual one, an aperture.

    Raises
    ------
    ValueError
        When a label is no name, or several photometers would have one.
    """
    chosen = [photometer or AperturePhotometer()] if not isinstance(photometer, Sequence) else list(photometer)
    labels = [check_label(label or entry.label) for entry in chosen]
    if len(set(labels)) < len(labels):
        raise ValueError(f"several photometers would have one label: {', '.join(labels)}")
    return dict(zip(labels, chosen, strict=True))


def placed_sources(given: Any, moving: str | Path | Sequence[str | Path] = ()) -> tuple[PlacedSource, ...]:
    """Sources of the observer, from a file, a table or a list, and those that move, from files.

    Raises
    ------
    ValueError
        When a table or file lacks a column, or has a value that is no position.
    FileNotFoundError
        When a file does not exist.
    """
    files = [moving] if isinstance(moving, (str, Path)) else list(moving or ())
    if given is None and not files:
        return ()
    from opticam_dask.frames.placed_sources import read_sources, read_track

    return (*read_sources(given), *map(read_track, files))


def sky_query(
    sky_catalog: str | Path | None = None, wcs: str | Path | Sequence[str | Path] = (), sky_epoch: float | None = None
) -> SkyQuery | None:
    """Search for sky coordinates from what the user knows of the field; None where nothing was given.

    Raises
    ------
    ValueError
        When the file of stars cannot be read as one.
    FileNotFoundError
        When that file does not exist.
    """
    files = [wcs] if isinstance(wcs, (str, Path)) else list(wcs)
    if sky_catalog is None and not files:
        return None
    from opticam_dask.frames.sky_catalogs import read_sky_catalog
    from opticam_dask.passes.sky_search import SkyQuery

    return SkyQuery(None if sky_catalog is None else read_sky_catalog(sky_catalog, sky_epoch), files)
