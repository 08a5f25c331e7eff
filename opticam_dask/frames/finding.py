"""FITS files in directories, of this machine and of remote places."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from opticam_dask.frames.fits_files import PathLike
from opticam_dask.locations import files_below, is_remote, local_path, location
from opticam_dask.text import printable

logger = logging.getLogger(__name__)

_NAME = re.compile(r"\.(fits|fit|fts|hcm)(\.(gz|fz))?$", re.IGNORECASE)

#: A directory that holds this one is the output directory of a reduction; what it makes there beside light curves and
#: plots, and may hold FITS files, is never looked into.
_STORE_NAME = "reduction.zarr"
_OWN_NAMES = frozenset({_STORE_NAME, "export", "watch", "scratch", "planned_run"})


def find_files(paths: PathLike | Sequence[PathLike]) -> list[str]:
    """Find the FITS files in directories, and in all directories below them.

    Parameters
    ----------
    paths : path or URL, or sequence of them
        Directories or files, of this machine or of any place that fsspec knows (``s3://bucket/directory``).
        A file that is given itself is taken whatever its name; in directories it is ``.fits``, ``.fit``, ``.fts`` or
        ``.hcm``, also followed by ``.gz`` or ``.fz``, in any case. Names that start with a dot are skipped there, and
        what reductions have made: the store, exported tables, live files.

    Returns
    -------
    list of str
        Absolute paths and URLs, sorted, each file once, even where symbolic links lead to it several times.

    Raises
    ------
    FileNotFoundError
        When a path does not exist.
    OSError
        When a remote place cannot be reached.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    remote = _remote_files([str(path) for path in given if is_remote(path)])
    tops = [os.path.abspath(os.path.expanduser(local_path(path))) for path in given if not is_remote(path)]
    if missing := [top for top in tops if not os.path.lexists(top)]:
        raise FileNotFoundError(f"expected a directory or a FITS file, but there is none at {', '.join(missing)}")
    files = [(os.path.realpath(top), top, os.path.islink(top)) for top in tops if not os.path.isdir(top)]
    files += _files_below([top for top in tops if os.path.isdir(top)])
    by_target = {target: file for target, file, is_link in files if is_link}
    by_target |= {target: file for target, file, is_link in files if not is_link}  # a link loses against its file
    return sorted([*by_target.values(), *remote])


def _remote_files(tops: list[str]) -> set[str]:
    """Frames in remote directories, from one listing each."""
    files: set[str] = set()
    for top in (str(location(given)) for given in tops):
        try:
            found = files_below(top)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"expected a directory or a FITS file, but there is none at {top}") from error
        own = _own_places(found)
        for url in found:
            below = url[len(top) :].strip("/")
            if own and any(url.startswith(place) for place in own):
                continue
            is_hidden = any(word.startswith(".") for word in below.split("/"))
            if not below or (_NAME.search(url) and not is_hidden):
                files.add(url)
    return files


def _own_places(urls: Iterable[str]) -> tuple[str, ...]:
    """Beginnings of the URLs of what reductions have made, from a listing that shows their stores."""
    outputs = {url.partition(f"/{_STORE_NAME}/")[0] for url in urls if f"/{_STORE_NAME}/" in url}
    return tuple(f"{output}/{name}/" for output in outputs for name in _OWN_NAMES)


def _files_below(tops: list[str]) -> Iterator[tuple[str, str, bool]]:
    """Files in directories: what each is without links on its way, its path, and whether it is a link itself."""
    visited: set[tuple[int, int]] = set()
    directories, links = list(tops), list[str]()
    while directories or links:
        directory = directories.pop() if directories else links.pop()
        try:
            status = os.stat(directory)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(directory))
        except OSError as error:
            logger.warning("%s cannot be searched: %s", printable(directory), error.strerror)
            continue
        is_output = any(entry.name == _STORE_NAME for entry in entries)
        beginning = os.path.join(os.path.realpath(directory), "")
        for entry in entries:
            if entry.name.startswith(".") or (is_output and entry.name in _OWN_NAMES):
                continue
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.path)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.append(entry.path)
            elif _NAME.search(entry.name):
                is_link = entry.is_symlink()
                target = os.path.realpath(entry.path) if is_link else f"{beginning}{entry.name}"
                yield target, entry.path, is_link
