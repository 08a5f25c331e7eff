"""Errors of the store, and messages about arrays that cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from opticam_dask.locations import twin


class StoreError(Exception):
    """The store cannot be used as asked; the message says why and what to do."""


class NoSuchKey(StoreError, ValueError):
    """The store has no camera of this key; the message names those it has."""


class NoSuchLabel(StoreError, ValueError):
    """There is no photometry of a label.

    Parameters
    ----------
    label : str
        The label.
    where : str
        What was looked through.
    known : iterable of str
        Labels that it has.
    """

    def __init__(self, label: str, where: str, known: Iterable[str]) -> None:
        super().__init__(f"no photometry {label!r} of {where}; it has {', '.join(sorted(set(known))) or 'none'}")


class NoCatalogYet(StoreError, ValueError):
    """The camera has no catalogue of sources yet."""


class NoSuchArray(FileNotFoundError, ValueError):
    """There is no array of a name in a directory: the error that Zarr raises is of both kinds as well."""


def require_own_name(name: str, others: Iterable[str]) -> None:
    """Refuse a name that is another one on some file systems.

    Raises
    ------
    StoreError
        With the name that it would be the same as.
    """
    for other in others:
        if other != name and twin(other) == twin(name):
            raise StoreError(
                f"{name} and {other} would be one directory where capital letters or dots at the end do not count: "
                "give another name"
            )


@contextlib.contextmanager
def clear_errors(path: Path, name: str) -> Iterator[None]:
    """Say which array cannot be read, and what to do; codecs and parsers say neither."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise StoreError(
            f"{name} of {path} is damaged ({' '.join(str(error).split())[:100]}). "
            f"opticam-dask verify {path.parent} says what is to be done about it."
        ) from error
