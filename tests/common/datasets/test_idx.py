"""Reading IDX files."""

import numpy as np
import pytest

from fedstill.common.datasets.idx import read_idx
from fedstill.common.errors import DataError


def write_folder(folder, write_idx, images, *, suffix=""):
    x, y = images
    labels = y.astype(np.uint8)
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", x[:30])
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", labels[:30])
    write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", x[30:])
    write_idx(folder / f"t10k-labels-idx1-ubyte{suffix}", labels[30:])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_folder_gives_both_parts(load, tmp_path, write_idx, images, suffix):
    write_folder(tmp_path, write_idx, images, suffix=suffix)
    dataset = load(tmp_path)
    assert (dataset.task, dataset.layout, dataset.sample_shape) == ("image", "HW", (6, 6))
    assert np.array_equal(dataset.x_train, images[0][:30])
    assert np.array_equal(dataset.y_test, images[1][30:])


def test_folder_without_test_files_is_cut_by_seed(load, tmp_path, write_idx, images):
    write_folder(tmp_path, write_idx, images)
    for path in tmp_path.glob("t10k-*"):
        path.unlink()
    assert len(load(tmp_path).y_test) == 6


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_big_endian_values_are_read(tmp_path, write_idx, dtype):
    values = np.arange(12).reshape(3, 4).astype(dtype) * 9
    read = read_idx(write_idx(tmp_path / "a-idx2-ubyte", values))
    assert read.dtype == dtype
    assert np.array_equal(read, values)


def test_foreign_magic_number_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"\x89PNG....")
    with pytest.raises(DataError, match="no IDX file: its magic number is 89504e47"):
        read_idx(path)


def test_empty_file_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="magic number is missing"):
        read_idx(path)


def test_short_header_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(DataError, match="ends inside its header"):
        read_idx(path)


@pytest.mark.parametrize(("change", "came"), [(-5, "67 came"), (5, "more came")])
def test_wrong_length_is_refused(tmp_path, write_idx, change, came):
    path = write_idx(tmp_path / "a-idx3-ubyte", np.ones((2, 6, 6), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(DataError, match=f"should hold 72 bytes for shape .*, but {came}"):
        read_idx(path)


def test_truncated_gzip_is_refused(tmp_path, write_idx, images):
    path = write_idx(tmp_path / "a-idx3-ubyte.gz", images[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or damaged"):
        read_idx(path)


def test_file_that_is_no_gzip_is_refused(tmp_path):
    path = tmp_path / "a-idx3-ubyte.gz"
    path.write_bytes(b"plain")
    with pytest.raises(DataError, match="Not a gzipped file"):
        read_idx(path)


def test_missing_labels_are_named(load, tmp_path, write_idx, images):
    write_folder(tmp_path, write_idx, images)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-images-idx3-ubyte has no file of labels"):
        load(tmp_path)


def test_labels_of_other_length_are_refused(load, tmp_path, write_idx, images):
    write_folder(tmp_path, write_idx, images)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(DataError, match="expected one label per sample, got 3 for 10"):
        load(tmp_path)


def test_one_file_points_to_its_folder(load, tmp_path, write_idx, images):
    write_folder(tmp_path, write_idx, images)
    with pytest.raises(DataError, match="name its folder"):
        load(tmp_path / "train-images-idx3-ubyte")
