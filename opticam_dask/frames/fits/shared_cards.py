"""Memory of what headers mean: frames of a run share most cards, and what follows from these is worked out once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from operator import is_
from typing import Any, Generic, NamedTuple, TypeVar

from opticam_dask.frames.fits.cards import Cards

T = TypeVar("T")

#: Results that are kept, of the cameras, filters and settings of a run.
_MOST_KEPT = 8
#: Headers that are like none before, in a row, after which it is no longer worth the while to note what they say.
_MOST_MISSES = 64
#: Stands for the value of a card that a header does not have.
_NO_CARD = object()


class _Noting(Cards):
    """A header that records which of its cards are looked up."""

    def __init__(self, header: Cards) -> None:
        super().__init__(header)
        self.text = header.text
        self.asked: dict[str, Any] = {}
        self.comments: dict[str, str] = {}

    def _note(self, name: str) -> None:
        self.asked[name] = dict.get(self, name, _NO_CARD)

    def get(self, name: str, default: Any = None) -> Any:
        self._note(name)
        return dict.get(self, name, default)

    def __contains__(self, name: object) -> bool:
        self._note(str(name))
        return dict.__contains__(self, name)

    def __getitem__(self, name: str) -> Any:
        self._note(name)
        return dict.__getitem__(self, name)

    def comment(self, keyword: str) -> str:
        self.comments[keyword] = super().comment(keyword)
        return self.comments[keyword]


class _WorkedOut(NamedTuple):
    """A result, and the cards that it follows from."""

    names: tuple[str, ...]
    values: tuple[Any, ...]
    comments: tuple[tuple[str, str], ...]
    result: Any


class SharedCards(Generic[T]):
    """A function of a header, worked out once for all headers that say the same where it looks.

    Parameters
    ----------
    work_out : callable
        Returns the same for the same cards, and looks at nothing but these. What it raises is not kept.
    """

    def __init__(self, work_out: Callable[[Cards], T]) -> None:
        self._work_out = work_out
        self._known: tuple[_WorkedOut, ...] = ()  # replaced as a whole: several threads look
        self._n_misses = 0

    def __call__(self, header: Cards) -> T:
        """Return what the function returns for a header.

        Values are compared as objects: the cards of a run are parsed once, and 1 is not T.
        """
        get = header.get
        for known in self._known:
            if all(map(is_, known.values, map(get, known.names, repeat(_NO_CARD)))) and all(
                header.comment(name) == comment for name, comment in known.comments
            ):
                self._n_misses = 0
                return known.result
        if self._n_misses >= _MOST_MISSES:
            return self._work_out(header)
        self._n_misses += 1
        noting = _Noting(header)
        result = self._work_out(noting)
        asked = noting.asked
        known = _WorkedOut(tuple(asked), tuple(asked.values()), tuple(noting.comments.items()), result)
        self._known = (known, *self._known[: _MOST_KEPT - 1])
        return result
