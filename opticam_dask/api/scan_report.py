"""Messages about the frames that were found: filters, binnings, files set aside, gaps in time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from opticam_dask.frames.guessing.unknown import unknown_camera
from opticam_dask.frames.instruments import Instrument
from opticam_dask.frames.scanning import Scan, time_gaps
from opticam_dask.pipeline import driver


def tell_scan(scan: Scan, instrument: Instrument, tell: Callable[[str], None]) -> None:
    """Say what was found in the headers of frames.

    Parameters
    ----------
    scan : Scan
        Table of the frames.
    instrument : Instrument
        What their headers mean.
    tell : callable
        Called with each line.

    Raises
    ------
    pipeline.ReductionError
        When no frame can be used.
    """
    table = scan.table
    tell(f"Checking instrument {instrument.name}.")
    if not len(table):
        sentence, others = unknown_camera(scan, instrument)
        lines = [sentence] * bool(sentence) + [f"{Path(file).name}: {reason}" for file, reason in others[:5]]
        raise driver.ReductionError(f"no usable frame among {len(scan.set_aside)} file(s). " + "; ".join(lines))
    tell(f"{instrument.name} successfully passed all checks.")
    for message in scan.warnings:
        tell(f"Note: {message}")
    binnings = sorted(set(table["binning"].tolist()))
    tell(f"Binning: {', '.join(f'{n}x{n}' for n in binnings)}")
    counts = table.groupby("key").size()
    tell(f"Filters: {', '.join(counts.index)}")
    for key, count in counts.items():
        tell(f"{count} {key} images.")
    for file, reason in scan.set_aside:
        tell(f"Set aside: {Path(file).name}: {reason}")
    for key, before, after, gap, median in time_gaps(table):
        tell(
            f"Large time gap in {key} between {Path(before).name} and {Path(after).name} "
            f"({gap:.1f} s; the median step is {median:.1f} s)."
        )
