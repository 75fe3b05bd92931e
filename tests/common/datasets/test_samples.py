"""Samples for a prediction: any format, labelled or not, in the order of the file."""

import contextlib
import gzip
from pathlib import Path

import numpy as np
import pytest

from fedstill.common.datasets import read_samples
from fedstill.common.errors import DataError

X = np.arange(48, dtype=np.float32).reshape(12, 4)
Y = np.arange(12) % 3


@pytest.mark.parametrize("key", ["x", "x_test", "test_images", "anything"])
def test_unlabelled_archive_is_read(tmp_path, key):
    np.savez(tmp_path / "d.npz", **{key: X})
    samples = read_samples(tmp_path / "d.npz")
    assert np.array_equal(samples.x, X)
    assert samples.y is None


def test_single_array_is_read(tmp_path):
    np.save(tmp_path / "d.npy", X)
    assert np.array_equal(read_samples(tmp_path / "d.npy").x, X)


def test_idx_images_on_their_own_are_read(tmp_path, write_idx, images):
    path = write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images[0])
    assert np.array_equal(read_samples(path).x, images[0])


def test_idx_folder_without_labels_is_read(tmp_path, write_idx, images):
    write_idx(tmp_path / "t10k-images-idx3-ubyte", images[0])
    samples = read_samples(tmp_path)
    assert np.array_equal(samples.x, images[0])
    assert samples.y is None


@pytest.mark.parametrize(
    ("split", "rows"), [("test", slice(8, 12)), ("train", slice(0, 8)), ("all", slice(0, 12))]
)
def test_split_picks_the_part(tmp_path, split, rows):
    np.savez(tmp_path / "d.npz", x_train=X[:8], y_train=Y[:8], x_test=X[8:], y_test=Y[8:])
    samples = read_samples(tmp_path / "d.npz", split=split)
    assert np.array_equal(samples.x, X[rows])
    assert np.array_equal(samples.y, Y[rows])


def test_all_of_a_masked_file_keeps_its_order(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y, official_test=np.arange(12) % 2)
    assert np.array_equal(read_samples(tmp_path / "d.npz", split="all").x, X)
    assert np.array_equal(read_samples(tmp_path / "d.npz", split="test").x, X[1::2])


@pytest.mark.parametrize("split", ["test", "train", "all"])
def test_file_without_parts_is_read_whole(tmp_path, split):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    assert len(read_samples(tmp_path / "d.npz", split=split).x) == 12


def test_training_part_that_is_not_asked_for_may_be_damaged(tmp_path, write_idx, images):
    write_idx(tmp_path / "t10k-images-idx3-ubyte", images[0])
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    assert len(read_samples(tmp_path).x) == 40


def test_csv_columns_are_taken_by_name_and_others_left_out(tmp_path):
    (tmp_path / "d.csv").write_text("id,b,a\nrow one,1,2\nrow two,3,4\n")
    samples = read_samples(tmp_path / "d.csv", feature_names=("a", "b"))
    assert samples.x.tolist() == [[2, 1], [4, 3]]
    assert samples.y is None


def test_csv_label_is_no_feature(tmp_path):
    (tmp_path / "d.csv").write_text("kind,a\ncat,1\nant,2\n")
    samples = read_samples(tmp_path / "d.csv", label_column="kind", class_names=("ant", "bee", "cat"))
    assert samples.x.tolist() == [[1], [2]]
    assert samples.y.tolist() == [2, 0]


def test_label_of_no_class_is_refused(tmp_path):
    (tmp_path / "d.csv").write_text("label,a\ncat,1\nemu,2\n")
    with pytest.raises(DataError, match="labels emu are none of the classes ant, cat"):
        read_samples(tmp_path / "d.csv", class_names=("ant", "cat"))


def test_missing_feature_names_the_nearest(tmp_path):
    (tmp_path / "d.csv").write_text("label,weigth\n0,1\n")
    with pytest.raises(DataError, match=r"lacks the column 'weight' .* did you mean 'weigth'"):
        read_samples(tmp_path / "d.csv", feature_names=("weight",))


def test_labels_of_one_class_will_do(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y * 0 + 2)
    assert set(read_samples(tmp_path / "d.npz", class_names=("a", "b", "c")).y) == {2}


def test_flat_samples_are_brought_to_the_models_shape(tmp_path):
    np.save(tmp_path / "d.npy", X)
    assert read_samples(tmp_path / "d.npy", expected_shape=(2, 2)).x.shape == (12, 2, 2)


@pytest.mark.parametrize("expected", [(5,), (2, 3), (28, 28)])
def test_other_shape_is_refused_with_both(tmp_path, expected):
    np.save(tmp_path / "d.npy", X)
    with pytest.raises(DataError, match=r"expected samples of shape \(.*\), got \(4,\)"):
        read_samples(tmp_path / "d.npy", expected_shape=expected)


def test_samples_are_cast_to_the_models_dtype(tmp_path):
    np.save(tmp_path / "d.npy", X.astype(np.int64))
    assert read_samples(tmp_path / "d.npy", expected_dtype="uint8").x.dtype == np.uint8


def test_values_outside_the_models_dtype_are_refused(tmp_path):
    np.save(tmp_path / "d.npy", X * 100)
    with pytest.raises(DataError, match="expected uint8, got values from 0 to 4700"):
        read_samples(tmp_path / "d.npy", expected_dtype="uint8")


def test_missing_training_part_is_told(tmp_path):
    np.savez(tmp_path / "d.npz", x_test=X)
    with pytest.raises(DataError, match="no training part; ask for the split test or all"):
        read_samples(tmp_path / "d.npz", split="train")


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="unknown split 'val'; known: test, train, all"):
        read_samples(tmp_path, split="val")


@pytest.mark.parametrize("name", ["d.npz", "d.npy", "d-idx3-ubyte", "d.csv", "d.csv.gz"])
def test_damage_ends_in_a_data_error_or_in_samples(tmp_path, write_idx, images, name):
    path = tmp_path / name
    if name.endswith("ubyte"):
        write_idx(path, images[0])
    elif ".csv" in name:
        text = "label,a,b\n" + "\n".join(f"{i % 3},{i},{i}" for i in range(40))
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    else:
        (np.save if name.endswith("npy") else np.savez)(path, X)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, min(len(damaged), 200), size=3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(DataError):
            read_samples(path)


def test_pickled_array_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="unpickled and are refused"):
        read_samples(tmp_path / "d.npy")


@pytest.mark.parametrize("split", ["test", "train"])
def test_built_in_set_is_cut_as_it_was_for_training(load, split):
    pytest.importorskip("sklearn")
    dataset = load("digits", seed=3)
    samples = read_samples(Path("digits"), split=split, seed=3)
    assert np.array_equal(samples.x, dataset.x_test if split == "test" else dataset.x_train)
    assert np.array_equal(samples.y, dataset.y_test if split == "test" else dataset.y_train)


def test_real_test_part_is_read_in_its_order(load, real_data):
    dataset = load(real_data / "uci_har")
    samples = read_samples(real_data / "uci_har", expected_shape=(9, 128), expected_dtype="int16")
    assert np.array_equal(samples.x, dataset.x_test)
    assert np.array_equal(samples.y, dataset.y_test)
