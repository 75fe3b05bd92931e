"""Generated files are what their sources would generate now."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from docs.writers import PAGES
from docs.writers.__main__ import FOLDER as REFERENCE
from fedstill.common.config import CONFIG_SCHEMA_PATH, config_schema
from fedstill.protos.generate import ROOT, generate
from fedstill.server.generate import PYPROJECT, pyproject_with_config
from fedstill.server.run.summary import SCHEMA_PATH, json_schema


def test_flower_config_in_pyproject_is_the_schemas() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    assert pyproject_with_config(text) == text, "run `make generate`"


def test_flower_config_holds_scalars_only() -> None:
    table = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    assert table
    assert all(isinstance(value, bool | int | float | str) for value in table.values())


def test_summary_schema_is_the_models() -> None:
    assert SCHEMA_PATH.read_text(encoding="utf-8") == json_schema(), "run `make generate`"


def test_configuration_schema_is_the_models() -> None:
    assert CONFIG_SCHEMA_PATH.read_text(encoding="utf-8") == config_schema(), "run `make generate`"


@pytest.mark.parametrize("name", PAGES)
def test_reference_page_is_the_codes(name: str) -> None:
    assert (REFERENCE / f"{name}.md").read_text(encoding="utf-8") == PAGES[name](), "run `make generate`"


def test_no_reference_page_is_left_over() -> None:
    assert {path.stem for path in REFERENCE.iterdir()} == set(PAGES)


def test_protobuf_code_is_the_protos(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*"))
    assert fresh
    for path in fresh:
        assert (ROOT / path).read_bytes() == (tmp_path / path).read_bytes(), f"{path}: run `make generate`"


@pytest.mark.parametrize("name", ["labels_pb2_grpc.py", "fleet_pb2.pyi"])
def test_generation_writes_services_and_stubs(tmp_path: Path, name: str) -> None:
    generate(tmp_path)
    assert (tmp_path / "fedstill" / "protos" / "fedstill" / "v1" / name).exists()
