"""Parameters: validation, files, identity."""

from __future__ import annotations

import functools
import inspect
import json
import re

import numpy as np
import pytest

import opticam_dask as opticam
from opticam_dask import identities
from opticam_dask.api.watch import Watch
from opticam_dask.cli.parser import build_parser
from opticam_dask.cluster.cluster_settings import ClusterSettings
from opticam_dask.parameters import (
    CHANGES,
    CLUSTER,
    EXECUTION,
    PHOTOMETRY,
    REDUCTION,
    SIMULATION,
    WATCH,
    ReductionParameters,
    parameters_from_mapping,
    read_parameters,
)
from opticam_dask.result_parameters import (
    DIFFERENTIAL,
    ECLIPSE,
    FITTED_CURVES,
    MAGNITUDES,
    SHOWING,
    SINUSOID,
    SUBMISSION,
    TRANSIT,
)

#: Tables of what is made of light curves.
OF_RESULTS = (FITTED_CURVES, TRANSIT, ECLIPSE, SINUSOID, MAGNITUDES, SUBMISSION)


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
        parameters_from_mapping({"treshold": 5})


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_read_parameters__file_gives_equal_parameters(tmp_path, suffix):
    values = {"threshold": 4.0, "box_size": [16, 32], "transform_type": "translation"}
    file = tmp_path / f"parameters{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(values))
    else:
        file.write_text('threshold = 4.0\nbox_size = [16, 32]\ntransform_type = "translation"\n')
    read = parameters_from_mapping(read_parameters(file))
    assert read == ReductionParameters(threshold=4.0, box_size=(16, 32), transform_type="translation")


def test_read_parameters__broken_file_is_named(tmp_path):
    file = tmp_path / "broken.toml"
    file.write_text("threshold = = 3")
    with pytest.raises(ValueError, match=r"broken\.toml cannot be read"):
        read_parameters(file)


def test_parameters_hash__is_stable_and_sees_every_parameter():
    assert identities.parameters_hash(ReductionParameters()) == identities.parameters_hash(ReductionParameters())
    assert identities.parameters_hash(ReductionParameters()) != identities.parameters_hash(
        ReductionParameters(threshold=4)
    )


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
    hashes = [identities.parameters_hash(kind) for kind in kinds]
    assert len(set(hashes)) == len(kinds)
    assert identities.parameters_hash(with_closure(1)) == hashes[3]
    assert all(" at 0x" not in identities.parameters_json(kind) for kind in kinds)


def test_differences__names_what_differs():
    old = identities.describe(ReductionParameters())
    new = identities.describe(ReductionParameters(threshold=4.0))
    assert identities.differences(old, new) == ["threshold: 5.0 before, 4.0 now"]


#: What people call with parameters, the tables that these stand in, and defaults that differ for a reason.
CALLS = (
    (opticam.Reducer, (REDUCTION, EXECUTION), ()),
    (opticam.Reducer.create_catalogs, (REDUCTION, CHANGES), ()),
    (opticam.AperturePhotometer, (PHOTOMETRY,), ()),
    (opticam.connect, (CLUSTER, EXECUTION), ()),
    (ClusterSettings, (CLUSTER,), ("cluster",)),  # what it follows from was looked at when settings are made
    (opticam.relative_light_curve, (DIFFERENTIAL,), ("key",)),  # a light curve is of one camera
    (opticam.fit_transit, (TRANSIT,), ()),
    (opticam.fit_eclipse, (ECLIPSE,), ()),
    (opticam.fit_sinusoid, (SINUSOID,), ()),
    (opticam.magnitudes, (MAGNITUDES,), ("key",)),
    (opticam.write_submission, (SUBMISSION,), ()),
    (opticam.generate_observations, (SIMULATION,), ()),
    (opticam.generate_flats, (SIMULATION,), ()),
    (opticam.generate_gappy_observations, (SIMULATION,), ("n_images",)),  # as in the opticam package
    (opticam.write_report, (SHOWING,), ()),
    (opticam.browse, (SHOWING,), ("label",)),  # the first label there is, where it is not aperture
    (Watch, (WATCH,), ()),
)


def _held():
    for call, tables, apart in CALLS:
        for name, parameter in inspect.signature(call).parameters.items():
            for table in tables:
                if name in table:
                    yield pytest.param(call, parameter, table[name], name in apart, id=f"{call.__qualname__}-{name}")


@pytest.mark.parametrize(("call", "parameter", "entry", "is_apart"), list(_held()))
def test_signatures_and_docstrings__say_what_stands_in_parameters(call, parameter, entry, is_apart):
    if not is_apart and not entry.is_required:
        assert parameter.default == entry.default
    text = re.split(r"\n *(?:Returns|Raises|Attributes)\n *-+\n", inspect.getdoc(call) or "")[0]
    found = re.search(rf"^{parameter.name} : [^\n]*\n((?:    [^\n]*\n?)+)", text, flags=re.MULTILINE)
    if found:
        assert " ".join(found[1].split()).replace("`", "").startswith(entry.sentence), (
            f"the docstring must say: {entry.sentence}"
        )


def _out_of_range(entry):
    """A value that no parameter of this range may have."""
    if entry.choices:
        return "nothing of the kind"
    if entry.above is not None:
        return entry.kind(entry.above)
    return entry.kind(entry.least - 1) if entry.least is not None else entry.kind(entry.most + 1)


@pytest.mark.parametrize(
    ("call", "name", "entry"),
    [
        pytest.param(call, parameter.name, entry, id=f"{call.__qualname__}-{parameter.name}")
        for call, parameter, entry, _ in (one.values for one in _held())
        if entry.range_text and entry.n_values != "+"
    ],
)
def test_calls__refuse_values_out_of_range_before_anything_else_is_done(call, name, entry):
    others = {
        one.name: None
        for one in inspect.signature(call).parameters.values()
        if one.default is one.empty and one.name != name and one.kind is one.POSITIONAL_OR_KEYWORD
    }
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        call(**others, **{name: _out_of_range(entry)})


def test_command_line__has_every_parameter_with_its_meaning_default_and_choices():
    parsers = next(action for action in build_parser()._actions if action.dest == "command").choices
    places = (
        ("reduce", (REDUCTION, PHOTOMETRY, EXECUTION, CHANGES, CLUSTER)),
        ("watch", (REDUCTION, WATCH)),
        ("lightcurve", (DIFFERENTIAL,)),
        ("fit-transit", (FITTED_CURVES, TRANSIT)),
        ("fit-eclipse", (FITTED_CURVES, ECLIPSE)),
        ("fit-sinusoid", (FITTED_CURVES, SINUSOID)),
        ("magnitudes", (MAGNITUDES,)),
        ("submit", (SUBMISSION,)),
        ("generate", (SIMULATION,)),
        ("plot", ({name: SHOWING[name] for name in ("label", "targets")},)),
        ("report", ({"n_sources": SHOWING["n_sources"]},)),
        ("browse", ({"port": SHOWING["port"]},)),
        ("status", ({"problems": SHOWING["problems"]},)),
    )
    for command, tables in places:
        options = parsers[command]._option_string_actions
        for name, entry in ((name, entry) for table in tables for name, entry in table.items()):
            option = options[f"--{name.replace('_', '-')}"]
            assert (option.dest, option.help) == (name, entry.help)
            assert all(options[alias] is option for alias in entry.aliases)
            assert option.default in (None, list(entry.default) if isinstance(entry.default, tuple) else entry.default)


def test_configuration_file__takes_every_parameter_of_a_reduction():
    values = {name: entry.default for name, entry in REDUCTION.items()}
    assert parameters_from_mapping(values) == ReductionParameters()
    assert list(inspect.signature(ReductionParameters).parameters) == list(REDUCTION)


def test_every_parameter__has_a_sentence_and_a_default_in_its_range():
    for table in (
        REDUCTION,
        PHOTOMETRY,
        EXECUTION,
        CHANGES,
        CLUSTER,
        WATCH,
        DIFFERENTIAL,
        SIMULATION,
        SHOWING,
        *OF_RESULTS,
    ):
        for name, entry in table.items():
            assert entry.sentence[0].isupper(), name
            assert not entry.sentence.endswith("."), name
            if entry.kind is not bool and entry.default is not None and entry.default != ():
                entry.check(name, entry.default[0] if isinstance(entry.default, tuple) else entry.default)
