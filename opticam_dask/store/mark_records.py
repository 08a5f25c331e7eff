"""Marks of observers as they stand in the attributes of their group, checked when they are read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from opticam_dask import schema

#: What an entry of a column may be. JSON has no number that is not finite: words stand for them.
_TYPES: dict[str, tuple[type, ...]] = {"int32": (int,), "float64": (int, float, str), "str": (str,)}


def attributes_of(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Attributes of the group of the marks.

    Parameters
    ----------
    columns : dict of sequence
        The columns of ``schema.MARKS``, an entry a mark; plain numbers and text.
    """
    records = {
        name: [value if isinstance(value, str) or math.isfinite(value) else str(value) for value in values]
        for name, values in columns.items()
    }
    return {"long_name": "marks of observers", "complete": True, "records": records, "digest": _digest(records)}


def columns_of(attributes: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns of marks, from the attributes of their group.

    Raises
    ------
    ValueError
        When the records are not whole; the message says what is wrong with them.
    """
    records = attributes.get("records")
    names = [entry.name for entry in schema.MARKS]
    if not isinstance(records, dict) or sorted(records) != sorted(names):
        raise ValueError(f"the records of the marks do not have the columns {', '.join(names)}")
    for entry in schema.MARKS:
        if not isinstance(values := records[entry.name], list) or len(values) != len(records[names[0]]):
            raise ValueError(f"the columns of the marks differ in length: {entry.name}, {names[0]}")
        if any(isinstance(value, bool) or not isinstance(value, _TYPES[entry.dtype]) for value in values):
            raise ValueError(f"{entry.name} of a mark is not of type {entry.dtype}")
    if attributes.get("digest", digest := _digest(records)) != digest:
        raise ValueError("the digest of the marks is that of other records")
    times = {entry.name: list(map(float, records[entry.name])) for entry in schema.MARKS if entry.dtype == "float64"}
    return records | times


def _digest(records: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()
