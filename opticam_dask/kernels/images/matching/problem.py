"""Matching problem: two lists of sources, and a transform between them with its matched pairs.

Positions are complex numbers ``x + iy`` in the search for a match: a similarity is then ``frame = a * reference + b``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Fewest pairs that can tell a match with a rotation from chance: one more than fix it.
LEAST_FOR_ROTATION = 3
#: This many starting points are refined.
MAX_REFINED = 8


@dataclass(frozen=True)
class MatchProblem:
    """Two cleaned lists of sources, and the rules by which they are matched."""

    reference: np.ndarray
    frame: np.ndarray
    reference_weights: np.ndarray
    frame_weights: np.ndarray
    area: float
    shift_only: bool
    expected: tuple[complex, complex]
    scale: float
    scale_range: float
    tolerance: float
    is_mirrored: bool = False

    @property
    def least(self) -> int:
        """Fewest pairs that can tell a match from chance: one more than fix the transform."""
        return 2 if self.shift_only else LEAST_FOR_ROTATION


@dataclass(frozen=True)
class PairedTransform:
    """A transform, its pairs, and the logarithm of the number of such matches expected by chance."""

    a: complex
    b: complex
    i: np.ndarray
    j: np.ndarray
    log_chance: float
    is_mirrored: bool = False

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Where points of the reference are on the frame."""
        return self.a * points + self.b

    def matrix(self) -> np.ndarray:
        """The transform as a 3 x 3 matrix."""
        a, b = self.a, self.b
        hand = -1.0 if self.is_mirrored else 1.0
        return np.array([[a.real, -hand * a.imag, b.real], [a.imag, hand * a.real, b.imag], [0.0, 0.0, 1.0]])
