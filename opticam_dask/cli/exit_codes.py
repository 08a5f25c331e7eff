"""Exit statuses of the command line, and the errors that stand for them."""

from __future__ import annotations

import errno

from opticam_dask.text import printable

#: The command did what it was asked for.
DONE = 0

#: Nothing could be done, or the store is not whole.
FAILED = 1

#: Wrong usage or parameters.
USAGE = 2


class UsageError(Exception):
    """Wrong usage or parameters: exit status 2."""


class RunError(Exception):
    """Nothing could be done: exit status 1."""


def one_line(error: Exception) -> str:
    """Message of an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        told = f"{error.filename or ''}: {error.strerror}".lstrip(": ")
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return printable(told + ". Make room and run the same command again; what was done is kept." * is_full)
    return printable(str(error).strip())
