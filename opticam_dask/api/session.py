"""One session on an output directory: its owner, log, workers, progress messages, and what Ctrl-C does."""

from __future__ import annotations

import contextlib
import logging
import signal
from pathlib import Path
from types import TracebackType

from opticam_dask.cluster.connections import Connection
from opticam_dask.cluster.interruption import interruptible
from opticam_dask.console import Console
from opticam_dask.locations import is_remote, location, replacing
from opticam_dask.store import ownership
from opticam_dask.store.errors import StoreError
from opticam_dask.text import printable

LOG_NAME = "opticam_dask.log"


class Session:
    """Context in which notebooks, commands and jobs reduce frames: owner, log, workers, interruption.

    While the ``with`` block runs, the output directory belongs to it, what happens is appended to the log there, and
    Ctrl-C ends loops over blocks. Inside, the same session may be entered again; it ends with the outermost block, and
    with it the cluster that was opened for it.

    Parameters
    ----------
    out_directory : path or URL
        Output directory of a reduction; made if it does not exist.
    executor : Connection
        Where blocks run; opened when the first one does.
    progress : Console
        Prints messages and progress.
    break_lock : bool
        Take the directory over from a run that holds it.
    token : str, optional
        Token of the planned run that owns the directory; given by its jobs, which share the directory and write no log.

    Attributes
    ----------
    owner : Owner
        Hold on the directory; only inside the ``with`` block.
    """

    def __init__(
        self,
        out_directory: str | Path,
        executor: Connection,
        progress: Console,
        *,
        break_lock: bool = False,
        token: str | None = None,
    ) -> None:
        self.out_directory = location(out_directory)
        self.executor, self.progress = executor, progress
        executor.progress = progress
        self._break_lock, self._token = break_lock, token
        self._depth = 0

    def make_directory(self) -> None:
        """Make the output directory.

        Raises
        ------
        StoreError
            When that is not possible.
        """
        try:
            self.out_directory.mkdir(parents=True, exist_ok=True)  # on an object store: it must be reachable
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"{self.out_directory} cannot be made: {reason}. Choose another --out.") from error

    def announce_directory(self) -> None:
        """Make the output directory, and say so where it is a new one; raises as :meth:`make_directory`."""
        if is_remote(self.out_directory) or self.out_directory.is_dir():
            self.make_directory()  # an object store must be reachable
            return
        self.progress.tell(f"{self.out_directory} not found, attempting to create ...")
        self.make_directory()
        self.progress.tell(f"{self.out_directory} created.")

    def __enter__(self) -> Session:
        """Enter; raises ``ownership.OwnedError`` when another run works on the directory."""
        if not self._depth:
            with contextlib.ExitStack() as opened:
                opened.enter_context(interruptible(signal.SIGINT))
                if self._token is None:
                    self.make_directory()
                    self.owner = opened.enter_context(ownership.own(self.out_directory, break_lock=self._break_lock))
                    opened.enter_context(log_to_file(self.out_directory / LOG_NAME))
                else:
                    self.owner = opened.enter_context(ownership.join(self.out_directory, self._token))
                opened.callback(self.executor.close)
                self._opened = opened.pop_all()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._opened.__exit__(kind, error, trace)


class _OneLine(logging.Formatter):
    """A message is one line of the log, whatever the names in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format all but a traceback."""
        return printable(super().formatMessage(record))


class log_to_file:
    """Append the log of this package to a file while the block runs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.logger = logging.getLogger("opticam_dask")

    def __enter__(self) -> None:
        self.local = replacing(self.file) if is_remote(self.file) else contextlib.nullcontext(self.file)
        file = self.local.__enter__()
        if is_remote(self.file) and self.file.exists():
            file.write_bytes(self.file.read_bytes())  # an object cannot be appended to
        self.handler = logging.FileHandler(file, encoding="utf-8", delay=not is_remote(self.file))
        self.handler.setFormatter(_OneLine("%(asctime)s %(name)s %(levelname)s %(message)s"))
        self.logger.addHandler(self.handler)
        self.before = self.logger.level
        self.logger.setLevel(logging.INFO)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None:
            self.logger.error("the run ended with %s: %s", kind.__name__, error)
        self.logger.removeHandler(self.handler)
        self.logger.setLevel(self.before)
        self.handler.close()
        self.local.__exit__(None, None, None)  # the log of a run that failed is kept as well
