"""The command line: parse, run, say what happened in plain words.

Exit status 0: done. 1: nothing could be reduced, or the store is not whole. 2: wrong usage or parameters. Nothing
that a user can do wrong ends in a traceback.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from opticam_dask.cli.exit_codes import DONE, FAILED, USAGE, RunError, UsageError
from opticam_dask.cluster.interruption import Interrupted, interruptible

#: Parameters of the reduction as options: name, type, metavar, help. Their names are those in Python.
_NUMBERS: tuple[tuple[str, Any, str, str], ...] = (
    ("threshold", float, "S", "detection threshold in units of the background RMS (5)"),
    ("box_size", int, "N", "side of a sky mesh box in pixels (1/32 of the frame)"),
    ("n_pixels", int, "N", "least number of connected pixels of a source (from instrument and binning)"),
    ("border_width", int, "N", "leave out sources that touch this border, in pixels (1/16 of the frame)"),
    ("rebin_factor", int, "N", "sum N x N pixels (1)"),
    ("rotation_limit", float, "DEG", "set frames aside that are rotated by more, either way"),
    ("translation_limit", float, "PIX", "set frames aside that are shifted by more along x or y, either way"),
    ("scale_limit", float, "FACTOR", "set frames aside whose scale differs by more than this factor above 1"),
    ("n_alignment_sources", int, "N", "brightest sources used to align a frame (30)"),
    ("max_catalog_sources", int, "N", "brightest sources kept in the catalogue (100)"),
    ("stack_frames", int, "N", "stack at most so many frames of a night; 0 stacks all (256)"),
)
_ALIASES = {"rebin_factor": ["--rebin"], "max_catalog_sources": ["--max-sources"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not hasattr(options, "run"):
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
    from opticam_dask.cli import commands  # takes a second: not for --help

    try:
        return int(commands.run(options))
    except UsageError as error:
        print(f"opticam-dask {options.command}: {error}", file=sys.stderr)
        return USAGE
    except RunError as error:
        print(f"opticam-dask {options.command}: {error}", file=sys.stderr)
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    """Parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="opticam-dask",
        description="Reduce multi-camera fast photometry in parallel: FITS frames to light curves in one Zarr store.",
    )
    parser.add_argument("--version", action="version", version=f"opticam-dask {metadata.version('opticam-dask')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_demo(commands)
    _add_generate(commands)
    _add_check(commands)
    _add_reduce(commands)
    _add_job_arrays(commands)
    _add_watch(commands)
    _add_remove(commands)
    _add_status(commands)
    _add_verify(commands)
    _add_migrate(commands)
    _add_lightcurve(commands)
    _add_export(commands)
    _add_plot(commands)
    _add_report(commands)
    _add_browse(commands)
    _add_show_cluster(commands)
    return parser


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=name)
    return parser


def _add_demo(commands: Any) -> None:
    parser = _command(commands, "demo", "Simulate three cameras, reduce them, and plot a differential light curve.")
    parser.add_argument("directory", nargs="?", default="opticam_dask_demo", metavar="DIR", help="where to work")
    parser.add_argument("--n-images", type=int, default=100, metavar="N", help="frames of each camera (100)")
    _add_cluster(parser)


def _add_generate(commands: Any) -> None:
    parser = _command(commands, "generate", "Write simulated observations of three cameras.")
    parser.add_argument("directory", metavar="DIR", help="where the frames go")
    parser.add_argument(
        "--n-images", "--frames", type=int, default=100, metavar="N", help="frames of each camera (100)"
    )
    parser.add_argument("--binning-scale", "--binning", type=int, default=4, metavar="B", help="pixels binned (4)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the noise (0)")
    parser.add_argument("--flats", action="store_true", help="write flat-field frames instead")
    parser.add_argument("--gaps", action="store_true", help="leave gaps in the series")
    parser.add_argument("--compress", action="store_true", help="write .fits.gz")
    parser.add_argument("--overwrite", action="store_true", help="replace frames that are there")


def _add_check(commands: Any) -> None:
    parser = _command(commands, "check", "Say what is there: cameras, filters, counts, gaps, unusable files and why.")
    _add_data(parser)
    parser.add_argument(
        "--problems", type=int, default=20, metavar="N", help="unusable files to list (20; 0 lists all)"
    )


def _add_reduce(commands: Any) -> None:
    parser = _command(commands, "reduce", "Reduce frames to catalogues and light curves; run it again to go on.")
    _add_reduction(parser)
    _add_inside(parser)


def _add_job_arrays(commands: Any) -> None:
    parser = _command(
        commands, "plan", "Prepare a reduction by submitted jobs: what reduce does, without a scheduler that stays up."
    )
    _add_reduction(parser, n_data="*")
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
    _add_break_lock(parser)


def _add_pass(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="output directory of a planned run")
    parser.add_argument("--pass", type=int, required=True, metavar="N", dest="number", help="0 to 3")
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
    _add_inside(parser)
    group = parser.add_argument_group("the observation")
    group.add_argument("--target", type=int, metavar="ID", help="source number in the provisional catalogue")
    group.add_argument("--comparisons", type=int, nargs="+", default=[], metavar="ID", help="source numbers")
    group.add_argument("--n-first", type=int, default=10, metavar="N", help="frames of the provisional catalogue (10)")
    group.add_argument("--idle", type=float, default=1800, metavar="S", help="end after so long without a frame (1800)")
    group.add_argument("--n-frames", type=int, metavar="N", help="end after so many frames (no limit)")
    group.add_argument("--patience", type=float, default=60, metavar="S", help="wait so long for a slow file (60)")


def _add_inside(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--inside", action="store_true", help="run this command, scheduler and all, as a batch job of its own"
    )


def _add_reduction(parser: argparse.ArgumentParser, n_data: str = "+") -> None:
    _add_data(parser, n_data)
    parser.add_argument("--out", required=True, metavar="OUT", help="output directory")
    _add_cluster(parser)
    _add_photometers(parser)
    _add_calibration(parser)
    parser.add_argument("--label", metavar="NAME", help="name of the photometry (from the options)")
    parser.add_argument("--config", metavar="FILE", help="parameters from a .toml or .json file; options go before it")
    parser.add_argument("--frames-per-block", type=int, metavar="N", help="frames of one task (from the frame size)")
    for name, kind, metavar, text in _NUMBERS:
        flags = [f"--{name.replace('_', '-')}", *_ALIASES.get(name, [])]
        parser.add_argument(*flags, type=kind, metavar=metavar, help=text, dest=name)
    parser.add_argument(
        "--transform-type", choices=["affine", "translation"], help="what alignment solves for (affine)"
    )
    parser.add_argument("--reference-night", metavar="DATE", help="night of the reference frame (the first)")
    parser.add_argument("--target-coord", type=float, nargs=2, metavar=("RA", "DEC"), help="degrees; before headers")
    parser.add_argument("--remove-cosmic-rays", action=argparse.BooleanOptionalAction, help="replace cosmic rays")
    parser.add_argument("--barycenter", action=argparse.BooleanOptionalAction, help="barycentric times (yes)")
    parser.add_argument(
        "--frame-timeout", type=float, metavar="S", help="set a frame aside that takes longer (300 seconds; 0: never)"
    )
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


def _add_photometers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--photometer",
        nargs="+",
        default=["aperture"],
        choices=["aperture", "optimal", "psf"],
        metavar="NAME",
        help="aperture, optimal or psf; several are measured on one read of the frames (aperture)",
    )
    parser.add_argument("--forced", action="store_true", help="measure at the catalogue's positions, do not recentre")
    parser.add_argument("--annulus", action="store_true", help="sky from an annulus around each source, not the mesh")
    parser.add_argument(
        "--radius",
        type=_radius,
        nargs="+",
        metavar="R",
        help="aperture radius, or several, or best: where constant stars scatter least (one FWHM of the catalogue)",
    )
    parser.add_argument(
        "--radius-unit", choices=["pixel", "reference_fwhm", "frame_fwhm"], help="what radii are given in (pixel)"
    )


def _radius(text: str) -> float | str:
    return text if text == "best" else float(text)


def _add_changes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a reduction that is there already")
    group.add_argument("--append", action="store_true", help="take up frames of which it has none, as further nights")
    group.add_argument("--redo", nargs="+", default=[], metavar="NIGHT", help="reduce nights (YYYY-MM-DD) again")
    group.add_argument("--rebuild-reference", action="store_true", help="choose reference and catalogue again")
    group.add_argument("--new", action="store_true", help="begin again; the old store is kept under another name")
    _add_break_lock(group)


def _add_break_lock(parser: Any) -> None:
    parser.add_argument("--break-lock", action="store_true", help="take over from a run that is surely dead")


def _add_remove(commands: Any) -> None:
    parser = _command(commands, "remove", "Remove a night from a reduction; its frames are left out from then on.")
    parser.add_argument("out", metavar="OUT", help="output directory of a reduction")
    parser.add_argument("night", metavar="NIGHT", help="YYYY-MM-DD")
    _add_break_lock(parser)


def _add_status(commands: Any) -> None:
    parser = _command(commands, "status", "Say what is done, what is to do, and what was set aside and why.")
    parser.add_argument("out", metavar="OUT", help="output directory of a reduction")
    parser.add_argument("--problems", type=int, default=20, metavar="N", help="frames to list (20; 0 lists all)")
    parser.add_argument("--provenance", action="store_true", help="parameters, versions and inputs as JSON")
    parser.add_argument("--files", action="store_true", help="with --provenance: every frame with size and time")


def _add_migrate(commands: Any) -> None:
    parser = _command(commands, "migrate", "Bring a reduction of an older version to the present layout of the store.")
    parser.add_argument("out", metavar="OUT", help="output directory of a reduction")
    _add_break_lock(parser)


def _add_verify(commands: Any) -> None:
    parser = _command(commands, "verify", "Read every chunk of the store, or compare it with another, bit for bit.")
    parser.add_argument("out", metavar="OUT", help="output directory of a reduction")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--against", metavar="OTHER", help="another output directory to compare with")
    chosen.add_argument("--repair", action="store_true", help="make again what is damaged or not done")
    _add_cluster(parser)
    _add_break_lock(parser)


def _add_lightcurve(commands: Any) -> None:
    parser = _command(commands, "lightcurve", "Differential light curve of a target against comparison sources.")
    parser.add_argument("out", metavar="OUT", help="output directory of a reduction")
    parser.add_argument("--target", type=int, required=True, metavar="ID", help="source number in the catalogue")
    parser.add_argument(
        "--comparisons", type=_source, nargs="+", required=True, metavar="ID", help="source numbers, or auto"
    )
    parser.add_argument(
        "--weighting", choices=["sum", "optimal"], default="sum", help="how comparisons are weighted (by their light)"
    )
    parser.add_argument(
        "--detrend",
        nargs="+",
        default=[],
        metavar="VECTOR",
        help="take off linear trends: airmass, fwhm, background, x, y, ellipticity, transparency, time",
    )
    parser.add_argument(
        "--detrend-without",
        type=float,
        nargs=2,
        metavar=("START", "END"),
        help="times that trends are not fitted to (a transit), BMJD, or MJD where there is none",
    )
    parser.add_argument(
        "--outliers", type=float, default=5.0, metavar="K", help="flag what is so many sigma off its neighbours (5)"
    )
    parser.add_argument("--match-cameras", action="store_true", help="numbers are those of --key in all cameras")
    parser.add_argument("--label", default="aperture", metavar="L", help="photometry label (aperture)")
    parser.add_argument("--radius", type=float, metavar="R", help="one of the radii of a label that has several")
    parser.add_argument("--key", metavar="KEY", help="camera key such as 1:g (all of them)")
    parser.add_argument("--prefix", metavar="NAME", help="start of the file names (target_ID)")


def _add_plot(commands: Any) -> None:
    parser = _command(commands, "plot", "Draw diagnostic plots of a reduction; without a KIND all but the animations.")
    kinds = "growth-curves, psfs, snrs, noise, rms, apertures, meshes, quality, gifs, or all"
    parser.add_argument("out", metavar="OUT", help="output directory of a reduction")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=kinds)
    parser.add_argument("--label", default="aperture", metavar="L", help="photometry label (aperture)")
    parser.add_argument("--targets", type=int, nargs="+", metavar="ID", help="source numbers (all of them)")


def _add_browse(commands: Any) -> None:
    parser = _command(commands, "browse", "Browse frames, apertures and light curves in a web browser on this machine.")
    parser.add_argument("out", metavar="OUT", help="output directory of a reduction")
    parser.add_argument("--key", metavar="KEY", help="camera key such as 1:g to begin with (the first)")
    parser.add_argument("--label", metavar="L", help="photometry label to begin with (aperture)")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port on the loopback interface (a free one)")


def _add_report(commands: Any) -> None:
    parser = _command(commands, "report", "Write OUT/report.html: all about a reduction on one page, without network.")
    parser.add_argument("out", metavar="OUT", help="output directory of a reduction")
    parser.add_argument(
        "--n-sources", type=int, default=20, metavar="N", help="sources of each camera with a light curve (20)"
    )


def _add_export(commands: Any) -> None:
    parser = _command(commands, "export", "Light curves as tables for other programs, a file a source.")
    parser.add_argument("out", metavar="OUT", help="output directory of a reduction")
    parser.add_argument("--format", choices=["csv", "ecsv", "fits"], required=True, help="of the tables")
    parser.add_argument("--label", metavar="L", help="photometry label (all of them)")
    parser.add_argument("--key", metavar="KEY", help="camera key such as 1:g (all of them)")
    parser.add_argument("--sources", type=int, nargs="+", metavar="ID", help="source numbers (all of them)")


def _source(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _add_data(parser: argparse.ArgumentParser, n_data: str = "+") -> None:
    parser.add_argument("data", nargs=n_data, metavar="DATA", help="directories (with all below them) or files")
    parser.add_argument("--instrument", metavar="FILE", help="JSON definition of the instrument (OPTICAM_MX)")
    parser.add_argument(
        "--extension", metavar="N|NAME", help="HDU of the image: number from 0 or EXTNAME (the first image of a file)"
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where blocks run (docs/clusters.md)")
    group.add_argument(
        "--cluster",
        metavar="WHERE",
        help="local (worker processes here), none (this process), slurm, pbs, lsf, sge, oar, htcondor (jobs), a "
        "profile of Dask's configuration, or the address or file of a scheduler (local)",
    )
    group.add_argument(
        "--n-workers", "--workers", type=int, metavar="N", help="worker processes (one a processor here)"
    )
    group.add_argument("--adapt", metavar="MIN:MAX", help="as many workers of a batch system as there is work for")
    group.add_argument("--cores", type=int, metavar="N", help="cores of a job, a worker on each (1)")
    group.add_argument("--memory", metavar="SIZE", help="memory of a job (4GiB a core), or of a worker here")
    group.add_argument("--walltime", metavar="TIME", help="of a job, as the batch system writes it")
    group.add_argument("--queue", metavar="NAME", help="queue or partition of a job")
    group.add_argument("--account", metavar="NAME", help="account or project of a job")
    group.add_argument(
        "--job-extra", action="append", metavar="DIRECTIVE", help="a further directive of a job (may be repeated)"
    )


def _add_show_cluster(commands: Any) -> None:
    parser = _command(
        commands, "cluster", "Open a cluster and keep it until Ctrl-C, or show the job script that would be submitted."
    )
    parser.add_argument("--dry-run", action="store_true", help="print the job script and submit nothing")
    _add_cluster(parser)
