"""Animations: frames one after the other, with the sources where the transforms put them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from opticam_dask import locations
from opticam_dask.display.plotting.images import show_stretched

#: Pixels of the pictures: wide enough to see a shift, small enough for hundreds of them.
_PICTURE = 320
#: Dots of an inch, in which matplotlib measures figures and letters.
_DPI = 100
#: Grey levels of a frame: few, since noise in many does not compress.
_N_GREYS = 12

TITLE_COLOURS = {"reference": "blue", "aligned": "black", "unaligned": "red"}


@dataclass(frozen=True)
class Picture:
    """One frame of an animation.

    Attributes
    ----------
    image : ndarray, shape (ny, nx)
        The image.
    xy : ndarray, shape (n, 2)
        Where the catalogue's sources lie on the frame; NaN without a transform.
    radius : float
        Radius of the circles, in pixels.
    title : str
        Title of the picture.
    state : str
        ``reference``, ``aligned`` or ``unaligned``: the colour of the title.
    """

    image: np.ndarray
    xy: np.ndarray
    radius: float
    title: str
    state: str


def write_animation(pictures: Iterable[Picture], path: str | Path, *, milliseconds: int = 200) -> Path:
    """Write an animated GIF that repeats for ever.

    Parameters
    ----------
    pictures : iterable of Picture
        Drawn one by one; only the small results are kept.
    path : path
        Ends in ``.gif``.
    milliseconds : int
        Time that each frame is shown.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        When there is no picture.
    """
    file = locations.location(path)
    drawn = [_as_image(draw_picture(picture)) for picture in pictures]
    if not drawn:
        raise ValueError(f"expected at least one frame to animate in {file.name}, got none")
    moving = {"save_all": True, "append_images": drawn[1:], "duration": milliseconds, "loop": 0, "optimize": False}
    with locations.replacing(file) as temporary:
        drawn[0].save(temporary, format="GIF", **moving)
    return file


def draw_picture(picture: Picture) -> Figure:
    """Draw one frame of an animation: the frame, circles around its sources, and a title in the colour of its state."""
    ny, nx = picture.image.shape
    step = max(1, -(-max(ny, nx) // _PICTURE))
    height = _PICTURE * min(max(ny / nx, 0.3), 2.0)
    figure = Figure(figsize=(_PICTURE / _DPI, (height + 40) / _DPI), dpi=_DPI)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98 * height / (height + 40)))
    show_stretched(axes, _smaller(picture.image, step))
    known = np.all(np.isfinite(picture.xy), axis=1)
    # the centre of a binned pixel lies between those of its pixels
    x, y = ((picture.xy[known] - 0.5 * (step - 1)) / step).T
    size = (2 * picture.radius / step) * 72.0 * 0.98 * _PICTURE / _DPI / (nx / step)
    axes.scatter(x, y, s=max(size, 6.0) ** 2, facecolors="none", edgecolors="tab:red", linewidths=1.2)
    axes.set(xticks=[], yticks=[], xlim=(-0.5, nx // step - 0.5), ylim=(-0.5, ny // step - 0.5))
    figure.text(0.5, 0.985, picture.title, ha="center", va="top", color=TITLE_COLOURS[picture.state], fontsize=8)
    return figure


def _smaller(image: np.ndarray, step: int) -> np.ndarray:
    """Mean of ``step`` x ``step`` pixels; the rest at the far edges is left out."""
    if step == 1:
        return image
    ny, nx = image.shape[0] // step, image.shape[1] // step
    return np.asarray(image[: ny * step, : nx * step].reshape(ny, step, nx, step).mean(axis=(1, 3)))


def _as_image(figure: Figure) -> Image.Image:
    """Small image in a fixed palette: one made for each picture would take the colours of titles for greys."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return Image.fromarray(pixels).quantize(palette=_palette(), dither=Image.Dither.NONE)


def _palette() -> Image.Image:
    """Grey levels, and the colours of circles and titles, each also halfway to white for smooth edges."""
    greys = np.repeat(np.linspace(0, 255, _N_GREYS).round()[:, None], 3, axis=1)
    colours = np.array([to_rgb(name) for name in ("tab:red", "red", "blue")]) * 255
    entries = np.concatenate([greys, colours, (colours + 255) / 2]).round().astype(int)
    palette = Image.new("P", (1, 1))
    palette.putpalette(entries.ravel().tolist())
    return palette
