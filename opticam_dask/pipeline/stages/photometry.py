"""Pass 3: photometry of every source in every frame, all photometers on one read of a frame; quality of the nights."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from opticam_dask import identities
from opticam_dask.cluster.executors import Work
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.sources.profiles.sampling import sampling_errors
from opticam_dask.methods.frame_view import CatalogFacts, FrameView, Photometer, TrialFluxes
from opticam_dask.methods.photometers import TRIAL_RADII, AperturePhotometer, RadiusChoice, choose_radius
from opticam_dask.passes import aperture_trial, measure, quality, sampled_frames, star_profiles
from opticam_dask.pipeline import frozen
from opticam_dask.pipeline.preparation import versions
from opticam_dask.pipeline.reduction import ReductionError, Setup, stage
from opticam_dask.pipeline.run import BlockPass, Run, frames_in, guarded_work
from opticam_dask.pipeline.stages.borrowing import find_borrowed, write_borrowed
from opticam_dask.pipeline.stages.hand_transforms import find_told, write_told
from opticam_dask.pipeline.stages.stacks import stacked_frames
from opticam_dask.pipeline.stages.survey import alignment_of, tell_of_alignment
from opticam_dask.steps.align import Aligning
from opticam_dask.steps.frame_steps import entry_of
from opticam_dask.steps.measure import has_common_error, measured_radii, measured_variables
from opticam_dask.steps.read import is_back
from opticam_dask.steps.view import Measuring, Track, neighbours_of
from opticam_dask.store import making
from opticam_dask.store.camera import Camera, Part


class MeasurePass(BlockPass):
    """Pass that measures all blocks with frames not yet surveyed or sources not yet measured by a photometer.

    Without photometers, which may come later, it is the sky, sources and transforms of all frames.
    """

    word = "measure"
    name = "photometry"
    title = "Measuring frames"

    def is_ready(self, run: Run, camera: Camera) -> bool:
        """Whether a camera has a reference frame."""
        return camera.reference.is_whole

    def undone(self, run: Run, part: Part, among: range | None = None) -> list[int]:
        """Blocks with frames that were not looked at, and those that a label has not measured.

        In a whole part, also those with frames whose files were gone when they were measured and are there again.
        """
        chosen = range(part.n_blocks) if among is None else among
        if not _is_surveyed(part):
            return []
        done = part.frames.done(chosen)
        labels = run.photometers if part.psf.is_whole else ()
        for label in labels:
            done &= part.photometry(label).done(chosen)
        todo = (chosen.start + np.flatnonzero(~done)).tolist()
        return todo if among is not None or not labels else sorted({*todo, *_blocks_back(run, part)})

    def tasks(self, run: Run, part: Part, todo: Sequence[int]) -> Work:
        """Tasks that measure blocks."""
        if not part.frames.done().all():
            run.looked_at.add((part.key, part.night))
        job = measure_job(run, part)
        measure_block = functools.partial(measure.measure_block, job)
        try_frame = functools.partial(measure.try_frame, job)
        n_frames, alone = functools.partial(frames_in, part), replace(job, measuring=None)
        before = functools.partial(measure.measure_block, alone), functools.partial(measure.try_frame, alone)
        return guarded_work(part.key, "measure", measure_block, todo, try_frame, n_frames, before)

    def finish_part(self, run: Run, part: Part, *, is_new: bool) -> None:
        """Say how the frames of a part went, once."""
        is_shared = is_new and bool(run.planned)  # by jobs, which say nothing
        if (part.key, part.night) in run.looked_at or (is_shared and not _was_surveyed_whole(run.setup, part)):
            tell_of_alignment(run.setup, part, run.progress)

    def finish(self, run: Run) -> None:
        """Measure the frames that borrow their transform from other cameras, and the quality of the nights."""
        place_frames(run)
        if run.photometers:
            measure_quality(run)


def _is_surveyed(part: Part) -> bool:
    """Whether a part has a stack, and a star profile where there is a catalogue."""
    return part.stack.is_whole and (part.psf.is_whole or not part.camera.catalog.is_whole)


def _was_surveyed_whole(setup: Setup, part: Part) -> bool:
    """Whether all frames of a part are stacked."""
    return len(stacked_frames(setup, part)) == part.n_frames


def measure_job(run: Run, part: Part) -> measure.Measure:
    """Job for the tasks that measure blocks of a part."""
    measuring = None
    if run.photometers and part.psf.is_whole:
        photometers = prepared_for(run, part.camera)
        measuring = measuring_of(run.setup, part, photometers, whole_frames=run.whole_frames)
    return measure.Measure(
        alignment=alignment_of(run.setup, part),
        measuring=measuring,
        read_manifest=_manifest_of(part),
        read_results=part.results,
        read_records=part.block_records,
        read_flags=functools.partial(_flags_of_block, part),
        write=part.write_block,
        write_columns=part.write_columns,
    )


def _manifest_of(part: Part) -> Callable[[int], Mapping[str, np.ndarray]]:
    return functools.partial(frozen.read_manifest, part, frozen.piled_up(part))


def place_frames(run: Run) -> None:
    """Measure frames, with transforms of observers or, with too few stars, of another camera."""
    changed: dict[tuple[str, str], tuple[Part, set[int]]] = {}
    for told in list(find_told(run.setup)):
        changed[told.part.key, told.part.night] = told.part, set(write_told(told, run.progress))
    for found in list(find_borrowed(run.setup)):
        name = (found.part.key, found.part.night)
        blocks = changed.setdefault(name, (found.part, set()))[1]
        blocks.update(write_borrowed(found, run.progress))
    todo = [(part, sorted(blocks)) for part, blocks in changed.values()]
    if not todo or not run.photometers:
        return
    measuring = MeasurePass()
    with stage(
        run.progress,
        "Measuring frames with a transform from elsewhere",
        sum(measuring.n_frames(run, *one) for one in todo),
    ):
        for _ in run.while_owned(measuring.work(run, todo)):
            pass


def _blocks_back(run: Run, part: Part) -> set[int]:
    """Blocks with frames whose files were gone when a label was measured, and are there again."""
    found: set[int] = set()
    for label in run.photometers:
        for index in part.photometry(label).lost_frames().tolist():
            block, offset = divmod(index, part.frames_per_block)
            if block not in found and is_back(entry_of(part.manifest(block), offset)):
                found.add(block)
    return found


def measuring_of(
    setup: Setup, part: Part, photometers: Mapping[str, Photometer], *, whole_frames: bool = False
) -> Measuring:
    """Settings with which frames of a part are measured by photometers prepared for its key.

    Without photometers, it is for samples of frames, which look at the sources that were found.
    """
    catalog = part.camera.catalog
    found, fitted = catalog.read_all(), frozen.read_profile(part)
    job = Measuring(
        steps=setup.steps_of(part),
        photometers=dict(photometers),
        catalog_xy=np.column_stack([found["x"], found["y"]]),
        catalog_flux=found["flux"],
        neighbours=neighbours_of(found),
        profile=fitted.tables(),
        profile_err=fitted.total_err,
        sampling=sampling_errors(fitted),
        bad_pixels=frozen.bad_pixels_of(part),
        fwhm=float(catalog.attributes["fwhm"]),
        whole_frames=whole_frames,
        stages=part.camera.source_stages,
        tracks=_tracks(part.camera),
    )
    return job if photometers else replace(job.at_stage(0), stages=(), tracks=())


def _tracks(camera: Camera) -> tuple[Track, ...]:
    """Sources of the catalogue that move."""
    known = camera.catalog.attributes.get("tracks", {})
    rows = {int(number): row for row, number in enumerate(camera.catalog["source_id"])} if known else {}
    return tuple(
        Track(rows[int(number)], np.array(one["places"]), np.array(one["around"]).reshape(-1, 4).astype(float))
        for number, one in known.items()
    )


def _flags_of_block(part: Part, label: str, block: int) -> np.ndarray:
    """Flags of the measurements of a label in a block."""
    return part.photometry(label).read("flags", *part.block_range(block))


class Sample(NamedTuple):
    """Frames of a part that are to be measured, and how they are shown to the function that measures them."""

    part: Part
    measuring: Measuring
    frames: Sequence[int]


def measure_samples(
    run: Run, name: str, measure_view: Callable[[FrameView], Any], samples: Sequence[Sample]
) -> list[dict[int, Any]]:
    """Results of a function on some frames of each of some parts, by frame; None where a frame cannot be read."""
    work = []
    for number, (part, measuring, frames) in enumerate(samples):
        job = sampled_frames.SampleJob(
            measuring=measuring,
            measure=measure_view,
            frames=tuple(frames),
            frames_per_block=part.frames_per_block,
            read_manifest=_manifest_of(part),
            read_results=part.results,
            read_kept=part.kept,
        )
        measure_block = functools.partial(sampled_frames.measure_block, job)
        try_frame = functools.partial(sampled_frames.try_frame, job)
        todo = sorted({index // part.frames_per_block for index in frames})
        work.append(guarded_work(number, name, measure_block, todo, try_frame, functools.partial(frames_in, part)))
    found: list[dict[int, Any]] = [{} for _ in samples]
    for number, some in run.executor.run(work):
        found[number].update(some)
        run.progress.advance(len(some))
    return found


def live_jobs(setup: Setup, key: str, photometer: Photometer) -> tuple[Aligning, Measuring]:
    """Jobs that align and measure frames of a key that are not in any store.

    Raises
    ------
    ReductionError
        When the key has no catalogue.
    """
    camera = setup.store.camera(key)
    if not camera.catalog.is_whole:
        raise ReductionError(frozen.no_catalog(setup))
    part = frozen.reference_part(camera)
    photometers = prepare_photometers(catalog_facts(setup, camera), {photometer.label: photometer})
    return alignment_of(setup, part), measuring_of(setup, part, photometers)


# ---------------------------------------------------------------- photometers as they are for one camera


def prepared_for(run: Run, camera: Camera) -> dict[str, Photometer]:
    """Photometers of a run for the catalogue of a camera; the choices of a label never change once made.

    The best radius of an aperture is judged by some frames of the reference night, which are measured here.
    """
    key = camera.key
    if key not in run.prepared:
        known = run.facts.setdefault("background_rms", {})  # reading it takes as many files as a night has blocks
        facts = catalog_facts(run.setup, camera, known.get(key))
        known[key] = facts.background_rms
        run.prepared[key] = {
            label: _with_radius(run, camera, label, photometer, facts)
            if isinstance(photometer, AperturePhotometer) and photometer.radius == "best"
            else prepare_photometers(facts, {label: photometer})[label]
            for label, photometer in run.photometers.items()
        }
    return run.prepared[key]


def _with_radius(
    run: Run, camera: Camera, label: str, photometer: AperturePhotometer, facts: CatalogFacts
) -> Photometer:
    """Aperture photometer with the best radius for the catalogue of a camera."""
    radius = _chosen_radius(camera, label, photometer)
    if radius is None:
        choice = choose_radius(replace(facts, trial=_try_apertures(run, camera, photometer)))
        radius = choice.radius
        run.progress.tell(_keep_radius(camera, label, photometer, choice, facts.fwhm))
    return replace(photometer, radius=radius, radius_unit="reference_fwhm")


def catalog_facts(setup: Setup, camera: Camera, background_rms: float | None = None) -> CatalogFacts:
    """Facts that photometers are prepared with, the same for all nights of a key.

    Parameters
    ----------
    setup : Setup
        What is reduced.
    camera : Camera
        The camera in the store.
    background_rms : float, optional
        Median over the frames of the reference night that are stacked, where it is known already: reading it takes as
        many files as that night has blocks.
    """
    reference = frozen.reference_part(camera)
    if background_rms is None:
        rms = reference.frames["background_rms"][stacked_frames(setup, reference)]
        background_rms = float(np.nanmedian(rms)) if np.isfinite(rms).any() else float("nan")
    return CatalogFacts(
        flux=camera.catalog["flux"][: camera.n_found],
        fwhm=float(camera.catalog.attributes["fwhm"]),
        background_rms=background_rms,
        profile=frozen.read_profile(reference).table(),
    )


def prepare_photometers(facts: CatalogFacts, photometers: Mapping[str, Photometer]) -> dict[str, Photometer]:
    """Photometers prepared for the catalogue of a key; what they choose, such as a radius, holds for all its nights."""
    return {
        label: photometer.prepare(facts) if hasattr(photometer, "prepare") else photometer
        for label, photometer in photometers.items()
    }


def _chosen_radius(camera: Camera, label: str, photometer: AperturePhotometer) -> float | None:
    """Radius that a label has already, in FWHM of the catalogue."""
    own = identities.parameters_json(identities.describe(photometer))
    kept = camera.catalog.attributes.get("aperture_radii", {}).get(label)
    if kept is not None and kept["parameters"] == own:
        return float(kept["radius"])
    for part in camera.parts:  # of a store that was begun before choices were kept
        present = part.photometry(label).attributes
        if present.get("complete") and present["parameters"] == own:
            return float(json.loads(present["prepared"])["radius"])
    return None


def _keep_radius(camera: Camera, label: str, photometer: AperturePhotometer, choice: RadiusChoice, fwhm: float) -> str:
    """Keep the radius that was chosen for a label beside the catalogue; return the sentence about it."""
    kept = dict(camera.catalog.attributes.get("aperture_radii", {}))
    kept[label] = {
        "radius": choice.radius,
        "radius_unit": "reference_fwhm",
        "judged_by": choice.judged_by,
        "parameters": identities.parameters_json(identities.describe(photometer)),
    }
    camera.catalog.update({"aperture_radii": kept})
    size = f"{choice.radius:g} FWHM ({choice.radius * fwhm:.2f} pixels)"
    return f"{camera.key}: photometry {label} has a radius of {size}, judged by {choice.judged_by}."


def _try_apertures(run: Run, camera: Camera, photometer: AperturePhotometer) -> TrialFluxes | None:
    """Fluxes in apertures of several sizes in some frames of the reference night."""
    setup = run.setup
    part = frozen.reference_part(camera)
    flags = part.frames["flags"]
    frames = star_profiles.choose_frames(flags, setup.parameters.stack_frames, aperture_trial.N_FRAMES)
    measuring = measuring_of(setup, part, {})
    several = replace(photometer, radius=TRIAL_RADII, radius_unit="reference_fwhm")
    with stage(run.progress, "Trying apertures", len(frames)):
        measure_view = functools.partial(aperture_trial.measure_apertures, several)
        (found,) = measure_samples(run, "apertures", measure_view, [Sample(part, measuring, frames)])
    return aperture_trial.collect(found)


def add_labels(
    setup: Setup,
    part: Part,
    photometers: Mapping[str, Photometer],
    prepared: Mapping[str, Photometer],
) -> None:
    """Make the missing arrays of the photometry of a part.

    Raises
    ------
    store.StoreError
        When a label exists with other parameters.
    """
    source_ids = part.camera.catalog["source_id"]
    is_common = has_common_error(setup.steps_of(part), frozen.read_profile(part).total_err)
    chosen = part.camera.catalog.attributes.get("aperture_radii", {})
    for label, photometer in photometers.items():
        record = identities.describe(photometer)
        attributes = {
            "label": label,
            "parameters": identities.parameters_json(record),
            "parameters_hash": identities.parameters_hash({"photometer": record, "reduction": setup.record()}),
            "prepared": identities.parameters_json(prepared[label]),
            "provenance": versions(),
        }
        if (kept := chosen.get(label)) and kept["parameters"] == attributes["parameters"]:
            attributes["aperture_radius"] = {name: kept[name] for name in ("radius", "radius_unit", "judged_by")}
        radii = measured_radii(photometer)
        if radii:
            attributes["radius_unit"] = getattr(photometer, "radius_unit", "pixel")
        variables = measured_variables(photometer, has_common_error=is_common)
        making.add_photometry(part, label, source_ids, attributes, variables=variables, radii=radii)


# ---------------------------------------------------------------- quality of the nights


def measure_quality(run: Run) -> None:
    """Transparency, clouds, airmass and scintillation of every part whose photometry is done and that has none yet.

    They are made anew when the label that they are to be made from changes, see
    :mod:`~opticam_dask.passes.quality`. A part is one task.
    """
    setup = run.setup
    todo = [
        (part, label) for part in frozen.parts_with_catalog(setup) if (label := quality.wanted_label(part)) is not None
    ]
    if not todo:
        return
    measure_part = functools.partial(_measure_quality_of, setup.instrument, tuple(todo))
    work = Work(measure_part, range(len(todo)), "quality", has_time_limit=False)
    with stage(run.progress, "Measuring quality", sum(part.n_frames for part, _ in todo)):
        for number in run.executor.run([work]):
            run.check_owner()
            run.progress.advance(todo[number][0].n_frames)


def _measure_quality_of(instrument: Instrument, todo: Sequence[tuple[Part, str]], number: int) -> int:
    """Task that measures and writes the quality of a part: a chunk for each block, which the client need not write."""
    part, label = todo[number]
    found = quality.measure_quality(part, instrument, label)
    part.quality.write(found.arrays, found.attributes)
    return number
