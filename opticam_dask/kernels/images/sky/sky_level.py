"""Sky level under the sources of one frame: a smooth, robust fit to the values of its boxes.

Around each box a plane is fitted to the values of 5 x 5 boxes, the inner 3 x 3 of which count most. A plane does not
fit where the sky is curved: there a paraboloid is tried. Nor does it fit where some boxes are no sky (a saturated
patch, a galaxy, the other side of an edge): there the fit goes through those boxes that agree with each other.
"""

from __future__ import annotations

import functools

import numpy as np

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images.sky.background import fill
from opticam_dask.kernels.robust import MAD_TO_SIGMA, median

#: A fit is made across so many boxes.
_BOXES = 5
#: Weight of those that are not next to the middle one.
_OUTER_WEIGHT = 0.15

#: A box with a smaller share of pixels that count says nothing.
LEAST_SHARE = 0.05

#: A fit needs the pixels of so many boxes.
_ENOUGH = 0.5
#: Where there are fewer a plane is fitted across so many boxes.
_WIDER = 9

#: A fit does not fit when the mean square of its residuals is so many times what noise makes.
_MISFIT = 3.0

#: A box agrees with others within so many standard deviations by the noise of its pixels,
_BY_NOISE = 5.0
#: or within so many times the distance that the nearest of these have: 4 sigma of normal noise.
_BY_SCATTER = 11.0
#: Quantile of the distances that counts as that of the nearest.
_NEAREST = 0.28

#: This many of 3 x 3 boxes like the middle one are a sky of their own (the corner of an amplifier),
_OWN_NEAR = 4
#: or so many of 5 x 5.
_OWN = 6

#: Slopes and curvatures are held towards 0 as by so many boxes at a distance of one.
_RIDGE = 0.005

#: Degree of the polynomial through all boxes, and how many boxes it needs.
_DEGREES = ((3, 64), (2, 25), (1, 9))
#: Where fewer are known, at least this many have a plane,
_FEWEST = 4
#: if they reach across more than this share of the mesh along both axes.
_SPANNED = 0.5
#: Values are drawn to within so many sigma of it.
_DRAWN_NEAR = 4.0

#: A sky is no polynomial when it scatters around one by so many times the noise of its boxes.
_NO_POLYNOMIAL = 3.0

#: What the compiled form takes of these, in its order; it knows the sizes of the windows.
_LIMITS = np.array(
    (
        *(_OUTER_WEIGHT, _ENOUGH, _MISFIT, _BY_NOISE, _BY_SCATTER, _NEAREST, _OWN_NEAR, _OWN, _RIDGE),
        *(_DRAWN_NEAR, _NO_POLYNOMIAL, MAD_TO_SIGMA),
    )
)


def smooth(values: np.ndarray, share: np.ndarray, noise: float) -> np.ndarray:
    """Smooth course of values of boxes; boxes that disagree with those around them do not count.

    Parameters
    ----------
    values : ndarray, shape (mesh_y, mesh_x)
        Any array where ``share`` is 0.
    share : ndarray, shape (mesh_y, mesh_x)
        Pixels behind each value, in units of a whole box.
    noise : float
        Scatter of the value of a whole box by the noise of its pixels.

    Returns
    -------
    ndarray, shape (mesh_y, mesh_x)
        Exact for planes. Boxes without neighbours are filled from the nearest known ones; the values themselves where
        nothing is known.
    """
    weights = np.where(share > LEAST_SHARE, share, 0.0)
    if not (weights > 0).any():
        return np.array(values, dtype=float)
    broad, course = _courses(values, weights, noise)
    if not np.isfinite(course).any():
        # stars cover nearly all of the frame: what is left of the sky gives a level and nothing more
        return broad + float(np.average(np.where(weights > 0, values - broad, 0.0), weights=weights))
    return fill((broad + course)[None])[0]


def broad_course(values: np.ndarray, share: np.ndarray, noise: float) -> np.ndarray:
    """Polynomial through the values of all boxes; their median where the sky is none. Parameters of :func:`smooth`."""
    weights = np.where(share > LEAST_SHARE, share, 0.0)
    return _courses(values, weights, noise)[0] if (weights > 0).any() else np.array(values, dtype=float)


def _courses(values: np.ndarray, weights: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Broad course of a mesh, and what its boxes have beyond it; NaN where nothing tells it."""
    terms = _polynomials(values.shape, _degree(weights))
    if compiled.native is not None:
        broad, course = np.empty(values.shape), np.empty(values.shape)
        given = (compiled.ready(array, dtype=float) for array in (values, weights, terms, _LIMITS))
        compiled.native.smooth_course(*given, broad, course, noise)
        return broad, course
    noise = max(noise, _field_scatter(values, weights))
    broad = _broad_course(values, weights, terms, noise)
    values = np.where(weights > 0, values - broad, 0.0)
    around, their_weights = _windows(values, _BOXES), _windows(weights, _BOXES)
    basis = _basis(_BOXES)
    kernel = np.where(np.maximum(np.abs(basis[1]), np.abs(basis[2])) <= 1, 1.0, _OUTER_WEIGHT)[:, None]
    course, misfit = _fit(around, their_weights, kernel, basis[:3], noise)
    odd = np.flatnonzero(misfit > _MISFIT)
    if len(odd):
        course[odd] = _fit_closely(around[:, odd], their_weights[:, odd], kernel, basis, noise)
    is_poor = their_weights.sum(axis=0) < _ENOUGH
    if is_poor.any():
        residual = np.abs(values.ravel() - course)
        is_good = ~is_poor & (residual <= np.maximum(_BY_NOISE * noise, 2 * _BY_NOISE * median(residual)))
        course[is_poor] = _from_afar(values, weights * is_good.reshape(weights.shape), np.flatnonzero(is_poor))
    return broad, course.reshape(values.shape)


@functools.lru_cache(maxsize=32)
def box_areas(shape: tuple[int, int], box_size: tuple[int, int]) -> np.ndarray:
    """Pixels of each box of a mesh, shape (mesh_y, mesh_x); boxes at the far edges may be cut."""
    sides = [np.minimum(box, size - np.arange(0, size, box)) for size, box in zip(shape, box_size, strict=True)]
    area: np.ndarray = np.outer(*sides)
    area.flags.writeable = False
    return area


def _degree(weights: np.ndarray) -> int:
    """Degree of the polynomial that there are boxes enough for."""
    n_known = np.count_nonzero(weights)
    degree = next((degree for degree, n_boxes in _DEGREES if n_known >= n_boxes), 0)
    return 1 if degree == 0 and _hold_a_plane(weights > 0) else degree


def _hold_a_plane(is_known: np.ndarray) -> bool:
    """Whether a few boxes reach so far along both axes that a plane through them holds in all others."""
    if np.count_nonzero(is_known) < _FEWEST:
        return False
    for axis, length in enumerate(is_known.shape):
        places = np.flatnonzero(is_known.any(axis=1 - axis))
        if places[-1] - places[0] + 1 <= _SPANNED * length:
            return False
    return True


def is_sparse(number: np.ndarray, areas: np.ndarray) -> bool:
    """Whether sources cover most of the sky, so that what is left of it lies at the edges of few boxes.

    Parameters
    ----------
    number, areas : ndarray of int, shape (mesh_y, mesh_x)
        Pixels of each box that are sky, and all of them.
    """
    is_known = number > LEAST_SHARE * areas.max()
    is_few = np.count_nonzero(is_known) < _DEGREES[-2][1]
    return bool(is_few and number.sum() < 0.5 * areas.sum()) and _hold_a_plane(is_known)


def _broad_course(values: np.ndarray, weights: np.ndarray, terms: np.ndarray, noise: float) -> np.ndarray:
    """Polynomial through all boxes: twilight, moonlight and vignetting, which bend within a few boxes already.

    What is left is fitted box by box, so it must not bend where the sky does not: values far from all others are drawn
    near, and a sky that is no polynomial (it has a step) has only its median taken off.
    """
    known = np.flatnonzero(weights)
    chosen, target, their_weights = terms[:, known], values.ravel()[known], weights.ravel()[known]
    normal = (chosen * their_weights) @ chosen.T + 1e-6 * np.eye(len(terms))
    model = median(target)
    for _ in range(2):
        residual = target - model
        limit = _DRAWN_NEAR * MAD_TO_SIGMA * median(np.abs(residual))
        drawn = model + np.clip(residual, -limit, limit)
        coefficients = np.linalg.solve(normal, chosen @ (their_weights * drawn))
        model = coefficients @ chosen
    scatter = MAD_TO_SIGMA * median(np.abs(target - model) * np.sqrt(their_weights))
    if scatter > _NO_POLYNOMIAL * noise:
        return np.full(values.shape, median(target))
    broad: np.ndarray = (coefficients @ terms).reshape(values.shape)
    return broad


@functools.lru_cache(maxsize=32)
def _polynomials(shape: tuple[int, int], degree: int) -> np.ndarray:
    """Products of powers of y and x, both from -1 to 1, up to a total degree, shape (term, box)."""
    y, x = (np.linspace(-1.0, 1.0, n_boxes) for n_boxes in shape)
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    terms = np.stack([np.outer(y**i, x**j).ravel() for i, j in powers])
    terms.flags.writeable = False
    return terms


def _field_scatter(values: np.ndarray, weights: np.ndarray) -> float:
    """Scatter of the values of boxes beside each other that no smooth sky explains, as by faint stars."""
    mixed = values[1:, 1:] - values[1:, :-1] - values[:-1, 1:] + values[:-1, :-1]
    known = weights > 0.5 * weights.max()
    all_known = known[1:, 1:] & known[1:, :-1] & known[:-1, 1:] & known[:-1, :-1]
    return float(MAD_TO_SIGMA * median(np.abs(mixed[all_known])) / 2.0) if all_known.any() else 0.0


def _windows(mesh: np.ndarray, n_boxes: int, boxes: np.ndarray | None = None) -> np.ndarray:
    """The ``n_boxes`` x ``n_boxes`` boxes around all, or the chosen, shape (neighbour, box); 0 beyond the edges."""
    half = n_boxes // 2
    padded = np.zeros((mesh.shape[0] + 2 * half, mesh.shape[1] + 2 * half), dtype=mesh.dtype)
    padded[half : half + mesh.shape[0], half : half + mesh.shape[1]] = mesh
    view = np.lib.stride_tricks.sliding_window_view(padded, mesh.shape)
    if boxes is None:
        return view.reshape(n_boxes * n_boxes, mesh.size)
    row, column = np.divmod(boxes, mesh.shape[1])
    return view[:, :, row, column].reshape(n_boxes * n_boxes, len(boxes))


def _basis(n_boxes: int) -> np.ndarray:
    """1, x, y, x^2, x y, y^2 at the boxes of a window, from its middle, shape (6, neighbour)."""
    y, x = (np.indices((n_boxes, n_boxes)).reshape(2, -1) - n_boxes // 2).astype(float)
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])


def _fit(
    values: np.ndarray, weights: np.ndarray, kernel: np.ndarray, basis: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares in windows (neighbour, box): the value in the middle, and the misfit in units of the noise.

    The value is NaN where a window has no weight.
    """
    weighted = kernel * weights
    model = _model(values, weighted, basis)
    square = np.einsum("kb,kb,kb->b", weighted, values - model, values - model)
    middle, number = model[len(model) // 2], np.sum(kernel * (weights > 0), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        square = square / noise**2
    n_free = number - len(basis) + 1
    misfit = np.where((n_free > 0) & ~np.isnan(square), square / np.maximum(n_free, 1.0), 0.0)
    return np.where(number > 0, middle, np.nan), misfit


def _model(values: np.ndarray, weights: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Weighted least squares in windows: the fit at all boxes (neighbour, box)."""
    products = (basis[:, None] * basis[None]).reshape(len(basis) ** 2, -1)
    normal = (products @ weights).reshape(len(basis), len(basis), -1)
    normal[0, 0][normal[0, 0] <= 0] = 1.0
    # values are taken from their mean, so that the ridge does not pull at the level of the sky
    mean = np.einsum("kb,kb->b", weights, values) / normal[0, 0]
    terms = _solve(normal, basis @ (weights * (values - mean)))
    terms[0] += mean
    model: np.ndarray = basis.T @ terms
    return model


def _fit_closely(
    values: np.ndarray, weights: np.ndarray, kernel: np.ndarray, basis: np.ndarray, noise: float
) -> np.ndarray:
    """Values in the middle of windows that are no planes: paraboloids, or fits through the boxes that agree."""
    course, misfit = _fit(values, weights, np.sqrt(kernel), basis, noise)
    bad = np.flatnonzero(misfit > _MISFIT)
    if len(bad):
        kept = weights[:, bad] * _agreeing(values[:, bad], weights[:, bad], basis, noise)
        flat, misfit = _fit(values[:, bad], kept, kernel, basis[:3], noise)
        curved, _ = _fit(values[:, bad], kept, np.sqrt(kernel), basis, noise)
        course[bad] = np.where(misfit > _MISFIT, curved, flat)
    return course


def _agreeing(values: np.ndarray, weights: np.ndarray, basis: np.ndarray, noise: float) -> np.ndarray:
    """Which boxes of windows (neighbour, box) agree with each other.

    They are those around the median of the window, or, where enough neighbours are like the box in the middle, those
    around these: on either side of an edge in the sky the side of the box itself counts.
    """
    x, y = basis[1:3, :, None]
    known = np.where(weights > 0, values, np.nan)
    square = known.reshape(_BOXES, _BOXES, -1)
    n_steps = _BOXES * (_BOXES - 1)
    slope_x = np.nan_to_num(_quantile((square[:, 1:] - square[:, :-1]).reshape(n_steps, -1), 0.5))
    slope_y = np.nan_to_num(_quantile((square[1:] - square[:-1]).reshape(n_steps, -1), 0.5))
    flat = known - x * slope_x - y * slope_y
    limit = _BY_NOISE * noise / np.sqrt(np.where(weights > 0, weights, 1.0))
    alike = np.abs(flat - flat[len(flat) // 2]) <= limit
    near = np.maximum(np.abs(x), np.abs(y))[:, 0] <= 1
    has_own = (np.count_nonzero(alike[near], axis=0) >= _OWN_NEAR) & (np.count_nonzero(alike, axis=0) >= _OWN)
    start = np.where(has_own, _quantile(np.where(alike, flat, np.nan), 0.5), _quantile(flat, 0.5))
    residual = np.abs(flat - start)
    agrees = residual <= np.maximum(limit, _BY_SCATTER * _quantile(residual, _NEAREST))
    for _ in range(2):
        residual = np.abs(known - _model(values, weights * agrees, basis[:3]))
        agrees = residual <= np.maximum(limit, _BY_SCATTER * _quantile(residual, _NEAREST))
    return agrees


def _solve(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve the normal equations (term, term, box) of least squares by elimination; right-hand sides (term, box)."""
    normal, right = normal.copy(), right.copy()
    n_terms = len(right)
    for term in range(1, n_terms):
        normal[term, term] += _RIDGE
    for pivot in range(n_terms):
        for row in range(pivot + 1, n_terms):
            factor = normal[row, pivot] / normal[pivot, pivot]
            normal[row, pivot:] -= factor * normal[pivot, pivot:]
            right[row] -= factor * right[pivot]
    for row in reversed(range(n_terms)):
        right[row] = (right[row] - np.sum(normal[row, row + 1 :] * right[row + 1 :], axis=0)) / normal[row, row]
    return right


def _from_afar(values: np.ndarray, weights: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Planes through the wider surroundings of some boxes; NaN where too little is known."""
    their_weights = _windows(weights, _WIDER, boxes)
    ones = np.ones((len(their_weights), 1))
    plane, _ = _fit(_windows(values, _WIDER, boxes), their_weights, ones, _basis(_WIDER)[:3], 1.0)
    return np.where(their_weights.sum(axis=0) >= _ENOUGH, plane, np.nan)


def _quantile(values: np.ndarray, share: float) -> np.ndarray:
    """Value below which a share of the known ones lies, along the first axis; NaN where there is none."""
    ordered = np.sort(values, axis=0)
    ranks = np.maximum(np.count_nonzero(~np.isnan(values), axis=0) - 1, 0) * share
    columns = np.arange(len(ranks))
    low, high = (ordered[edge(ranks).astype(int), columns] for edge in (np.floor, np.ceil))
    quantile: np.ndarray = 0.5 * (low + high)
    return quantile
