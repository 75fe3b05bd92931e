"""What `import fedstill` offers: these names, documented, and nothing heavy before one is asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import fedstill

PUBLIC = {
    "AGGREGATORS", "ArtefactError", "CODECS", "Config", "ConfigError", "DATASETS", "DataError",
    "FEATURE_LOSSES", "FedDistill", "FedStillError", "LOSSES", "MODELS", "OpenArtefact", "PARTITIONERS",
    "RUNTIMES", "Run", "RunError", "SCHEMES", "UsageError", "__version__", "compare", "compress", "errors",
    "events", "open_artefact", "plan", "read_run", "simulate",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert set(fedstill.__all__) == PUBLIC
    assert set(dir(fedstill)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_public_name_is_documented(name: str) -> None:
    found = getattr(fedstill, name)
    text = inspect.getdoc(
        found if inspect.isroutine(found) or isinstance(found, type | ModuleType) else type(found)
    )
    assert text
    assert text.splitlines()[0].rstrip().endswith((".", "?"))


@pytest.mark.parametrize("name", ["simulate", "compare", "compress", "plan", "read_run", "open_artefact"])
def test_every_entry_says_what_comes_in_and_out(name: str) -> None:
    function = getattr(fedstill, name)
    text = inspect.getdoc(function) or ""
    assert all(f"\n    {argument}:" in text for argument in inspect.signature(function).parameters)
    assert "Raises:" in text


def test_importing_it_takes_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "flwr", "ray", "grpc", "pydantic", "onnxruntime"}
    program = f"import sys, fedstill\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_artefact_opens_on_the_base_install() -> None:
    blocked = ("torch", "flwr", "grpc", "onnx", "ray", "google.protobuf", "safetensors", "psutil")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\nimport fedstill; fedstill.open_artefact"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_lacks_is_told_with_the_command_that_brings_it() -> None:
    program = (
        "import sys; sys.modules['ray'] = None\nimport fedstill\n"
        "try: fedstill.simulate\nexcept fedstill.UsageError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'fedstill[server]'" in done.stdout, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        fedstill.simulat  # noqa: B018
