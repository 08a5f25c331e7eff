"""The passes of a reduction, in order.

Pass 0 picks the reference frame of each key and freezes it. Pass 1 measures sky, sources and transform of every
frame and stacks. The stack of the reference night gives the catalogue. Pass 2 is the photometry. Each step reads
what is done from the store and does the rest, so that the same call resumes.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import config
from opticam_dask.cluster import blocks
from opticam_dask.cluster.executors import Executor, InProcess, Work
from opticam_dask.cluster.rescue import rescue_block
from opticam_dask.config import TransformType
from opticam_dask.flags import UNUSABLE, FrameFlag, count_flags
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.images import align, match
from opticam_dask.kernels.images.stack import combine_groups, stack_groups, stack_selection
from opticam_dask.kernels.sources import noise
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM
from opticam_dask.kernels.sources.profile import GAUSSIAN_ERROR, Profile, gaussian_profile
from opticam_dask.methods.frame_view import CatalogFacts, TrialFluxes
from opticam_dask.methods.photometers import TRIAL_RADII, AperturePhotometer, RadiusChoice, choose_radius
from opticam_dask.passes import aperture_trial, catalog, first_pass, quality, second_pass, star_profiles
from opticam_dask.pipeline import nights, plan
from opticam_dask.pipeline.master_frames import make_masters
from opticam_dask.pipeline.preparation import check_parameters, prepare, stored_parameters, versions
from opticam_dask.pipeline.reduction import (
    Changes,
    Outcome,
    Progress,
    ReductionError,
    Setup,
    Silent,
    WrongParameters,
    stage,
)
from opticam_dask.steps.frame_steps import entry_of, is_back
from opticam_dask.store import layout
from opticam_dask.store.ownership import check_owner

__all__ = [
    "Changes",
    "Outcome",
    "Progress",
    "ReductionError",
    "Setup",
    "Silent",
    "WrongParameters",
    "check_parameters",
    "choose_references",
    "finish",
    "guarded_work",
    "live_jobs",
    "make_masters",
    "measure_frames",
    "measure_quality",
    "prepare",
    "reduce_frames",
    "stage",
    "stored_parameters",
]

#: Candidates for the reference frame of a night.
_PROBES = 25

#: Frames whose detections are held against the catalogue, and the share that is too much to be missing.
_COMPARED, _MOST = 9, 0.5

#: Partial stacks that one task of the tree adds.
_FAN_IN = 8


# ---------------------------------------------------------------- pass 0: the reference frame


def choose_references(setup: Setup, executor: Executor, progress: Progress | None = None) -> None:
    """Pick and freeze the reference frame of every key that has none."""
    progress = progress or Silent()
    todo = [key for key in layout.keys(setup.path) if not layout.has_product(setup.path, _reference_group(key))]
    for key in todo:
        _require_nothing_aligned(setup, key)
    candidates = {key: part for key in todo if (part := _reference_part(setup, key)) is not None}
    indices = {key: stack_selection(part.n_frames, _PROBES) for key, part in candidates.items()}
    if not candidates:
        return
    work: list[Work] = []
    for key, part in candidates.items():
        job = _probe_job(setup, part)
        run = functools.partial(first_pass.probe_frame, job)
        try_frame = functools.partial(_try_probe, job)
        work.append(guarded_work(key, "probe", run, indices[key].tolist(), try_frame, _one_frame))
    probes: dict[str, list[first_pass.Probe]] = {key: [] for key in candidates}
    with stage(progress, "Choosing reference frames", sum(map(len, indices.values()))):
        for key, probe in executor.run(work):
            probes[key].append(probe)
            progress.advance(1)
    for key, part in candidates.items():
        _freeze_reference(setup, part, probes[key], progress)


def _require_nothing_aligned(setup: Setup, key: str) -> None:
    """Refuse another reference frame where frames are aligned to one that was lost."""
    if layout.read_attributes(setup.path, layout.group_name(key)).get("catalog_checksum") is not None:
        raise ReductionError(
            f"the reference frame of {key} is lost, but its nights are aligned to it. Reduce with --rebuild-reference."
        )


def _try_probe(job: first_pass.ProbeJob, index: int, _: int) -> None:
    first_pass.probe_frame(job, index)


def _one_frame(_: int) -> int:
    return 1


def _frames_in(part: layout.Part, block: int) -> int:
    start, stop = part.block_range(block)
    return stop - start


def guarded_work(
    key: str,
    name: str,
    run: Callable[..., Any],
    todo: Sequence[int],
    try_frame: Callable[[int, int], Any],
    n_frames: Callable[[int], int],
) -> Work:
    """Blocks of one key to run, with a rescue for those that kill their workers; summaries come back with the key.

    Parameters
    ----------
    key, name : str
        Camera key, and what the tasks are called.
    run : callable
        ``run(block)``, or ``run(block, lost)`` without the frames in ``lost`` (reason by index).
    todo : sequence of int
        Blocks.
    try_frame : callable
        ``try_frame(block, index)`` does the work on one frame and writes nothing.
    n_frames : callable
        ``n_frames(block)``.
    """
    tagged = functools.partial(_tagged, key, run)

    def rescue(chosen: Sequence[int], *, frame_timeout: float) -> Any:
        function = functools.partial(rescue_block, n_frames, try_frame, tagged, frame_timeout)
        return blocks.window_of_blocks(function, chosen, f"rescue-{name}", frame_timeout=frame_timeout)

    return Work(functools.partial(blocks.window_of_blocks, tagged, name=name), todo, rescue)


def _tagged(tag: Any, run: Callable[..., Any], block: int, *lost: Any) -> tuple[Any, Any]:
    return tag, run(block, *lost)


def _reference_group(key: str) -> str:
    return f"{layout.group_name(key)}/reference"


def _reference_part(setup: Setup, key: str) -> layout.Part | None:
    """Part whose frames give reference frame and catalogue: the first credible night, unless told."""
    main = {part.night: part for part in layout.parts(setup.path, key) if "." not in part.night}
    wanted = setup.parameters.reference_night
    if wanted is not None:
        if wanted not in main:
            raise WrongParameters(f"reference night {wanted} is not among the nights of {key}: {', '.join(main)}.")
        return main[wanted]
    nights = plan.credible_nights({night: part.n_frames for night, part in main.items()})
    return main[nights[0]] if nights else None


def _probe_job(setup: Setup, part: layout.Part) -> first_pass.ProbeJob:
    return first_pass.ProbeJob(
        steps=setup.steps_of(part),
        frames_per_block=part.frames_per_block,
        n_alignment_sources=setup.parameters.n_alignment_sources,
        read_manifest=functools.partial(layout.read_manifest, setup.path, part),
    )


def _freeze_reference(setup: Setup, part: layout.Part, probes: list[first_pass.Probe], progress: Progress) -> None:
    chosen = first_pass.choose_reference(probes, functools.partial(_count_matches, setup.parameters.transform_type))
    if chosen is None:
        first = min(probes, key=lambda probe: probe.index)
        progress.tell(
            f"{part.key}: no source in any of {len(probes)} candidate frames ({first.message}). "
            "A lower threshold or n_pixels may help."
        )
        return
    file = layout.read_manifest(setup.path, part, chosen.index // part.frames_per_block)["file"]
    attributes = {
        "reference_file": os.path.basename(file[chosen.index % part.frames_per_block]),
        "reference_index": chosen.index,
        "reference_night": part.night,
        "reference_fwhm": chosen.fwhm,
        "reference_minor_fwhm": chosen.minor_fwhm,
    }
    piled = first_pass.find_pile_up(probes)
    if piled is not None:
        given = "none" if np.isnan(piled.saturation) else f"{piled.saturation:g} ADU"
        progress.tell(
            f"{part.key}: the pixels of {piled.n_frames} of {len(probes)} frames of {part.night} pile up at "
            f"{piled.level:g} ADU, which is taken for their saturation; headers and instrument give {given}. Set "
            "saturation_keyword or default_saturation of the instrument if that is not right."
        )
        attributes |= {"pile_up_adu": piled.level, "pile_up_gain": piled.gain, "pile_up_n_frames": piled.n_frames}
    arrays = {"alignment_x": chosen.xy[:, 0], "alignment_y": chosen.xy[:, 1], "alignment_flux": chosen.flux}
    layout.write_product(setup.path, _reference_group(part.key), "reference", arrays, attributes)
    layout.update_attributes(setup.path, layout.group_name(part.key), {"reference_night": part.night})


def _count_matches(transform_type: TransformType, reference: first_pass.Probe, frame: first_pass.Probe) -> int:
    try:
        found = match.find_transform(
            reference.xy,
            frame.xy,
            transform_type=transform_type,
            reference_weights=reference.flux,
            frame_weights=frame.flux,
            shift_of_few=True,
        )
    except match.AlignmentError:
        return 0
    if found.n_matched < match.LEAST_FOR_ROTATION:
        one, other = ((probe.fwhm, probe.minor_fwhm) for probe in (reference, frame))
        if not (first_pass.may_be_stars(one, other) and first_pass.may_be_stars(other, one)):
            return 0
    return found.n_matched


# ---------------------------------------------------------------- pass 1: sky, sources, transforms, stacks


def reduce_frames(setup: Setup, executor: Executor, progress: Progress | None = None) -> Outcome:
    """First pass over every block that is not done; stacks, references and catalogues of what is new."""
    progress = progress or Silent()
    outcome = Outcome()
    ready = parts_with_reference(setup)
    work: list[Work] = []
    n_frames = 0
    for part in ready:
        todo = blocks_to_reduce(setup, part)
        work.append(first_pass_work(setup, part, todo))
        n_frames += sum(map(functools.partial(_frames_in, part), todo))
    with stage(progress, "Aligning frames", n_frames):
        for key, summary in executor.run(work):
            check_owner(setup.out_directory)
            outcome.add(key, summary)
            progress.advance(summary.n_frames)
    for part, group in zip(ready, work, strict=True):
        if group.blocks:
            tell_of_alignment(setup, part, progress)
        finish_stack(setup, part, executor)
    finish_catalogs(setup, progress)
    return outcome


def first_pass_work(setup: Setup, part: layout.Part, todo: Sequence[int]) -> Work:
    """Blocks of a part to take through the first pass."""
    job = _first_pass_job(setup, part)
    run = functools.partial(first_pass.reduce_block, job)
    try_frame = functools.partial(first_pass.try_frame, job)
    return guarded_work(part.key, "reduce", run, todo, try_frame, functools.partial(_frames_in, part))


def tell_of_alignment(setup: Setup, part: layout.Part, progress: Progress) -> None:
    """Say when no frame of a night fits the reference frame, or when frames rest on one or two stars.

    A night of which nothing fits is a matter of the night, not of its frames.
    """
    flags = layout.read_array(setup.path, f"{part.group}/frames", "flags")
    is_usable = (flags & np.uint32(UNUSABLE)) == 0
    if not np.any(is_usable):
        reference = layout.read_attributes(setup.path, _reference_group(part.key))["reference_night"]
        progress.tell(
            f"{part.key} {part.night}: none of {part.n_frames} frames can be used ({_reasons(flags)}). If it is "
            f"another field than {reference}, which gives the reference frame, it needs an output directory of its own."
        )
        return
    if setup.parameters.transform_type == "translation":
        return
    n_matched = layout.read_array(setup.path, f"{part.group}/frames", "n_matched")
    n_few = int(np.count_nonzero(is_usable & (n_matched < match.LEAST_FOR_ROTATION)))
    if n_few:
        n_swapped = int(np.count_nonzero(is_usable & (flags & np.uint32(FrameFlag.SWAPPED) != 0)))
        swapped = f" In {n_swapped} of them the two stars have swapped their brightness (flag swapped)."
        progress.tell(
            f"{part.key} {part.night}: {n_few} of {part.n_frames} frames are aligned by one or two stars: their "
            "transform is a shift alone, which cannot see a turn of the field (as after a meridian flip)."
            f"{swapped if n_swapped else ''}"
        )


def _reasons(flags: np.ndarray) -> str:
    """Why frames cannot be used: how many have which flag."""
    counts = count_flags(flags & np.uint32(UNUSABLE), FrameFlag)
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def no_catalog(setup: Setup) -> str:
    """Why no camera has a catalogue, and what helps, in one line."""
    parts = parts_with_reference(setup)
    if not parts:
        return "no catalogue: no camera has a detected source. A lower threshold may help."
    flags = np.concatenate([layout.read_array(setup.path, f"{part.group}/frames", "flags") for part in parts])
    if np.any((flags & np.uint32(UNUSABLE)) == 0):
        return "no catalogue: the stack of the aligned frames shows no star. A lower threshold or n_pixels may help."
    advice = " With few stars in a frame, --transform-type translation asks for less."
    is_asked = setup.parameters.transform_type == "translation"
    return f"no catalogue: none of {len(flags)} frames can be used ({_reasons(flags)}).{'' if is_asked else advice}"


def parts_with_reference(setup: Setup) -> list[layout.Part]:
    """Parts of the keys that have a reference frame."""
    return [
        part
        for key in layout.keys(setup.path)
        if layout.has_product(setup.path, _reference_group(key))
        for part in layout.parts(setup.path, key)
    ]


def _frames_of_groups(setup: Setup, part: layout.Part) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a part that are stacked, and the group of the stack that each is summed in."""
    selected = stack_selection(part.n_frames, setup.parameters.stack_frames)
    return selected, stack_groups(0, part.n_frames, part.n_frames, setup.parameters.stack_frames)[selected]


def _stack_blocks(setup: Setup, part: layout.Part) -> dict[int, Sequence[int]]:
    """Blocks that hold a frame of each group of the stack; a range where it is all of them, small in a graph."""
    selected, groups = _frames_of_groups(setup, part)
    found: dict[int, Sequence[int]] = {}
    for group in np.unique(groups).tolist():
        numbers = np.unique(selected[groups == group] // part.frames_per_block).tolist()
        is_range = len(numbers) == numbers[-1] - numbers[0] + 1
        found[group] = range(numbers[0], numbers[-1] + 1) if is_range else numbers
    return found


def blocks_to_reduce(setup: Setup, part: layout.Part, among: range | None = None) -> list[int]:
    """Blocks (of those in ``among``) whose flags are not set, or whose partial stack is still needed but gone."""
    among = range(part.n_blocks) if among is None else among
    done = layout.done_blocks(setup.path, part, among=among)
    if not layout.has_product(setup.path, f"{part.group}/stack"):
        for group, numbers in _stack_blocks(setup, part).items():
            for block in numbers:
                if block not in among:
                    continue
                if not layout.partial_stack_path(setup.path, part.group, _level_name(0, group, block)).is_file():
                    done[block - among.start] = False
    return (among.start + np.flatnonzero(~done)).tolist()


def _level_name(level: int, group: int, number: int) -> str:
    return f"level-{level}-{group}-{number:06d}"


def _first_pass_job(setup: Setup, part: layout.Part) -> first_pass.FirstPass:
    chosen = setup.parameters
    group = _reference_group(part.key)
    x, y, flux = (layout.read_array(setup.path, group, f"alignment_{name}") for name in ("x", "y", "flux"))
    attributes = layout.read_attributes(setup.path, group)
    reference_part = frozen_reference_part(setup, part.key)
    return first_pass.FirstPass(
        steps=setup.steps_of(part),
        reference_xy=np.column_stack([x, y]),
        reference_flux=flux,
        reference_fwhm=float(attributes["reference_fwhm"]),
        reference_minor_fwhm=float(attributes.get("reference_minor_fwhm", "nan")),  # not in older stores
        reference_shape=setup.steps(reference_part.shape, reference_part.binning).image_shape,
        transform_type=chosen.transform_type,
        rotation_limit=chosen.rotation_limit,
        translation_limit=chosen.translation_limit,
        scale_limit=chosen.scale_limit,
        expected_scale=reference_part.binning / part.binning,
        n_alignment_sources=chosen.n_alignment_sources,
        n_frames=part.n_frames,
        frames_per_block=part.frames_per_block,
        stack_frames=chosen.stack_frames,
        read_manifest=functools.partial(_read_manifest, setup.path, part, _piled_up(setup, part)),
        write=functools.partial(layout.write_block, setup.path, part),
        write_stack=functools.partial(_write_partial, setup.path, part.group, 0),
    )


def _piled_up(setup: Setup, part: layout.Part) -> first_pass.PileUp | None:
    """Level at which pixels pile up, as the reference night of a key shows it, for parts of its binning."""
    known = layout.read_attributes(setup.path, _reference_group(part.key))
    if "pile_up_adu" not in known or frozen_reference_part(setup, part.key).binning != part.binning:
        return None
    level, gain, n_frames = (known[f"pile_up_{name}"] for name in ("adu", "gain", "n_frames"))
    return first_pass.PileUp(float(level), float(gain), float("nan"), int(n_frames))


def _read_manifest(path: Path, part: layout.Part, piled: first_pass.PileUp | None, block: int) -> dict[str, np.ndarray]:
    """Manifest of a block, with the saturation that its pixels show."""
    arrays = layout.read_manifest(path, part, block)
    if piled is not None:
        arrays["saturation"] = piled.lowered(arrays["saturation"], arrays["gain"])
    return arrays


def frozen_reference_part(setup: Setup, key: str) -> layout.Part:
    """Part that the reference frame and the catalogue of a key come from.

    Raises
    ------
    ReductionError
        When it is not in the store.
    """
    night = layout.read_attributes(setup.path, _reference_group(key))["reference_night"]
    part = layout.open_part(setup.path, key, night)  # asked for by every part: looking through all would be quadratic
    if part is None:
        raise ReductionError(
            f"the reference night {night} of {key} is not in the store. Give its frames again: a --redo that was "
            "interrupted goes on when the same command is run again."
        )
    return part


def _write_partial(
    path: Path, part: str, level: int, group: int, number: int, total: np.ndarray, coverage: np.ndarray
) -> None:
    layout.write_partial_stack(
        layout.partial_stack_path(path, part, _level_name(level, group, number)), total, coverage
    )


def _read_partial(path: Path, part: str, level: int, group: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    return layout.read_partial_stack(layout.partial_stack_path(path, part, _level_name(level, group, number)))


def finish_stack(setup: Setup, part: layout.Part, executor: Executor) -> None:
    """Add the partial stacks of each group of a part in a tree, and store the mean of what the groups agree on."""
    check_owner(setup.out_directory)
    group = f"{part.group}/stack"
    if layout.has_product(setup.path, group):
        return
    names = _merge_groups(setup, part, executor)
    groups = [_read_partial(setup.path, part.group, *name) for name in names]
    image, coverage = combine_groups(groups, _rms_of_groups(setup, part))
    arrays = {"image": image, "coverage": coverage}
    layout.write_product(setup.path, group, "stack", arrays, {"n_frames": int(coverage.max(initial=0))})
    layout.remove_partial_stacks(setup.path, part.group)


def _merge_groups(setup: Setup, part: layout.Part, executor: Executor) -> list[tuple[int, int, int]]:
    """Add the partial stacks of each group; level, group and number of what then holds all of a group."""
    inputs = _stack_blocks(setup, part)
    levels = dict.fromkeys(inputs, 0)
    while unfinished := [group for group, numbers in inputs.items() if len(numbers) > 1]:
        work = []
        for group in unfinished:
            job = first_pass.MergeJob(
                inputs=inputs[group],
                fan_in=_FAN_IN,
                read=functools.partial(_read_partial, setup.path, part.group, levels[group], group),
                write=functools.partial(_write_partial, setup.path, part.group, levels[group] + 1, group),
            )
            inputs[group] = range(-(-len(inputs[group]) // _FAN_IN))
            levels[group] += 1
            merge = functools.partial(first_pass.merge_stacks, job)
            build = functools.partial(blocks.window_of_blocks, merge, name="merge-stacks")
            work.append(Work(build, list(inputs[group])))
        for _ in executor.run(work):
            pass
    return [(levels[group], group, numbers[0]) for group, numbers in inputs.items()]


def _rms_of_groups(setup: Setup, part: layout.Part) -> np.ndarray:
    """Median background RMS of the frames of each group of the stack, electrons; 0 for a group without frames."""
    rms = layout.read_array(setup.path, f"{part.group}/frames", "background_rms")
    flags = layout.read_array(setup.path, f"{part.group}/frames", "flags")
    selected, groups = _frames_of_groups(setup, part)
    is_known = np.isfinite(rms[selected]) & ((flags[selected] & np.uint32(UNUSABLE)) == 0)
    of_groups = [rms[selected[is_known & (groups == group)]] for group in np.unique(groups)]
    return np.array([np.median(some) if len(some) else 0.0 for some in of_groups])


def finish_catalogs(setup: Setup, progress: Progress) -> None:
    """Make the catalogue of every key that has none."""
    for key in layout.keys(setup.path):
        _finish_catalog(setup, key, progress)


def _finish_catalog(setup: Setup, key: str, progress: Progress) -> None:
    """Detect the catalogue on the stack of the reference night, once."""
    catalog_group, reference_group = _catalog_group(key), _reference_group(key)
    if layout.has_product(setup.path, catalog_group) or not layout.has_product(setup.path, reference_group):
        return
    part = frozen_reference_part(setup, key)
    stack = layout.read_product(setup.path, f"{part.group}/stack")
    night = _stacked_night(setup, part, stack)
    steps, limit = setup.steps(part.shape, part.binning), setup.parameters.max_catalog_sources
    try:
        found = catalog.make_catalog(night, steps, limit, setup.aperture_selector)
    except catalog.NoCatalog as error:
        progress.tell(f"{key}: {error}")
        return
    _keep_checksum(setup, key, catalog.checksum(found.arrays))
    layout.extend_product(setup.path, reference_group, "reference", stack)
    warnings = [*found.warnings, *_missing_sources(setup, part, found, night.image.shape)]
    for line in (*warnings, *found.left_out):
        progress.tell(f"{key}: {line}")
    attributes = {"fwhm": found.fwhm, "fwhm_units": "pixel", "warnings": warnings}
    provenance = {"provenance": versions() | {"parameters_hash": config.parameters_hash(setup.record())}}
    layout.write_product(setup.path, catalog_group, "catalog", found.arrays, attributes | provenance)


def _stacked_night(setup: Setup, part: layout.Part, stack: Mapping[str, np.ndarray]) -> catalog.StackedNight:
    """Stack of a part with the noise, seeing, transforms and saturation of its frames."""
    noise, widths, minor, sky = (
        layout.read_array(setup.path, f"{part.group}/frames", name)
        for name in ("background_rms", "fwhm", "semiminor_sigma", "background")
    )
    level, gain = (layout.read_array(setup.path, f"{part.group}/frames", name) for name in ("saturation", "gain"))
    piled = _piled_up(setup, part)
    level = level if piled is None else piled.lowered(level, gain)
    return catalog.StackedNight(
        stack["image"],
        stack["coverage"],
        noise,
        _median(widths),
        _transforms(setup, part, _stacked(setup, part)),
        _median(level * gain * setup.parameters.rebin_factor**2 - sky),
        SIGMA_TO_FWHM * _median(minor),
    )


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def _stacked(setup: Setup, part: layout.Part) -> np.ndarray:
    """Indices of the usable frames that are in the stack of a part."""
    transforms, flags = (layout.read_array(setup.path, f"{part.group}/frames", name) for name in ("transform", "flags"))
    chosen = stack_selection(part.n_frames, setup.parameters.stack_frames)
    usable = ((flags[chosen] & np.uint32(UNUSABLE)) == 0) & np.isfinite(transforms[chosen]).all(axis=(1, 2))
    stacked: np.ndarray = chosen[usable]
    return stacked


def _transforms(setup: Setup, part: layout.Part, frames: np.ndarray) -> np.ndarray:
    """Transforms of some frames of a part, shape (frame, 3, 3)."""
    transforms: np.ndarray = layout.read_array(setup.path, f"{part.group}/frames", "transform")[frames]
    return transforms


def _missing_sources(
    setup: Setup, part: layout.Part, found: catalog.Catalog, shape: tuple[int, int]
) -> tuple[str, ...]:
    """Tell where catalogue and frames do not show the same stars."""
    frames = _stacked(setup, part)
    frames = frames[stack_selection(len(frames), _COMPARED)] if len(frames) else frames
    border = getattr(setup.steps(part.shape, part.binning).finder, "border_width", 0)
    detections = []
    for frame, transform in zip(frames.tolist(), _transforms(setup, part, frames), strict=True):
        x, y = (
            layout.read_array(setup.path, f"{part.group}/sources", name, frame, frame + 1)[0] for name in ("x", "y")
        )
        xy = align.apply_transform(align.invert_transform(transform), np.column_stack([x, y])[np.isfinite(x)])
        inside = np.all((xy > border) & (xy < np.array(shape[::-1]) - 1 - border), axis=1)
        detections.append(xy[inside])
    catalog_xy = np.column_stack([found.arrays["x"], found.arrays["y"]])
    limit = setup.parameters.max_catalog_sources
    of_frames, of_catalog = catalog.missing_sources(catalog_xy, detections, found.fwhm, limit)
    where = f"of {part.night} ({len(detections)} frames looked at)"
    warnings = []
    if of_frames > _MOST:
        warnings.append(
            f"{100 * of_frames:.0f} % of the brightest detections in the frames {where} are not in the catalogue of "
            f"{len(catalog_xy)} sources. Frames that are not well aligned smear their stars, and hot pixels do not "
            "move with the field: look at cat/catalogs.pdf; other n_alignment_sources or darks may help."
        )
    if of_catalog > _MOST:
        warnings.append(
            f"{100 * of_catalog:.0f} % of the brightest sources of the catalogue are not among the detections in the "
            f"frames {where}: they may be no stars. Look at cat/catalogs.pdf; a higher threshold or another "
            "reference_night may help."
        )
    return tuple(warnings)


def _keep_checksum(setup: Setup, key: str, checksum: str) -> None:
    """Freeze the catalogue: one that is made again must be the same.

    Raises
    ------
    ReductionError
        When it is not.
    """
    group = layout.group_name(key)
    before = layout.read_attributes(setup.path, group).get("catalog_checksum")
    if before not in (None, checksum):
        raise ReductionError(
            f"the catalogue of {key} was lost and comes out differently now: its reference night was reduced again "
            "from other frames since. Reduce with --rebuild-reference, so that all nights belong to one catalogue."
        )
    layout.update_attributes(setup.path, group, {"catalog_checksum": checksum})


# ---------------------------------------------------------------- pass 2: photometry


def measure_frames(
    setup: Setup,
    photometers: Mapping[str, second_pass.Photometer],
    executor: Executor,
    progress: Progress | None = None,
    *,
    whole_frames: bool = False,
) -> Outcome:
    """Second pass: photometry of every block that is not done, all photometers on one read of a frame.

    Parameters
    ----------
    setup : Setup
    photometers : dict of Photometer
        By label.
    executor : Executor
    progress : Progress, optional
    whole_frames : bool
        Calibrate whole frames even where cut-outs are enough.

    Raises
    ------
    ReductionError
        When no key has a catalogue.
    store.StoreError
        When a label exists with other parameters.
    """
    progress = progress or Silent()
    outcome = Outcome()
    ready = parts_with_catalog(setup)
    if not ready:
        raise ReductionError(no_catalog(setup))
    measure_profiles(setup, executor, progress)
    ready = [part for part in ready if has_profile(setup, part)]
    work: list[Work] = []
    n_frames = 0
    for part in ready:
        chosen = prepare_for_key(setup, part.key, photometers, executor, progress)
        add_labels(setup, part, photometers, chosen)
        labels = list(photometers)
        todo = sorted({*blocks_to_measure(setup, part, labels), *_blocks_back(setup, part, labels)})
        work.append(second_pass_work(setup, part, chosen, todo, whole_frames=whole_frames))
        n_frames += sum(map(functools.partial(_frames_in, part), todo))
    with stage(progress, "Performing photometry", n_frames):
        for key, summary in executor.run(work):
            check_owner(setup.out_directory)
            outcome.add(key, summary)
            progress.advance(summary.n_frames)
    measure_quality(setup, progress, executor)
    return outcome


def second_pass_work(
    setup: Setup,
    part: layout.Part,
    prepared: Mapping[str, second_pass.Photometer],
    todo: Sequence[int],
    *,
    whole_frames: bool = False,
) -> Work:
    """Blocks of a part to measure with photometers that are prepared for its key."""
    job = _second_pass_job(setup, part, prepared, whole_frames)
    run = functools.partial(second_pass.measure_block, job)
    try_frame = functools.partial(second_pass.try_frame, job)
    return guarded_work(part.key, "measure", run, todo, try_frame, functools.partial(_frames_in, part))


def measure_quality(setup: Setup, progress: Progress | None = None, executor: Executor | None = None) -> None:
    """Transparency, clouds, airmass and scintillation of every part whose photometry is done and that has none yet.

    They are made anew when the label that they are to be made from changes, see
    :mod:`~opticam_dask.passes.quality`. A part is one task of the executor; without one it is done in this process.
    """
    todo = [
        (part, label)
        for part in parts_with_catalog(setup)
        if (label := quality.wanted_label(setup.path, part)) is not None
    ]
    if not todo:
        return
    progress, executor = progress or Silent(), executor or InProcess()
    run = functools.partial(_measure_quality_of, setup.path, setup.instrument, tuple(todo))
    build = functools.partial(blocks.window_of_tasks, run, name="quality")
    with stage(progress, "Measuring quality", sum(part.n_frames for part, _ in todo)):
        for number, found in executor.run([Work(build, range(len(todo)))]):
            check_owner(setup.out_directory)
            part, _ = todo[number]
            quality.write_quality(setup.path, part, found)
            progress.advance(part.n_frames)


def _measure_quality_of(
    path: Path, instrument: Instrument, todo: Sequence[tuple[layout.Part, str]], number: int
) -> tuple[int, quality.Found]:
    part, label = todo[number]
    return number, quality.measure_quality(path, part, instrument, label)


def parts_with_catalog(setup: Setup) -> list[layout.Part]:
    """Parts of the keys that have a catalogue."""
    return [p for p in parts_with_reference(setup) if layout.has_product(setup.path, _catalog_group(p.key))]


def measure_profiles(setup: Setup, executor: Executor, progress: Progress | None = None) -> None:
    """Measure the star profile of every night that has none, from some of its frames.

    A night that the first pass has not been through to its end waits: its profile must not depend on how far a run
    came.
    """
    progress = progress or Silent()
    todo: dict[str, layout.Part] = {}
    for part in parts_with_catalog(setup):
        if has_profile(setup, part):
            continue
        if layout.done_blocks(setup.path, part).all():
            todo[part.group] = part
        else:
            progress.tell(f"{part.key} {part.night} is not measured: its first pass is not finished (create_catalogs).")
    chosen = {group: profile_frames(setup, part) for group, part in todo.items()}
    with stage(progress, "Measuring star profiles", sum(len(some) + len(all_) for some, all_ in chosen.values())):
        for group, part in todo.items():
            found = measure_stars(setup, executor, progress, part, *chosen[group])
            check_owner(setup.out_directory)
            write_profile(setup, part, found, progress)


def profile_frames(setup: Setup, part: layout.Part) -> tuple[list[int], list[int]]:
    """Frames of a part that its profile is measured in: those of the first round, and of the second."""
    frames = star_profiles.choose_frames(layout.read_array(setup.path, f"{part.group}/frames", "flags"))
    return star_profiles.some_of(frames), frames


def measure_stars(
    setup: Setup,
    executor: Executor,
    progress: Progress,
    part: layout.Part,
    first: Sequence[int] | None = None,
    frames: Sequence[int] | None = None,
) -> dict[int, Any]:
    """Sums over the stars of some frames of a part, by frame, from both rounds; see :func:`write_profile`."""
    if first is None or frames is None:
        first, frames = profile_frames(setup, part)
    fitted = star_profiles.fit(_profile_round(setup, executor, progress, part, first, None))
    return {} if fitted is None else _profile_round(setup, executor, progress, part, frames, fitted)


def _profile_round(
    setup: Setup,
    executor: Executor,
    progress: Progress,
    part: layout.Part,
    frames: Sequence[int],
    fitted: Profile | None,
) -> dict[int, Any]:
    """Sums over the stars of some frames of a part, by frame; neighbours are taken off when a profile is known."""
    second = _second_pass_job(setup, part, {}, whole_frames=False)
    job = star_profiles.ProfileJob(
        second_pass=second if fitted is None else replace(second, profile=fitted.table()),
        has_profile=fitted is not None,
        frames=tuple(frames),
        frames_per_block=part.frames_per_block,
        read_manifest=functools.partial(_read_manifest, setup.path, part, _piled_up(setup, part)),
        read_results=functools.partial(layout.read_results, setup.path, part),
    )
    run, try_frame = (
        functools.partial(function, job) for function in (star_profiles.measure_block, star_profiles.try_frame)
    )
    todo = sorted({index // part.frames_per_block for index in frames})
    work = guarded_work(part.key, "profile", run, todo, try_frame, functools.partial(_frames_in, part))
    found: dict[int, Any] = {}
    for _, rings in executor.run([work]):
        found.update(rings)
        progress.advance(len(rings))
    return found


#: Total fluxes that are uncertain by more than this part are told; by that of another night they are by at least
#: the second.
_UNCERTAIN_TOTAL, _OTHER_NIGHT = 0.01, 0.05


def has_profile(setup: Setup, part: layout.Part) -> bool:
    """Whether the star profile of a part is measured."""
    return layout.has_product(setup.path, f"{part.group}/psf")


def write_profile(setup: Setup, part: layout.Part, found: Mapping[int, Any], progress: Progress) -> None:
    """Write the profile of a night; where it has too few bright stars, that of the reference night or a Gaussian."""
    fitted, source = star_profiles.fit(found), part.night
    fwhm = layout.read_array(setup.path, f"{part.group}/frames", "fwhm")
    if np.isfinite(fwhm).any() and np.nanmedian(fwhm) < noise.UNDERSAMPLED:
        progress.tell(
            f"{part.key} {part.night}: stars are only {np.nanmedian(fwhm):.1f} pixels wide (FWHM); below "
            f"{noise.UNDERSAMPLED:g} apertures are more precise than optimal and PSF photometry, and all errors "
            "allow for what the star profile cannot know."
        )
    if fitted is None:
        reference = frozen_reference_part(setup, part.key)
        if reference.night != part.night and has_profile(setup, reference):
            known = _read_profile(setup, reference)
            fitted, source = replace(known, total_err=max(known.total_err, _OTHER_NIGHT)), reference.night
        else:
            fitted, source = gaussian_profile(), "gaussian"
        progress.tell(
            f"{part.key} {part.night}: too few bright stars to measure their profile; "
            f"{'a Gaussian' if source == 'gaussian' else f'that of {source}'} is used. Total fluxes are uncertain by "
            f"{100 * fitted.total_err:.0f} %, by one factor for all stars and frames."
        )
    elif fitted.total_err > _UNCERTAIN_TOTAL:
        progress.tell(
            f"{part.key} {part.night}: the star profile leaves total fluxes uncertain by "
            f"{100 * fitted.total_err:.1f} %, by one factor for all stars and frames."
        )
    attributes = {
        "n_frames": sum(rings is not None for rings in found.values()),
        "n_stars": sum(int(rings.n_images.sum()) for rings in found.values() if rings is not None),
        "source": source,
        "pixel_area": fitted.pixel_area,
        "total_err": fitted.total_err,
    }
    arrays = star_profiles.describe(fitted, star_profiles.add(found) if source == part.night else None)
    layout.write_product(setup.path, f"{part.group}/psf", "psf", arrays, attributes)


def _read_profile(setup: Setup, part: layout.Part) -> Profile:
    """Star profile of a part; a Gaussian where none was measured, as while an observation goes on."""
    if not has_profile(setup, part):
        return gaussian_profile()
    group = f"{part.group}/psf"
    about = layout.read_attributes(setup.path, group)
    # stores of older versions do not say how well the total is known
    total_err = float(about.get("total_err", GAUSSIAN_ERROR if about.get("source") == "gaussian" else 0.0))
    return Profile(layout.read_array(setup.path, group, "coefficient"), float(about.get("pixel_area", 0.0)), total_err)


def catalog_facts(setup: Setup, key: str, background_rms: float | None = None) -> CatalogFacts:
    """What photometers are prepared with: the same for all nights of a key.

    Parameters
    ----------
    setup : Setup
    key : str
    background_rms : float, optional
        Median over the frames of the reference night, where it is known already: reading it takes as many files as
        that night has blocks.
    """
    reference = frozen_reference_part(setup, key)
    group = _catalog_group(key)
    if background_rms is None:
        rms = layout.read_array(setup.path, f"{reference.group}/frames", "background_rms")
        background_rms = float(np.nanmedian(rms)) if np.isfinite(rms).any() else float("nan")
    return CatalogFacts(
        flux=layout.read_array(setup.path, group, "flux"),
        fwhm=float(layout.read_attributes(setup.path, group)["fwhm"]),
        background_rms=background_rms,
        profile=_read_profile(setup, reference).table(),
    )


def prepare_for_key(
    setup: Setup,
    key: str,
    photometers: Mapping[str, second_pass.Photometer],
    executor: Executor | None = None,
    progress: Progress | None = None,
    background_rms: float | None = None,
) -> dict[str, second_pass.Photometer]:
    """Photometers for the catalogue of a key; what a label has chosen once is what it has from then on.

    The best radius of an aperture is judged by some frames of the reference night, which are measured here.

    Parameters
    ----------
    setup : Setup
    key : str
    photometers : dict of Photometer
        By label.
    executor : Executor, optional
        Where frames are measured; by default in this process.
    progress : Progress, optional
        Hears which radius was chosen, and how.
    background_rms : float, optional
        See :func:`catalog_facts`.
    """
    facts = catalog_facts(setup, key, background_rms)
    prepared = prepare_photometers(facts, {k: v for k, v in photometers.items() if not _wants_radius(v)})
    for label, photometer in photometers.items():
        if not _wants_radius(photometer):
            continue
        assert isinstance(photometer, AperturePhotometer)
        radius = _chosen_radius(setup, key, label, photometer)
        if radius is None:
            progress = progress or Silent()
            trial = _try_apertures(setup, key, photometer, executor or InProcess(), progress)
            choice = choose_radius(replace(facts, trial=trial))
            radius = choice.radius
            progress.tell(_keep_radius(setup, key, label, photometer, choice, facts.fwhm))
        prepared[label] = replace(photometer, radius=radius, radius_unit="reference_fwhm")
    return {label: prepared[label] for label in photometers}


def _wants_radius(photometer: second_pass.Photometer) -> bool:
    return isinstance(photometer, AperturePhotometer) and photometer.radius == "best"


def _chosen_radius(setup: Setup, key: str, label: str, photometer: AperturePhotometer) -> float | None:
    """Radius that a label has already, in FWHM of the catalogue."""
    own = config.parameters_json(config.describe(photometer))
    kept = layout.read_attributes(setup.path, _catalog_group(key)).get("aperture_radii", {}).get(label)
    if kept is not None and kept["parameters"] == own:
        return float(kept["radius"])
    for part in layout.parts(setup.path, key):  # of a store that was begun before choices were kept
        present = layout.read_attributes(setup.path, f"{part.group}/photometry/{label}")
        if present.get("complete") and present["parameters"] == own:
            return float(json.loads(present["prepared"])["radius"])
    return None


def _keep_radius(
    setup: Setup, key: str, label: str, photometer: AperturePhotometer, choice: RadiusChoice, fwhm: float
) -> str:
    """Keep the radius that was chosen for a label beside the catalogue; return what to tell of it."""
    group = _catalog_group(key)
    kept = dict(layout.read_attributes(setup.path, group).get("aperture_radii", {}))
    kept[label] = {
        "radius": choice.radius,
        "radius_unit": "reference_fwhm",
        "judged_by": choice.judged_by,
        "parameters": config.parameters_json(config.describe(photometer)),
    }
    layout.update_attributes(setup.path, group, {"aperture_radii": kept})
    size = f"{choice.radius:g} FWHM ({choice.radius * fwhm:.2f} pixels)"
    return f"{key}: photometry {label} has a radius of {size}, judged by {choice.judged_by}."


def _try_apertures(
    setup: Setup, key: str, photometer: AperturePhotometer, executor: Executor, progress: Progress
) -> TrialFluxes | None:
    """Fluxes in apertures of several sizes in some frames of the reference night."""
    part = frozen_reference_part(setup, key)
    flags = layout.read_array(setup.path, f"{part.group}/frames", "flags")
    frames = star_profiles.choose_frames(flags, aperture_trial.N_FRAMES)
    job = aperture_trial.TrialJob(
        second_pass=_second_pass_job(setup, part, {}, whole_frames=False),
        photometer=replace(photometer, radius=TRIAL_RADII, radius_unit="reference_fwhm"),
        frames=tuple(frames),
        frames_per_block=part.frames_per_block,
        read_manifest=functools.partial(layout.read_manifest, setup.path, part),
        read_results=functools.partial(layout.read_results, setup.path, part),
    )
    run, try_frame = (
        functools.partial(function, job) for function in (aperture_trial.measure_block, aperture_trial.try_frame)
    )
    todo = sorted({index // part.frames_per_block for index in frames})
    work = guarded_work(key, "apertures", run, todo, try_frame, functools.partial(_frames_in, part))
    found: dict[int, aperture_trial.Measured] = {}
    with stage(progress, "Trying apertures", len(frames)):
        for _, measured in executor.run([work]):
            found.update(measured)
            progress.advance(len(measured))
    return aperture_trial.collect(found)


def prepare_photometers(
    facts: CatalogFacts, photometers: Mapping[str, second_pass.Photometer]
) -> dict[str, second_pass.Photometer]:
    """Photometers as they are for the catalogue of a key: what they choose is the same for all its nights."""
    return {
        label: photometer.prepare(facts) if hasattr(photometer, "prepare") else photometer
        for label, photometer in photometers.items()
    }


def _catalog_group(key: str) -> str:
    return f"{layout.group_name(key)}/catalog"


def add_labels(
    setup: Setup,
    part: layout.Part,
    photometers: Mapping[str, second_pass.Photometer],
    prepared: Mapping[str, second_pass.Photometer],
) -> None:
    """Make the arrays of the photometry of a part, as far as they are not there.

    Raises
    ------
    store.StoreError
        When a label exists with other parameters.
    """
    source_ids = layout.read_array(setup.path, _catalog_group(part.key), "source_id")
    has_flat = setup.steps_of(part).has_flat
    chosen = layout.read_attributes(setup.path, _catalog_group(part.key)).get("aperture_radii", {})
    for label, photometer in photometers.items():
        record = config.describe(photometer)
        attributes = {
            "label": label,
            "parameters": config.parameters_json(record),
            "parameters_hash": config.parameters_hash({"photometer": record, "reduction": setup.record()}),
            "prepared": config.parameters_json(prepared[label]),
            "provenance": versions(),
        }
        if (kept := chosen.get(label)) and kept["parameters"] == attributes["parameters"]:
            attributes["aperture_radius"] = {name: kept[name] for name in ("radius", "radius_unit", "judged_by")}
        radii = second_pass.measured_radii(photometer)
        if radii:
            attributes["radius_unit"] = getattr(photometer, "radius_unit", "pixel")
        variables = second_pass.measured_variables(photometer, has_flat=has_flat)
        layout.add_photometry(setup.path, part, label, source_ids, attributes, variables=variables, radii=radii)


def blocks_to_measure(setup: Setup, part: layout.Part, labels: Sequence[str], among: range | None = None) -> list[int]:
    """Blocks (of those in ``among``) that the first pass has done and the photometry of a label has not."""
    among = range(part.n_blocks) if among is None else among
    done = np.ones(len(among), dtype=bool)
    is_reduced = layout.done_blocks(setup.path, part, among=among)
    for label in labels:
        done &= layout.done_blocks(setup.path, part, label, among=among)
    return (among.start + np.flatnonzero(is_reduced & ~done)).tolist()


def _blocks_back(setup: Setup, part: layout.Part, labels: Sequence[str]) -> list[int]:
    """Blocks with frames whose files were gone when a label was measured, and are there again."""
    found: set[int] = set()
    for label in labels:
        for index in layout.lost_frames(setup.path, part, label).tolist():
            block, offset = divmod(index, part.frames_per_block)
            if block not in found and is_back(entry_of(layout.read_manifest(setup.path, part, block), offset)):
                found.add(block)
    return sorted(found)


def _second_pass_job(
    setup: Setup, part: layout.Part, photometers: Mapping[str, second_pass.Photometer], whole_frames: bool
) -> second_pass.SecondPass:
    group = _catalog_group(part.key)
    found = layout.read_product(setup.path, group)
    return second_pass.SecondPass(
        steps=setup.steps_of(part),
        photometers=dict(photometers),
        catalog_xy=np.column_stack([found["x"], found["y"]]),
        catalog_flux=found["flux"],
        profile=_read_profile(setup, part).table(),
        fwhm=float(layout.read_attributes(setup.path, group)["fwhm"]),
        read_manifest=functools.partial(_read_manifest, setup.path, part, _piled_up(setup, part)),
        read_results=functools.partial(layout.read_results, setup.path, part),
        write=functools.partial(layout.write_block, setup.path, part),
        whole_frames=whole_frames,
    )


def live_jobs(
    setup: Setup, key: str, photometer: second_pass.Photometer
) -> tuple[first_pass.FirstPass, second_pass.SecondPass]:
    """What tasks need for both passes on frames of a key that are in no store.

    Raises
    ------
    ReductionError
        When the key has no catalogue.
    """
    if not layout.has_product(setup.path, _catalog_group(key)):
        raise ReductionError(no_catalog(setup))
    part = frozen_reference_part(setup, key)
    photometers = prepare_photometers(catalog_facts(setup, key), {photometer.label: photometer})
    return _first_pass_job(setup, part), _second_pass_job(setup, part, photometers, whole_frames=False)


def finish(setup: Setup, *, is_last: bool = True) -> None:
    """Close a run: nothing pending, consolidated metadata, no scratch files.

    Parameters
    ----------
    setup : Setup
    is_last : bool
        False when the same command goes on with photometry: what it was asked to make again stays on record.
    """
    check_owner(setup.out_directory)
    if is_last:
        nights.settle(setup.path)
    layout.finish_changes(setup.path)
