"""Completion of commands and options in a shell."""

from __future__ import annotations

import argparse
import sys

import shtab

from opticam_dask.cli.exit_codes import DONE


def completion(options: argparse.Namespace) -> int:
    """Print the script that a shell reads."""
    from opticam_dask.cli.parser import build_parser  # it imports this room's modules by name

    sys.stdout.write(shtab.complete(build_parser(), shell=options.shell) + "\n")
    return DONE


#: Commands of this module by name.
COMMANDS = {"completion": completion}
