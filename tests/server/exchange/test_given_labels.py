"""Public samples go out in order, and only their own soft labels come back."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from fedstill.common.config import load_config
from fedstill.common.datasets import load_dataset, split_dataset
from fedstill.common.errors import ConfigError, UsageError
from fedstill.server.commands.public import export_public
from fedstill.server.exchange.given_labels import FLOOR, GivenLabels, digest_public, read_labels

DIGEST = "ab" * 32
LOGITS_SC = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]], np.float32)


def read(path: Path) -> GivenLabels:
    return read_labels(path, digest=DIGEST, num_samples=2, num_classes=3)


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **({"digest": np.array(DIGEST)} | arrays))
    return path


def test_public_samples_are_written_in_order_with_their_digest(tmp_path: Path) -> None:
    config = load_config(overrides=["federation.num_nodes=2"])
    export_public(config, tmp_path / "out")
    dataset = load_dataset(config.data, seed=config.seed)
    splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=config.seed)
    with np.load(tmp_path / "out" / "public.npz") as found:
        np.testing.assert_array_equal(found["x"], dataset.x_train[splits.public])
        digest = str(found["digest"])
    facts = json.loads((tmp_path / "out" / "public.json").read_text())
    assert facts == {
        "digest": digest,
        "num_samples": len(splits.public),
        "class_names": list(dataset.class_names),
    }
    assert digest == digest_public(dataset.x_train[splits.public])
    assert digest != digest_public(dataset.x_train[splits.public][::-1])


def test_public_texts_are_written_raw(tmp_path: Path) -> None:
    texts = [f'item {number}, "quoted"\nand a second line' for number in range(200)]
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["label", "text"], *((f"c{i % 2}", text) for i, text in enumerate(texts))]
        )
    config = load_config(overrides=[f"data.source={tmp_path / 'texts.csv'}", "federation.num_nodes=2"])
    export_public(config, tmp_path)
    with (tmp_path / "public.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    facts = json.loads((tmp_path / "public.json").read_text())
    assert (head, len(rows), facts["class_names"]) == (["text"], facts["num_samples"], ["c0", "c1"])
    assert {row[0] for row in rows} <= set(texts)
    assert digest_public(np.array([row[0] for row in rows], object)) == facts["digest"]


def test_a_scheme_without_public_set_has_none_to_label(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the scheme weights has no public set"):
        export_public(load_config(overrides=["federation.scheme=weights"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_logits_are_taken_as_they_are(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.npz", logits=LOGITS_SC.astype(np.float64)))
    np.testing.assert_array_equal(found.logits_SC, LOGITS_SC)
    assert found.logits_SC.dtype == np.float32
    assert found.origin != read(write(tmp_path / "b.npz", logits=LOGITS_SC + 1)).origin


def test_probabilities_become_their_logarithms(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.npz", probabilities=np.array([[0.5, 0.25, 0.25], [1, 0, 0]])))
    expected = np.log([[0.5, 0.25, 0.25], [1, FLOOR, FLOOR]])
    np.testing.assert_allclose(found.logits_SC, expected, rtol=1e-6)


@pytest.mark.parametrize("place", ["metadata", "column"])
def test_parquet_holds_one_row_per_sample(tmp_path: Path, place: str) -> None:
    columns: dict[str, Any] = {"logits": LOGITS_SC.tolist()}
    if place == "column":
        columns["digest"] = [DIGEST, DIGEST]
    table = pyarrow.table(columns)
    if place == "metadata":
        table = table.replace_schema_metadata({"digest": DIGEST})
    parquet.write_table(table, tmp_path / "labels.parquet")
    np.testing.assert_array_equal(read(tmp_path / "labels.parquet").logits_SC, LOGITS_SC)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": LOGITS_SC, "digest": np.array("cd" * 32)}, r"of another public set \(cdcdcdcdcdcd…\)"),
        ({"logits": LOGITS_SC, "digest": np.array([])}, "without a digest of its public set"),
        ({}, "expected logits or probabilities in .*, got neither"),
        ({"logits": LOGITS_SC, "probabilities": LOGITS_SC}, "got logits and probabilities"),
        ({"logits": LOGITS_SC[:1]}, r"expected logits of shape \(2, 3\) .* got float32 \(1, 3\)"),
        ({"logits": LOGITS_SC[:, :2]}, r"got float32 \(2, 2\)"),
        ({"logits": LOGITS_SC.astype(str)}, r"expected logits of shape \(2, 3\)"),
        ({"logits": LOGITS_SC * [[1.0], [np.nan]]}, "not finite in 1 of its rows, first in row 1"),
        ({"logits": LOGITS_SC.astype(np.float64) * 1e300}, "not finite in 2 of its rows, first in row 0"),
        ({"probabilities": LOGITS_SC}, "below 0, or that do not sum to 1 in 2 of its rows"),
        ({"probabilities": np.array([[0.5, 0.5, 0], [1.5, -0.5, 0]])}, "below 0, .* first in row 1"),
    ],
)
def test_other_labels_are_refused_in_one_line(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(write(tmp_path / "labels.npz", **arrays))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("teacher.labels: ")


@pytest.mark.parametrize("name", ["labels.npz", "labels.parquet"])
def test_a_file_that_is_none_of_these_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path / name}: No such file"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(b"no labels")
    with pytest.raises(ConfigError, match=r"expected .* to be an? "):
        read(tmp_path / name)


def test_rows_of_unequal_length_are_refused(tmp_path: Path) -> None:
    table = pyarrow.table({"logits": [[1.0, 2.0, 3.0], [1.0]], "digest": [DIGEST, DIGEST]})
    parquet.write_table(table, tmp_path / "labels.parquet")
    with pytest.raises(ConfigError, match="a list of equally many numbers per row"):
        read(tmp_path / "labels.parquet")


def test_parquet_without_pyarrow_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path\n"
        "from fedstill.server.exchange.given_labels import read_labels\n"
        "try:\n    read_labels(Path('labels.parquet'), digest='', num_samples=1, num_classes=2)\n"
        "except Exception as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    expected = "teacher.labels: reading Parquet takes pyarrow: pip install pyarrow, or give an .npz\n"
    assert (done.stdout, done.stderr) == (expected, "")
