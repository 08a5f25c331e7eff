"""Errors of files that cannot be used as frames."""

from __future__ import annotations


class FrameError(Exception):
    """A file cannot be used as a frame.

    Attributes
    ----------
    reason : str
        What was expected and what was found. The error that led to it, if any, is the ``__cause__``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CutHeader(FrameError):
    """The file ends in a header."""


class OwnProduct(FrameError):
    """The file is a table exported by this program: no frame, and no error either."""
