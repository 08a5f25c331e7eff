"""The error that a store gives, and what is said about an array that cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


class StoreError(Exception):
    """The store cannot be used as asked; the message says why and what to do."""


class NoSuchKey(StoreError, ValueError):
    """The store has no camera of this key; the message names those it has."""


class NoSuchLabel(StoreError, ValueError):
    """The camera has no photometry of this label; the message names those it has."""


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
