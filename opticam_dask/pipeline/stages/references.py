"""Pass 0: masters of the calibration frames, and the reference frame of each camera, which is frozen from then on."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np

from opticam_dask.cluster.executors import Executor, Work
from opticam_dask.kernels.images.stack import stack_selection
from opticam_dask.parameters import TransformType
from opticam_dask.passes import probes as probing
from opticam_dask.pipeline import frozen, plan
from opticam_dask.pipeline.reduction import Progress, ReductionError, Setup, WrongParameters, counted_results, stage
from opticam_dask.pipeline.run import Pass, Run, guarded_work
from opticam_dask.pipeline.stages.master_frames import make_masters
from opticam_dask.store.camera import Camera, Part

#: Candidates for the reference frame of a night.
N_PROBES = 9


class References(Pass):
    """Pass that makes missing calibration masters and chooses missing reference frames."""

    word = "reference"
    name = "calibration masters and reference frames"

    def finish(self, run: Run) -> None:
        """Make the masters, then choose and freeze the reference frames."""
        make_masters(run.setup, run.executor, run.progress)
        choose_references(run.setup, run.executor, run.progress)

    def dead_end(self, run: Run) -> str:
        """No camera has a reference frame."""
        if frozen.parts_with_reference(run.setup):
            return ""
        return "no camera has a reference frame, so there is nothing to align to. A lower threshold may help."


def choose_references(setup: Setup, executor: Executor, progress: Progress) -> None:
    """Pick and freeze the reference frame of every key that has none."""
    todo = [camera for camera in setup.store.cameras if not camera.reference.is_whole]
    for camera in todo:
        _require_nothing_aligned(camera)
    candidates = {camera.key: part for camera in todo if (part := _reference_part(setup, camera)) is not None}
    indices = {key: stack_selection(part.n_frames, N_PROBES) for key, part in candidates.items()}
    if not candidates:
        return
    work: list[Work] = []
    for key, part in candidates.items():
        job = _probe_job(setup, part)
        run = functools.partial(probing.probe_frame, job)
        try_frame = functools.partial(_try_probe, job)
        work.append(guarded_work(key, "probe", run, indices[key].tolist(), try_frame, _one_frame))
    probes: dict[str, list[probing.Probe]] = {key: [] for key in candidates}
    with stage(progress, "Choosing reference frames", sum(map(len, indices.values()))):
        for key, probe in executor.run(work):
            probes[key].append(probe)
            progress.advance(1)
    in_order = [(key, tuple(sorted(probes[key], key=lambda probe: probe.index))) for key in candidates]
    choose = functools.partial(_choose, setup.parameters.transform_type, tuple(of_key for _, of_key in in_order))
    work = [Work(choose, range(len(in_order)), "match-probes", has_time_limit=False)]
    chosen = counted_results(executor, work, progress, "Matching candidates", len(in_order), "cameras")
    for number, (key, of_key) in enumerate(in_order):
        _freeze_reference(candidates[key], of_key, chosen[number], progress)


def _choose(
    transform_type: TransformType, probes: Sequence[Sequence[probing.Probe]], number: int
) -> tuple[int, probing.Probe | None]:
    """Task that chooses the reference frame of one camera."""
    return number, probing.choose_reference(
        list(probes[number]), functools.partial(probing.count_matches, transform_type)
    )


def _require_nothing_aligned(camera: Camera) -> None:
    """Refuse another reference frame where frames are aligned to one that was lost."""
    if camera.attributes.get("catalog_checksum") is not None:
        raise ReductionError(
            f"the reference frame of {camera.key} is lost, but its nights are aligned to it. "
            "Reduce with --rebuild-reference."
        )


def _try_probe(job: probing.ProbeJob, index: int, _: int) -> None:
    probing.probe_frame(job, index)


def _one_frame(_: int) -> int:
    return 1


def _reference_part(setup: Setup, camera: Camera) -> Part | None:
    """Part whose frames give reference frame and catalogue: the first credible night, unless told."""
    main = {part.night: part for part in camera.parts if "." not in part.night}
    wanted = setup.parameters.reference_night
    if wanted is not None:
        if wanted not in main:
            raise WrongParameters(
                f"reference night {wanted} is not among the nights of {camera.key}: {', '.join(main)}."
            )
        return main[wanted]
    nights = plan.credible_nights({night: part.n_frames for night, part in main.items()})
    return main[nights[0]] if nights else None


def _probe_job(setup: Setup, part: Part) -> probing.ProbeJob:
    return probing.ProbeJob(
        steps=setup.steps_of(part),
        frames_per_block=part.frames_per_block,
        n_alignment_sources=setup.parameters.n_alignment_sources,
        read_manifest=part.manifest,
    )


def _freeze_reference(
    part: Part, probes: Sequence[probing.Probe], chosen: probing.Probe | None, progress: Progress
) -> None:
    if chosen is None:
        first = probes[0]
        progress.tell(
            f"{part.key}: no source in any of {len(probes)} candidate frames ({first.message}). "
            "A lower threshold or n_pixels may help."
        )
        return
    file = part.manifest(chosen.index // part.frames_per_block)["file"]
    attributes = {
        "reference_file": os.path.basename(file[chosen.index % part.frames_per_block]),
        "reference_index": chosen.index,
        "reference_night": part.night,
        "reference_fwhm": chosen.fwhm,
        "reference_minor_fwhm": chosen.minor_fwhm,
    }
    piled = probing.find_pile_up(probes)
    if piled is not None:
        given = "none" if np.isnan(piled.saturation) else f"{piled.saturation:g} ADU"
        progress.tell(
            f"{part.key}: the pixels of {piled.n_frames} of {len(probes)} frames of {part.night} pile up at "
            f"{piled.level:g} ADU, which is taken for their saturation; headers and instrument give {given}. Set "
            "saturation_keyword or default_saturation of the instrument if that is not right."
        )
        attributes |= {"pile_up_adu": piled.level, "pile_up_gain": piled.gain, "pile_up_n_frames": piled.n_frames}
    if (doubt := probing.doubtful_saturation(probes)) is not None:
        progress.tell(
            f"{part.key}: pixels of {part.night} reach {doubt[1]:g} ADU, far above the saturation of {doubt[0]:g} ADU "
            "by headers and instrument: stars with such pixels are flagged saturated. Set saturation_keyword or "
            "default_saturation of the instrument if that is not right."
        )
    arrays = {"alignment_x": chosen.xy[:, 0], "alignment_y": chosen.xy[:, 1], "alignment_flux": chosen.flux}
    part.camera.reference.write(arrays, attributes)
    part.camera.update({"reference_night": part.night})
