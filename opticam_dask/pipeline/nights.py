"""Changes to the nights of a store: reduce one again, remove one, choose another reference, begin anew.

What was asked for is written into the store (attribute ``pending``) before anything is removed, so that the same
command, run again after a crash, goes on instead of removing what it has made since.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from opticam_dask.pipeline.reduction import Changes, Progress, ReductionError, Setup, WrongParameters
from opticam_dask.store.errors import StoreError
from opticam_dask.store.store import Store


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
    pending = read_pending(setup.store)
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
    _write_pending(setup.store, pending)
    if pending["rebuilding"]:
        _keep_sky(setup.store, progress)
    for camera in setup.store.cameras:
        for name in camera.part_names:  # by name: what is damaged can be made again as well
            is_given = _date(name) in given.get(camera.key, ())
            if pending["rebuilding"] or (is_given and _date(name) in pending["removing"]):
                camera.part_group(name).remove()
                progress.tell(f"{camera.key} {name}: removed, to be reduced again.")
        if pending["rebuilding"]:
            camera.update({"catalog_checksum": None})
            camera.remove_products()  # numbers of sources mean others then
    left_out = [night for night in left_out_nights(setup.store) if night not in pending["removing"]]
    setup.store.update({"left_out_nights": left_out})
    _write_pending(setup.store, {**pending, "phase": "adding", "removing": [], "rebuilding": False})


def _keep_sky(store: Store, progress: Progress) -> None:
    """Keep what is known of the sky from the catalogues that are to be made anew."""
    if store.attributes.get("placed_sources"):
        from opticam_dask.passes.placing import keep_places  # half a second of astropy: only where it is needed

        keep_places(store, progress.tell)
    if any("ra" in camera.catalog for camera in store.cameras):
        from opticam_dask.passes.sky_search import remember_sky

        for camera in store.cameras:
            remember_sky(camera)


def ask_again(store: Store, changed_nights: Collection[str]) -> None:
    """Reduce nights once more whose files have changed since an unfinished run reduced them again."""
    pending = read_pending(store)
    if still := [night for night in pending.get("redo", ()) if night in changed_nights]:
        _write_pending(store, {**pending, "redo": [night for night in pending["redo"] if night not in still]})


def begin_again(setup: Setup, parameters_hash: str, progress: Progress) -> bool:
    """Move the store aside for a new one, unless an unfinished run has just done so.

    Parameters
    ----------
    setup : Setup
        Settings of the reduction.
    parameters_hash : str
        Hash of the parameters of the reduction that is to begin.
    progress : Progress
        Where progress is reported.

    Returns
    -------
    bool
        Whether there was a store to move.
    """
    if not setup.store.exists():
        return False
    try:
        is_begun = bool(read_pending(setup.store).get("new"))
        if is_begun and setup.store.attributes.get("parameters_hash") == parameters_hash:
            return False
    except StoreError:  # what is damaged beyond reading can still be moved aside
        pass
    moved = setup.store.move_aside()
    progress.tell(f"Beginning again; the reduction so far is kept as {moved.name}.")
    return True


def remove_night(out_directory: str | Path, night: str) -> list[str]:
    """Remove a night (all its parts) from a store; its frames are left out from then on.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    night : str
        Night, ``YYYY-MM-DD``.

    Returns
    -------
    list of str
        What was removed, a line each.

    Raises
    ------
    ReductionError
        When there is no such night, or it is the reference night.
    """
    store = Store.open(out_directory)
    parts = store.parts
    chosen = [part for part in parts if _date(part.night) == night]
    if not chosen:
        there = sorted({_date(part.night) for part in parts})
        raise ReductionError(f"{out_directory} has no night {night}: {', '.join(there)}.")
    for part in chosen:
        if part.camera.attributes.get("reference_night") == night:
            raise ReductionError(
                f"{night} is the reference night of {part.key}: all transforms and the catalogue come from it. "
                "Reduce with --new and without its frames, or with another --reference-night."
            )
    store.begin_changes()
    store.update({"left_out_nights": sorted({*left_out_nights(store), night})})
    lines = []
    for part in chosen:
        part.remove()
        lines.append(f"{part.key} {part.night}: {part.n_frames} frames removed.")
    store.finish_changes()
    return lines


def left_out_nights(store: Store) -> list[str]:
    """Nights that were removed."""
    return list(store.attributes.get("left_out_nights", []))


def read_pending(store: Store) -> dict[str, Any]:
    """Nights that an unfinished run was asked to reduce again."""
    return dict(store.attributes.get("pending", {}))


def settle(store: Store) -> None:
    """Forget the pending request, as the command that made it has ended."""
    if read_pending(store):
        _write_pending(store, {})


def _write_pending(store: Store, pending: dict[str, Any]) -> None:
    store.update({"pending": pending})


def _date(part_name: str) -> str:
    return part_name.partition(".")[0]
