"""Completion of commands and options in a shell."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator

import shtab

from opticam_dask.cli.exit_codes import DONE


def completion(options: argparse.Namespace) -> int:
    """Print the script that a shell reads."""
    from opticam_dask.cli.parser import build_parser  # it imports this room's modules by name

    parser = build_parser()
    is_fish = options.shell == "fish"
    script = "\n".join(_fish(parser, parser.prog)) if is_fish else shtab.complete(parser, shell=options.shell)
    sys.stdout.write(script + "\n")
    return DONE


def _fish(parser: argparse.ArgumentParser, program: str, chosen: tuple[str, ...] = ()) -> Iterator[str]:
    """Lines for fish, which shtab does not know: options of a command and of its subcommands."""
    seen = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in chosen)
    begin = f"complete -c {program}"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            names = " ".join(action.choices)
            where = f"{seen}; and not __fish_seen_subcommand_from {names}" if seen else "__fish_use_subcommand"
            sentences = {one.dest: one.help or "" for one in action._choices_actions}
            for name, command in action.choices.items():
                about = f" -d {_quoted(sentences[name])}" if name in sentences else ""
                yield f"{begin} -f -n {_quoted(where)} -a {name}{about}"
                yield from _fish(command, program, (*chosen, name))
            continue
        words = " ".join(
            f"-l {text[2:]}" if text.startswith("--") else f"-s {text[1:]}" for text in action.option_strings
        )
        choices = f" -f -a {_quoted(' '.join(map(str, action.choices)))}" if action.choices else ""
        needs = " -r" if words and action.nargs != 0 else ""
        if words or choices:
            where = f" -n {_quoted(seen or '__fish_use_subcommand')}"
            about = f" -d {_quoted(action.help % vars(action))}" if words and action.help else ""
            yield f"{begin}{where}{' ' if words else ''}{words}{needs}{choices}{about}"


def _quoted(text: str) -> str:
    return shlex.quote(text).replace("'\"'\"'", "\\'")


#: Commands of this module by name.
COMMANDS = {"completion": completion}
