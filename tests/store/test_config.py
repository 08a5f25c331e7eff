"""Parameters: validation, files, identity."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from opticam_dask import config
from opticam_dask.config import ReductionParameters


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("threshold", 0, "greater than 0"),
        ("threshold", float("nan"), "greater than 0"),
        ("rebin_factor", 0, "at least 1"),
        ("rebin_factor", 1.5, "whole number"),
        ("n_pixels", 0, "at least 1"),
        ("max_catalog_sources", 0, "at least 1"),
        ("stack_frames", -1, "at least 0"),
        ("transform_type", "rigid", "'affine' or 'translation'"),
        ("scale_limit", 0.05, "above 1"),
        ("box_size", 1, "at least 2"),
        ("target_coord", (400.0, 0.0), "RA 0..360"),
    ],
)
def test_parameters__nonsense_is_refused(name, value, words):
    with pytest.raises(ValueError, match=words):
        ReductionParameters(**{name: value})


def test_parameters__unknown_name_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown parameters treshold; known are .*threshold"):
        config.parameters_from_mapping({"treshold": 5})


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_read_parameters__file_gives_equal_parameters(tmp_path, suffix):
    values = {"threshold": 4.0, "box_size": [16, 32], "transform_type": "translation"}
    file = tmp_path / f"parameters{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(values))
    else:
        file.write_text('threshold = 4.0\nbox_size = [16, 32]\ntransform_type = "translation"\n')
    read = config.parameters_from_mapping(config.read_parameters(file))
    assert read == ReductionParameters(threshold=4.0, box_size=(16, 32), transform_type="translation")


def test_read_parameters__broken_file_is_named(tmp_path):
    file = tmp_path / "broken.toml"
    file.write_text("threshold = = 3")
    with pytest.raises(ValueError, match=r"broken\.toml cannot be read"):
        config.read_parameters(file)


def test_parameters_hash__is_stable_and_sees_every_parameter():
    assert config.parameters_hash(ReductionParameters()) == config.parameters_hash(ReductionParameters())
    assert config.parameters_hash(ReductionParameters()) != config.parameters_hash(ReductionParameters(threshold=4))


def _scaled(image, factor=2):
    return image * factor


def test_describe__callables_differ_by_source_defaults_closure_and_bound_arguments():
    def with_closure(number):
        return lambda image: image + number

    kinds = [
        _scaled,
        functools.partial(_scaled, factor=3),
        functools.partial(_scaled, factor=4),
        with_closure(1),
        with_closure(2),
        lambda image: image,
        np.median,
        np.mean,
    ]
    hashes = [config.parameters_hash(kind) for kind in kinds]
    assert len(set(hashes)) == len(kinds)
    assert config.parameters_hash(with_closure(1)) == hashes[3]
    assert all(" at 0x" not in config.parameters_json(kind) for kind in kinds)


def test_differences__names_what_differs():
    old = config.describe(ReductionParameters())
    new = config.describe(ReductionParameters(threshold=4.0))
    assert config.differences(old, new) == ["threshold: 5.0 before, 4.0 now"]
