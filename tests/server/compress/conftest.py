"""A checkpoint of a small model that has learnt digits, and one compression of it."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedstill.common.config import DataConfig
from fedstill.common.datasets import load_dataset
from fedstill.common.models import build_model, measure_input
from fedstill.common.training import Optimisation, deterministic, fit, save_weights, shuffled_batches
from fedstill.server.compress import Budget, Request, compress_model

PLANS = ("bits=8", "prune=0.5,bits=8")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    dataset = load_dataset(DataConfig(), seed=0)
    spec = measure_input(dataset.x_train, task=dataset.task, layout=dataset.layout, scale=dataset.scale)
    batches = (
        (torch.from_numpy(dataset.x_train[index]), torch.from_numpy(dataset.y_train[index]))
        for index in shuffled_batches(len(dataset.y_train), 64, np.random.default_rng(0))
    )
    path = tmp_path_factory.mktemp("given") / "model.safetensors"
    with deterministic(0, num_threads=1):
        model = build_model("cnn-tiny", spec, num_classes=10)
        fit(
            model,
            batches,
            lambda model, batch: (functional.cross_entropy(model(batch[0]), batch[1]),),
            loss_weights=(1.0,),
            num_steps=200,
            optimisation=Optimisation(0.01, 1e-4),
        )
    save_weights(model, path)
    return path


@pytest.fixture(scope="session")
def make_request(checkpoint):
    def make(output_dir, **changes):
        values = {
            "model": str(checkpoint),
            "data": DataConfig(),
            "output_dir": output_dir,
            "plans": PLANS,
            "model_name": "cnn-tiny",
            "budget": Budget(num_epochs=2, learning_rate=3e-3),
            "latency_budget_seconds": 0.02,
        }
        return Request(**(values | changes))

    return make


@pytest.fixture(scope="session")
def compressed(make_request, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("compressed")
    return output_dir, compress_model(make_request(output_dir), say=lambda _: None)
