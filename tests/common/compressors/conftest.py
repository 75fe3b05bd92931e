"""Models compressed while they learn digits, for a second each."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedstill.common.compressors.exporting import ExportJob, export_model
from fedstill.common.compressors.recovery import make_recovery
from fedstill.common.compressors.static_int8 import fold_constants
from fedstill.common.models import build_model
from fedstill.common.onnx_export import trace_model
from fedstill.common.training import Optimisation, deterministic, fit, predict_logits, shuffled_batches


@pytest.fixture(scope="session")
def compress(digits_cnn):
    """From a plan to a model that was compressed as it says while it learnt, and its files."""
    spec, data = digits_cnn.spec, digits_cnn.dataset

    def run(plan, *, name="cnn-medium", width=0.25, num_steps=100):
        with deterministic(0, num_threads=1):
            model, design = (build_model(name, spec, num_classes=10, width=width) for _ in range(2))
        costs = []

        def measure(model):
            return float((predict_logits(model, data.x_test).argmax(1) == data.y_test).mean())

        recovery = make_recovery(plan, spec, design=design, measure=measure, costs=costs)
        batches = (
            (torch.from_numpy(data.x_train[index]), torch.from_numpy(data.y_train[index]))
            for index in shuffled_batches(len(data.y_train), 64, np.random.default_rng(0))
        )
        with deterministic(0, num_threads=1):
            fit(
                model,
                batches,
                lambda model, batch: (functional.cross_entropy(model(batch[0]), batch[1]),),
                loss_weights=(1.0,),
                num_steps=num_steps,
                optimisation=Optimisation(0.01, 1e-4),
                guest=None if recovery is None else recovery(num_steps),
            )
        graph = fold_constants(trace_model(model, spec))
        exported = export_model(ExportJob(model, graph, spec, plan, data.x_train[:128]))
        return SimpleNamespace(plan=plan, model=model, design=design, exported=exported, costs=costs)

    return run
