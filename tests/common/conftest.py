"""A small model trained on digits for a second."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedstill.common.config import DataConfig
from fedstill.common.datasets import load_dataset
from fedstill.common.models import build_model, measure_input
from fedstill.common.training import Optimisation, deterministic, fit, shuffled_batches


@pytest.fixture(scope="session")
def digits_cnn():
    dataset = load_dataset(DataConfig(), seed=0)
    spec = measure_input(dataset.x_train, task=dataset.task, layout=dataset.layout, scale=dataset.scale)
    batches = (
        (torch.from_numpy(dataset.x_train[index]), torch.from_numpy(dataset.y_train[index]))
        for index in shuffled_batches(len(dataset.y_train), 32, np.random.default_rng(0))
    )
    with deterministic(0, num_threads=1):
        model = build_model("cnn-tiny", spec, num_classes=10)
        fit(
            model,
            batches,
            lambda model, batch: (functional.cross_entropy(model(batch[0]), batch[1]),),
            loss_weights=(1.0,),
            num_steps=400,
            optimisation=Optimisation(0.01, 1e-4),
        )
    return SimpleNamespace(model=model, spec=spec, dataset=dataset)
