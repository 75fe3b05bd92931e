"""Models of a user's own: whatever form their answers have, logits come out."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fedstill.common.compressors.lowrank import factorise_layers
from fedstill.common.errors import ConfigError
from fedstill.common.features import compute_features
from fedstill.common.inference import open_graph
from fedstill.common.models import InputSpec, build_model
from fedstill.common.models.foreign import TakeLogits, build_own_teacher, takes_text, unwrap_logits
from fedstill.common.onnx_export import swap_weights, trace_model
from fedstill.common.training import digest_weights, load_weights, predict_logits, save_weights

SPEC = InputSpec("image", (8, 8), "uint8", "HW", 1 / 16, (0.0,), (1.0,))
LOGITS = torch.zeros(2, 3)
MODULE = """
import math
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(64, num_classes)
    def forward(self, x):
        return self.layer(x.flatten(1).float()), x

def teacher(spec, num_classes):
    return Net(num_classes)

def reader(spec, num_classes):
    return Net(num_classes)
reader.takes = "text"

def hearer(spec, num_classes):
    return Net(num_classes)
hearer.takes = "sound"

def student(spec, *, num_classes, width):
    hidden = int(8 * width)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(spec.sample_shape), hidden), nn.Linear(hidden, num_classes)
    )
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "answer",
    [
        LOGITS,
        (LOGITS, "attention"),
        [LOGITS],
        {"logits": LOGITS, "loss": None},
        OrderedDict(logits=LOGITS),
        SimpleNamespace(logits=LOGITS, hidden_states=None),
    ],
    ids=["tensor", "tuple", "list", "dict", "ordered", "object"],
)
def test_logits_are_taken_out_of_every_usual_answer(answer):
    assert TakeLogits()(answer) is LOGITS


@pytest.mark.parametrize("answer", [None, (), ("x", LOGITS), {"scores": LOGITS}, SimpleNamespace(logits=3)])
def test_an_answer_without_logits_is_told(answer):
    with pytest.raises(TypeError, match="expected logits"):
        TakeLogits()(answer)


def test_a_teacher_whose_answers_are_tensors_keeps_the_names_of_its_state():
    model = nn.Linear(3, 2)
    assert unwrap_logits(model, LOGITS) is model
    assert list(unwrap_logits(model, (LOGITS,)).state_dict()) == ["0.weight", "0.bias"]


def test_a_factory_says_that_its_teacher_takes_texts(folder: Path):
    read, other = (build_own_teacher(f"own_nets:{name}", SPEC, 3, key="k") for name in ("reader", "teacher"))
    assert takes_text(read)
    assert takes_text(unwrap_logits(read, (LOGITS,)))
    assert not takes_text(other)
    with pytest.raises(ConfigError, match=r'own_nets:hearer\.takes should be "text"'):
        build_own_teacher("own_nets:hearer", SPEC, 3, key="k")


def test_a_students_function_makes_a_teacher_too(folder: Path):
    model = build_own_teacher("own_nets:student", SPEC, 3, key="k")
    assert predict_logits(model, np.zeros((2, 8, 8), np.uint8)).shape == (2, 3)


def test_the_width_reaches_a_students_function(folder: Path):
    narrow, wide = (build_model("own_nets:student", SPEC, num_classes=3, width=width) for width in (0.5, 2.0))
    assert [model[1][0][1].out_features for model in (narrow, wide)] == [4, 16]


class Centred(nn.Module):
    """Its buffer and the result of `x.mean()` would be one name in ONNX."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3)
        self.register_buffer("mean", torch.ones(64))

    def forward(self, x):
        x = x.flatten(1).float() - self.mean
        return self.layer(x - x.mean(dim=1, keepdim=True))


def test_a_buffer_called_as_what_is_computed_is_exported_under_its_name():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, other = Centred().eval(), Centred().eval()
    other.mean.fill_(3.0)
    traced = trace_model(model, SPEC)
    assert {"mean", "layer.weight"} <= {tensor.name for tensor in traced.graph.initializer}
    x_S = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
    for candidate in (model, other):
        graph = swap_weights(traced, candidate)
        found = open_graph(graph.SerializeToString())(x_S)
        np.testing.assert_allclose(found, predict_logits(candidate, x_S), rtol=1e-4, atol=1e-4)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(8, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.narrow = nn.Linear(32, 16)
        self.head = nn.Linear(16, 3)
        # Declared last, as nothing forbids.
        self.late = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x):
        x = self.wide(x.float())
        for layer in (self.attention, self.late):
            x, _ = layer(x, x, x, need_weights=False)
        return self.head(self.narrow(x.mean(dim=1)))


def test_low_rank_and_features_leave_attention_alone():
    model = Attending().eval()
    x_S = np.ones((2, 8, 8), np.uint8)
    assert compute_features(model, x_S).shape == (2, 16)
    assert factorise_layers(model, energy=0.5, most=2)
    assert isinstance(model.attention.out_proj, nn.Linear)
    assert isinstance(model.wide, nn.Sequential)
    assert np.isfinite(predict_logits(model, x_S)).all()


def test_a_model_whose_last_linear_layer_is_not_called_has_no_features():
    holder = Centred()
    holder.unused = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="no features"):
        compute_features(holder, np.zeros((2, 8, 8), np.uint8))


class Tied(nn.Module):
    """Uses one matrix twice, and has one that it does not use."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.head, self.idle = nn.Linear(64, 3), nn.Linear(5, 5)

    def forward(self, x):
        return self.head(self.second(self.first(x.flatten(1).float() / 16)))


def test_weights_that_are_used_twice_or_never_are_saved_and_exported(tmp_path: Path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, other = Tied().eval(), Tied().eval()
    save_weights(model, tmp_path / "tied.safetensors")
    load_weights(other, tmp_path / "tied.safetensors")
    assert digest_weights(other) == digest_weights(model)
    graph = swap_weights(trace_model(Tied(), SPEC), model)
    assert not any(tensor.name.startswith("idle") for tensor in graph.graph.initializer)
    x_S = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
    found = open_graph(graph.SerializeToString())(x_S)
    np.testing.assert_allclose(found, predict_logits(model, x_S), rtol=1e-4, atol=1e-4)
