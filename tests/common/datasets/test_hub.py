"""`hf:` sources: what the library saved locally is read by the very code that reads the hub."""

import sys

import numpy as np
import pytest

from fedstill.common.config import DataConfig, load_config
from fedstill.common.datasets import absolute_source, load_dataset, read_samples
from fedstill.common.errors import DataError

datasets = pytest.importorskip("datasets", exc_type=ImportError)
federated = pytest.importorskip("flwr_datasets", exc_type=ImportError)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def save(folder, features=None, *, test=True, **columns):
    folder.mkdir()
    for split in ("train", "test") if test else ("train",):
        saved = datasets.Dataset.from_dict(columns, features=features)
        saved.to_parquet(folder / f"{split}.parquet")
    return f"hf:{folder}"


def load(source, **keys):
    return load_dataset(DataConfig(source=source, **keys), seed=0)


def test_texts_with_named_classes(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sport", "trade"])}
    )
    source = save(tmp_path / "news", features, text=["a goal", "shares fell", "a match"], label=[0, 1, 0])
    dataset = load(source)
    assert (dataset.name, dataset.task) == ("news", "text")
    assert dataset.class_names == ("sport", "trade")
    assert dataset.x_train.tolist() == ["a goal", "shares fell", "a match"]
    assert dataset.y_train.tolist() == [0, 1, 0]
    assert len(dataset.x_test) == 3


def test_images_are_decoded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3)).astype(np.uint8)
    features = datasets.Features(
        {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    from PIL import Image

    images = [Image.fromarray(image) for image in pixels]
    dataset = load(save(tmp_path / "pets", features, img=images, fine_label=[0, 1] * 3))
    assert (dataset.task, dataset.layout, dataset.x_train.dtype) == ("image", "HWC", np.uint8)
    np.testing.assert_array_equal(dataset.x_train, pixels)


def test_arrays_are_series_and_groups_are_kept(tmp_path):
    waves = np.random.default_rng(0).normal(size=(6, 3, 20)).astype(np.float32)
    features = datasets.Features(
        {
            "signal": datasets.Array2D((3, 20), "float32"),
            "activity": datasets.Value("string"),
            "person": datasets.Value("int64"),
        }
    )
    source = save(
        tmp_path / "walks", features, signal=waves, activity=["sit", "go"] * 3, person=[1, 1, 2, 2, 3, 3]
    )
    dataset = load(source, label_column="activity", group_column="person")
    assert (dataset.task, dataset.layout) == ("series", "CT")
    np.testing.assert_array_equal(dataset.x_train, waves)
    assert dataset.class_names == ("go", "sit")
    assert dataset.groups_train.tolist() == ["1", "1", "2", "2", "3", "3"]


def test_columns_of_numbers_are_a_table(tmp_path):
    source = save(tmp_path / "table", age=[1, 2, 3, 4], height=[0.5, 1.5, 2.5, 3.5], label=["a", "b"] * 2)
    dataset = load(source)
    assert (dataset.task, dataset.feature_names) == ("tabular", ("age", "height"))
    assert dataset.x_train.tolist() == [[1, 0.5], [2, 1.5], [3, 2.5], [4, 3.5]]


def test_one_file_is_cut_by_seed_and_sequences_are_told_by_their_name(tmp_path):
    save(tmp_path / "dna", sequence=["ACGT", "GGCA"] * 10, label=[0, 1] * 10, test=False)
    dataset = load(f"hf:{tmp_path}/dna/train.parquet")
    assert dataset.task == "sequence"
    assert (len(dataset.x_train), len(dataset.x_test)) == (16, 4)


def test_samples_to_predict_are_read_from_the_same_source(tmp_path):
    source = save(tmp_path / "table", age=[1, 2, 3, 4], label=[0, 1, 0, 1])
    samples = read_samples(source, split="test")
    assert samples.x.tolist() == [[1], [2], [3], [4]]
    assert samples.y.tolist() == [0, 1, 0, 1]


def test_a_relative_path_means_the_same_on_every_node(tmp_path, monkeypatch):
    save(tmp_path / "table", age=[1, 2], label=[0, 1])
    monkeypatch.chdir(tmp_path)
    assert absolute_source("hf:table") == f"hf:{tmp_path}/table"
    assert absolute_source("hf:ylecun/mnist") == "hf:ylecun/mnist"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "topic": ["b"]}, "expected a column 'label' with the class, got text, topic"),
        (
            {"image_a": [[1, 2]], "image_b": [[3, 4]], "label": [0]},
            "one column of arrays, got image_a, image_b",
        ),
        ({"label": [0]}, "expected images, arrays, text or numbers, got label"),
        ({"signal": [[1, 2], [3]], "label": [0, 1]}, r"samples of one shape, got \(1,\), \(2,\)"),
        ({"age": [1, 2], "label": [0, -1]}, r"1 samples have no class \(-1\)"),
    ],
)
def test_columns_that_cannot_be_told_apart_are_named(columns, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load(save(tmp_path / "odd", **columns))


def test_a_split_that_is_neither_train_nor_test_is_refused(tmp_path):
    (tmp_path / "odd").mkdir()
    datasets.Dataset.from_dict({"age": [1], "label": [0]}).to_parquet(tmp_path / "odd" / "validation.parquet")
    with pytest.raises(DataError, match="expected a split named train or test, got validation"):
        load(f"hf:{tmp_path}/odd")


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"the hub cannot be reached from here; .* save it as Parquet"):
        load("hf:ylecun/mnist")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    with pytest.raises(DataError, match="pip install 'fedstill\\[datasets\\]'"):
        load("hf:ylecun/mnist")


def test_what_no_format_fits_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(DataError, match=r"expected a folder or one of \*.parquet"):
        load(f"hf:{tmp_path}/notes.txt")


def test_the_configuration_takes_it():
    assert load_config(overrides=["data.source=hf:ylecun/mnist"]).data.source == "hf:ylecun/mnist"


def test_a_package_that_does_not_load_tells_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "flwr_datasets").mkdir()
    (tmp_path / "flwr_datasets" / "__init__.py").write_text(
        "raise ImportError('libarrow.so.1900 is too old')"
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "flwr_datasets"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"does not load here: libarrow\.so\.1900 is too old") as caught:
        load("hf:ylecun/mnist")
    assert "install" not in str(caught.value)


@pytest.mark.parametrize("named", ["people.parquet", "."])
def test_parquet_without_the_prefix_is_told_of_it(tmp_path, named):
    datasets.Dataset.from_dict({"age": [1], "label": [0]}).to_parquet(tmp_path / "people.parquet")
    source = str(tmp_path / named)
    with pytest.raises(DataError, match=f"write hf:{tmp_path}"):
        load(source)
