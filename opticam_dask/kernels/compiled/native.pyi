# Arrays are native, C-contiguous and of the named type; anything else is a TypeError, a wrong shape a ValueError.

import numpy as np

def box_statistics(boxes: np.ndarray, result: np.ndarray, least: float, readmit: bool, /) -> None:
    """`boxes` (row, column, y, x) float32 or float64, rows in one piece; `result` (2, row, column) float64."""
