"""Ctrl-C and SIGTERM end a command, even when the exception that they raise is lost.

Python raises ``KeyboardInterrupt`` wherever the main thread is. Inside a finaliser or a callback of the garbage
collector it is printed and dropped, and the run would go on to its end. So the request is kept as well, and loops over
blocks ask for it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_requested: list[int] = []


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Attributes
    ----------
    number : int
        Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def interruptible(*numbers: int) -> Iterator[None]:
    """Let signals (by default SIGINT and SIGTERM) raise :class:`Interrupted` in the block.

    Without effect outside the main thread, inside another such block, and on signals that the process was started to
    ignore.
    """
    heeded = [number for number in numbers or _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, _end)]
    if threading.current_thread() is not threading.main_thread() or not heeded:
        yield
        return
    _requested.clear()
    before = {number: signal.signal(number, _end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requested.clear()


def _end(number: int, _: object) -> None:
    _requested.append(number)
    raise Interrupted(number)


def raise_if_interrupted() -> None:
    """Raise when the process was asked to end and still runs.

    Raises
    ------
    Interrupted
        With the signal by which it was asked.
    """
    if _requested:
        raise Interrupted(_requested[-1])
