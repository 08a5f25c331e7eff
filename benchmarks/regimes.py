"""How well each photometer measures in each kind of night: simulated, reduced, held against the truth.

    python benchmarks/regimes.py                       # all regimes; the table goes into docs/photometry.md
    python benchmarks/regimes.py --only cloud eclipse --frames 12 --no-record

Each regime is a small night of stars whose fluxes are known. For each photometer, over all measurements that carry no
flag that warns: bias (of stars above S/N 30 in per cent, of all in their own errors), width of the pulls about each
star's own mean, and how many of 10^4 are further than 6 errors from the truth. Errors are those of the frame with that
which is common to all frames (``flux_err_sys``); widths are in units of the first alone. Over all measurements: the
share that is flagged, and the share that is flagged although nothing was done to the star in that frame.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from small_nights import SmallNight, add_star, read_out, reduce_frames, write_frame

from opticam_dask import AperturePhotometer, OptimalPhotometer, PSFPhotometer
from opticam_dask.flags import SourceFlag
from opticam_dask.pipeline.reduction import ReductionError

PHOTOMETERS = (AperturePhotometer, OptimalPhotometer, PSFPhotometer)
DOCS = Path(__file__).parents[1] / "docs" / "photometry.md"

#: Flags that say how a measurement was made, not that it is to be doubted.
_NO_WARNING = SourceFlag.REDUCED | SourceFlag.NOT_DETECTED | SourceFlag.NOT_RECENTRED

#: Stars that bias in per cent is about, by signal-to-noise ratio.
_BRIGHT = 30.0

#: A measurement so many errors from the truth without a flag is wild.
_WILD = 6.0

#: What counts as right: bias in per cent or in errors, width of the pulls, wild measurements in 10^4.
_LARGEST_BIAS = 1.0
_LARGEST_PULL = 0.25
_WIDTHS = (0.7, 1.3)
_MOST_WILD = 5.0

#: A photometer that flags so large a share of the measurements says that it is not fit for the regime.
_SAYS_SO = 0.5

SIDE = 240
SKY = 200.0


@dataclass
class Scene:
    """One frame as it is in truth.

    Attributes
    ----------
    image : ndarray, shape (ny, nx)
        Expected electrons, the sky among them.
    xy, flux : ndarray, shape (star, 2) and (star,)
        Where the stars are, and their total light in electrons; NaN where nobody can measure it.
    is_disturbed : ndarray of bool, shape (star,)
        Stars on which something else shines, or which are cut or saturated: a flag is wanted there.
    """

    image: np.ndarray
    xy: np.ndarray
    flux: np.ndarray
    is_disturbed: np.ndarray


@dataclass(frozen=True)
class Regime:
    """A kind of night.

    Attributes
    ----------
    name : str
        What the table calls it.
    paint : callable
        ``paint(phase, rng) -> Scene``, with the phase of the frame in the night from 0 to 1.
    gain : float
        Electrons per ADU.
    exposure : callable
        Exposure time in seconds at a phase.
    photometer : dict
        Parameters of the photometers.
    options, catalogs : dict
        Parameters of ``Reducer`` and ``create_catalogs``.
    """

    name: str
    paint: Callable[[float, np.random.Generator], Scene]
    gain: float = 1.0
    exposure: Callable[[float], float] = lambda phase: 5.0
    aperture: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    catalogs: Mapping[str, object] = field(default_factory=dict)


# ---------------------------------------------------------------- scenes


def stars_of(n_stars: int, side: int, apart: float, faintest: float, brightest: float, margin: float) -> np.ndarray:
    """Places and fluxes of stars ``(x, y, flux)``, brightest first, at least ``apart`` pixels from each other."""
    rng = np.random.default_rng(41)
    places: list[np.ndarray] = []
    while len(places) < n_stars:
        place = rng.uniform(margin, side - 1 - margin, 2)
        if all(np.hypot(*(place - other)) > apart for other in places):
            places.append(place)
    return np.column_stack([np.array(places), np.geomspace(brightest, faintest, n_stars)])


STARS = stars_of(14, SIDE, 42.0, 5e3, 2e5, 22.0)


def field_scene(
    rng: np.random.Generator,
    stars: np.ndarray = STARS,
    *,
    side: int = SIDE,
    sky: float | np.ndarray = SKY,
    fwhm: float | np.ndarray = 4.0,
    beta: float | None = 3.0,
    ratio: float = 1.0,
    angle: float = 0.0,
    factor: float | np.ndarray = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    jitter: float = 0.6,
) -> Scene:
    """Stars on a sky, moved by ``shift`` and a jitter of the pointing; ``fwhm`` and ``factor`` may be one a star."""
    image = np.zeros((side, side)) + sky
    xy = stars[:, :2] + np.asarray(shift) + rng.normal(0.0, jitter, 2)
    flux = stars[:, 2] * factor
    widths = np.broadcast_to(fwhm, len(stars))
    for (x, y), light, width in zip(xy, flux, widths, strict=True):
        if light:
            add_star(image, x, y, light, float(width), beta, ratio=ratio, angle=angle)
    return Scene(image, xy, flux, np.zeros(len(stars), dtype=bool))


def clear(phase: float, rng: np.random.Generator) -> Scene:
    """Seeing that changes by a fifth."""
    return field_scene(rng, fwhm=4.0 * (1.0 + 0.2 * np.sin(7.0 * phase)))


def of_fwhm(fwhm: float) -> Callable[[float, np.random.Generator], Scene]:
    """Stars of one width, as far apart as that needs, and none so bright that a pixel is saturated."""
    side = SIDE if fwhm <= 6.0 else round(60.0 * fwhm)
    scale = side / SIDE
    stars = STARS * [scale, scale, max(min(1.0, (fwhm / 1.8) ** 2), (fwhm / 4.0) ** 1.2)]

    def paint(phase: float, rng: np.random.Generator) -> Scene:
        return field_scene(rng, stars, side=side, fwhm=fwhm * (1.0 + 0.05 * np.sin(7.0 * phase)))

    return paint


def of_sky(level: float) -> Callable[[float, np.random.Generator], Scene]:
    """A sky of so many electrons; stars bright enough to be seen on it."""
    stars = STARS * [1.0, 1.0, max(1.0, 0.4 * np.sqrt(level / SKY))]
    return lambda phase, rng: field_scene(rng, stars, sky=level)


def gradient(phase: float, rng: np.random.Generator) -> Scene:
    """A sky that triples across the frame, along a direction that turns through the night."""
    angle = 2.0 * np.pi * phase
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1.0) - 0.5
    return field_scene(rng, sky=1000.0 * (1.0 + (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2.0)))


def cloud(phase: float, rng: np.random.Generator) -> Scene:
    """Cloud that takes up to nine tenths of the light."""
    return field_scene(rng, factor=1.0 - 0.9 * np.exp(-(((phase - 0.5) / 0.2) ** 2)))


def eclipse(phase: float, rng: np.random.Generator) -> Scene:
    """The fifth star vanishes for a third of the night."""
    factor = np.ones(len(STARS))
    factor[4] = 0.0 if 1 / 3 < phase < 2 / 3 else 1.0
    return field_scene(rng, factor=factor)


def drift(phase: float, rng: np.random.Generator) -> Scene:
    """The field drifts by a sixth of the frame; stars come to its edges and leave."""
    scene = field_scene(rng, shift=(20.0 - 40.0 * phase, 0.0), jitter=0.2)
    scene.is_disturbed |= np.any((scene.xy < 6.0) | (scene.xy > SIDE - 7.0), axis=1)
    return scene


def pairs(separation: float) -> Callable[[float, np.random.Generator], Scene]:
    """Half of the stars have a companion of 0.6 of their light, so many FWHM away (FWHM 5)."""
    angles = np.linspace(0.0, 2.0 * np.pi, 7, endpoint=False)
    offset = 5.0 * separation * np.column_stack([np.cos(angles), np.sin(angles)])
    bright = STARS[STARS[:, 2] > 2e4][:7]
    companions = np.column_stack([bright[:7, :2] + offset[: len(bright)], 0.6 * bright[:, 2]])
    stars = np.concatenate([STARS, companions])

    def paint(phase: float, rng: np.random.Generator) -> Scene:
        scene = field_scene(rng, stars, fwhm=5.0 * (1.0 + 0.1 * np.sin(7.0 * phase)))
        scene.is_disturbed[: len(bright)] = scene.is_disturbed[len(STARS) :] = True
        return scene

    return paint


def defocused(radius: float) -> Callable[[float, np.random.Generator], Scene]:
    """Stars are rings, the shadow of the secondary mirror in them."""
    side = round(max(SIDE, 28.0 * radius))
    stars = STARS * [side / SIDE, side / SIDE, 5.0]
    y, x = np.mgrid[:side, :side]

    def paint(phase: float, rng: np.random.Generator) -> Scene:
        scene = field_scene(rng, stars, side=side, factor=0.0)
        for (x0, y0), light in zip(scene.xy, stars[:, 2], strict=True):
            distance = np.hypot(x - x0, y - y0)
            ring = 1 / (1 + np.exp((distance - radius) / 0.8)) / (1 + np.exp((0.4 * radius - distance) / 0.8))
            scene.image += light * ring / ring.sum()
        scene.flux = stars[:, 2].copy()
        return scene

    return paint


def trailed(phase: float, rng: np.random.Generator) -> Scene:
    """Stars of 7 x 2.5 pixels."""
    return field_scene(rng, fwhm=7.0, ratio=2.5 / 7.0, angle=0.5 + 0.2 * np.sin(5.0 * phase))


def saturated(phase: float, rng: np.random.Generator) -> Scene:
    """A third of the stars are saturated, two of them with a bled column."""
    factor = np.ones(len(STARS))
    factor[:5] = 15.0
    scene = field_scene(rng, factor=factor)
    scene.flux[:5] = np.nan
    scene.is_disturbed[:5] = True
    for x, y in scene.xy[:2]:
        column, row = round(x), round(y)
        scene.image[max(row - 60, 0) : row + 61, max(column - 2, 0) : column + 3] = 1e5
        is_beside = (np.abs(scene.xy[:, 0] - column) < 20.0) & (np.abs(scene.xy[:, 1] - row) < 80.0)
        scene.is_disturbed |= is_beside
        scene.flux[is_beside] = np.nan
    return scene


def window(phase: float, rng: np.random.Generator) -> Scene:
    """A read-out window of 60 x 60 pixels with three stars."""
    stars = np.array([(18.3, 20.6, 1e5), (42.7, 25.2, 4e4), (27.4, 44.8, 2e4)])
    scene = field_scene(rng, stars, side=60, fwhm=4.0 * (1.0 + 0.1 * np.sin(7.0 * phase)))
    return scene


def varying(phase: float, rng: np.random.Generator) -> Scene:
    """The width of stars changes by a fifth across the field, and the tilt of it through the night."""
    across = (STARS[:, 0] / SIDE - 0.5) * np.cos(2.0 * phase) + (STARS[:, 1] / SIDE - 0.5) * np.sin(2.0 * phase)
    return field_scene(rng, fwhm=4.0 * (1.0 + 0.2 * across))


def cosmic_rays(phase: float, rng: np.random.Generator) -> Scene:
    """Six tracks of 1 to 5 pixels a frame, of 800 to 6000 electrons a pixel, half of them near stars."""
    scene = field_scene(rng, fwhm=5.0 * (1.0 + 0.1 * np.sin(7.0 * phase)))
    for number in range(6):
        place = rng.uniform(0, SIDE - 1, 2)
        if number < 3:
            place = scene.xy[rng.integers(len(STARS))] + rng.normal(0.0, 5.0, 2)
        angle, length = rng.uniform(0.0, np.pi), rng.integers(1, 6)
        for step in range(length):
            x, y = (int(v) for v in np.rint(place + step * np.array([np.cos(angle), np.sin(angle)])))
            if 0 <= x < SIDE and 0 <= y < SIDE:
                scene.image[y, x] += rng.uniform(800.0, 6000.0)
                scene.is_disturbed |= np.hypot(*(scene.xy - [x, y]).T) < 15.0
    return scene


def satellite(phase: float, rng: np.random.Generator) -> Scene:
    """A bright trail, three pixels wide, crosses every fifth frame or so."""
    scene = field_scene(rng)
    if rng.random() < 0.2:
        angle, through = rng.uniform(0.0, np.pi), rng.uniform(40.0, SIDE - 40.0, 2)
        y, x = np.mgrid[:SIDE, :SIDE]
        distance = np.abs((x - through[0]) * np.sin(angle) - (y - through[1]) * np.cos(angle))
        scene.image += 1500.0 * np.exp(-0.5 * (distance / 1.7) ** 2)
        away = np.abs((scene.xy[:, 0] - through[0]) * np.sin(angle) - (scene.xy[:, 1] - through[1]) * np.cos(angle))
        scene.is_disturbed |= away < 15.0
    return scene


def two_exposures(phase: float) -> float:
    """Five seconds, then two."""
    return 5.0 if phase < 0.5 else 2.0


def exposures(phase: float, rng: np.random.Generator) -> Scene:
    """A night of two exposure times."""
    share = two_exposures(phase) / 5.0
    return field_scene(rng, factor=share, sky=SKY * share)


_WIDE = {"box_size": 60}
REGIMES = (
    Regime("clear", clear),
    Regime("sky gradient (x 3)", gradient),
    Regime("cloud (to 0.1)", cloud),
    Regime("eclipse (total)", eclipse),
    Regime("drift to the edge", drift),
    *(Regime(f"pairs at {s:g} FWHM", pairs(s)) for s in (1.2, 1.5, 2.0, 3.0)),
    Regime("defocus, 8 pixels", defocused(8.0), catalogs=_WIDE, aperture={"radius": 12.0}),
    Regime("defocus, 15 pixels", defocused(15.0), catalogs=_WIDE, aperture={"radius": 20.0}),
    Regime("trailed, 7 x 2.5", trailed),
    *(Regime(f"FWHM {w:g}", of_fwhm(w)) for w in (1.2, 1.8, 2.5, 6.0)),
    Regime("FWHM 12", of_fwhm(12.0), catalogs={"box_size": 80}),
    Regime("FWHM 20", of_fwhm(20.0), catalogs={"box_size": 120}),
    Regime("a third saturated, bled", saturated),
    *(Regime(f"sky {level:g}", of_sky(level), gain=max(1.0, level / 2e4)) for level in (0.5, 20.0, 5e3, 5e4)),
    Regime("window of 60 pixels", window),
    Regime("PSF varies by 20 %", varying),
    Regime("cosmic-ray tracks", cosmic_rays),
    Regime("satellite trails", satellite),
    Regime("5 s, then 2 s", exposures, exposure=two_exposures),
)


# ---------------------------------------------------------------- measuring


def reduced(regime: Regime, directory: Path, n_frames: int, seed: int = 5) -> tuple[SmallNight, list[Scene]]:
    """Frames of a regime, reduced with all photometers, and the truth."""
    scenes = []
    for index in range(n_frames):
        rng = np.random.default_rng([seed, index])
        phase = index / max(n_frames - 1, 1)
        scene = regime.paint(phase, rng)
        pixels = read_out(scene.image, rng, gain=regime.gain)
        path = directory / "frames" / f"f{index:04d}.fits"
        write_frame(path, pixels, 10.0 * index, EXPTIME=regime.exposure(phase))
        scene.image = np.empty(0)
        scenes.append(scene)
    photometers = [kind(**regime.aperture) if kind is AperturePhotometer else kind() for kind in PHOTOMETERS]
    night = reduce_frames(
        directory,
        *photometers,
        instrument={"default_gain": regime.gain},
        catalogs=dict(regime.catalogs),
        **dict(regime.options),
    )
    return night, scenes


@dataclass(frozen=True)
class Cell:
    """How one photometer did in one regime; shares and biases as in the table, NaN where nothing is left to judge.

    ``n_stars`` of the ``n_true`` stars that never come within an eighth of the frame to its edges are in the catalogue.
    """

    n_stars: int
    n_true: int
    bias: float
    pull: float
    width: float
    wild: float
    flagged: float
    needless: float

    def verdict(self) -> str:
        """``fit``; unfit, and says so, by a flag (``flagged``) or by errors (``uncertain``); or what is wrong."""
        if self.flagged > _SAYS_SO:
            return "flagged"
        is_biased = abs(self.bias) > _LARGEST_BIAS and abs(self.pull) > _LARGEST_PULL
        wrong = [
            *(["bias"] if is_biased or abs(self.pull) > 4 * _LARGEST_PULL else []),
            *(["errors"] if not _WIDTHS[0] <= self.width <= _WIDTHS[1] else []),
            *(["wild"] if self.wild > _MOST_WILD else []),
            *(["stars missing"] if self.n_stars < self.n_true else []),
        ]
        if wrong:
            return "not fit: " + ", ".join(wrong)
        return "uncertain" if abs(self.bias) > _LARGEST_BIAS else "fit"


def judge(night: SmallNight, scenes: list[Scene], label: str) -> Cell:
    """Hold the fluxes of one photometer against the truth."""
    curves = night.curves(label)
    x, y, total, error = (curves[name].to_numpy() for name in ("x", "y", "total", "total_err"))
    common = curves["flux_err_sys"].to_numpy() / curves["flux"].to_numpy() if "flux_err_sys" in curves else 0.0 * total
    flags = curves["flags"].to_numpy()
    true_xy, true = np.array([s.xy for s in scenes]), np.array([s.flux for s in scenes])
    is_disturbed = np.array([s.is_disturbed for s in scenes])
    star = _stars_of_sources(x, y, true_xy)
    side = np.array(night.group("reference").image.shape)[::-1]
    is_inner = np.all((true_xy > side / 8.0) & (true_xy < 7.0 * side / 8.0), axis=(0, 2))
    is_wanted = is_inner & np.isfinite(true).all(axis=0)
    total, error, flags, common = (values[:, star >= 0] for values in (total, error, flags, common))
    true, is_disturbed = true[:, star[star >= 0]], is_disturbed[:, star[star >= 0]]
    is_measured = np.isfinite(total) & (error > 0) & np.isfinite(true)
    warns = (flags & ~np.uint32(_NO_WARNING)) != 0
    good = is_measured & ~warns
    with np.errstate(invalid="ignore", divide="ignore"):
        pull, relative = (total - true) / np.hypot(error, common * total), (total - true) / true
        own_mean = np.ma.median(np.ma.masked_where(~good, relative), axis=0).filled(0.0)
        scatter = (total - true * (1.0 + own_mean)) / error
        bright = good & (true / error > _BRIGHT)
    n_good = max(int(good.sum()), 1)
    return Cell(
        n_stars=int(np.count_nonzero(is_wanted[np.unique(star[star >= 0])])),
        n_true=int(np.count_nonzero(is_wanted)),
        bias=100.0 * float(np.median(relative[bright])) if bright.any() else float("nan"),
        pull=float(np.mean(pull[good])) if good.any() else float("nan"),
        width=float(np.std(scatter[good])) if good.any() else float("nan"),
        wild=1e4 * float(np.count_nonzero(good & (np.abs(pull) > _WILD))) / n_good,
        flagged=float(np.mean(warns)),
        needless=float(np.mean(warns & ~is_disturbed)),
    )


def _stars_of_sources(x: np.ndarray, y: np.ndarray, true_xy: np.ndarray) -> np.ndarray:
    """Star that each source is, by the median of its distance over the frames; -1 for none."""
    away = np.hypot(x[:, :, None] - true_xy[:, None, :, 0], y[:, :, None] - true_xy[:, None, :, 1])
    typical = np.nanmedian(away, axis=0)
    nearest = np.argmin(typical, axis=1)
    return np.where(typical[np.arange(len(nearest)), nearest] < 3.0, nearest, -1)


def measure(regime: Regime, n_frames: int) -> dict[str, Cell]:
    """One regime: a cell for each photometer."""
    with tempfile.TemporaryDirectory(prefix="regime-") as directory:
        try:
            night, scenes = reduced(regime, Path(directory), n_frames)
        except ReductionError as error:
            print(f"{regime.name}: {error}")
            n_stars = len(regime.paint(0.0, np.random.default_rng(0)).flux)
            return {kind().label: Cell(0, n_stars, *[float("nan")] * 4, 0.0, 0.0) for kind in PHOTOMETERS}
        return {kind().label: judge(night, scenes, kind().label) for kind in PHOTOMETERS}


def table(rows: list[tuple[str, str, Cell]]) -> str:
    """Cells as a Markdown table."""
    names = (
        "regime", "photometer", "stars", "bias, %", "bias, errors", "pull width", "beyond 6 errors, of 10^4",
        "flagged, %", "without need, %", "",
    )  # fmt: skip
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for regime, label, cell in rows:
        numbers = [
            f"{cell.n_stars} of {cell.n_true}",
            *(_number(cell.bias, "+.2f"), _number(cell.pull, "+.2f"), _number(cell.width, ".2f")),
            *(_number(cell.wild, ".0f"), f"{100 * cell.flagged:.1f}", f"{100 * cell.needless:.1f}", cell.verdict()),
        ]
        lines.append(f"| {regime} | {label} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "-"


def into_docs(text: str) -> None:
    """Put the table between the marks in the page on photometry."""
    page = DOCS.read_text(encoding="utf-8")
    begin, end = "<!-- regimes: begin -->\n", "<!-- regimes: end -->"
    DOCS.write_text(re.sub(f"{begin}.*?{end}", lambda _: f"{begin}{text}\n{end}", page, flags=re.DOTALL), "utf-8")


def main(arguments: list[str] | None = None) -> list[tuple[str, str, Cell]]:
    """Measure the regimes that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="regimes whose names begin with these words")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--no-record", action="store_true", help="leave the docs as they are")
    options = parser.parse_args(arguments)
    chosen = [r for r in REGIMES if not options.only or any(r.name.startswith(word) for word in options.only)]
    rows = []
    for regime in chosen:
        for label, cell in measure(regime, options.frames).items():
            rows.append((regime.name, label, cell))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    if not options.no_record and not options.only:
        into_docs(table(rows))
    return rows


if __name__ == "__main__":
    main()
