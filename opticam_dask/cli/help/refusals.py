"""Wrong options and commands: one line that says what was expected, with what comes nearest to it."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from opticam_dask.cli.exit_codes import USAGE

#: An option, as the help of a command names it.
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
#: What argparse says of a word that is not among the choices; releases of Python differ in the quotes of the list.
_NO_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class CommandParser(argparse.ArgumentParser):
    """Parser that refuses with one line instead of a page of usage."""

    def parse_known_args(  # type: ignore[override]  # the overloads of argparse say the same for any namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse does it, but what a command does not know is refused by that command, not by its parent."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._nearest_option(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end with exit status 2."""
        if found := _NO_CHOICE.search(message):
            word, choices = found.groups()
            if near := difflib.get_close_matches(word, re.findall(r"[\w.-]+", choices), n=1):
                message += f"; did you mean {near[0]}?"
        message = message if message.endswith("?") else f"{message}."
        self.exit(USAGE, f"{self.prog}: {message} {self.prog} --help says what there is.\n")

    def _nearest_option(self, unknown: Sequence[str]) -> str:
        """The option of this command that is spelled most like an unknown one."""
        given = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        known = sorted(set(_OPTION.findall(self.format_help())))
        near = [match for word in given for match in difflib.get_close_matches(word, known, n=1)]
        return f"; did you mean {near[0]}?" if near else ""
