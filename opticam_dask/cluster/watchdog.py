"""Time limit of a frame: a worker that hangs on a frame is ended, and its block is rescued as after a crash.

Python cannot stop a function that hangs in C code, and a worker whose task hangs looks alive to the scheduler. So a
timer outside the interpreter ends the process when a frame takes too long; the block then runs again elsewhere, and
if it hangs there too, its frames are tried one by one (:mod:`opticam_dask.cluster.rescue`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

#: A timer that runs is left alone for this share of its time, as starting it anew takes a thread; it runs for as much
#: longer, so that no frame has less than its time.
_SLACK = 0.05


@dataclass
class _Timer:
    seconds: float = 0.0
    output: int = -1
    started: float = float("-inf")

    def start(self) -> None:
        if self.seconds > 0 and time.monotonic() - self.started > _SLACK * self.seconds:
            self.started = time.monotonic()
            faulthandler.dump_traceback_later((1.0 + _SLACK) * self.seconds, exit=True, file=self.output)


#: One timer a process: blocks take turns in it.
_timer = _Timer()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End this process when no frame begins within a time limit, in seconds, while the block runs.

    Parameters
    ----------
    seconds : float
        0 is no limit. Only for processes that may be ended: workers, not the user's own.
    """
    if not seconds > 0:
        yield
        return
    _timer.seconds, _timer.output, _timer.started = seconds, os.open(os.devnull, os.O_WRONLY), float("-inf")
    try:
        _timer.start()
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        os.close(_timer.output)
        _timer.seconds = 0.0


def still_working() -> None:
    """Say that the next frame begins: its time starts now. Does nothing without a limit."""
    _timer.start()
