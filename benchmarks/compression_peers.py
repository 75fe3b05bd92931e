"""Plain use of torchao, ONNX Runtime and Torch-Pruning: what their first pages say, nothing tuned."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch_pruning
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from torch import nn

from fedstill.common.compressors import CompressionPlan, without_compression
from fedstill.common.inference import measure_latency, open_graph
from fedstill.common.onnx_export import trace_model
from fedstill.common.training import load_weights, save_weights
from fedstill.server.compress.given import export_graph, predict_all
from fedstill.server.compress.plans import training_part
from fedstill.server.compress.records import Budget, Material
from fedstill.server.compress.training import train_plan

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Peer:
    """One way of using a library, measured."""

    name: str
    accuracy: float
    num_bytes: int
    latency_seconds_batch1: float
    latency_seconds_batch64: float

    def to_json(self) -> dict[str, Any]:
        """Lists the fields as JSON has them."""
        return asdict(self)


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, x_S: np.ndarray) -> None:
        self._feeds = iter([{name: x_S[start : start + 64]} for start in range(0, len(x_S), 64)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def measure_peers(
    model: nn.Module, material: Material, budget: Budget, *, folder: Path, num_threads: int
) -> list[Peer]:
    """Measures every peer in this process, one thread."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    peers = [_measure("torch eager fp32", _eager(model), _state_bytes(model), material)]
    peers += _torchao(model, material)
    peers += _onnxruntime(model, material)
    peers += _torch_pruning(model, material, budget, folder=folder, num_threads=num_threads)
    return peers


def _measure(name: str, predict: Any, num_bytes: int, material: Material) -> Peer:
    x_S, y_S = material.dataset.x_test, material.dataset.y_test
    accuracy = float(np.mean(predict_all(predict, x_S, batch_size=64).argmax(axis=1) == y_S))
    one, many = (measure_latency(predict, x_S, batch_size=size) for size in (1, 64))
    return Peer(name, accuracy, num_bytes, one, many)


def _eager(model: nn.Module) -> Predict:
    model.eval()

    def predict(x_S: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits: np.ndarray = model(torch.from_numpy(x_S)).numpy()
            return logits

    return predict


def _state_bytes(model: nn.Module) -> int:
    total = 0
    for value in model.state_dict().values():
        names = value.__tensor_flatten__()[0] if hasattr(value, "__tensor_flatten__") else ()
        parts = [getattr(value, name) for name in names] or [value]
        total += sum(part.numel() * part.element_size() for part in parts if isinstance(part, torch.Tensor))
    return total


def _torchao(model: nn.Module, material: Material) -> list[Peer]:
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        quantize_,
    )

    peers = []
    for name, config in (
        ("torchao int8 weights (eager)", Int8WeightOnlyConfig()),
        ("torchao int8 dynamic (eager)", Int8DynamicActivationInt8WeightConfig()),
    ):
        quantised = copy.deepcopy(model)
        quantize_(quantised, config)
        peers.append(_measure(name, _eager(quantised), _state_bytes(quantised), material))
    return peers


def _onnxruntime(model: nn.Module, material: Material) -> list[Peer]:
    peers = []
    with tempfile.TemporaryDirectory(prefix="fedstill-peers-") as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(trace_model(model, material.spec), source)
        name = onnx.load(source).graph.input[0].name
        recipes: list[tuple[str, Callable[[], None]]] = [
            (
                "ONNX Runtime static int8, defaults",
                lambda: quantize_static(source, target, _Samples(name, material.calibration_S)),
            ),
            ("ONNX Runtime dynamic int8, defaults", lambda: quantize_dynamic(source, target)),
        ]
        for title, quantise in recipes:
            quantise()
            content = target.read_bytes()
            peers.append(_measure(title, open_graph(content), len(content), material))
    return peers


def _torch_pruning(
    model: nn.Module, material: Material, budget: Budget, *, folder: Path, num_threads: int
) -> list[Peer]:
    spec, weights = material.spec, folder / "torch_pruning.safetensors"
    example = torch.zeros((2, *spec.sample_shape), dtype=getattr(torch, spec.dtype))
    pruned = copy.deepcopy(model).eval()
    head = [module for module in pruned.modules() if isinstance(module, nn.Linear)][-1]
    torch_pruning.pruner.MagnitudePruner(
        pruned,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[head],
    ).step()
    peers = []
    for title in ("Torch-Pruning 50 %, not trained on", "Torch-Pruning 50 %, fine-tuned on labels"):
        graph = export_graph(pruned, spec).SerializeToString()
        peers.append(_measure(f"{title}, ORT fp32", open_graph(graph), len(graph), material))
        if weights.exists():
            load_weights(pruned, weights)
        elif "not" in title:
            plan = training_part(without_compression(CompressionPlan()))
            logits = np.zeros((len(material.train), material.dataset.num_classes), np.float32)
            pruned = train_plan(pruned, plan, material, logits, budget, seed=0, num_threads=num_threads)
            torch.set_num_threads(1)
            folder.mkdir(parents=True, exist_ok=True)
            save_weights(pruned, weights)
    return peers
