"""A student distilled on digits for a second, and its artefact."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedstill.common.artefact import write_artefact
from fedstill.common.compressors import make_plan
from fedstill.common.config import DataConfig
from fedstill.common.datasets import load_dataset
from fedstill.common.models import measure_input
from fedstill.common.students import StudentDesign, build_student, describe_student, export_student
from fedstill.common.training import Optimisation, deterministic, fit, shuffled_batches


@pytest.fixture(scope="session")
def digits():
    dataset = load_dataset(DataConfig(), seed=0)
    spec = measure_input(dataset.x_train, task=dataset.task, layout=dataset.layout, scale=dataset.scale)
    design = StudentDesign("cnn-tiny", 1.0, make_plan(steps="quantise"), spec, dataset.class_names)
    return SimpleNamespace(dataset=dataset, design=design)


@pytest.fixture(scope="session")
def student(digits):
    model, data = build_student(digits.design, seed=0), digits.dataset
    batches = (
        (torch.from_numpy(data.x_train[index]), torch.from_numpy(data.y_train[index]))
        for index in shuffled_batches(len(data.y_train), 32, np.random.default_rng(0))
    )
    with deterministic(0, num_threads=1):
        fit(
            model,
            batches,
            lambda model, batch: (functional.cross_entropy(model(batch[0]), batch[1]),),
            loss_weights=(1.0,),
            num_steps=300,
            optimisation=Optimisation(0.01, 1e-4),
        )
    return model


@pytest.fixture(scope="session")
def exported(student, digits):
    return export_student(student, digits.design, calibration_S=digits.dataset.x_train[:64])


@pytest.fixture(scope="session")
def manifest(student, digits, exported):
    described = describe_student(
        student, digits.design, exported, num_calibration=64, costs=[], origin={"run_id": "r"}
    )
    return described | {"split": {"seed": 0, "test_fraction": 0.2}}


@pytest.fixture
def artefact_dir(tmp_path, exported, manifest):
    write_artefact(tmp_path / "artefact", exported.model.files, manifest)
    return tmp_path / "artefact"
