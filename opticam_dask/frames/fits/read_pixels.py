"""Pixels of a frame as they were read, with their errors and with the overscan that was taken off."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Taken(NamedTuple):
    """What was done to the pixels of one amplifier: ``(stored - level) * factor``.

    Attributes
    ----------
    where : tuple of (slice, slice), or None
        Its rows and columns of the frame; None for all.
    level : float
        Level of its overscan, ADU.
    factor : float
        Its gain relative to that of the frame.
    """

    where: tuple[slice, slice] | None
    level: float
    factor: float


class ReadPixels(np.ndarray):
    """Pixels of a frame; an ordinary array wherever it is used.

    Attributes
    ----------
    variance : ndarray, shape (ny, nx), or None
        Variance of each pixel by an extension of the file, ADU squared; NaN where it is not known.
    taken : tuple of Taken
        What was taken off the stored values.
    """

    variance: np.ndarray | None = None
    taken: tuple[Taken, ...] = ()

    @classmethod
    def of(cls, pixels: np.ndarray, variance: np.ndarray | None, taken: tuple[Taken, ...]) -> np.ndarray:
        """Pixels with what the file says about them; the plain array where it says nothing."""
        taken = tuple(one for one in taken if one.level or one.factor != 1.0)
        if variance is None and not taken:
            return pixels
        found = pixels.view(cls)
        found.variance, found.taken = variance, taken
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what is known of the pixels with them: frames travel between processes."""
        return ReadPixels.of, (np.asarray(self), self.variance, self.taken)


def level_as_read(pixels: np.ndarray, level: float) -> float | np.ndarray:
    """A level of the stored values (ADU, with the overscan in it) in the values as read.

    Parameters
    ----------
    pixels : ndarray, shape (ny, nx)
        As a reader gave them.
    level : float
        Level of the detector, ADU, such as the one up to which it is linear; NaN stays.

    Returns
    -------
    float, or ndarray of shape (ny, nx) where amplifiers differ
    """
    taken = pixels.taken if isinstance(pixels, ReadPixels) else ()
    if len(taken) == 1 and taken[0].where is None:
        return (level - taken[0].level) * taken[0].factor
    if not taken or np.isnan(level):
        return level
    levels = np.full(pixels.shape, level)
    for one in taken:
        levels[one.where or ...] = (level - one.level) * one.factor
    return levels
