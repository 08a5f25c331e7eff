"""Progress of a reduction for a person: bars on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from opticam_dask.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PREFIX = "[OPTICAM]"

#: Number of the last standard stream, that of errors.
_LAST_STREAM = 2
#: Without a terminal, progress is a line at most this often.
_SECONDS_BETWEEN_LINES = 10.0
#: A bar of a notebook is drawn at most this often: often enough for the eye.
_SECONDS_BETWEEN_DRAWINGS = 0.1


#: New objects after which garbage is looked for while a command imports and tells; by default 700. Of all that imports
#: make nothing is garbage, and a sixth of their time went into looking for it.
_SELDOM = (20_000, 10, 10)
#: The same of this process before :func:`collect_seldom`.
_usual: dict[str, tuple[int, int, int]] = {}

logger = logging.getLogger(__name__)


@dataclass
class _Stage:
    """Stage under way: its name, its size, how much is done, and when a line last said so."""

    name: str
    total: int
    unit: str
    last_line: float
    n_done: int = 0
    bar: TaskID | None = None


class Console:
    """Progress for people; every line goes to the log as well.

    Parameters
    ----------
    verbose : bool
        Say nothing at all when False.
    prefix : str
        What every line starts with.

    Attributes
    ----------
    is_quiet : bool
        Whether all consoles of this process stay silent, whatever ``verbose`` is (:func:`spoken`).
    """

    is_quiet: ClassVar[bool] = False

    def __init__(self, verbose: bool = True, prefix: str = PREFIX) -> None:
        self.verbose = verbose and not Console.is_quiet
        self.prefix = prefix
        self._bar: Progress | None = None
        self._stages: list[_Stage] = []

    def tell(self, message: str) -> None:
        """Print one line; what is not printable in it, as names of files may hold it, is escaped."""
        logger.info(message)
        if self.verbose:
            line = _encodable(printable(f"{self.prefix} {message}" if self.prefix else message))
            if self._bar is not None:
                self._bar.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
            else:
                print(line, flush=True)  # noqa: T201 - talking to a person is what this module is for

    def begin(self, stage: str, total: int, unit: str = "frames") -> None:
        """Open a bar, or announce the stage; it may be part of another one."""
        self._stages.append(_Stage(stage, total, unit, time.monotonic()))
        if not total:
            return
        # while a bar is shown, the standard output is a stream of rich, which in old releases is no terminal
        if not self.verbose or (self._bar is None and not is_watched()):
            self.tell(f"{stage}: {total} {unit}")
            return
        logger.info("%s: %d %s", stage, total, unit)
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.start()
        self._stages[-1].bar = self._bar.add_task(f"{self.prefix} {stage}".strip(), total=total)

    def advance(self, n_frames: int) -> None:
        """Count further frames as done."""
        stage = self._stages[-1]
        stage.n_done += n_frames
        if self._bar is not None and stage.bar is not None:
            self._bar.update(stage.bar, completed=stage.n_done, refresh=self._is_due(stage))
        elif time.monotonic() - stage.last_line > _SECONDS_BETWEEN_LINES:
            stage.last_line = time.monotonic()
            self.tell(f"{stage.name}: {stage.n_done} of {stage.total} {stage.unit}")

    @staticmethod
    def _is_due(stage: _Stage) -> bool:
        """Whether this process draws the bar of a notebook now, which no thread does for it."""
        is_due = is_notebook() and time.monotonic() - stage.last_line > _SECONDS_BETWEEN_DRAWINGS
        if is_due:
            stage.last_line = time.monotonic()
        return is_due

    def reach(self, n_done: int, _: int) -> None:
        """Set the number of frames that are done."""
        self.advance(n_done - self._stages[-1].n_done)

    def end(self) -> None:
        """Close the bar; the one around it goes on."""
        if self._stages:
            self._stages.pop()
        if self._bar is not None and not any(stage.bar is not None for stage in self._stages):
            self._bar.stop()
            self._bar = None

    @contextlib.contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[None]:
        """A stage that counts something else than frames, which also ends when it fails."""
        self.begin(name, total, unit)
        try:
            yield
        finally:
            self.end()


def tell(message: str) -> None:
    """Print one line of a command, without a prefix."""
    Console(prefix="").tell(message)


@contextlib.contextmanager
def spoken(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """How much a command says while the block runs.

    Parameters
    ----------
    quiet : bool
        No console says anything.
    verbose : bool
        The log goes to the standard error as well, with times, also that of the cluster.
    """
    before, Console.is_quiet = Console.is_quiet, quiet
    shown = [_shown(name) for name in ("opticam_dask", "distributed", "dask_jobqueue")] if verbose else []
    try:
        yield
    finally:
        Console.is_quiet = before
        for logger_of, handler, level in shown:
            logger_of.removeHandler(handler)
            logger_of.setLevel(level)


def _shown(name: str) -> tuple[logging.Logger, logging.Handler, int]:
    """Show a log on the standard error; return the logger, the new handler, and the former level of the logger."""
    # one handler each: a cluster on this machine silences those of its own logger
    logger_of, handler = logging.getLogger(name), logging.StreamHandler()
    level = logger_of.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    handler.addFilter(lambda record: record.name != __name__)  # lines of the console are shown already
    logger_of.addHandler(handler)
    logger_of.setLevel(logging.INFO)
    return logger_of, handler, level


def is_watched() -> bool:
    """Whether somebody looks on: a terminal, or the cell of a notebook."""
    return (sys.stdout is not None and sys.stdout.isatty()) or is_notebook()


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook; one that only has ``ipykernel`` imported is none."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _new_bar() -> Progress:
    # a tenth of a second, which output that nobody watches can do without
    from rich.console import Console as RichConsole
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("<"), TimeRemainingColumn())
    # a thread that draws the bar of a notebook catches what the cell shows meanwhile: figures would be lost in the bar
    return Progress(*columns, *times, console=RichConsole(file=sys.stdout), auto_refresh=not is_notebook())


def _encodable(line: str) -> str:
    """Escape what the encoding of the output lacks: a terminal need not know more than ASCII."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return line.encode(encoding, errors="backslashreplace").decode(encoding)


def fill_streams() -> None:
    """Give standard streams that are closed to nowhere: a file that is opened next would take the place of one."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= _LAST_STREAM:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # as long as the process


def collect_seldom() -> None:
    """Look for garbage seldom in this process, which imports a lot and holds no frame yet."""
    _usual.setdefault("threshold", gc.get_threshold())
    gc.set_threshold(*_SELDOM)


def collect_as_usual() -> None:
    """Look for garbage as ever, before the first frame: what it keeps alive may be large.

    It is not looked for among what has been imported.
    """
    if "threshold" in _usual:
        gc.freeze()
        gc.set_threshold(*_usual.pop("threshold"))
