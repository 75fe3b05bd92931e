"""How a plan is written and named, and which rows no other beats."""

import importlib.util

import pytest

from fedstill.common.compressors import make_plan
from fedstill.common.errors import ConfigError, UsageError
from fedstill.server.compress.plans import DEFAULT_GRID, make_grid, name_plan, parse_plan, training_part
from fedstill.server.compress.records import Row, find_front


def parse(text):
    return parse_plan(text, num_calibration=64)


def test_keys_take_their_steps():
    assert parse("prune=0.5,bits=8,runtime=executorch") == make_plan(
        steps="prune,quantise", prune_ratio=0.5, bits=8, runtime="executorch", num_calibration=64
    )
    assert parse("lowrank=0.9").steps == ("lowrank",)
    assert parse("") == parse("bits=32")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("prnue=0.5", ConfigError, "did you mean 'prune'"),
        ("prune=half", UsageError, "'half' is no value for prune; as prune=0.5"),
        ("prune=1.5", ConfigError, "prune_ratio"),
        ("bits=3", ConfigError, "bits"),
        ("bits=1,qat=perhaps", UsageError, "as qat=true"),
        ("bits=8,runtime=tflite", ConfigError, "runtime"),
        ("sparsify=0.9,lowrank=0.9,bits=8", ConfigError, "leave one out"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        parse(text)


def test_names_of_the_grid_are_distinct_and_speak():
    names = [name_plan(parse(text)) for text in DEFAULT_GRID]
    assert len(set(names)) == len(DEFAULT_GRID)
    assert name_plan(parse("prune=0.5,bits=8,runtime=executorch")) == "prune 0.5 + int8, executorch"
    assert name_plan(parse("bits=1,qat=true,storage=packed")) == "1-bit qat, packed"
    assert name_plan(parse("")) == "fp32"


def test_plans_that_differ_in_their_file_only_share_a_training():
    one, two = (training_part(parse(f"prune=0.5,bits=8,runtime={name}")) for name in ("onnx", "executorch"))
    assert one == two
    assert one != training_part(parse("prune=0.6,bits=8"))
    assert training_part(parse("bits=8")) == training_part(parse(""))
    assert training_part(parse("bits=1,qat=true")) != training_part(parse("bits=8"))


def test_a_missing_runtime_names_the_extra_if_it_was_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'fedstill\[edge\]'"):
        make_grid(["bits=8,runtime=executorch"], num_calibration=64)
    plans, notes = make_grid([], num_calibration=64)
    assert {plan.runtime for plan in plans} == {"onnx"}
    assert "fedstill[edge]" in notes[0]


def make_row(name, accuracy, size, latency):
    return Row(
        name=name,
        kind="plan",
        plan={},
        method="",
        speeds_up=True,
        runtime="onnxruntime",
        validation_accuracy=accuracy,
        accuracy=0.1,
        agreement=0.1,
        num_parameters=1,
        macs=1,
        model_bytes=size,
        artefact_bytes=size,
        peak_memory_bytes=1,
        train_seconds=0.0,
        artefact="",
        digest="",
        latency_seconds_batch1=latency,
    )


def test_the_front_is_that_worked_out_by_hand():
    rows = [
        make_row("accurate", 0.9, 100, 1.0),
        make_row("beaten in all", 0.8, 110, 1.1),
        make_row("beaten in size alone", 0.9, 101, 1.0),
        make_row("small", 0.7, 10, 1.0),
        make_row("fast", 0.6, 100, 0.1),
        make_row("twin of accurate", 0.9, 100, 1.0),
    ]
    on_front = {row.name for row in find_front(rows) if row.on_front}
    assert on_front == {"accurate", "small", "fast", "twin of accurate"}
