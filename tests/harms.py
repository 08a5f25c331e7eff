"""What harms the process that does it."""

from __future__ import annotations

import time

import numpy as np


def hang():
    # in C code that holds the interpreter's lock: no Python timer could end it
    import ctypes

    ctypes.PyDLL(None).sleep(3600)


def eat_memory():
    hoard = []
    while True:
        hoard.append(np.ones(2_000_000))
        time.sleep(0.01)
