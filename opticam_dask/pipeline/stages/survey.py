"""Pass 1: survey of the stacked frames of each night, the stacks, and the catalogue of the reference night."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from opticam_dask.cluster.executors import Work
from opticam_dask.flags import UNUSABLE, FrameFlag
from opticam_dask.kernels.images.matching import problem
from opticam_dask.kernels.series.photon_transfer import gain_by_noise
from opticam_dask.passes import survey
from opticam_dask.pipeline import frozen
from opticam_dask.pipeline.reduction import Progress, Setup
from opticam_dask.pipeline.run import BlockPass, Run, frames_in, guarded_work
from opticam_dask.pipeline.stages import stacks
from opticam_dask.pipeline.stages.catalogs import finish_catalogs
from opticam_dask.steps.align import Aligning
from opticam_dask.steps.background import are_too_narrow
from opticam_dask.store.camera import Camera, Part

#: A gain that differs by less than this factor from that of the noise is not told.
_FITS = 1.5
#: A sky that is quieter than the detector by this factor has no such gain.
_QUIETER = 2.0
#: No detector reads with less noise, electrons.
_LEAST_READ_NOISE = 0.1
#: The level of a sky that scatters by less than this part of a step of the values is not the mean of them;
_COARSE = 0.5
#: what is measured of it are whole steps, to this part of one.
_WHOLE = 0.02


class SurveyPass(BlockPass):
    """Pass that surveys the frames to be stacked, and makes stacks and catalogues that are missing."""

    word = "survey"
    name = "sky, sources and transforms"
    title = "Aligning frames"

    def is_ready(self, run: Run, camera: Camera) -> bool:
        """Whether a camera has a reference frame."""
        return camera.reference.is_whole

    def undone(self, run: Run, part: Part, among: range | None = None) -> list[int]:
        """Blocks with frames that are stacked and not looked at, or whose partial stack is still needed but gone.

        Nothing, when stack, catalogue and star profile are there.
        """
        among = range(part.n_blocks) if among is None else among
        has_stack = part.stack.is_whole
        if has_stack and part.psf.is_whole and part.camera.catalog.is_whole:
            return []
        chosen, per_block = stacks.stacked_frames(run.setup, part), part.frames_per_block
        start, stop = among.start * per_block, min(among.stop * per_block, part.n_frames)
        chosen = chosen[(chosen >= start) & (chosen < stop)]
        is_missing = part.frames.read("flags", start, stop) == 0
        missing = set((chosen[is_missing[chosen - start]] // per_block).tolist())
        if not has_stack:
            missing.update(stacks.blocks_without_sums(run.setup, part, among))
        return sorted(missing)

    def n_frames(self, run: Run, part: Part, todo: Sequence[int]) -> int:
        """Frames of some blocks that are stacked."""
        blocks = stacks.stacked_frames(run.setup, part) // part.frames_per_block
        return int(np.count_nonzero(np.isin(blocks, todo)))

    def tasks(self, run: Run, part: Part, todo: Sequence[int]) -> Work:
        """Tasks of the survey."""
        job = survey_job(run.setup, part)
        run_block = functools.partial(survey.survey_block, job)
        try_frame = functools.partial(survey.try_frame, job)
        return guarded_work(part.key, "survey", run_block, todo, try_frame, functools.partial(frames_in, part))

    def finish_part(self, run: Run, part: Part, *, is_new: bool) -> None:
        """Say how a part went."""
        if is_new and part.frames.done().all():  # of other parts there is more to come
            tell_of_alignment(run.setup, part, run.progress)
            tell_of_gain(run.setup, part, run.progress)
            tell_of_width(run.setup, part, run.progress)

    def finish(self, run: Run) -> None:
        """Stack the nights (of a run that jobs share, those that give catalogues), and make missing catalogues."""
        parts = frozen.parts_with_reference(run.setup)
        if run.sums is not None:
            parts = [part for part in parts if part.night == frozen.reference_night(part.camera)]
        stacks.finish_stacks(run.setup, parts, run.executor, run.progress)
        finish_catalogs(run.setup, run.executor, run.progress)

    def dead_end(self, run: Run) -> str:
        """No camera has a catalogue."""
        return "" if frozen.parts_with_catalog(run.setup) else frozen.no_catalog(run.setup)


def tell_of_alignment(setup: Setup, part: Part, progress: Progress) -> None:
    """Say when no frame of a night fits the reference frame, or when frames rest on one or two stars.

    A night of which nothing fits is a matter of the night, not of its frames.
    """
    flags = part.frames["flags"]
    is_usable = (flags != 0) & ((flags & np.uint32(UNUSABLE)) == 0)
    if not np.any(is_usable):
        reference = frozen.reference_night(part.camera)
        progress.tell(
            f"{part.key} {part.night}: none of {part.n_frames} frames can be used ({frozen.reasons(flags)}). If it is "
            f"another field than {reference}, which gives the reference frame, it needs an output directory of its own."
        )
        return
    if setup.parameters.transform_type == "translation":
        return
    n_matched = part.frames["n_matched"]
    n_few = int(np.count_nonzero(is_usable & (n_matched < problem.LEAST_FOR_ROTATION)))
    if n_few:
        n_swapped = int(np.count_nonzero(is_usable & (flags & np.uint32(FrameFlag.SWAPPED) != 0)))
        swapped = f" In {n_swapped} of them the two stars have swapped their brightness (flag swapped)."
        progress.tell(
            f"{part.key} {part.night}: {n_few} of {part.n_frames} frames are aligned by one or two stars: their "
            "transform is a shift alone, which cannot see a turn of the field (as after a meridian flip)."
            f"{swapped if n_swapped else ''}"
        )


def tell_of_gain(setup: Setup, part: Part, progress: Progress) -> None:
    """Say when the noise of the sky does not fit the gain of the headers."""
    names = ("background", "background_rms", "read_noise", "dark_current", "exposure_time", "gain", "flags")
    frames = {name: part.frames[name] for name in names}
    usable = (frames["flags"] != 0) & ((frames["flags"] & np.uint32(UNUSABLE)) == 0)
    level, rms, read_noise, dark, seconds, gain = (frames[name][usable] for name in names[:-1])
    kinds, n_pixels = set(setup.calibration.kinds if setup.calibration else ()), setup.parameters.rebin_factor**2
    other = n_pixels * (read_noise**2 + np.nan_to_num(dark * seconds))
    has_flat, is_bias_off = "flat" in kinds, bool(kinds & {"bias", "dark"})
    if _tell_of_coarse_values(part, progress, level, rms, gain):
        return
    if _tell_of_little_noise(part, progress, rms, np.sqrt(other), gain):
        return
    lowest, highest = gain_by_noise(level, rms, other, is_bias_off=is_bias_off, has_flat=has_flat)
    if highest >= 1.0 / _FITS and lowest <= _FITS:
        return
    given, ratio = float(np.median(gain)), highest if highest < 1.0 / _FITS else lowest
    bound = "at least" if highest < 1.0 / _FITS else "at most"
    progress.tell(
        f"{part.key} {part.night}: the gain of {given:.4g} electrons per ADU does not fit the noise of the sky, which "
        f"says {bound} {given / ratio:.3g}. Errors of fluxes scale with it: look at the headers' GAIN (a camera's "
        "setting is no gain; frames that were averaged, smoothed or scaled have another one) or give default_gain."
    )


def _tell_of_coarse_values(
    part: Part, progress: Progress, level: np.ndarray, rms: np.ndarray, gain: np.ndarray
) -> bool:
    """Say when the sky scatters by less than a step of the values that pixels have; whether it does.

    Of such pixels, whole numbers of ADU, the level is one of these numbers itself.
    """
    known = np.isfinite(rms) & np.isfinite(level) & (gain > 0)
    steps, scatter = level[known] / gain[known], rms[known] / gain[known]
    is_whole = (np.abs(steps - np.rint(steps)) < _WHOLE) & (np.rint(steps) != 0.0)
    if not known.any() or np.median(scatter) >= _COARSE or np.mean(is_whole) < 0.5:
        return False
    progress.tell(
        f"{part.key} {part.night}: the values of pixels are coarse: the sky scatters by {np.median(scatter):.2f} of a "
        f"step between two of them ({float(np.median(gain[known])):.4g} electrons). Its level is known to a part of a "
        "step only, which makes fluxes wrong by some per cent, those of faint stars by more, beyond their errors. "
        "Frames of more bits (16 instead of 8), or longer exposures, are needed."
    )
    return True


def _tell_of_little_noise(part: Part, progress: Progress, rms: np.ndarray, other: np.ndarray, gain: np.ndarray) -> bool:
    """Say when the sky is quieter (electrons a pixel) than the detector is without light; whether it is."""
    least = np.fmax(other, _LEAST_READ_NOISE)
    known = np.isfinite(rms) & (rms > 0)
    if not known.any() or np.median(rms[known] / least[known]) >= 1.0 / _QUIETER:
        return False
    found, expected, given = (float(np.median(values[known])) for values in (rms, least, gain))
    progress.tell(
        f"{part.key} {part.night}: by the gain of {given:.4g} electrons per ADU the sky scatters by {found:.2g} "
        f"electrons a pixel, less than the {expected:.2g} of the detector without light: the gain is at least "
        f"{given * expected / found:.3g} (pixels that a program has divided, as to a range from 0 to 1, have a large "
        "one), or the read noise is smaller. Errors of fluxes are wrong until default_gain or default_read_noise of "
        "the instrument is right."
    )
    return True


def tell_of_width(setup: Setup, part: Part, progress: Progress) -> None:
    """Say when the stars of some frames are too wide for the boxes of the sky mesh.

    Where those of the reference night are, the catalogue says so.
    """
    widths, steps = part.frames["fwhm"], setup.steps(part.shape, part.binning)
    widths, box = widths[np.isfinite(widths)], min(steps.box_size)
    is_wide = np.array([are_too_narrow(steps.image_shape, steps.box_size, width) for width in widths], dtype=bool)
    told_by_catalog = part.night == frozen.reference_night(part.camera) and np.mean(is_wide) > 0.5
    if is_wide.any() and not told_by_catalog:
        progress.tell(
            f"{part.key} {part.night}: in {is_wide.sum()} of {len(widths)} frames the stars are wider than half a box "
            f"of the sky mesh ({box} pixels; FWHM up to {widths.max():.0f}): the mesh takes part of their light for "
            "sky, some per cent. A larger box_size (--box-size) is right for them."
        )


def alignment_of(setup: Setup, part: Part) -> Aligning:
    """Reference stars and limits with which frames of a part are aligned."""
    return Aligning(**_alignment(setup, part))


def survey_job(setup: Setup, part: Part) -> survey.Survey:
    """Job for the tasks that survey blocks of a part."""
    return survey.Survey(
        **_alignment(setup, part),
        n_frames=part.n_frames,
        frames_per_block=part.frames_per_block,
        stack_frames=setup.parameters.stack_frames,
        read_manifest=functools.partial(frozen.read_manifest, part, frozen.piled_up(part)),
        read_flags=functools.partial(_read_flags, part),
        write=part.write_block,
        write_stack=functools.partial(stacks.write_partial, part, 0),
        keeping=part.keeping,
        searching=functools.partial(part.keeping, folder="sums"),
    )


def _read_flags(part: Part, block: int) -> np.ndarray:
    return part.frames.read_block("flags", *part.block_range(block))


def _alignment(setup: Setup, part: Part) -> dict[str, Any]:
    chosen = setup.parameters
    reference = part.camera.reference
    x, y, flux = (reference[f"alignment_{name}"] for name in ("x", "y", "flux"))
    attributes = reference.attributes
    reference_part = frozen.reference_part(part.camera)
    return {
        "steps": setup.steps_of(part),
        "reference_xy": np.column_stack([x, y]),
        "reference_flux": flux,
        "reference_fwhm": float(attributes["reference_fwhm"]),
        "reference_minor_fwhm": float(attributes.get("reference_minor_fwhm", "nan")),  # not in older stores
        "reference_shape": setup.steps(reference_part.shape, reference_part.binning).image_shape,
        "transform_type": chosen.transform_type,
        "rotation_limit": chosen.rotation_limit,
        "translation_limit": chosen.translation_limit,
        "scale_limit": chosen.scale_limit,
        "expected_scale": reference_part.binning / part.binning,
        "n_alignment_sources": chosen.n_alignment_sources,
    }
