"""A file of many frames stays open from one frame to the next, as long as a block of frames is worked on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Closable(Protocol):
    """Anything that is kept open and can be closed."""

    def close(self) -> Any:
        """Close it."""
        ...


class Shelf:
    """Keeps the file that was opened last.

    Attributes
    ----------
    file : object or None
        With a method ``close``.
    """

    def __init__(self) -> None:
        self.file: Any = None

    def keep(self, file: Closable) -> None:
        """Keep a file in the place of the one before, which is closed."""
        self.clear()
        self.file = file

    def clear(self) -> None:
        """Close the file that is kept."""
        file, self.file = self.file, None
        if file is not None:
            file.close()


_here = threading.local()


def shelf() -> Shelf | None:
    """Shelf of this thread for its open file; None outside of a block."""
    found: Shelf | None = getattr(_here, "shelf", None)
    return found


@contextmanager
def keep_open() -> Iterator[None]:
    """Keep a file open from one of its frames to the next, in this thread, until the block is done."""
    if shelf() is not None:
        yield
        return
    _here.shelf = Shelf()
    try:
        yield
    finally:
        _here.shelf.clear()
        _here.shelf = None
