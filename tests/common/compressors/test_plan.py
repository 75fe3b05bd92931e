"""A plan has one form, travels whole, and contradictions are refused in one line."""

import dataclasses

import pytest

from fedstill.common.compressors import CompressionPlan, make_plan, without_compression
from fedstill.common.compressors.plan import parse_pattern, parse_steps
from fedstill.common.config import load_config
from fedstill.common.errors import ConfigError
from fedstill.common.wire import plan_from_proto, plan_to_proto


def test_the_default_configuration_is_static_int8():
    assert load_config().compress.plan == CompressionPlan() == make_plan(steps="quantise")
    assert (CompressionPlan().bits, CompressionPlan().runtime, CompressionPlan().storage) == (
        8,
        "onnx",
        "plain",
    )


def test_both_spellings_are_one_step():
    assert (
        parse_steps("prune, lowrank,quantize")
        == ("prune", "lowrank", "quantise")
        == parse_steps("prune,lowrank,quantise")
    )


def test_no_steps_are_no_compression():
    assert (
        make_plan(steps="") == make_plan(steps="quantise", bits=32) == without_compression(CompressionPlan())
    )
    assert make_plan(steps="").bits == 32


def test_what_no_step_uses_does_not_make_plans_differ():
    assert make_plan(steps="quantise", prune_ratio=0.7, sparsity=0.3, energy=0.2) == make_plan(
        steps="quantise"
    )
    assert make_plan(steps="prune", prune_ratio=0.7) != make_plan(steps="prune")


@pytest.mark.parametrize(
    ("steps", "changes"), [("", False), ("quantise", False), ("prune,quantise", True), ("lowrank", True)]
)
def test_a_plan_says_whether_it_changes_training(steps, changes):
    assert make_plan(steps=steps).changes_training is changes


def test_training_for_few_bits_changes_training():
    assert make_plan(steps="quantise", bits=1, qat=True).changes_training
    assert not make_plan(steps="quantise", bits=1).changes_training


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": "quantise,prune"}, "expected the order prune,quantise, got quantise,prune"),
        ({"steps": "prune,prune"}, "each step once"),
        ({"steps": "prunes"}, "did you mean 'prune'"),
        ({"steps": "sparsify,lowrank"}, "leave one out"),
        ({"steps": "sparsify", "pattern": "4:2"}, "n below m"),
        ({"steps": "sparsify", "pattern": "2of4"}, "n below m"),
        ({"steps": "sparsify,quantise", "bits": 1}, "hold no zeros"),
        ({"steps": "quantise", "bits": 16}, "one of 32, 8, 4, 1, got 16"),
        ({"steps": "quantise", "bits": 8, "qat": True}, "of 4 or 1, got 8"),
        ({"steps": "quantise", "runtime": "executorch", "storage": "packed"}, "runs plain files"),
        ({"steps": "quantise", "runtime": "executorch", "bits": 4}, "runs plain files"),
        ({"steps": "prune", "prune_ratio": 1.0}, "above 0 and below 1"),
        ({"steps": "prune", "importance": "taylors"}, "did you mean 'taylor'"),
        ({"steps": "lowrank", "energy": 0.0}, "above 0 and at most 1"),
        ({"steps": "quantise", "storage": "zip"}, "unknown compress.storage 'zip'"),
    ],
)
def test_contradictions_are_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as raised:
        make_plan(**values)
    assert "\n" not in str(raised.value)


def test_the_configuration_refuses_what_a_plan_refuses():
    with pytest.raises(ConfigError, match="expected the order prune,quantise"):
        load_config(overrides=['compress.steps=["quantise", "prune"]'])


def test_features_are_compared_at_one_width():
    with pytest.raises(ConfigError, match="compares features of one width"):
        load_config(overrides=["distill.loss=hint", "compress.steps=prune,quantise"])


@pytest.mark.parametrize(("text", "expected"), [("unstructured", None), ("2:4", (2, 4)), ("1:16", (1, 16))])
def test_patterns_are_read(text, expected):
    assert parse_pattern(text) == expected


def test_a_plan_travels_whole():
    plan = make_plan(
        steps="prune,lowrank,quantise",
        prune_ratio=0.25,
        importance="taylor",
        energy=0.75,
        rank=12,
        bits=4,
        group_size=64,
        storage="packed",
        num_calibration=7,
        qat=True,
    )
    message = plan_to_proto(plan, model="cnn-tiny", width=0.5)
    assert (message.model, message.width) == ("cnn-tiny", 0.5)
    assert plan_from_proto(type(message).FromString(message.SerializeToString())) == plan


def test_json_holds_every_field():
    assert set(make_plan(steps="prune").to_json()) == {
        field.name for field in dataclasses.fields(CompressionPlan)
    }
