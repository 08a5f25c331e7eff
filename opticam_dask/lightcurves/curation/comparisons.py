"""Choice of the comparison sources of a target, by their own light curves and the observer's marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from opticam_dask.flags import USELESS, Mark, SourceFlag
from opticam_dask.kernels.series import ensemble
from opticam_dask.lightcurves.curation.marks import COMPARISON_MARK
from opticam_dask.lightcurves.reading.columns import CurveArrays
from opticam_dask.lightcurves.targets import rows_of_sources

if TYPE_CHECKING:
    import xarray as xr

#: A measurement with one of these is of no use for a comparison.
_USELESS = np.uint32(USELESS | SourceFlag.BLENDED | SourceFlag.PLACED)

#: With fewer comparisons than this a warning is given.
_FEW = 3
#: Sources that are named for each reason why they are no comparisons, at most.
_TOLD = 12


class Choice(NamedTuple):
    """Chosen comparisons: their numbers, the properties of each source, and a summary in a few lines."""

    numbers: list[int]
    reasons: list[str]
    lines: list[str]


def marks_of_measurements(curves: CurveArrays) -> np.ndarray:
    """Marks of each measurement, uint8 (frame, source)."""
    shape = (curves.sizes["frame"], curves.sizes["source"])
    if "marks" not in curves:
        return np.zeros(shape, dtype=np.uint8)
    found = curves["marks"].to_numpy()
    return found if found.ndim == 2 else np.broadcast_to(found[:, np.newaxis], shape)


def sources_marked(curves: CurveArrays | xr.Dataset, kind: str) -> dict[int, str]:
    """Sources that are marked as comparisons, ``junk`` or ``keep``, with what the mark says."""
    if COMPARISON_MARK not in curves.coords:
        return {}
    told = zip(curves["source_id"].to_numpy().tolist(), curves[COMPARISON_MARK].to_numpy().tolist(), strict=True)
    return {number: f"marked {mark}" for number, mark in told if mark.startswith(f"{kind} ")}


def choose(curves: CurveArrays, target: int, without: Sequence[int] = ()) -> Choice:
    """Choose comparisons that are fit for a target; sources that are marked *keep* are chosen in any case."""
    everything = curves["source_id"].to_numpy().tolist()
    if target not in everything:
        return Choice([], [], [])
    left_out = sources_marked(curves, "junk") | dict.fromkeys(map(int, without), "left out as asked for")
    rows_of_sources(everything, list(left_out), curves.attrs.get("key", "this key"))
    known = [number for number in everything if number == target or number not in left_out]
    curves = curves.isel(source=[everything.index(number) for number in known])
    flux, error = curves["flux"].to_numpy(), curves["flux_err"].to_numpy()
    is_kept = (marks_of_measurements(curves) & np.uint8(Mark.KEEP)) != 0
    is_flagged = ((curves["flags"].to_numpy() & _USELESS) != 0) & ~is_kept
    found = ensemble.choose_comparisons(flux, error, is_flagged, known.index(target))
    groups: dict[str, list[int]] = {}
    wanted = {
        number: told for number, told in sources_marked(curves, "keep").items() if number in known and number != target
    }
    for entry in found:
        is_chosen = known[entry.column] in wanted
        groups.setdefault("chosen" if is_chosen else entry.kind, []).append(known[entry.column])
    chosen = groups.pop("chosen", [])
    others = [f"{len(numbers)} {kind}: {_some(numbers)}" for kind, numbers in groups.items()]
    others += [f"source {number} {told}" for number, told in wanted.items()]
    others += [f"source {number} {reason}" for number, reason in left_out.items() if number != target]
    if not chosen:
        raise ValueError(f"no source is fit as a comparison for source {target}: {'; '.join(others)}")
    lines = [f"{len(chosen)} of {len(found)} sources chosen as comparisons: {', '.join(map(str, chosen))}", *others]
    if len(chosen) < _FEW:
        lines.append(
            f"warning: with fewer than {_FEW} comparisons nobody can tell whether one of them varies; "
            "give --comparisons of your own if others are fit"
        )
    return Choice(chosen, [f"source {known[entry.column]}: {entry.reason}" for entry in found], lines)


def _some(numbers: Sequence[int]) -> str:
    """The first of some numbers."""
    told = ", ".join(map(str, numbers[:_TOLD]))
    return told if len(numbers) <= _TOLD else f"{told}, ..."
