"""Objects made from the options of a command: parameters, photometers, instrument, session."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opticam_dask import locations
from opticam_dask.cli.exit_codes import UsageError
from opticam_dask.console import Console, tell
from opticam_dask.frames.definitions.library import load_instrument
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.parameters import ReductionParameters, parameter_names, parameters_from_mapping, read_parameters

if TYPE_CHECKING:
    from opticam_dask.api.session import Session
    from opticam_dask.cluster.cluster_settings import ClusterSettings
    from opticam_dask.cluster.connections import Connection
    from opticam_dask.methods.photometers import BasePhotometer
    from opticam_dask.passes.calibration import Calibration

#: Options that say where blocks run, as ``cluster_settings.resolve`` names them.
PLACE = ("cluster", "n_workers", "adapt", "cores", "memory", "walltime", "queue", "account", "job_extra")


def settings(options: argparse.Namespace) -> ClusterSettings:
    """Settings of the place where blocks run."""
    from opticam_dask.cluster.cluster_settings import resolve

    return resolve(**{name: getattr(options, name) for name in PLACE})


def connect(options: argparse.Namespace, out: str | Path) -> Connection:
    """The place where the blocks of a command run; it is opened when the first block does."""
    from opticam_dask.cluster import connections

    return connections.connect(settings(options), log_directory=job_logs(out), tell=tell, **frame_timeout(options))


def session(options: argparse.Namespace, place: Connection | None = None) -> Session:
    """Session on the output directory of a command; without a place for blocks, they run in this process."""
    from opticam_dask.api.session import Session
    from opticam_dask.cluster import connections

    place = place or connections.connect("none")
    return Session(options.out, place, Console(prefix=""), break_lock=options.break_lock)


def job_logs(out: str | Path) -> Path | None:
    """Where the output of jobs goes; the usual place below this directory when the store is no directory."""
    return None if locations.is_remote(out) else Path(out).resolve() / "jobs"


def frame_timeout(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds for a frame, where a command takes them and they were given."""
    given = getattr(options, "frame_timeout", None)
    return {} if given is None else {"frame_timeout": given}


def parameters(options: argparse.Namespace) -> ReductionParameters:
    """Parameters of the configuration file, overridden by options of the command line."""
    values = read_parameters(options.config) if options.config else {}
    for name in parameter_names():
        value = getattr(options, name, None)
        if value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
    return parameters_from_mapping(values)


def photometers(options: argparse.Namespace) -> list[BasePhotometer]:
    """Photometers that were asked for."""
    from opticam_dask.api.arguments import check_label
    from opticam_dask.methods.local_backgrounds import DefaultLocalBackground
    from opticam_dask.methods.photometer_kinds import PHOTOMETERS

    names = list(dict.fromkeys(options.photometer))
    if options.label is not None and len(names) > 1:
        raise UsageError(f"--label names one photometer, but {len(names)} were asked for")
    if (options.radius or options.radius_unit) and "aperture" not in names:
        raise UsageError("--radius and --radius-unit are for --photometer aperture")
    estimator = DefaultLocalBackground() if options.annulus else None
    shared = {"forced": options.forced, "local_background_estimator": estimator}
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    if options.radius:
        own["aperture"]["radius"] = options.radius[0] if len(options.radius) == 1 else tuple(options.radius)
    if options.radius_unit:
        own["aperture"]["radius_unit"] = options.radius_unit
    try:
        photometers = [PHOTOMETERS[name](**shared, **own[name]) for name in names]
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    for photometer in photometers:
        check_label(options.label or photometer.label)
    return photometers


def instrument(options: argparse.Namespace) -> Instrument:
    """Instrument that a command asks for, by name, file, or the default."""
    chosen = OPTICAM_MX() if options.instrument is None else load_instrument(options.instrument)
    if options.extension is None:
        return chosen
    is_number = options.extension.removeprefix("-").isdecimal()
    extension = int(options.extension) if is_number else options.extension
    return dataclasses.replace(chosen, extension=extension)


def sort_calibration(options: argparse.Namespace, chosen: Instrument) -> None:
    """Sort the frames of ``--calibration`` by kind, except for kinds that were given by their own option."""
    from opticam_dask.passes.calibration import PLURAL, sort_by_kind

    directories, options.calibration = options.calibration, None
    if directories:
        for kind, files in sort_by_kind(directories, chosen).items():
            if getattr(options, PLURAL[kind]) is None:
                setattr(options, PLURAL[kind], files)


def calibration(options: argparse.Namespace, chosen: Instrument) -> Calibration | None:
    """Calibration frames that were asked for."""
    from opticam_dask.passes.calibration import KINDS, PLURAL, Calibration, find_calibration_frames

    sort_calibration(options, chosen)
    given = {kind: getattr(options, PLURAL[kind]) for kind in KINDS}
    found = [find_calibration_frames(kind, paths, chosen) for kind, paths in given.items() if paths]
    return Calibration.of(*found)
