"""Artefacts: the folder that a device runs.

`model.onnx` takes raw samples, normalisation inside; `manifest.json` says what it
expects, what its classes are called, how it was made and how good it is. Where raw
samples are text or sequences, `encoder.json` makes the ids of them that the model
takes. Reading and running one needs NumPy and ONNX Runtime only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxruntime import InferenceSession

from common.datasets import RAW_TASKS
from common.encoders import Encoder, encoder_from_json
from common.errors import ArtefactError, DataError
from common.files import write_bytes_atomically, write_text_atomically
from common.runtime import open_session

FORMAT = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
ENCODER_FILE = "encoder.json"
# What raw samples are kept in, and what ONNX Runtime calls it.
_ONNX_TYPES = {"uint8": "tensor(uint8)", "int16": "tensor(int16)", "float32": "tensor(float)"}


@dataclass(frozen=True)
class Artefact:
    """An artefact that was read and verified."""

    folder: Path
    manifest: dict[str, Any]
    session: InferenceSession
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


def write_artefact(
    folder: Path, model: bytes, manifest: dict[str, Any], *, encoder: Encoder | None = None
) -> int:
    """Writes an artefact; the manifest comes last, so that a folder without one is incomplete.

    Where only the manifest changes, it is replaced at once and the artefact is always whole.

    Args:
        folder: Folder of the artefact; made where it is missing.
        model: Serialised ONNX graph.
        manifest: What `describe_artefact` returned, or the same with more keys.
        encoder: What makes ids of raw text; None where raw samples are numbers.

    Returns:
        Size of all files, bytes.
    """
    contents = {MODEL_FILE: model} | ({ENCODER_FILE: encoder.to_json()} if encoder else {})
    files = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in contents.items()
    }
    text = json.dumps(manifest | {"format": FORMAT, "files": files}, indent=1, ensure_ascii=False) + "\n"
    for name, content in contents.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            (folder / MANIFEST_FILE).unlink(missing_ok=True)
            write_bytes_atomically(path, content)
    write_text_atomically(folder / MANIFEST_FILE, text)
    return count_artefact_bytes(folder)


def list_artefact_files(folder: Path) -> list[Path]:
    """Lists the files of a whole artefact, the manifest last."""
    return [
        folder / name
        for name in (MODEL_FILE, ENCODER_FILE, MANIFEST_FILE)
        if name != ENCODER_FILE or (folder / name).exists()
    ]


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
        ArtefactError: A file is missing, truncated or altered, or of another format.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        model = (folder / MODEL_FILE).read_bytes()
    except OSError as error:
        raise ArtefactError(
            f"expected an artefact folder with {MANIFEST_FILE} and {MODEL_FILE}: {error}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is no valid JSON ({error}); fetch the artefact again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtefactError(f"{path}: this version reads artefacts of format {FORMAT}")
    try:
        expected = {name: manifest["files"][name]["sha256"] for name in manifest["files"]}
        _check_manifest(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path} lacks or garbles {error}; fetch the artefact again") from None
    _check_digest(folder / MODEL_FILE, model, expected[MODEL_FILE])
    encoder = _read_encoder(folder / ENCODER_FILE, manifest, expected.get(ENCODER_FILE))
    try:
        session = open_session(model, num_threads=num_threads)
    except Exception as error:  # noqa: BLE001 ONNX Runtime's errors share no public base
        raise ArtefactError(f"ONNX Runtime cannot load {folder / MODEL_FILE}: {error}") from None
    _check_fit(manifest, session, path=path)
    return Artefact(folder, manifest, session, encoder)


def _check_digest(path: Path, content: bytes, expected: str) -> None:
    if hashlib.sha256(content).hexdigest() != expected:
        raise ArtefactError(
            f"{path} is truncated or altered: its sha256 is not the manifest's; fetch the artefact again"
        )


def _read_encoder(path: Path, manifest: dict[str, Any], expected: str | None) -> Encoder | None:
    takes = manifest["input"]
    if takes["task"] not in RAW_TASKS:
        return None
    try:
        content = path.read_bytes()
        _check_digest(path, content, str(expected))
        encoder = encoder_from_json(content, origin=str(path))
    except OSError as error:
        raise ArtefactError(f"expected {ENCODER_FILE} beside a model of {takes['task']}: {error}") from None
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
    if not isinstance(dtype, str) or dtype not in _ONNX_TYPES:
        raise ValueError("input.dtype")
    if not isinstance(manifest["input"]["task"], str):
        raise ValueError("input.task")
    if MODEL_FILE not in manifest["files"]:
        raise ValueError(f"files.{MODEL_FILE}")
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


def _check_fit(manifest: dict[str, Any], session: InferenceSession, *, path: Path) -> None:
    takes, gives = session.get_inputs(), session.get_outputs()
    expected = [_ONNX_TYPES[manifest["input"]["dtype"]], *manifest["input"]["shape"]]
    found = [takes[0].type, *takes[0].shape[1:]] if len(takes) == 1 else []
    num_classes = gives[0].shape[-1] if len(gives) == 1 and len(gives[0].shape) == 2 else None
    if found != expected or num_classes != len(manifest["classes"]):
        raise ArtefactError(
            f"{path} does not describe {MODEL_FILE}: expected samples {expected} and"
            f" {len(manifest['classes'])} classes, the model has {found} and {num_classes};"
            " fetch the artefact again"
        )
