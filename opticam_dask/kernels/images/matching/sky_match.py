"""Where a frame lies among the stars of the sky, from detected positions and a catalogue in a tangent plane.

The pointing of a telescope may be wrong by more than the field is wide, so that the stars of the catalogue around it
are looked through window by window; each window is matched as two frames are. A window of unrelated stars must not be
taken for the field: the number of windows counts against the chance of a match (see
`opticam_dask.kernels.images.matching.match`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from scipy.special import fdtrc

from opticam_dask.kernels import graphs
from opticam_dask.kernels.images.matching import align, match, problem

#: Expected number of wrong solutions of one field among unrelated stars.
MAX_CHANCE = 1e-6
#: Largest distance of a star from its place, pixels.
_TOLERANCE = 3.0
#: Scales that differ from the expected by up to 5 % are looked for, and by a little more for the noise of positions.
_SCALE_RANGE = 1.06
#: Radius of the windows on the sky, in units of the side of the field: a wider window holds more stars of the sky
#: around than patterns are made of.
_WINDOW = 0.62
#: The same for a field of few stars, of which hardly one may be missed.
_WHOLE_WINDOW = 0.8
#: Distance between the centres of the windows, in units of the side of the field.
_STEP = 0.4
#: A field of fewer stars than this has few.
_FEW = 40
#: This many stars in the middle of the frame are matched when the brightest of the whole frame do not match: order by
#: brightness may mean nothing (another band, no magnitudes), and distortion hardly shows in a small field.
_PATTERN = 22
#: Detections and catalogue stars used to begin with: the brightest.
_BRIGHTEST = 100

#: Polynomials are fitted up to this order,
_HIGHEST_ORDER = 4
#: each to at least this many stars a coefficient.
_STARS_PER_TERM = 2.0
#: A higher order must predict stars that were left out of its fit better by this factor,
_BETTER = 0.95
#: and noise alone must not lower the squares by as much more often than this (F test): few stars follow any curve.
_BY_CHANCE = 1e-3
#: Rounds of pairing and fitting.
_ROUNDS = 12
#: Distance in standard deviations at which a pair is dropped.
_CLIP = 4.0
#: Positions are not trusted to be better than this (pixels), however well they agree.
_POSITION_FLOOR = 0.02


@dataclass(frozen=True, eq=False)
class PlaneFit:
    """Polynomials from pixels of a frame to a tangent plane of the sky.

    Attributes
    ----------
    centre : (float, float)
        Pixel ``(x, y)`` that powers are counted from.
    powers : ndarray of int, shape (term, 2)
        Powers of x and y of each term; the constant first, then x, then y.
    coefficients : ndarray, shape (term, 2)
        Coefficients of the two plane coordinates, degrees for pixels.
    covariance : ndarray, shape (term, term)
        Covariance of the coefficients of one coordinate, for a scatter of 1.
    scatter : float
        Standard deviation of the positions along one axis, pixels.
    frame_index, sky_index : ndarray of int, shape (matched,)
        The stars that the fit rests on, in both lists.
    distance : ndarray, shape (matched,)
        How far each lies from its place, pixels.
    """

    centre: tuple[float, float]
    powers: np.ndarray
    coefficients: np.ndarray
    covariance: np.ndarray
    scatter: float
    frame_index: np.ndarray
    sky_index: np.ndarray
    distance: np.ndarray

    @property
    def order(self) -> int:
        """Highest power."""
        return int(self.powers.sum(axis=1).max())

    @property
    def scale(self) -> float:
        """Degrees of a pixel in the middle of the frame."""
        return float(np.sqrt(abs(np.linalg.det(self.coefficients[1:3]))))

    def __call__(self, xy: np.ndarray) -> np.ndarray:
        """Plane coordinates of pixels, degrees; shape (n, 2)."""
        plane: np.ndarray = _terms(xy, self.centre, self.powers) @ self.coefficients
        return plane

    def error(self, xy: np.ndarray) -> np.ndarray:
        """1-sigma error along one axis of the place of a star that was detected at ``xy``, pixels."""
        design = _terms(xy, self.centre, self.powers)
        of_fit = np.einsum("nt,tu,nu->n", design, self.covariance, design)
        error: np.ndarray = self.scatter * np.sqrt(1.0 + of_fit)
        return error


def find_on_sky(
    xy: np.ndarray,
    flux: np.ndarray | None,
    plane: np.ndarray,
    brightness: np.ndarray | None,
    *,
    shape: tuple[int, int],
    scale: float,
    reach: float,
) -> np.ndarray:
    """Find the similarity that takes places in a tangent plane of the sky to pixels of a frame.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Detected sources, pixels.
    flux : ndarray, shape (n,), optional
        Fluxes of the sources; the brightest are used first. Without it, those that come first.
    plane : ndarray, shape (m, 2)
        Stars of the catalogue in a plane that touches the sky where the telescope should point, degrees to the east
        and to the north.
    brightness : ndarray, shape (m,), optional
        Flux of the stars in any unit; NaN where unknown.
    shape : (int, int)
        Shape of the frame, ``(ny, nx)``.
    scale : float
        Degrees of a pixel, known to 5 per cent.
    reach : float
        By how much the pointing may be wrong, degrees.

    Returns
    -------
    ndarray, shape (3, 3)
        From plane (degrees) to pixels; of positive determinant where the frame is mirrored against the sky as seen.

    Raises
    ------
    match.AlignmentError
        When no part of the sky there is surely that of the frame.
    """
    frame_order, sky_order = _brightest_first(xy, flux), _brightest_first(plane, brightness)
    xy, sky = np.asarray(xy, dtype=float)[frame_order], np.asarray(plane, dtype=float)[sky_order] / scale
    weights = None if flux is None else np.asarray(flux, dtype=float)[frame_order]
    sky_weights = None if brightness is None else np.asarray(brightness, dtype=float)[sky_order]
    middle = (np.array(shape[::-1]) - 1) / 2.0
    searches = _searches(xy, middle, float(max(shape)))
    windows = [_windows(reach / scale, side) for _, side in searches]
    limit, reason, tree = MAX_CHANCE / sum(map(len, windows)), "there are too few stars", KDTree(sky)
    for (is_used, side), centres in zip(searches, windows, strict=True):
        is_few = bool(is_used.all()) and len(is_used) < _FEW
        radius = side * (_WHOLE_WINDOW if is_few else _WINDOW)
        radius += reach / scale if len(centres) == 1 else 0.0
        for centre in centres:
            inside = np.sort(np.array(list(tree.query_ball_point(centre, radius)), dtype=int))[:_BRIGHTEST]
            if min(len(inside), int(is_used.sum())) < problem.LEAST_FOR_ROTATION:
                continue
            try:
                found = match.find_transform(
                    sky[inside] - centre + middle,
                    xy[is_used],
                    reference_weights=None if sky_weights is None else sky_weights[inside],
                    frame_weights=None if weights is None else weights[is_used],
                    scale_range=_SCALE_RANGE,
                    allow_reflection=True,
                    any_rotation=True,
                    max_chance=limit,
                )
            except match.AlignmentError as error:
                reason = error.reason
                continue
            to_window = np.array([[1.0 / scale, 0.0, middle[0] - centre[0]], [0.0, 1.0 / scale, middle[1] - centre[1]]])
            return align.compose(np.vstack([to_window, [0.0, 0.0, 1.0]]), found.transform)
    raise match.AlignmentError(
        f"none of {sum(map(len, windows))} part(s) of the sky around the pointing shows the pattern of the frame's "
        f"{len(xy)} sources (the last: {reason})"
    )


def _brightest_first(xy: np.ndarray, flux: np.ndarray | None) -> np.ndarray:
    """Indices of the sources with a place, brightest first; of unknown brightness last."""
    is_known = np.isfinite(np.asarray(xy, dtype=float)).all(axis=1)
    brightness = np.zeros(len(xy)) if flux is None else np.nan_to_num(np.asarray(flux, dtype=float), nan=-np.inf)
    order = np.argsort(-brightness, kind="stable")
    return order[is_known[order]]


def _searches(xy: np.ndarray, middle: np.ndarray, side: float) -> list[tuple[np.ndarray, float]]:
    """Which detections are looked for in windows of which side, in pixels: the brightest, then those in the middle."""
    searches = [(np.arange(len(xy)) < _BRIGHTEST, side)]
    away = np.hypot(*(xy - middle).T)
    if len(xy) > _PATTERN:
        radius = float(np.sort(away)[_PATTERN - 1])
        searches.append((away <= radius, 2.0 * radius))
    return searches


def _windows(reach: float, side: float) -> np.ndarray:
    """Centres of windows within a reach of the pointing, the nearest first, shape (window, 2)."""
    step = _STEP * side
    if reach < step:
        return np.zeros((1, 2))
    n = int(np.ceil(reach / step))
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(-n, n + 1) * step, np.arange(-n, n + 1) * step))
    away = np.hypot(x, y)
    order = np.argsort(away, kind="stable")
    order = order[away[order] < reach + step / 2]
    return np.column_stack([x, y])[order]


def fit_plane(xy: np.ndarray, plane: np.ndarray, transform: np.ndarray, *, shape: tuple[int, int]) -> PlaneFit:
    """Fit polynomials from pixels to the tangent plane, of the highest order that the stars justify.

    The order is the one that best predicts stars which are left out of the fit (leave-one-out cross-validation by the
    diagonal of the hat matrix, Allen 1974, Technometrics 16, 125); fewer than six stars fix a similarity.

    Parameters
    ----------
    xy, plane : ndarray, shape (n, 2) and (m, 2)
        Detected sources in pixels, and stars of the catalogue in the plane, degrees.
    transform : ndarray, shape (3, 3)
        From plane to pixels, about right: what `find_on_sky` gives.
    shape : (int, int)
        Shape of the frame, ``(ny, nx)``.

    Raises
    ------
    match.AlignmentError
        When fewer than three stars agree.
    """
    centre = ((shape[1] - 1) / 2.0, (shape[0] - 1) / 2.0)
    to_plane = align.invert_transform(transform)
    scale = float(np.sqrt(abs(np.linalg.det(to_plane[:2, :2]))))
    at, before, fit = align.apply_transform(to_plane, xy), None, None
    for step in range(_ROUNDS):
        pairs, distance = graphs.nearest_pairs(at / scale, plane / scale, _TOLERANCE * (2.0 if step == 0 else 1.0))
        if fit is not None and len(pairs) > 2 * problem.LEAST_FOR_ROTATION:
            pairs = pairs[distance < max(_CLIP * fit.scatter, 0.3)]
        if len(pairs) < problem.LEAST_FOR_ROTATION:
            raise match.AlignmentError(f"only {len(pairs)} stars of the catalogue are where the match puts them")
        fit = _best_fit(xy, plane, pairs, centre, scale)
        if before is not None and np.array_equal(pairs, before):
            break
        before, at = pairs, fit(xy)
    assert fit is not None  # there is at least one round
    return fit


def _best_fit(
    xy: np.ndarray, plane: np.ndarray, pairs: np.ndarray, centre: tuple[float, float], scale: float
) -> PlaneFit:
    """Fit of the lowest order that no higher one beats clearly."""
    chosen, best, n_chosen = None, np.inf, 0
    for order in range(_HIGHEST_ORDER + 1):
        n_terms = 2 if order == 0 else (order + 1) * (order + 2) // 2
        if chosen is not None and len(pairs) < _STARS_PER_TERM * n_terms:
            break
        fit, left_out = _fit(xy, plane, pairs, order, centre, scale)
        if chosen is None or (
            left_out < _BETTER * best and _chance(chosen, fit, 2 * len(pairs), n_chosen, 2 * n_terms) < _BY_CHANCE
        ):
            chosen, best, n_chosen = fit, left_out, 2 * n_terms
    assert chosen is not None  # a similarity is always fitted
    return chosen


def _chance(fewer: PlaneFit, more: PlaneFit, n: int, n_fewer: int, n_more: int) -> float:
    """Chance that noise lowers the squares as much as more parameters did (F test of nested fits to ``n`` numbers)."""
    if n <= n_more:
        return 1.0
    squares, before = (float((fit.distance**2).sum()) + n * _POSITION_FLOOR**2 for fit in (more, fewer))
    return float(fdtrc(n_more - n_fewer, n - n_more, (before / squares - 1.0) * (n - n_more) / (n_more - n_fewer)))


def _fit(
    xy: np.ndarray, plane: np.ndarray, pairs: np.ndarray, order: int, centre: tuple[float, float], scale: float
) -> tuple[PlaneFit, float]:
    """Fit one order (0 for a similarity), and the rms distance, in pixels, of stars from fits without them."""
    powers = _powers(max(order, 1))
    design, wanted = _terms(xy[pairs[:, 0]], centre, powers), plane[pairs[:, 1]]
    if order == 0:
        coefficients, leverage, covariance = _similarity(design, wanted)
        n_free = 2
    else:
        size = np.abs(design).max(axis=0)
        coefficients = np.linalg.lstsq(design / size, wanted, rcond=None)[0] / size[:, None]
        covariance = np.linalg.pinv((design / size).T @ (design / size)) / np.outer(size, size)
        leverage, n_free = np.einsum("nt,tu,nu->n", design, covariance, design), len(powers)
    residual = (wanted - design @ coefficients) / scale
    freedom = max(len(pairs) - n_free, 1)
    scatter = max(float(np.sqrt((residual**2).sum() / (2 * freedom))), _POSITION_FLOOR)
    left_out = residual / np.maximum(1.0 - leverage, 1e-6)[:, None]
    fit = PlaneFit(centre, powers, coefficients, covariance, scatter, pairs[:, 0], pairs[:, 1], np.hypot(*residual.T))
    return fit, max(float(np.sqrt((left_out**2).sum(axis=1).mean())), _POSITION_FLOOR)


def _similarity(design: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit shift, turn and one scale, mirrored or not: coefficients as of order 1, leverage and covariance."""
    z, w = design[:, 1] + 1j * design[:, 2], wanted[:, 0] + 1j * wanted[:, 1]
    fits = []
    for points in (z, np.conj(z)):
        off = points - points.mean()
        a = (np.conj(off) * (w - w.mean())).sum() / (np.abs(off) ** 2).sum()
        fits.append((float(np.abs(w - w.mean() - a * off).sum()), a, w.mean() - a * points.mean()))
    is_mirrored = fits[1][0] < fits[0][0]
    _, a, b = fits[int(is_mirrored)]
    hand = -1.0 if is_mirrored else 1.0
    coefficients = np.array([[b.real, b.imag], [a.real, a.imag], [-hand * a.imag, hand * a.real]])
    spread, middle = (np.abs(z - z.mean()) ** 2).sum(), np.array([z.mean().real, z.mean().imag])
    leverage = 1.0 / len(z) + np.abs(z - z.mean()) ** 2 / spread
    covariance = np.eye(3) / spread
    covariance[0, 0] = 1.0 / len(z) + (middle**2).sum() / spread
    covariance[0, 1:] = covariance[1:, 0] = -middle / spread
    return coefficients, leverage, covariance


def _powers(order: int) -> np.ndarray:
    return np.array([(total - j, j) for total in range(order + 1) for j in range(total + 1)], dtype=int)


def _terms(xy: np.ndarray, centre: tuple[float, float], powers: np.ndarray) -> np.ndarray:
    u, v = (np.asarray(xy, dtype=float) - centre).T
    terms: np.ndarray = u[:, None] ** powers[:, 0] * v[:, None] ** powers[:, 1]
    return terms
