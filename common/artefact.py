"""Artefacts: the folder that a device runs.

The model, in the file of the runtime that `manifest.json` names (`model.onnx` unless it says
otherwise), takes raw samples, normalisation inside; the manifest says what it expects, what its
classes are called, how it was made and how good it is. Where raw samples are text or sequences,
`encoder.json` makes the ids of them that the model takes. Reading and running one with ONNX
Runtime needs NumPy and ONNX Runtime only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedstill.common.datasets import RAW_TASKS
from fedstill.common.encoders import Encoder, encoder_from_json
from fedstill.common.errors import ArtefactError, DataError
from fedstill.common.files import read_regular_file, write_bytes_atomically, write_text_atomically
from fedstill.common.inference import Predictor
from fedstill.common.runtimes import Runtime, get_runtime
from fedstill.common.runtimes.onnx_graph import MODEL_FILE

FORMAT = 1
MANIFEST_FILE = "manifest.json"
ENCODER_FILE = "encoder.json"
DEFAULT_RUNTIME = "onnxruntime"
# Far beyond what a device holds; a manifest is a page of text.
MAX_FILE_BYTES, MAX_MANIFEST_BYTES = 2**30, 2**24
_DTYPES = ("uint8", "int16", "float32")
# What a manifest may set of a session: nothing that loads code or other files.
_OPTIONS = {"session.disable_quant_qdq"}
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Artefact:
    """An artefact that was read and verified."""

    folder: Path
    manifest: dict[str, Any]
    predict: Predictor
    encoder: Encoder | None = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one raw sample."""
        return tuple(self.manifest["input"]["shape"])

    @property
    def dtype(self) -> str:
        """NumPy name of the element type of raw samples."""
        return str(self.manifest["input"]["dtype"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return tuple(self.manifest["classes"])

    @property
    def runtime(self) -> str:
        """Name of the runtime that it is open in."""
        return str(self.manifest.get("runtime", DEFAULT_RUNTIME))


def collect_files(model_files: Mapping[str, bytes], *, encoder: Encoder | None = None) -> dict[str, bytes]:
    """Lists the contents of an artefact by name, all but the manifest."""
    return dict(model_files) | ({ENCODER_FILE: encoder.to_json()} if encoder else {})


def digest_files(files: Mapping[str, bytes]) -> str:
    """Computes the digest of an artefact: SHA-256 over the sorted names and digests of its files.

    The manifest is left out: accuracies are written into it later.

    Args:
        files: Contents by name, without the manifest.

    Returns:
        The digest, hexadecimal.
    """
    lines = (f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_artefact(folder: Path, files: Mapping[str, bytes], manifest: dict[str, Any]) -> int:
    """Writes an artefact; the manifest comes last, so that a folder without one is incomplete.

    Where only the manifest changes, it is replaced at once and the artefact is always whole.

    Args:
        folder: Folder of the artefact; made where it is missing.
        files: What `collect_files` returned.
        manifest: What describes them.

    Returns:
        Size of all files, bytes.
    """
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
    }
    complete = manifest | {"format": FORMAT, "digest": digest_files(files), "files": listed}
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            (folder / MANIFEST_FILE).unlink(missing_ok=True)
            write_bytes_atomically(path, content)
    manifest_bytes = _write_manifest(folder, complete)
    for path in folder.iterdir():  # what the artefact that was here before had besides
        if path.is_file() and path.name not in (MANIFEST_FILE, *files):
            path.unlink()
    return manifest_bytes + sum(map(len, files.values()))


def amend_manifest(artefact: Artefact, **keys: Any) -> int:
    """Adds keys to the manifest of an artefact on disk; the other files stay as they are.

    Args:
        artefact: The artefact.
        **keys: What is added or replaced.

    Returns:
        Size of all files, bytes.
    """
    _write_manifest(artefact.folder, artefact.manifest | keys)
    return count_artefact_bytes(artefact.folder)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> int:
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_text_atomically(folder / MANIFEST_FILE, text)
    return len(text.encode())


def list_artefact_files(folder: Path) -> list[Path]:
    """Lists the files of a whole artefact, the manifest last.

    Raises:
        ArtefactError: There is no readable manifest.
    """
    names = _read_manifest(folder)["files"]
    return [*(folder / name for name in sorted(names)), folder / MANIFEST_FILE]


def count_artefact_bytes(folder: Path) -> int:
    """Adds up the sizes of an artefact's files, bytes."""
    return sum(path.stat().st_size for path in list_artefact_files(folder))


def read_artefact(folder: Path, *, num_threads: int = 1) -> Artefact:
    """Reads an artefact and compares every file with its digest.

    Args:
        folder: Folder that `write_artefact` wrote.
        num_threads: Threads that run it.

    Returns:
        The artefact, ready to run.

    Raises:
        ArtefactError: A file is missing, truncated or altered, or of another format, or
            the runtime that it wants is not installed.
    """
    manifest, files = read_files(folder)
    runtime = _runtime_of(manifest)
    encoder = _read_encoder(folder / ENCODER_FILE, manifest, files.get(ENCODER_FILE))
    try:
        predict = runtime.open(files, num_threads=num_threads, options=manifest.get("session_options", {}))
    except ArtefactError:
        raise
    except Exception as error:  # noqa: BLE001 the errors of runtimes share no public base
        raise ArtefactError(f"{runtime.title} cannot load {folder / runtime.model_file}: {error}") from None
    _check_fit(manifest, predict, path=folder / MANIFEST_FILE, model_file=runtime.model_file)
    return Artefact(folder, manifest, predict, encoder)


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Reads and verifies the files of an artefact without opening its model.

    Args:
        folder: Folder that `write_artefact` wrote.

    Returns:
        The manifest, and the contents of the other files by name.

    Raises:
        ArtefactError: A file is missing, truncated or altered, or of another format.
    """
    manifest = _read_manifest(folder)
    files = {}
    for name, entry in manifest["files"].items():
        try:
            content = read_regular_file(folder / name, max_bytes=MAX_FILE_BYTES)
        except OSError as error:
            raise _incomplete(error) from None
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise ArtefactError(
                f"{folder / name} is truncated or altered: its sha256 is not the manifest's;"
                " fetch the artefact again"
            )
        files[name] = content
    return manifest, files


def read_graph(folder: Path) -> bytes:
    """Reads the ONNX graph of an artefact, for those who look inside.

    Args:
        folder: Folder that `write_artefact` wrote.

    Returns:
        The serialised graph.

    Raises:
        ArtefactError: The artefact is damaged, or its runtime runs no graph.
    """
    manifest, files = read_files(folder)
    runtime = _runtime_of(manifest)
    if runtime.to_graph is None:
        raise ArtefactError(f"{folder} holds no ONNX graph: it runs in {runtime.title}")
    return runtime.to_graph(files)


def read_costs(folder: Path) -> list[dict[str, Any]]:
    """Reads what each step of compression cost, from a manifest; empty where it does not say."""
    try:
        steps = _read_manifest(folder).get("compression", {}).get("steps", [])
    except (ArtefactError, AttributeError):
        return []
    return [dict(step) for step in steps if isinstance(step, dict) and step.get("step") != "quantise"]


def _incomplete(error: OSError) -> ArtefactError:
    return ArtefactError(
        f"expected an artefact folder with {MANIFEST_FILE} and what it lists, as {MODEL_FILE}: {error}"
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(read_regular_file(path, max_bytes=MAX_MANIFEST_BYTES))
    except OSError as error:
        raise _incomplete(error) from None
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is no valid JSON ({error}); fetch the artefact again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtefactError(f"{path}: this version reads artefacts of format {FORMAT}")
    try:
        _check_manifest(manifest)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path} lacks or garbles {error}; fetch the artefact again") from None
    return manifest


def _runtime_of(manifest: dict[str, Any]) -> Runtime:
    return get_runtime(manifest.get("runtime", DEFAULT_RUNTIME))


def _read_encoder(path: Path, manifest: dict[str, Any], content: bytes | None) -> Encoder | None:
    takes = manifest["input"]
    if takes["task"] not in RAW_TASKS:
        return None
    if content is None:
        raise ArtefactError(
            f"expected {ENCODER_FILE} beside a model of {takes['task']}: {path.parent} has none"
        )
    try:
        encoder = encoder_from_json(content, origin=str(path))
    except DataError as error:
        raise ArtefactError(str(error)) from None
    if takes["shape"] != [encoder.max_length] or takes["dtype"] != encoder.dtype:
        raise ArtefactError(
            f"{path} makes {encoder.max_length} ids of {encoder.dtype}, the model takes {takes['shape']} of"
            f" {takes['dtype']}; fetch the artefact again"
        )
    return encoder


def _check_manifest(manifest: dict[str, Any]) -> None:
    shape, dtype = manifest["input"]["shape"], manifest["input"]["dtype"]
    if not (isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)):
        raise ValueError("input.shape")
    if dtype not in _DTYPES:
        raise ValueError("input.dtype")
    if not isinstance(manifest["input"]["task"], str):
        raise ValueError("input.task")
    runtime = manifest.get("runtime", DEFAULT_RUNTIME)
    if not isinstance(runtime, str):
        raise ValueError("runtime")
    options = manifest.get("session_options", {})
    if not (isinstance(options, dict) and options.keys() <= _OPTIONS and _are_names([*options.values()])):
        raise ValueError("session_options")
    for name, entry in manifest["files"].items():
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST_FILE or not isinstance(entry["sha256"], str):
            raise ValueError(f"files.{name}")
    if get_runtime(runtime).model_file not in manifest["files"]:
        raise ValueError(f"files.{get_runtime(runtime).model_file}")
    if not (manifest["classes"] and _are_names(manifest["classes"])):
        raise ValueError("classes")
    if not _are_names(manifest["input"].get("features", [])):
        raise ValueError("input.features")
    split = manifest.get("split", {"seed": 0, "test_fraction": 0.5})
    if type(split["seed"]) is not int or split["seed"] < 0:
        raise ValueError("split.seed")
    if type(split["test_fraction"]) is not float or not 0 < split["test_fraction"] < 1:
        raise ValueError("split.test_fraction")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _check_fit(manifest: dict[str, Any], predict: Predictor, *, path: Path, model_file: str) -> None:
    expected = [manifest["input"]["dtype"], *manifest["input"]["shape"]]
    found = [predict.dtype, *predict.sample_shape]
    if found != expected or predict.num_classes != len(manifest["classes"]):
        raise ArtefactError(
            f"{path} does not describe {model_file}: expected samples {expected} and"
            f" {len(manifest['classes'])} classes, the model has {found} and {predict.num_classes};"
            " fetch the artefact again"
        )
