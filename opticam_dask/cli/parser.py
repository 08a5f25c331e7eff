"""The command line: parse, run, say what happened in plain words.

Exit status 0: done. 1: nothing could be reduced, or the store is not whole. 2: wrong usage or parameters. Nothing
that a user can do wrong ends in a traceback.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from opticam_dask.cli.exit_codes import DONE, FAILED, USAGE, RunError, UsageError
from opticam_dask.cli.help.refusals import CommandParser
from opticam_dask.cli.help.texts import commands_by_group, examples_of
from opticam_dask.cluster.interruption import Interrupted, interruptible
from opticam_dask.console import collect_seldom, fill_streams
from opticam_dask.parameters import CHANGES, CLUSTER, EXECUTION, PHOTOMETRY, REDUCTION, SIMULATION, WATCH, Parameter
from opticam_dask.result_parameters import (
    DIFFERENTIAL,
    ECLIPSE,
    FITTED_CURVES,
    MAGNITUDES,
    MARKS,
    SHOWING,
    SINUSOID,
    SKY,
    SUBMISSION,
    TRANSIT,
)

#: Declinations as text.
_SOUTHERN = re.compile(r"-\d+[:d°]\d")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.
    """
    fill_streams()
    if arguments is None:  # a process of the command's own
        collect_seldom()
    parser = build_parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # a declination such as -05:23:28 is no option; argparse takes what holds a blank for a value
    options = parser.parse_args([f" {word}" if _SOUTHERN.match(word) else word for word in given])
    options.arguments = given
    if options.command is None:
        parser.print_help()
        return USAGE
    try:
        with interruptible():
            return _run(options)
    except Interrupted as request:
        word = "Terminated" if request.number == signal.SIGTERM else "Interrupted"
        print(f"\n{word}. What was reduced is kept: run the same command again to go on.", file=sys.stderr)
        return 128 + request.number
    except BrokenPipeError:
        return DONE


def _run(options: argparse.Namespace) -> int:
    from opticam_dask.cli import running  # takes a second: not for --help

    is_quiet = options.quiet or getattr(options, "json", False)
    try:
        with running.spoken(quiet=is_quiet, verbose=options.verbose):
            return running.run(options)
    except UsageError as error:
        print(f"opticam-dask {options.command}: {error}", file=sys.stderr)
        return USAGE
    except RunError as error:
        print(f"opticam-dask {options.command}: {error}", file=sys.stderr)
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    """Parser of all commands."""
    parser = CommandParser(
        prog="opticam-dask",
        description="Reduce multi-camera fast photometry in parallel: FITS frames to light curves in one Zarr store.",
        formatter_class=_GroupedCommands,
    )
    parser.add_argument("--version", action="version", version=f"opticam-dask {metadata.version('opticam-dask')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_demo(commands)
    _add_sample(commands)
    _add_generate(commands)
    _add_check(commands)
    _add_instrument(commands)
    _add_reduce(commands)
    _add_job_arrays(commands)
    _add_watch(commands)
    _add_sky(commands)
    _add_remove(commands)
    _add_relocate(commands)
    _add_status(commands)
    _add_verify(commands)
    _add_migrate(commands)
    _add_lightcurve(commands)
    _add_fits(commands)
    _add_export(commands)
    _add_plot(commands)
    _add_report(commands)
    _add_marks(commands)
    _add_browse(commands)
    _add_show_cluster(commands)
    _add_completion(commands)
    sentences = {name: str(entry.description) for name, entry in commands.choices.items()}
    parser.epilog = commands_by_group(sentences)
    return parser


class _GroupedCommands(argparse.RawDescriptionHelpFormatter):
    """Help without the list of commands in the order of the code: they follow in groups."""

    def add_argument(self, action: argparse.Action) -> None:
        """Leave the commands out."""
        if action.dest != "command":
            super().add_argument(action)


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=examples_of(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _options(parser.add_mutually_exclusive_group(), SHOWING, "quiet", "verbose")
    return parser


def _on_store(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser = _command(commands, name, text)
    parser.add_argument("out", metavar="OUT", help="output directory of a reduction")
    return parser


def _options(parser: Any, table: Mapping[str, Parameter], *names: str, is_known_if_given: bool = False) -> None:
    """Add parameters as options, by default all of a table.

    Where it matters whether a parameter was given, ``is_known_if_given``, it is None when it was not.
    """
    for name in names or table:
        entry = table[name]
        how: dict[str, Any] = {"dest": name, "help": entry.help, "default": entry.default}
        if isinstance(how["default"], tuple):
            how["default"] = list(how["default"])
        if is_known_if_given:
            how["default"] = None
        if entry.kind is bool:
            how["action"] = argparse.BooleanOptionalAction if is_known_if_given else "store_true"
        elif entry.n_values == "append":
            how |= {"action": "append", "metavar": entry.metavar, "default": None}
        else:
            how |= {
                "type": _reader(entry),
                "required": entry.is_required,
                "nargs": entry.n_values,
                "metavar": entry.metavar,
            }
            how["choices"] = entry.choices or None
        parser.add_argument(f"--{name.replace('_', '-')}", *entry.aliases, **how)


def _reader(entry: Parameter) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return text if entry.word and text == entry.word else entry.kind(text)

    read.__name__ = entry.kind.__name__  # argparse names it when a value cannot be read
    return read


def _add_demo(commands: Any) -> None:
    parser = _command(commands, "demo", "Simulate three cameras, reduce them, and plot a differential light curve.")
    parser.add_argument("directory", nargs="?", default="opticam_dask_demo", metavar="DIR", help="where to work")
    _options(parser, SIMULATION, "n_images")
    _add_cluster(parser)


def _add_sample(commands: Any) -> None:
    parser = _command(commands, "sample", "Fetch published frames to try the program on; simulate without a network.")
    parser.add_argument("name", nargs="?", default="hat-p-32", metavar="NAME", help="hat-p-32 (93 MB), or simulated")
    parser.add_argument("--directory", metavar="DIR", help="where frames are kept (default: the user's cache)")
    parser.add_argument("--no-simulate", action="store_true", help="fail where the frames cannot be fetched")


def _add_generate(commands: Any) -> None:
    parser = _command(commands, "generate", "Write simulated observations of three cameras.")
    parser.add_argument("directory", metavar="DIR", help="where the frames go")
    _options(parser, SIMULATION)
    parser.add_argument("--flats", action="store_true", help="write flat-field frames instead")
    parser.add_argument("--gaps", action="store_true", help="leave gaps in the series")


def _add_check(commands: Any) -> None:
    parser = _command(commands, "check", "Say what is there: cameras, filters, counts, gaps, unusable files and why.")
    _options(parser, SHOWING, "json")
    _add_data(parser)
    _options(parser, SHOWING, "problems")


def _add_instrument(commands: Any) -> None:
    parser = _command(commands, "instrument", "Definitions of cameras: propose one from headers, try one.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    one = _command(actions, "guess", "Read headers and propose a definition: what was found, and what is missing.")
    one.add_argument("data", nargs="+", metavar="DATA", help="directories (with all below them) or files")
    one.add_argument("--to", metavar="FILE", help="write the definition to this file, which must not be there")
    one = _command(actions, "template", "Write a definition with every entry and what it means, to be filled in.")
    one.add_argument("directory", nargs="?", default=".", metavar="DIR", help="where instrument_template.json goes")
    one = _command(actions, "check", "Say what frames a definition makes of files, and each reason why not once.")
    one.add_argument("definition", metavar="FILE", help="JSON file, or the name of a known definition")
    one.add_argument("data", nargs="+", metavar="DATA", help="directories (with all below them) or files")
    _command(actions, "list", "Name the definitions that are known: shipped ones, and one's own.")


def _add_reduce(commands: Any) -> None:
    parser = _command(commands, "reduce", "Reduce frames to catalogues and light curves; run it again to go on.")
    _add_reduction(parser)
    _options(parser, EXECUTION, "figures", is_known_if_given=True)
    _add_sky_files(parser)
    _add_inside(parser)


def _add_job_arrays(commands: Any) -> None:
    parser = _command(
        commands, "plan", "Prepare a reduction by submitted jobs: what reduce does, without a scheduler that stays up."
    )
    _add_reduction(parser, n_data="*")
    _add_sky_files(parser)
    group = parser.add_argument_group("the jobs (without DATA: those that are left of the plan in OUT)")
    group.add_argument("--blocks-per-job", type=int, metavar="M", help="blocks of each job (at least 64 a worker)")
    group.add_argument("--slurm", action="store_true", help="print the lines that submit everything, for bash")
    group.add_argument(
        "--slurm-options", default="", metavar="TEXT", help='for every sbatch, as in --slurm-options="--time=4:00:00"'
    )
    parser = _command(commands, "work", "Do some blocks of a pass of a planned run; what is done is skipped.")
    _add_pass(parser)
    group = parser.add_argument_group("which blocks (all of them)").add_mutually_exclusive_group()
    group.add_argument("--blocks", metavar="A:B", help="from A to B-1; several ranges are separated by commas")
    group.add_argument("--job", type=int, metavar="I", help="those of element I of an array, numbered from 0")
    parser.add_argument("--blocks-per-job", type=int, metavar="M", help="with --job: blocks of each (from the plan)")
    parser = _command(commands, "finish", "Do what needs all blocks of a pass of a planned run, before the next pass.")
    _add_pass(parser)
    _options(parser, EXECUTION, "break_lock")


def _add_pass(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="output directory of a planned run")
    parser.add_argument(
        "--pass",
        required=True,
        metavar="N|NAME",
        dest="number",
        help="0 to 3, or reference, survey, profile, measure",
    )
    parser.add_argument(
        "--cluster", choices=["local", "none"], help="worker processes here, or this process (as planned)"
    )
    parser.add_argument("--n-workers", "--workers", type=int, metavar="N", help="worker processes (as planned)")
    parser.add_argument("--plan", metavar="TOKEN", help="do nothing when OUT was planned again since (plan tells it)")


def _add_watch(commands: Any) -> None:
    parser = _command(
        commands, "watch", "Reduce frames as they land, keep light curves up to date, and reduce the night in the end."
    )
    _add_reduction(parser)
    _options(parser, EXECUTION, "figures", is_known_if_given=True)
    _add_sky_files(parser)
    _add_inside(parser)
    group = parser.add_argument_group("the observation")
    _options(group, WATCH)


def _add_sky(commands: Any) -> None:
    parser = _on_store(
        commands, "sky", "Find the sources of a reduction on the sky: by stars of a catalogue, or plate-solved frames."
    )
    _options(parser, SKY, *(name for name in SKY if name not in ("sources", "moving")))
    parser.add_argument("--key", nargs="+", metavar="KEY", help="camera keys such as 1:g (all of them)")
    _options(parser, EXECUTION, "break_lock")


def _add_sky_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where on the sky the cameras looked")
    _options(group, SKY, "sky_catalog", "sky_epoch", "wcs")


def _add_inside(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--inside", action="store_true", help="run this command, scheduler and all, as a batch job of its own"
    )


def _add_reduction(parser: argparse.ArgumentParser, n_data: str = "+") -> None:
    _add_data(parser, n_data)
    parser.add_argument("--out", required=True, metavar="OUT", help="output directory")
    _add_cluster(parser)
    _options(parser, PHOTOMETRY, "photometer", "forced", "annulus", "radius", "label")
    _options(parser, PHOTOMETRY, "radius_unit", is_known_if_given=True)
    _options(parser, SKY, "sources", "moving")
    _add_calibration(parser)
    parser.add_argument("--config", metavar="FILE", help="parameters from a .toml or .json file; options go before it")
    _options(parser, REDUCTION, is_known_if_given=True)
    _options(parser, EXECUTION, "frames_per_block")
    _options(parser, EXECUTION, "frame_timeout", is_known_if_given=True)
    _add_changes(parser)


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("calibration frames (directories or files, of all cameras together)")
    group.add_argument("--biases", nargs="+", metavar="DIR", help="bias frames, at least two of each camera")
    group.add_argument(
        "--darks",
        nargs="+",
        metavar="DIR",
        help="dark frames; without --biases, exposed as long as the frames",
    )
    group.add_argument("--flats", nargs="+", metavar="DIR", help="flat-field frames, at least two of each camera key")
    group.add_argument(
        "--fringes",
        "--fringe",
        nargs="+",
        metavar="DIR",
        help="fringes of a filter: a map that is ready, or several exposures of a sky with few stars",
    )
    group.add_argument(
        "--calibration",
        nargs="+",
        metavar="DIR",
        help="all kinds of them together, told by IMAGETYP, OBSTYPE, ...",
    )


def _add_changes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a reduction that is there already")
    _options(group, CHANGES)
    _options(group, EXECUTION, "break_lock")


def _add_remove(commands: Any) -> None:
    parser = _on_store(commands, "remove", "Remove a night from a reduction; its frames are left out from then on.")
    parser.add_argument("night", metavar="NIGHT", help="YYYY-MM-DD")
    _options(parser, EXECUTION, "break_lock")


def _add_relocate(commands: Any) -> None:
    parser = _on_store(
        commands, "relocate", "Tell a reduction where its frames are, when they were moved or copied to another place."
    )
    parser.add_argument("data", nargs="+", metavar="DATA", help="directories in which the frames are now")
    _options(parser, EXECUTION, "break_lock")


def _add_status(commands: Any) -> None:
    parser = _on_store(commands, "status", "Say what is done, what is to do, and what was set aside and why.")
    _options(parser, SHOWING, "json")
    _options(parser, SHOWING, "problems")
    parser.add_argument("--provenance", action="store_true", help="parameters, versions and inputs as JSON")
    parser.add_argument("--files", action="store_true", help="with --provenance: every frame with size and time")


def _add_migrate(commands: Any) -> None:
    parser = _on_store(commands, "migrate", "Bring a reduction of an older version to the present layout of the store.")
    _options(parser, EXECUTION, "break_lock")


def _add_verify(commands: Any) -> None:
    parser = _on_store(commands, "verify", "Read every chunk of the store, or compare it with another, bit for bit.")
    _options(parser, SHOWING, "json")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--against", metavar="OTHER", help="another output directory to compare with")
    chosen.add_argument("--repair", action="store_true", help="make again what is damaged or not done")
    _add_cluster(parser)
    _options(parser, EXECUTION, "break_lock")


def _add_lightcurve(commands: Any) -> None:
    parser = _on_store(commands, "lightcurve", "Differential light curve of a target against comparison sources.")
    _options(parser, SHOWING, "json")
    _options(parser, DIFFERENTIAL)


def _add_fits(commands: Any) -> None:
    for name, text, table in (
        ("fit-transit", "Fit a transit to the light curve of a target, of all cameras together.", TRANSIT),
        ("fit-eclipse", "Fit an eclipse to the light curve of a target, of all cameras together.", ECLIPSE),
        ("fit-sinusoid", "Fit a sinusoid to the light curve of a target, of all cameras together.", SINUSOID),
    ):
        parser = _on_store(commands, name, text)
        _options(parser.add_argument_group("the light curve"), FITTED_CURVES)
        _options(parser.add_argument_group("the fit"), table)
        parser.set_defaults(detrend=(), detrend_without=None)
    parser = _on_store(commands, "magnitudes", "Light curve of a target in the magnitudes of a sky catalogue.")
    _options(parser, MAGNITUDES)
    parser = _on_store(commands, "submit", "Write a light curve for an archive, once its rules are kept.")
    archives = ["aavso-exoplanet", "aavso-extended", "exoclock", "etd", "alcdef", "ades", "cds"]
    parser.add_argument("--format", choices=archives, required=True, help="of the archive")
    _options(parser, SUBMISSION)


def _add_plot(commands: Any) -> None:
    parser = _on_store(commands, "plot", "Draw diagnostic plots of a reduction; without a KIND all but the animations.")
    kinds = "growth-curves, psfs, snrs, noise, rms, apertures, meshes, quality, gifs, or all"
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=kinds)
    _options(parser, SHOWING, "label", "targets")


def _add_browse(commands: Any) -> None:
    parser = _on_store(
        commands, "browse", "Browse frames, apertures and light curves in a web browser on this machine."
    )
    parser.add_argument("--key", metavar="KEY", help="camera key such as 1:g to begin with (the first)")
    parser.add_argument("--label", metavar="L", help="photometry label to begin with (aperture)")
    _options(parser, SHOWING, "port")


def _add_report(commands: Any) -> None:
    parser = _on_store(commands, "report", "Write OUT/report.html: all about a reduction on one page, without network.")
    _options(parser, SHOWING, "n_sources")


def _add_marks(commands: Any) -> None:
    parser = _on_store(commands, "mark", "Mark frames, measurements or comparisons as cloud, junk, or to be kept.")
    parser.add_argument("kind", choices=MARKS["kind"].choices, help=MARKS["kind"].help)
    _options(parser, MARKS, *(name for name in MARKS if name != "kind"))
    parser = _on_store(commands, "unmark", "Take marks back; they stay on the list of those that were taken back.")
    parser.add_argument("numbers", type=int, nargs="+", metavar="NUMBER", help="numbers of the marks")
    _options(parser, MARKS, "who")
    parser = _on_store(commands, "marks", "List the marks of a reduction: what, who, when and why.")
    parser.add_argument("--undone", action="store_true", help="those that were taken back as well")
    _options(parser, SHOWING, "json")


def _add_export(commands: Any) -> None:
    parser = _on_store(commands, "export", "Light curves as tables for other programs, a file a source; or the stacks.")
    parser.add_argument("--format", choices=["csv", "ecsv", "fits"], required=True, help="of the files")
    parser.add_argument("--stack", action="store_true", help="the stacks instead: fits, with world coordinates")
    parser.add_argument("--label", metavar="L", help="photometry label (all of them)")
    parser.add_argument("--key", metavar="KEY", help="camera key such as 1:g (all of them)")
    parser.add_argument("--sources", nargs="+", metavar="ID", help="numbers, names or places of sources (all)")


def _add_data(parser: argparse.ArgumentParser, n_data: str = "+") -> None:
    parser.add_argument("data", nargs=n_data, metavar="DATA", help="directories (with all below them) or files")
    parser.add_argument("--instrument", metavar="FILE", help="JSON definition, or the name of a known one (OPTICAM_MX)")
    parser.add_argument(
        "--extension", metavar="N|NAME", help="HDU of the image: number from 0 or EXTNAME (the first image of a file)"
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where blocks run (docs/clusters.md)")
    _options(group, CLUSTER)


def _add_show_cluster(commands: Any) -> None:
    parser = _command(
        commands, "cluster", "Open a cluster and keep it until Ctrl-C, or show the job script that would be submitted."
    )
    parser.add_argument("--dry-run", action="store_true", help="print the job script and submit nothing")
    _add_cluster(parser)


def _add_completion(commands: Any) -> None:
    parser = _command(commands, "completion", "Print a script that completes commands and options in a shell.")
    parser.add_argument("shell", choices=["bash", "zsh", "fish", "tcsh"], help="the shell")
