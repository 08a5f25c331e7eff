"""Pass 2: the stack and the star profile of every night, and the photometers and arrays that the photometry needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from opticam_dask.cluster.executors import Work
from opticam_dask.kernels.sources import noise
from opticam_dask.kernels.sources.profiles import profile_fit
from opticam_dask.kernels.sources.profiles.profile import Profile, gaussian_profile
from opticam_dask.kernels.sources.profiles.ring_sums import Rings
from opticam_dask.kernels.sources.profiles.sampling import sampling_errors
from opticam_dask.passes import star_profiles
from opticam_dask.pipeline import frozen
from opticam_dask.pipeline.reduction import Progress
from opticam_dask.pipeline.run import Pass, Run
from opticam_dask.pipeline.stages import photometry, stacks
from opticam_dask.steps.frame_steps import BlockSummary
from opticam_dask.steps.measure import UNCERTAIN_TOTAL
from opticam_dask.store.camera import Camera, Part

#: Total fluxes by the profile of another night are uncertain by at least this part.
_OTHER_NIGHT = 0.05

#: Takes the sums over the stars of a night.
Fit = Callable[[Rings], Any]

#: Parts that are measured side by side; the sums over their stars are in memory together.
_AT_ONCE = 8


class StarProfiles(Pass):
    """Pass that measures the star profile of every night without one, from some of its frames.

    A night of which the survey has not come to its end waits: its profile must not depend on how far a run came.
    """

    word = "profile"
    name = "stacks and star profiles"
    title = "Measuring star profiles"
    unit = "part"

    def is_ready(self, run: Run, camera: Camera) -> bool:
        """Whether a camera has a catalogue; of a run that jobs share, nights without one are stacked here as well."""
        if run.sums is not None:
            return camera.reference.is_whole
        return camera.catalog.is_whole

    def undone(self, run: Run, part: Part, among: range | None = None) -> list[int]:
        """The part itself, when it has no profile, or, of a run that jobs share, no stack."""
        if run.sums is None:
            is_due = not part.psf.is_whole and part.stack.is_whole
        else:
            has_stack = part.stack.is_whole
            is_due = (part.key, part.night) not in run.sums and (not has_stack or _is_measurable(part))
        return [0] if is_due else []

    def n_frames(self, run: Run, part: Part, todo: Sequence[int]) -> int:
        """Frames of both rounds."""
        return sum(map(len, profile_frames(run, part))) if todo and _is_measurable(part) else 0

    def work(self, run: Run, todo: Sequence[tuple[Part, Sequence[int]]]) -> Iterator[tuple[str, BlockSummary]]:
        """Measure some parts side by side, then the next ones."""
        for parts in _side_by_side([part for part, some in todo if some]):
            if run.sums is not None:
                stacks.finish_stacks(run.setup, parts, run.executor, run.progress)
            measurable = [part for part in parts if _is_measurable(part)]
            found = measure_stars(run, measurable)
            run.check_owner()
            if run.sums is None:
                write_profiles(run, measurable, found)
            else:
                of_part = {(part.key, part.night): one for part, one in zip(measurable, found, strict=True)}
                for part in parts:
                    run.sums[part.key, part.night] = of_part.get((part.key, part.night), {})
            for part in parts:
                yield part.key, BlockSummary(0, part.n_frames)

    def finish(self, run: Run) -> None:
        """Prepare the photometers and make the arrays that they fill; what was kept of frames is not needed any more.

        Of a run that jobs share, the profiles are fitted first to what the jobs have measured, side by side.

        Raises
        ------
        store.StoreError
            When a label exists with other parameters.
        """
        parts = frozen.parts_with_catalog(run.setup)
        if run.sums is not None:
            due = [part for part in parts if _is_measurable(part) and (part.key, part.night) in run.sums]
            for some in _side_by_side(due):
                write_profiles(run, some, [run.sums[part.key, part.night] for part in some])
        if run.photometers:
            self._prepare(run, parts)
        for part in parts:
            if part.psf.is_whole:
                part.remove_kept()

    def _prepare(self, run: Run, parts: Sequence[Part]) -> None:
        for part in parts:
            if run.planned and (part.key, part.night) not in run.planned:
                continue
            if part.psf.is_whole:
                photometry.add_labels(run.setup, part, run.photometers, photometry.prepared_for(run, part.camera))
            else:
                run.progress.tell(f"{part.key} {part.night} is not measured: it is not surveyed (create_catalogs).")


def _side_by_side(parts: Sequence[Part]) -> Iterator[Sequence[Part]]:
    """Parts that are worked on at a time."""
    return (parts[start : start + _AT_ONCE] for start in range(0, len(parts), _AT_ONCE))


def _is_measurable(part: Part) -> bool:
    """Whether a part has no profile yet and a catalogue whose stars could give one."""
    return part.camera.catalog.is_whole and not part.psf.is_whole


def profile_frames(run: Run, part: Part) -> tuple[list[int], list[int]]:
    """Frames in which the profile of a part is measured, in the first and in the second round."""
    frames = star_profiles.choose_frames(part.frames["flags"], run.setup.parameters.stack_frames)
    return star_profiles.some_of(frames), frames


def measure_stars(run: Run, parts: Sequence[Part]) -> list[dict[int, Any]]:
    """Sums over the stars of some frames of each part, by frame, from both rounds; see :func:`write_profiles`."""
    frames = [profile_frames(run, part) for part in parts]
    measuring = [photometry.measuring_of(run.setup, part, {}) for part in parts]
    of_first = (some for some, _ in frames)
    firsts = [photometry.Sample(*one) for one in zip(parts, measuring, of_first, strict=True)]
    rings = photometry.measure_samples(run, "profile", star_profiles.first_rings, firsts)
    found: list[dict[int, Any]] = [{} for _ in parts]
    places, seconds = [], []
    for place, known in enumerate(_fits(run, _fit_first, rings)):
        if known is not None:  # neighbours are taken off when a profile is known
            places.append(place)
            without = replace(measuring[place], **known)
            seconds.append(photometry.Sample(parts[place], without, frames[place][1]))
    of_second = photometry.measure_samples(run, "profile", star_profiles.star_rings, seconds)
    for place, one in zip(places, of_second, strict=True):
        found[place] = one
    return found


def _fits(run: Run, fit: Fit, found: Sequence[Mapping[int, Any]]) -> list[Any]:
    """What a fit to the sums of each part gives; a part is a task.

    What a task is sent goes through client and scheduler: the sums over all frames, not those of each.
    """
    tasks = [functools.partial(_fit_task, fit, number, star_profiles.add(one)) for number, one in enumerate(found)]
    work = [Work(task, [0], "fit-profile", has_time_limit=False) for task in tasks]
    fitted = dict(run.executor.run(work))
    return [fitted[number] for number in range(len(found))]


def _fit_task(fit: Fit, number: int, sums: Rings, _: int) -> tuple[int, Any]:
    return number, fit(sums)


def _fit_first(sums: Rings) -> dict[str, Any] | None:
    """What the second round is measured with, from the sums of the first."""
    fitted = profile_fit.fit_profile(sums)
    return None if fitted is None else {"profile": fitted.tables(), "sampling": sampling_errors(fitted)}


def _fit_last(sums: Rings) -> tuple[Profile, dict[str, np.ndarray]] | None:
    """Profile of a night and its variables."""
    fitted, mean, _ = profile_fit.fit_stars(sums)
    return None if fitted is None else (fitted, star_profiles.describe(fitted, mean))


def write_profiles(run: Run, parts: Sequence[Part], found: Sequence[Mapping[int, Any]]) -> None:
    """Write the profiles of nights; see :func:`_write_profile`."""
    for part, one, own in zip(parts, found, _fits(run, _fit_last, found), strict=True):
        _write_profile(part, one, own, run.progress)


def _write_profile(
    part: Part, found: Mapping[int, Any], own: tuple[Profile, dict[str, np.ndarray]] | None, progress: Progress
) -> None:
    """Write the profile of a night; where it has too few bright stars, that of the reference night or a Gaussian."""
    fwhm = part.frames["fwhm"]
    if np.isfinite(fwhm).any() and np.nanmedian(fwhm) < noise.UNDERSAMPLED:
        progress.tell(
            f"{part.key} {part.night}: stars are only {np.nanmedian(fwhm):.1f} pixels wide (FWHM); below "
            f"{noise.UNDERSAMPLED:g} apertures are more precise than optimal and PSF photometry, and all errors "
            "allow for what the star profile cannot know."
        )
    if own is None:
        reference = frozen.reference_part(part.camera)
        if reference.night != part.night and reference.psf.is_whole:
            known = frozen.read_profile(reference)
            fitted, source = replace(known, total_err=max(known.total_err, _OTHER_NIGHT)), reference.night
        else:
            fitted, source = gaussian_profile(), "gaussian"
        progress.tell(
            f"{part.key} {part.night}: too few bright stars to measure their profile; "
            f"{'a Gaussian' if source == 'gaussian' else f'that of {source}'} is used. Total fluxes are uncertain by "
            f"{100 * fitted.total_err:.0f} %, by one factor for all stars and frames."
        )
        arrays = star_profiles.describe(fitted, None)
    else:
        (fitted, arrays), source = own, part.night
        if fitted.total_err > UNCERTAIN_TOTAL:
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
    part.psf.write(arrays, attributes)
