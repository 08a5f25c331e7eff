"""Photometers: aperture and optimal photometry of each catalogue source in each frame.

A photometer is anything with a ``label`` and a method ``measure(view) -> Measurement``. It sees one frame through a
:class:`FrameView`: where the catalogue's sources should be, what was detected, and sky-subtracted cut-outs on demand.
What it may have beside that is in :class:`BasePhotometer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.robust import known_or
from opticam_dask.kernels.series import ensemble
from opticam_dask.kernels.sources import annulus, noise, photometry, window_sums
from opticam_dask.kernels.sources.profiles.profile import Shape, elliptical_radius, profile_weights
from opticam_dask.methods import flagging, frame_stars, measuring, places
from opticam_dask.methods.frame_view import CatalogFacts, CutOuts, FrameView, Measurement
from opticam_dask.methods.local_backgrounds import BaseLocalBackground, DefaultLocalBackground, LocalBackground
from opticam_dask.parameters import PHOTOMETRY

__all__ = [
    "AperturePhotometer",
    "BasePhotometer",
    "CatalogFacts",
    "CutOuts",
    "FrameView",
    "Measurement",
    "OptimalPhotometer",
]

RadiusUnit = Literal["pixel", "reference_fwhm", "frame_fwhm"]

#: Optimal weights reach this many sigma of the stars.
OPTIMAL_REACH = 4.5
#: Pixels with more than this part of the light of the star's brightest pixel count for flags.
_COUNTS = 0.05

#: Stars are held against their profile to this many sigma at least.
_JUDGED = 4.0

#: The sum in an aperture depends on where in its pixel an undersampled star is. It is made that of the mean over so
#: many places along each axis;
_PHASES = 8
#: what the profile gets wrong of it is this part of what it gets wrong of optimal weights.
_OF_APERTURE = 0.65

#: Radii, in FWHM, among which the best aperture is sought.
_TRIED = np.arange(0.4, 3.01, 0.05)
#: Radii, in FWHM, in which constant stars are measured to judge by their scatter.
TRIAL_RADII = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.4, 2.8)
#: Scatters that differ by less than this share cannot be told apart.
_SAME_SCATTER = 0.03


@dataclass(frozen=True)
class BasePhotometer:
    """Base of the photometers of this package, from which a photometer of your own may derive.

    Parameters
    ----------
    forced : bool
        Measure at the transformed catalogue positions and do not recentre.
    source_matching_tolerance : float
        A detection is the source when it is within this many sigma of the PSF.
    local_background_estimator : callable, optional
        Sky in an annulus around each source (:class:`~opticam_dask.methods.local_backgrounds.DefaultLocalBackground` or
        a function like it) instead of the sky mesh.

    Raises
    ------
    ValueError
        When a parameter makes no sense.
    """

    forced: bool = False
    source_matching_tolerance: float = 5.0
    local_background_estimator: LocalBackground | None = None

    #: What the label is made of.
    _name = "base"

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 0 < self.source_matching_tolerance < np.inf:
            raise ValueError(
                f"source_matching_tolerance must be greater than 0 and finite, got {self.source_matching_tolerance}"
            )
        if self.local_background_estimator is not None and not callable(self.local_background_estimator):
            raise ValueError("local_background_estimator must be a callable or None")

    @property
    def label(self) -> str:
        """Name of the result: the kind, with the prefix ``forced_`` and the suffix ``_annulus`` where they apply."""
        annulus_suffix = "" if self.local_background_estimator is None else "_annulus"
        return f"{'forced_' if self.forced else ''}{self._name}{annulus_suffix}"

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables that are measured beside flux, error, position and flags."""
        return ("profile_chi2", *(() if self.local_background_estimator is None else ("background", "background_err")))

    @property
    def radii(self) -> tuple[float, ...]:
        """Radii of the last dimension of the results; empty without one."""
        return ()

    def prepare(self, facts: CatalogFacts) -> BasePhotometer:
        """Adapt to a catalogue before the first frame is measured."""
        del facts
        return self

    def measure(self, view: FrameView) -> Measurement:
        """Measure all catalogue sources in one frame."""
        raise NotImplementedError

    def _light_in_annulus(self, view: FrameView, xy: np.ndarray, shape: Shape) -> np.ndarray:
        """Share of each star's light in a pixel of its sky annulus, which is taken off with the sky; shape (n,)."""
        estimate = self.local_background_estimator
        if estimate is None:
            return np.zeros(len(xy))
        chosen = estimate if isinstance(estimate, BaseLocalBackground) else DefaultLocalBackground()
        edges = chosen.edges(shape.semimajor_sigma, shape.semiminor_sigma)
        size = 2 * int(np.ceil(max(edges[1]))) + 3
        centre = np.zeros((1, 2))
        window = (*photometry.origins(centre, size), size)
        ring = annulus.annulus_mask(centre, *window, *edges, shape.orientation)
        table = frame_stars.profile_table(view)
        forms = shape.each_at(xy) if shape.change is not None else [shape]
        shares = [np.mean(profile_weights(table, centre, *window, form)[ring]) for form in forms]
        return np.broadcast_to(shares, len(xy))

    def _stars(
        self, view: FrameView, shape: Shape, sigma: float, radii: Sequence[float], judged: float
    ) -> measuring.Stars:
        """Sources with what is within the largest of radii (pixels), held against the profile to ``judged`` sigma."""
        reach = max(radii)
        tolerance, judged = self.source_matching_tolerance, max(judged, _JUDGED)
        window = max(reach, _JUDGED * shape.semimajor_sigma) if self.forced else reach
        found = places.find_places(view, shape, sigma, tolerance, forced=self.forced, reach=window)
        return measuring.read_stars(
            view,
            found,
            self.local_background_estimator,
            shape,
            reach=judged,
            counted=radii,
            in_annulus=self._light_in_annulus(view, found.xy[: found.n_measured], shape),
            forced=self.forced,
        )


@dataclass(frozen=True)
class AperturePhotometer(BasePhotometer):
    """Flux inside an aperture, with the correction to the total flux of a star beside it.

    Pixels without data and those hit by cosmic rays are made good by the night's star profile, with their flags. Where
    stars are narrower than 2.5 pixels (FWHM), the share of their light in the aperture changes with where in its pixel
    a star is, by the size of the errors and more: the profile says by how much, and the flux is that of the mean place.
    What the profile cannot know of such stars is in the error.

    Parameters
    ----------
    forced, source_matching_tolerance, local_background_estimator
        See :class:`BasePhotometer`.
    semimajor_axis, semiminor_axis, orientation : float, optional
        Fixed ellipse on the reference frame: semi-axes in pixels, angle in degrees; all three or none.
    radius : float, sequence of float, or "best", optional
        Radius of the aperture, or several, or best: the one in which constant stars scatter least; by default one FWHM
        of the catalogue. Several radii are measured in one pass, and the result has a last dimension ``radius``.
        ``"best"`` looks at some frames of the reference night (:func:`choose_radius`).
    radius_unit : {"pixel", "reference_fwhm", "frame_fwhm"}
        Radii are in pixels of the reference frame, FWHM of the catalogue, or FWHM of each frame.

    Raises
    ------
    ValueError
        When the aperture is not fully given, or not positive and finite.
    """

    semimajor_axis: float | None = None
    semiminor_axis: float | None = None
    orientation: float | None = None
    radius: float | Sequence[float] | Literal["best"] | None = None
    radius_unit: RadiusUnit = "pixel"

    _name = "aperture"

    def __post_init__(self) -> None:
        """Refuse what is no aperture."""
        super().__post_init__()
        ellipse = (self.semimajor_axis, self.semiminor_axis, self.orientation)
        if any(value is None for value in ellipse) and any(value is not None for value in ellipse):
            raise ValueError("an elliptical aperture needs semimajor_axis, semiminor_axis and orientation")
        if self.semimajor_axis is not None and self.radius is not None:
            raise ValueError("give either a radius or an ellipse, not both")
        if self.radius is not None and not isinstance(self.radius, str | int | float):
            object.__setattr__(self, "radius", tuple(float(value) for value in self.radius))
        if isinstance(self.radius, str) and self.radius != "best":
            raise ValueError(f'radius must be a number, several numbers or "best", got {self.radius!r}')
        PHOTOMETRY["radius_unit"].check("radius_unit", self.radius_unit)
        if self.radius == ():
            raise ValueError("radius must have at least one value")
        given = self.radius if isinstance(self.radius, tuple) else (self.radius,)
        sizes = [("radius", value) for value in given if not isinstance(value, str)]
        sizes += [("semimajor_axis", self.semimajor_axis), ("semiminor_axis", self.semiminor_axis)]
        for name, value in sizes:
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} must be greater than 0 and finite, got {value}")
        if self.orientation is not None and not np.isfinite(self.orientation):
            raise ValueError(f"orientation must be an angle in degrees, got {self.orientation}")

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables that are measured beside flux, error, position and flags."""
        return ("aperture_correction", *super().variables)

    @property
    def radii(self) -> tuple[float, ...]:
        """Radii of the last dimension of the results; empty when there is one aperture."""
        return self.radius if isinstance(self.radius, tuple) else ()

    def prepare(self, facts: CatalogFacts) -> AperturePhotometer:
        """Choose the best aperture when that was asked for.

        Raises
        ------
        ValueError
            When the FWHM of the catalogue is not known.
        """
        if self.radius != "best":
            return self
        return replace(self, radius=choose_radius(facts).radius, radius_unit="reference_fwhm")

    def measure(self, view: FrameView) -> Measurement:
        """Measure all catalogue sources in one frame.

        Raises
        ------
        ValueError
            When the aperture follows from the FWHM of the catalogue and that is not known.
        """
        axes = self.axes(view.scale, view.fwhm, view.frame_fwhm)
        sigma = frame_stars.star_sigma(view, min(min(pair) for pair in axes) / photometry.SIGMA_TO_FWHM)
        shape = frame_stars.star_shape(view, sigma)
        reach = max(max(pair) for pair in axes)
        stars = measuring.narrowed(
            self._stars(view, shape, sigma, [max(pair) for pair in axes], (reach + 1.0) / shape.semiminor_sigma),
            2 * int(np.ceil(reach)) + 3,
        )
        xy, pixels = stars.xy, stars.pixels
        foreign = np.zeros(len(xy)) if view.profile is None else self._light_in_annulus(view, xy, shape)
        results = [self._measure_aperture(view, stars, shape, foreign, pair) for pair in axes]
        columns = [np.stack(values, axis=-1) for values in zip(*results, strict=True)]
        columns[-1] |= stars.flags_within
        flux, error, systematic, correction, own_flags = columns if self.radii else [column[:, 0] for column in columns]
        return Measurement(
            flux,
            error,
            xy[:, 0],
            xy[:, 1],
            own_flags,
            flux_err_sys=None if view.response_error_at is None else systematic,
            aperture_correction=correction,
            background=pixels.background,
            background_err=pixels.background_err,
            profile_chi2=stars.chi2,
        )

    def _measure_aperture(
        self,
        view: FrameView,
        stars: measuring.Stars,
        shape: Shape,
        foreign: np.ndarray,
        axes: tuple[float, float],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Flux, error, systematic error, aperture correction and flags in one aperture; shape (n,) each."""
        xy, pixels = stars.xy, stars.pixels
        light = None if view.profile is None else stars.light
        window = pixels.x0, pixels.y0, pixels.electrons.shape[1]
        weights = self._weights(view, xy, *window, axes)
        electrons = np.where(pixels.is_good, pixels.electrons, np.nan)
        sums = window_sums.aperture_sums(weights, electrons, pixels.rms, light)
        flux = np.where(sums.area > 0, sums.flux, np.nan)
        factor, correction = np.ones(len(xy)), np.full(len(xy), np.nan)
        if light is not None:
            is_torn = (sums.area < sums.whole) & (sums.seen > 0)
            factor[is_torn] = sums.inside[is_torn] / sums.seen[is_torn]
            inside = sums.inside - foreign * sums.whole
            if photometry.SIGMA_TO_FWHM * shape.sigma < noise.UNDERSAMPLED:
                usual = self._usual_shares(view, xy, window[2], shape, foreign, axes)
                factor[inside > 0] *= usual[inside > 0] / inside[inside > 0]
                inside[inside > 0] = usual[inside > 0]
            correction[inside > 0] = 1.0 / inside[inside > 0]
        response = None if view.response_at is None else view.response_at(*window)
        told, variance = view.told_variance(*window), sums.variance
        if response is not None or told is not None:
            variance = noise.aperture_variance(weights, electrons, pixels.rms, response, told)
        variance += (sums.area * pixels.sky_error) ** 2
        if light is not None:
            variance += (_OF_APERTURE * frame_stars.sampling_error(view, shape) * known_or(flux)) ** 2
        error = np.where(np.isfinite(flux), np.sqrt(variance), np.nan)
        systematic = np.zeros(len(xy))
        if view.response_at is not None and view.response_error_at is not None:
            relative = view.response_error_at(*window) / view.response_at(*window)
            systematic = noise.response_error(weights, electrons, relative)
        flags = flagging.pixel_flags(view, stars, weights > 0) | flagging.blend_flags(stars, weights)
        return flux * factor, error * factor, systematic * factor, correction, flags

    def _usual_shares(
        self,
        view: FrameView,
        xy: np.ndarray,
        size: int,
        shape: Shape,
        foreign: np.ndarray,
        axes: tuple[float, float],
    ) -> np.ndarray:
        """Share of each star's light in the aperture, the mean over where in its pixel the star is; shape (n,)."""
        offsets = (np.arange(_PHASES) + 0.5) / _PHASES - 0.5
        phases = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
        window = (*photometry.origins(phases, size), size)
        weights = self._weights(view, phases, *window, axes)
        table = frame_stars.profile_table(view)

        def inside(form: Shape) -> float:
            return float(np.mean(np.sum(weights * profile_weights(table, phases, *window, form), axis=(1, 2))))

        area = float(np.mean(np.sum(weights, axis=(1, 2))))
        each = [inside(form) for form in shape.each_at(xy)] if shape.change is not None else inside(shape)
        return each - foreign * area

    def axes(self, scale: float, fwhm: float, frame_fwhm: float) -> list[tuple[float, float]]:
        """Semi-axes of each aperture in pixels of a frame.

        Parameters
        ----------
        scale : float
            Frame pixels per reference pixel.
        fwhm, frame_fwhm : float
            FWHM of the catalogue, in pixels of the reference frame, and of the frame, in its own (may be NaN).

        Raises
        ------
        ValueError
            When the aperture follows from a FWHM that is not known, or the best radius is not chosen yet.
        """
        if self.semimajor_axis is not None and self.semiminor_axis is not None:
            return [(self.semimajor_axis * scale, self.semiminor_axis * scale)]
        if isinstance(self.radius, str):
            raise ValueError("the best radius is not chosen yet: call prepare with the facts of the catalogue")
        given = self.radius if isinstance(self.radius, tuple) else (1.0 if self.radius is None else self.radius,)
        unit = "reference_fwhm" if self.radius is None else self.radius_unit
        pixels = {"pixel": 1.0, "reference_fwhm": fwhm}.get(unit, np.nan) * scale
        if unit == "frame_fwhm":
            pixels = frame_fwhm if np.isfinite(frame_fwhm) else fwhm * scale
        if not (np.isfinite(pixels) and pixels > 0):
            raise ValueError(f"the FWHM of the catalogue is {fwhm}: give the aperture a radius in pixels")
        return [(radius * pixels, radius * pixels) for radius in given]

    def _weights(
        self, view: FrameView, xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, axes: tuple[float, float]
    ) -> np.ndarray:
        if self.orientation is None:
            return photometry.circular_weights(xy, x0, y0, size, axes[0])
        theta = np.deg2rad(self.orientation + view.rotation)
        return photometry.elliptical_weights(xy, x0, y0, size, *axes, theta)


@dataclass(frozen=True)
class RadiusChoice:
    """Aperture radius in FWHM of the catalogue, and in words how it was chosen."""

    radius: float
    judged_by: str


def choose_radius(facts: CatalogFacts) -> RadiusChoice:
    """Aperture radius in which constant stars scatter least; where there are too few of them, :func:`best_radius`.

    Of radii whose scatters differ by less than can be told (``_SAME_SCATTER``), that nearest to :func:`best_radius` is
    taken.

    Raises
    ------
    ValueError
        When the FWHM of the catalogue is not known.
    """
    expected = best_radius(facts)
    by_model = "the signal-to-noise ratio that the star profile makes one expect"
    if facts.trial is None:
        return RadiusChoice(expected, by_model)
    trial, radii = facts.trial, np.array(facts.trial.radii)
    usual = int(np.argmin(np.abs(radii - expected)))
    scatter, n_stars = ensemble.scatter_of_apertures(trial.flux, trial.flux_err, trial.is_flagged, usual)
    if not np.isfinite(scatter).all():
        return RadiusChoice(expected, f"{by_model}: too few constant stars or frames to measure it")
    equal = np.flatnonzero(scatter <= (1.0 + _SAME_SCATTER) * scatter.min())
    chosen = float(radii[equal[int(np.argmin(np.abs(radii[equal] - expected)))]])
    gain = 100.0 * (1.0 - scatter[radii.tolist().index(chosen)] / scatter[usual])
    told = f"the scatter of {n_stars} constant stars in {len(trial.flux)} frames"
    return RadiusChoice(chosen, f"{told} ({gain:.0f} % less than in {radii[usual]:g} FWHM)" if gain >= 1.0 else told)


def best_radius(facts: CatalogFacts) -> float:
    """Aperture radius, in FWHM of the catalogue, that gives its sources the best signal-to-noise ratio.

    For each radius the ratio of each source is taken relative to its best one; the radius with the largest median over
    the sources wins.

    Raises
    ------
    ValueError
        When the FWHM of the catalogue is not known.
    """
    if not (np.isfinite(facts.fwhm) and facts.fwhm > 0):
        raise ValueError(f"the FWHM of the catalogue is {facts.fwhm}: give the aperture a radius in pixels")
    sigma = facts.fwhm / photometry.SIGMA_TO_FWHM
    size = 2 * int(np.ceil(_TRIED[-1] * facts.fwhm)) + 3
    centre = np.zeros((1, 2))
    window = (*photometry.origins(centre, size), size)
    light = profile_weights(facts.profile, centre, *window, Shape(sigma, sigma, 0.0))
    weights = np.concatenate([photometry.circular_weights(centre, *window, r * facts.fwhm) for r in _TRIED])
    inside, area = np.sum(weights * light, axis=(1, 2)), np.sum(weights, axis=(1, 2))
    flux = facts.flux[np.isfinite(facts.flux) & (facts.flux > 0)][:, None]
    ratio = flux * inside / np.sqrt(flux * inside + area * facts.background_rms**2)
    typical = np.median(ratio / ratio.max(axis=1, keepdims=True), axis=0)
    return float(np.round(_TRIED[int(np.argmax(typical))], 2))


@dataclass(frozen=True)
class OptimalPhotometer(BasePhotometer):
    """Total flux with the night's star profile as weights (Naylor 1998, MNRAS 296, 339).

    The weights are those of the limit in which the sky is the noise, the same for all sources of a frame: an error of
    the profile then changes all fluxes of the frame alike, and their ratios not at all. They follow the seeing of the
    frame, and are normalised so that the flux is the total. Pixels without data and those hit by cosmic rays carry no
    weight. Where stars are narrower than 2.5 pixels (FWHM), what the profile cannot know of them is in the error.

    Parameters
    ----------
    forced, source_matching_tolerance, local_background_estimator
        See :class:`BasePhotometer`.
    """

    _name = "optimal"

    def measure(self, view: FrameView) -> Measurement:
        """Measure all catalogue sources in one frame.

        Raises
        ------
        ValueError
            When neither the frame nor the catalogue has a FWHM.
        """
        shape = frame_stars.star_shape(view, frame_stars.star_sigma(view, np.nan))
        if not shape.is_known():
            raise ValueError("neither the frame nor the catalogue has a FWHM: optimal photometry needs one")
        stars = self._stars(view, shape, shape.sigma, [OPTIMAL_REACH * shape.semimajor_sigma], OPTIMAL_REACH)
        xy, pixels, light, flags = stars.xy, stars.pixels, stars.light, stars.flags_within[:, 0]
        window = pixels.x0, pixels.y0, light.shape[1]
        inside = elliptical_radius(xy, *window, shape) < OPTIMAL_REACH
        light = np.where(inside, light, 0.0)
        foreign = self._light_in_annulus(view, xy, shape)[:, None, None]
        good = np.where(pixels.is_good, light, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            weights = good / np.sum(good * (light - foreign), axis=(1, 2), keepdims=True)
        weights = np.where(np.isfinite(weights), weights, 0.0)
        electrons = np.where(pixels.is_good, pixels.electrons, 0.0)
        flux = np.where(np.any(weights != 0, axis=(1, 2)), np.sum(weights * electrons, axis=(1, 2)), np.nan)
        response = None if view.response_at is None else view.response_at(*window)
        model = np.maximum(flux, 0.0)[:, None, None] * light
        variance = noise.weighted_variance(weights, model, pixels.rms, response, view.told_variance(*window))
        variance += noise.sky_level_variance(weights, pixels.is_good, pixels.sky_error)
        variance += (frame_stars.sampling_error(view, shape) * known_or(flux)) ** 2
        systematic = None
        if view.response_at is not None and view.response_error_at is not None:
            relative = view.response_error_at(*window) / view.response_at(*window)
            systematic = noise.response_error(weights, model, relative)
        counts = light > _COUNTS * light.max(axis=(1, 2), keepdims=True)
        flags |= flagging.pixel_flags(view, stars, counts)
        flags[np.any(stars.is_stray & inside, axis=(1, 2))] |= np.uint32(SourceFlag.CONTAMINATED)
        flags |= flagging.blend_flags(stars, light)
        error = np.where(np.isfinite(flux), np.sqrt(variance), np.nan)
        return Measurement(
            flux,
            error,
            xy[:, 0],
            xy[:, 1],
            flags,
            flux_err_sys=systematic,
            background=pixels.background,
            background_err=pixels.background_err,
            profile_chi2=stars.chi2,
        )
