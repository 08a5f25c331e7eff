"""Nights of a store: begin again, reduce one again, remove one, choose another reference.

What was asked for is written into the store (attribute ``pending``) before anything is removed, so that the same
command, run again after a crash, goes on instead of removing what it has made since.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from opticam_dask.pipeline.reduction import Changes, Progress, ReductionError, Setup, WrongParameters
from opticam_dask.store import layout


def prepare_changes(setup: Setup, changes: Changes, given: Mapping[str, Collection[str]], progress: Progress) -> None:
    """Remove from an existing store what is to be made again.

    Parameters
    ----------
    setup : Setup
        Settings of the reduction.
    changes : Changes
        What is to be redone, removed or added.
    given : dict of collection of str
        Nights that the frames given now belong to, by camera key; only those can be made again.
    progress : Progress
        Where progress is reported.

    Raises
    ------
    WrongParameters
        When a night that is to be reduced again is not among the frames given.
    """
    nights = sorted({night for of_key in given.values() for night in of_key})
    if missing := [night for night in changes.redo if night not in nights]:
        raise WrongParameters(
            f"night {', '.join(missing)} is to be reduced again, but no frame of it is among those given "
            f"(nights given: {', '.join(nights) or 'none'})."
        )
    pending = read_pending(setup.path)
    redo = sorted(set(changes.redo) - set(pending.get("redo", ())))
    rebuild = changes.rebuild_reference and not pending.get("rebuild_reference")
    if not redo and not rebuild and pending.get("phase", "adding") == "adding":
        return
    pending = {
        **pending,
        "phase": "removing",
        "redo": sorted({*pending.get("redo", ()), *redo}),
        "removing": sorted({*pending.get("removing", ()), *redo}),
        "rebuild_reference": rebuild or bool(pending.get("rebuild_reference")),
        "rebuilding": rebuild or bool(pending.get("rebuilding")),
    }
    _write_pending(setup.path, pending)
    for key in layout.keys(setup.path):
        for name in layout.part_names(setup.path, key):  # by name: what is damaged can be made again as well
            is_given = _date(name) in given.get(key, ())
            if pending["rebuilding"] or (is_given and _date(name) in pending["removing"]):
                layout.remove_group(setup.path, f"{layout.group_name(key)}/{name}")
                progress.tell(f"{key} {name}: removed, to be reduced again.")
        if pending["rebuilding"]:
            layout.update_attributes(setup.path, layout.group_name(key), {"catalog_checksum": None})
            for product in ("catalog", "reference", "differential"):  # numbers of sources mean others then
                layout.remove_group(setup.path, f"{layout.group_name(key)}/{product}")
    left_out = [night for night in left_out_nights(setup.path) if night not in pending["removing"]]
    layout.update_attributes(setup.path, "", {"left_out_nights": left_out})
    _write_pending(setup.path, {**pending, "phase": "adding", "removing": [], "rebuilding": False})


def ask_again(path: str | Path, changed_nights: Collection[str]) -> None:
    """Take nights whose files changed since an unfinished run made them anew as asked for again."""
    pending = read_pending(path)
    if still := [night for night in pending.get("redo", ()) if night in changed_nights]:
        _write_pending(path, {**pending, "redo": [night for night in pending["redo"] if night not in still]})


def begin_again(setup: Setup, parameters_hash: str, progress: Progress) -> bool:
    """Move the store aside for a new one, unless that is what it is already, and unfinished.

    Parameters
    ----------
    setup : Setup
        Settings of the reduction.
    parameters_hash : str
        Of the reduction that is to begin.
    progress : Progress
        Where progress is reported.

    Returns
    -------
    bool
        Whether there was a store to move.
    """
    if not layout.exists(setup.out_directory):
        return False
    try:
        is_begun = bool(read_pending(setup.path).get("new"))
        if is_begun and layout.read_attributes(setup.path).get("parameters_hash") == parameters_hash:
            return False
    except layout.StoreError:  # what is damaged beyond reading can still be moved aside
        pass
    moved = layout.move_aside(setup.path)
    progress.tell(f"Beginning again; the reduction so far is kept as {moved.name}.")
    return True


def remove_night(out_directory: str | Path, night: str, key: str | None = None) -> list[str]:
    """Remove a night (all its parts) from a store; its frames are left out from then on.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    night : str
        ``YYYY-MM-DD``.
    key : str, optional
        Camera key; by default all. The night of one camera alone comes back with the next ``reduce``.

    Returns
    -------
    list of str
        What was removed, a line each.

    Raises
    ------
    ReductionError
        When there is no such night, or it is the reference night.
    """
    path = layout.require_store(out_directory)
    chosen = [
        part
        for name in layout.keys(path)
        if key in (None, name)
        for part in layout.parts(path, name)
        if _date(part.night) == night
    ]
    if not chosen:
        there = sorted({_date(part.night) for name in layout.keys(path) for part in layout.parts(path, name)})
        raise ReductionError(f"{out_directory} has no night {night}{f' of {key}' if key else ''}: {', '.join(there)}.")
    for part in chosen:
        if layout.read_attributes(path, layout.group_name(part.key)).get("reference_night") == night:
            raise ReductionError(
                f"{night} is the reference night of {part.key}: all transforms and the catalogue come from it. "
                "Reduce with --new and without its frames, or with another --reference-night."
            )
    layout.begin_changes(path)
    if key is None:
        layout.update_attributes(path, "", {"left_out_nights": sorted({*left_out_nights(path), night})})
    lines = []
    for part in chosen:
        layout.remove_group(path, part.group)
        lines.append(f"{part.key} {part.night}: {part.n_frames} frames removed.")
    layout.finish_changes(path)
    return lines


def left_out_nights(path: str | Path) -> list[str]:
    """Nights that were removed."""
    return list(layout.read_attributes(path).get("left_out_nights", []))


def read_pending(path: str | Path) -> dict[str, Any]:
    """What an unfinished run was asked to make again."""
    return dict(layout.read_attributes(path).get("pending", {}))


def settle(path: str | Path) -> None:
    """Forget what was asked for: the command that asked has come to its end."""
    if read_pending(path):
        _write_pending(path, {})


def _write_pending(path: str | Path, pending: dict[str, Any]) -> None:
    layout.update_attributes(path, "", {"pending": pending})


def _date(part_name: str) -> str:
    return part_name.partition(".")[0]
