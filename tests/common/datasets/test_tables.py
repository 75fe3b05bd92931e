"""Reading CSV files."""

import gzip

import numpy as np
import pytest

from fedstill.common.datasets import tables
from fedstill.common.errors import DataError

ROWS = [f"{i % 3},{i * 0.5},{-i}" for i in range(30)]


def write(path, header="label,a,b", rows=ROWS):
    text = "\n".join([header, *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["d.csv", "d.csv.gz"])
def test_numeric_columns_become_features(load, tmp_path, name):
    dataset = load(write(tmp_path / name), test_fraction=0.2)
    assert (dataset.name, dataset.task, dataset.layout) == ("d", "tabular", "F")
    assert dataset.feature_names == ("a", "b")
    assert dataset.x_train.dtype == np.float32
    assert len(dataset.y_test) == 6
    assert np.array_equal(dataset.x_train[:, 1] * -0.5, dataset.x_train[:, 0])
    assert np.array_equal(-dataset.x_train[:, 1] % 3, dataset.y_train)


def test_text_labels_are_mapped_in_sorted_order(load, tmp_path):
    rows = [f"{i},{label}" for i, label in enumerate(["setosa", "virginica", "iris one"] * 5)]
    dataset = load(write(tmp_path / "d.csv", "a,species", rows), label_column="species")
    assert dataset.class_names == ("iris one", "setosa", "virginica")
    assert np.array_equal(dataset.y_train, (dataset.x_train[:, 0].astype(int) + 1) % 3)


def test_group_column_is_no_feature_and_is_kept_whole(load, tmp_path):
    rows = [f"{i % 2},{i},site-{i % 5}" for i in range(50)]
    dataset = load(write(tmp_path / "d.csv", "label,a,site", rows), group_column="site")
    assert dataset.feature_names == ("a",)
    assert len(set(dataset.groups_train)) == 4
    assert not set(dataset.groups_train) & set(dataset.groups_test)


def test_test_columns_are_taken_in_the_order_of_the_training_part(load, tmp_path):
    write(tmp_path / "train.csv")
    write(tmp_path / "test.csv.gz", "b,label,a", ["1,0,2", "3,1,4"])
    assert load(tmp_path).x_test.tolist() == [[2, 1], [4, 3]]


def test_quotes_blank_lines_and_byte_order_mark_are_understood(load, tmp_path):
    (tmp_path / "d.csv").write_bytes(
        '\ufefflabel,a\r\n"x, y",1\r\n\r\nz,2\r\n"x, y",3\r\nz," 4"\r\n'.encode()
    )
    dataset = load(tmp_path / "d.csv", test_fraction=0.25)
    assert dataset.class_names == ("x, y", "z")
    assert sorted([*dataset.x_train[:, 0], *dataset.x_test[:, 0]]) == [1, 2, 3, 4]


def test_rows_beyond_one_chunk_are_kept_in_order(load, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK_ROWS", 7)
    dataset = load(write(tmp_path / "d.csv"))
    assert np.all(np.diff(dataset.x_train[:, 0]) > 0)


def test_flat_squares_can_be_read_as_images(load, tmp_path):
    header = "label," + ",".join(f"pixel{i}" for i in range(9))
    rows = [f"{i % 2}," + ",".join(str(i * 8 + j) for j in range(9)) for i in range(20)]
    dataset = load(write(tmp_path / "d.csv", header, rows), task="image")
    assert (dataset.layout, dataset.sample_shape, dataset.x_train.dtype) == ("HW", (3, 3), np.uint8)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("labels,a", ["0,1", "1,2"], r"no column 'label'; did you mean 'labels'\? Set data\.label_column"),
        ("label,a", ["0,1", "1,2,3"], r"line 3: expected 2 cells as in the header, got 3"),
        ("label,a", ["0,1", "1"], r"line 3: expected 2 cells as in the header, got 1"),
        ("label,a", ["0,1", "1,red"], r"line 3, column 'a': expected a number, got 'red'"),
        ("label,a", ["0,1", "1,"], r"line 3, column 'a': expected a number, got an empty cell"),
        ("label,a", ["0,1", "1,inf"], r"line 3, column 'a': expected a finite number, got 'inf'"),
        ("label,a", ["0,1", "1,nan"], r"line 3, column 'a': expected a finite number, got 'nan'"),
        ("label,a", ["0,1", "1,1e99"], r"line 3, column 'a': expected a finite number, got '1e99'"),
        ("label,a", ["0,1", ",2"], r"line 3, column 'label': the cell is empty"),
        ("label,a", [], r"has a header but no rows"),
        ("", [], r"is empty"),
        ("0,1.5", ["1,2.5"], r"has no header"),
        (",label,a", ["0,0,1", "1,1,2"], r"column 1 has no name; .*index=False"),
        ("label,a,a", ["0,1,2"], r"column 'a' appears twice"),
        ("label", ["0", "1"], r"no column of features"),
        ("label,a", ["0,1", "0,2"], r"all training samples are of one class|too few"),
        ("label,a", ["1,1", "2,2", "1,3", "2,3"], r"without gaps, got 1, 2"),
    ],
)
def test_bad_content_is_told_in_one_line(load, tmp_path, header, rows, message):
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path / "d.csv", header, rows))
    assert "\n" not in str(caught.value)


def test_truncated_gzip_is_refused(load, tmp_path):
    path = write(tmp_path / "d.csv.gz")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="truncated or damaged"):
        load(path)


def test_bytes_that_are_no_text_are_refused(load, tmp_path):
    (tmp_path / "d.csv").write_bytes(b"label,a\n0,\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        load(tmp_path / "d.csv")


def test_missing_group_column_names_the_nearest(load, tmp_path):
    rows = ["0,1,x", "1,2,y"]
    with pytest.raises(DataError, match="no column 'sites'; did you mean 'site'"):
        load(write(tmp_path / "d.csv", "label,a,site", rows), group_column="sites")


def test_test_part_that_lacks_a_column_is_refused(load, tmp_path):
    write(tmp_path / "train.csv")
    write(tmp_path / "test.csv", "label,a", ["0,1"])
    with pytest.raises(DataError, match=r"test\.csv lacks the column 'b'"):
        load(tmp_path)
