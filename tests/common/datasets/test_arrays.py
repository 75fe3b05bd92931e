"""Reading .npz archives."""

import numpy as np
import pytest

from fedstill.common.errors import DataError


def test_four_keys_give_both_parts(load, tmp_path, images):
    x, y = images
    np.savez(tmp_path / "d.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    dataset = load(tmp_path / "d.npz")
    assert dataset.name == "d"
    assert np.array_equal(dataset.x_train, x[:30])
    assert np.array_equal(dataset.y_test, y[30:])
    assert dataset.y_train.dtype == np.int64


def test_medmnist_validation_part_joins_the_training_part(load, tmp_path, images):
    x, y = images
    column = y[:, None].astype(np.uint8)
    np.savez_compressed(
        tmp_path / "bloodmnist.npz",
        train_images=x[:20],
        train_labels=column[:20],
        val_images=x[20:30],
        val_labels=column[20:30],
        test_images=x[30:],
        test_labels=column[30:],
    )
    dataset = load(tmp_path / "bloodmnist.npz")
    assert np.array_equal(dataset.x_train, x[:30])
    assert np.array_equal(dataset.y_train, y[:30])
    assert np.array_equal(dataset.y_test, y[30:])


def test_official_test_is_the_test_part(load, tmp_path, images):
    x, y = images
    mask = np.arange(40) % 3 == 0
    np.savez(tmp_path / "d.npz", x=x, y=y, official_test=mask, subject=np.arange(40) // 8, scale=0.5)
    dataset = load(tmp_path / "d.npz")
    assert np.array_equal(dataset.x_test, x[mask])
    assert np.array_equal(dataset.groups_train, (np.arange(40) // 8).astype(str)[~mask])
    assert dataset.scale == 0.5


def test_one_part_is_cut_by_seed_with_each_class_in_its_share(load, tmp_path, images):
    x, y = images
    np.savez(tmp_path / "d.npz", x=x, y=y)
    dataset = load(tmp_path / "d.npz", test_fraction=0.3)
    assert np.bincount(dataset.y_test).tolist() == [3, 3, 3, 3]
    assert len(dataset.y_train) == 28
    assert not np.array_equal(dataset.x_test, load(tmp_path / "d.npz", seed=1, test_fraction=0.3).x_test)


def test_cut_leaves_groups_whole(load, tmp_path, images):
    x, y = images
    np.savez(tmp_path / "d.npz", x=x, y=y, subject=np.arange(40) // 5)
    dataset = load(tmp_path / "d.npz", test_fraction=0.25)
    assert not set(dataset.groups_train) & set(dataset.groups_test)
    assert len(dataset.y_test) == 10


def test_group_column_names_another_key(load, tmp_path, images):
    x, y = images
    np.savez(tmp_path / "d.npz", x=x, y=y, hospital=np.arange(40) % 5)
    assert set(load(tmp_path / "d.npz", group_column="hospital").groups_train) <= set("01234")


def test_folder_of_two_archives_takes_its_class_names(load, tmp_path, images):
    x, y = images
    np.savez(tmp_path / "mini_train.npz", x=x[:30], y=y[:30])
    np.savez(tmp_path / "mini_test.npz", x=x[30:], y=y[30:])
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    dataset = load(tmp_path)
    assert dataset.class_names == ("ant", "bee", "cat", "dog")
    assert len(dataset.y_test) == 10


def test_text_labels_are_mapped_in_sorted_order(load, tmp_path, images):
    x, y = images
    np.savez(
        tmp_path / "d.npz", x_train=x, y_train=np.array(["d", "b", "c", "a"])[y], x_test=x, y_test=["a"] * 40
    )
    dataset = load(tmp_path / "d.npz")
    assert dataset.class_names == ("a", "b", "c", "d")
    assert dataset.y_train[:4].tolist() == [3, 1, 2, 0]
    assert set(dataset.y_test) == {0}


def bad(tmp_path, **arrays):
    np.savez(tmp_path / "d.npz", **arrays)
    return tmp_path / "d.npz"


X = np.zeros((8, 4), np.float32)
Y = np.arange(8) % 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": X, "target": Y}, r"holds features, target; expected the keys of one of these"),
        ({"x": X}, r"holds x without y"),
        ({"x_test": X, "y_test": Y}, r"no training part"),
        ({"x": X, "y": Y[:7]}, r"x holds 8 samples, but y 7 labels"),
        ({"x": X, "y": np.eye(8)}, r"one label per sample, got an array of shape \(8, 8\)"),
        ({"x": X, "y": Y + 1}, r"integer labels 0\.\.C−1 without gaps, got 1, 2"),
        ({"x": X, "y": Y * 2}, r"without gaps, got 0, 2"),
        ({"x": X, "y": Y - 1}, r"without gaps, got -1, 0"),
        ({"x": X, "y": Y + 0.5}, r"labels, got floats that are no whole numbers"),
        ({"x": X, "y": Y * 0}, r"all training samples are of one class, '0'"),
        ({"x": X + np.nan, "y": Y}, r"sample 0 holds nan at \[0\]"),
        ({"x": X.astype(complex), "y": Y}, r"numeric samples, got dtype complex128"),
        ({"x": X.astype(str), "y": Y}, r"numeric samples, got dtype <U"),
        ({"x": X[:, 0], "y": Y}, r"samples of at least one axis"),
        ({"x": X[:0], "y": Y[:0]}, r"holds no samples: its shape is \(0, 4\)"),
        ({"x": np.full((8, 2), 1e300), "y": Y}, r"up to 1e\+300 do not fit float32"),
        ({"x": X, "y": Y, "subject": Y[:5]}, r"subject has shape \(5,\), expected \(8,\)"),
        ({"x": X, "y": Y, "subject": Y * 0}, r"8 samples of one group are too few"),
        ({"x": X, "y": Y, "official_test": Y * 0}, r"official_test puts every sample into one part"),
        ({"x": X, "y": Y, "official_test": Y * 2}, r"official_test to be a mask"),
        ({"x": X, "y": Y, "scale": 0.0}, r"scale to be one positive number, got 0\.0"),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :3], "y_test": Y},
            r"training samples have shape \(4,\), test samples \(3,\)",
        ),
    ],
)
def test_bad_content_is_told_in_one_line(load, tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        load(bad(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_python_objects_are_refused(load, tmp_path):
    with pytest.raises(DataError, match="unpickled and are refused"):
        load(bad(tmp_path, x=X, y=np.array(["a", None] * 4, dtype=object)))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.98])
def test_truncated_archive_is_refused(load, tmp_path, images, share):
    path = bad(tmp_path, x=images[0], y=images[1])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="truncated"):
        load(path)


def test_flipped_byte_is_noticed(load, tmp_path, images):
    path = bad(tmp_path, x=images[0], y=images[1])
    content = bytearray(path.read_bytes())
    content[600] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"damaged: Bad CRC-32"):
        load(path)


def test_header_that_lies_about_its_shape_is_refused(load, tmp_path):
    path = bad(tmp_path, x=X, y=Y)
    path.write_bytes(path.read_bytes().replace(b"(8, 4)", b"(8, 5)"))
    with pytest.raises(DataError, match="truncated or damaged"):
        load(path)


def test_missing_group_key_names_the_nearest(load, tmp_path):
    with pytest.raises(DataError, match="did you mean 'subject'"):
        load(bad(tmp_path, x=X, y=Y, subject=Y), group_column="subjects")


def test_scales_that_differ_between_archives_are_refused(load, tmp_path):
    np.savez(tmp_path / "train.npz", x=X, y=Y, scale=0.5)
    np.savez(tmp_path / "test.npz", x=X, y=Y, scale=0.25)
    with pytest.raises(DataError, match=r"different scales: \[0\.25, 0\.5\]"):
        load(tmp_path)


def test_too_few_class_names_are_refused(load, tmp_path):
    bad(tmp_path, x=X, y=np.arange(8) % 4)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"integer labels 0\.\.1, got 0, 1, 2, 3"):
        load(tmp_path)
