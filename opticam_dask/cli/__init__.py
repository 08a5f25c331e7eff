"""The command line: parse a command, run it, say what happened, and the exit status."""

from opticam_dask.cli.parser import build_parser, main

__all__ = ["build_parser", "main"]
