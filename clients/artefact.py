"""Artefacts: the folder that a device runs.

`model.onnx` takes raw samples, normalisation inside; `manifest.json` says what it
expects, what its classes are called, how it was made and how good it is. Reading
and running one needs NumPy and ONNX Runtime only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxruntime import InferenceSession

from common.errors import ArtefactError
from common.files import write_bytes_atomically, write_text_atomically
from common.runtime import open_session

FORMAT = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
# What raw samples are kept in, and what ONNX Runtime calls it.
_ONNX_TYPES = {"uint8": "tensor(uint8)", "int16": "tensor(int16)", "float32": "tensor(float)"}


@dataclass(frozen=True)
class Artefact:
    """An artefact that was read and verified."""

    folder: Path
    manifest: dict[str, Any]
    session: InferenceSession

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


def write_artefact(folder: Path, model: bytes, manifest: dict[str, Any]) -> int:
    """Writes an artefact; the manifest comes last, so that a folder without one is incomplete.

    Where only the manifest changes, it is replaced at once and the artefact is always whole.

    Args:
        folder: Folder of the artefact; made where it is missing.
        model: Serialised ONNX graph.
        manifest: What `describe_artefact` returned, or the same with more keys.

    Returns:
        Size of all files, bytes.
    """
    files = {MODEL_FILE: {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}}
    text = json.dumps(manifest | {"format": FORMAT, "files": files}, indent=1, ensure_ascii=False) + "\n"
    path = folder / MODEL_FILE
    if not path.is_file() or path.read_bytes() != model:
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
        write_bytes_atomically(path, model)
    write_text_atomically(folder / MANIFEST_FILE, text)
    return count_artefact_bytes(folder)


def count_artefact_bytes(folder: Path) -> int:
    """Adds up the sizes of an artefact's files, bytes."""
    return sum((folder / name).stat().st_size for name in (MODEL_FILE, MANIFEST_FILE))


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
        expected = manifest["files"][MODEL_FILE]["sha256"]
        _check_manifest(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path} lacks or garbles {error}; fetch the artefact again") from None
    if hashlib.sha256(model).hexdigest() != expected:
        raise ArtefactError(
            f"{folder / MODEL_FILE} is truncated or altered: its sha256 is not the manifest's;"
            " fetch the artefact again"
        )
    try:
        session = open_session(model, num_threads=num_threads)
    except Exception as error:  # noqa: BLE001 ONNX Runtime's errors share no public base
        raise ArtefactError(f"ONNX Runtime cannot load {folder / MODEL_FILE}: {error}") from None
    _check_fit(manifest, session, path=path)
    return Artefact(folder, manifest, session)


def _check_manifest(manifest: dict[str, Any]) -> None:
    shape, dtype = manifest["input"]["shape"], manifest["input"]["dtype"]
    if not (isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)):
        raise ValueError("input.shape")
    if not isinstance(dtype, str) or dtype not in _ONNX_TYPES:
        raise ValueError("input.dtype")
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
