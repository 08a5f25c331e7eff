"""Exit statuses of the command line, and the errors that stand for them."""

from __future__ import annotations

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
