"""What a caller gives, in whatever form it is at hand, as a configuration that every process understands."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedstill.common.config import Config, build_config, flatten, load_config
from fedstill.common.errors import ConfigError, DataError, UsageError
from fedstill.common.files import default_home, write_bytes_atomically
from fedstill.common.modules import looking_in
from fedstill.server.api.own import lend_student, lend_teacher

Settings = Config | Mapping[str, Any] | str | Path | None
"""A configuration: as it is, as keys (nested, or dotted), as a TOML file, or the embedded default."""
Data = str | Path | Mapping[str, Any] | Sequence[Any] | Any
"""A source as `data.source` has it, arrays by the names of an .npz, (x, y), (x_train, y_train, x_test,
y_test), or a pandas frame."""


def read_settings(config: Settings, overrides: Mapping[str, Any] | None = None) -> Config:
    """Builds a configuration from what a caller gives.

    Args:
        config: See `Settings`.
        overrides: Keys over it, dotted or nested.

    Raises:
        ConfigError: An unknown key or a value of a wrong type or out of range.
    """
    if config is None or isinstance(config, str | Path):
        settings = load_config(None if config is None else Path(config))
    elif isinstance(config, Config):
        settings = config
    elif isinstance(config, Mapping):
        settings = build_config(_flat(config))
    else:
        raise ConfigError(
            f"expected a configuration as a Config, a dict or the path of a TOML file, got"
            f" {type(config).__name__}"
        )
    return build_config(flatten(settings) | _flat(overrides)) if overrides else settings


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    for key, value in flat.items():
        if isinstance(value, Path):
            flat[key] = str(value)
        elif isinstance(value, list | tuple):
            flat[key] = ",".join(map(str, value))
    return flat


def looking_beside(config: Settings) -> AbstractContextManager[None]:
    """Looks modules up beside a configuration's file too, where it is one, for a block."""
    return looking_in(*([Path(config).parent] if isinstance(config, str | Path) else []))


@contextmanager
def settle(
    config: Settings,
    *,
    data: Data | None = None,
    teacher: Any = None,
    student: Any = None,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Config, bool]]:
    """Makes a configuration of all that a caller gives, for a block in which its names are found.

    Args:
        config: See `Settings`.
        data: See `Data`; None leaves the configuration's.
        teacher: A trained module, which is held; or a function of (spec, num_classes); None leaves the
            configuration's.
        student: A module that every node begins with a copy of; or a function of (spec, *, num_classes,
            width).
        overrides: Keys over the configuration.

    Yields:
        The configuration, and whether nodes would have to find what lives in this process only.

    Raises:
        UsageError: Something is given in a form that cannot be used.
    """
    settings = read_settings(config, overrides)
    values: dict[str, Any] = {}
    if data is not None:
        values["data.source"] = keep_data(data, label_column=settings.data.label_column)
    is_bound = False
    if teacher is not None:
        values |= lend_teacher(teacher)
    if student is not None:
        values["student.model"], is_bound = lend_student(student)
    with looking_beside(config):
        yield (build_config(flatten(settings) | values) if values else settings), is_bound


def keep_data(data: Data, *, label_column: str) -> str:
    """Puts data that are at hand as arrays where every process finds them; gives `data.source`.

    Arrays are kept by content in the user's cache folder, so that the same ones are kept once, and a run
    can be gone on with.

    Raises:
        DataError: Neither a source nor arrays that make one.
    """
    if isinstance(data, str | Path):
        return str(data)
    if hasattr(data, "to_csv") and hasattr(data, "columns"):
        if label_column not in list(data.columns):
            raise DataError(f"the frame has no column {label_column!r}; name it in data.label_column")
        return _keep_table(data.to_csv(index=False).encode())
    arrays = {name: _as_array(value) for name, value in _by_name(data).items()}
    texts = [name for name, array in arrays.items() if name.startswith("x") and array.dtype.kind == "U"]
    if texts:
        return _keep_texts(arrays)

    def write() -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    return _keep(_digest_arrays(arrays), ".npz", write)


def _by_name(data: Data) -> dict[str, Any]:
    if isinstance(data, Mapping):
        return dict(data)
    names: dict[int, tuple[str, ...]] = {2: ("x", "y"), 4: ("x_train", "y_train", "x_test", "y_test")}
    if isinstance(data, list | tuple) and len(data) in names:
        return dict(zip(names[len(data)], data, strict=True))
    raise DataError(
        "expected data as a source, a dict of arrays, (x, y) or (x_train, y_train, x_test, y_test), got"
        f" {type(data).__name__}" + (f" of {len(data)}" if isinstance(data, list | tuple) else "")
    )


def _as_array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        if not all(isinstance(item, str) for item in array.ravel().tolist()):
            raise DataError("expected arrays of numbers or of texts, got Python objects")
        array = array.astype(str)
    return array


def _keep_texts(arrays: Mapping[str, np.ndarray]) -> str:
    """Writes texts as the tables that a folder of texts has: label,text."""
    suffix = "_train" if "x_train" in arrays else ""
    tables = {}
    for part, name in ((suffix, "train"), ("_test", "test")):
        if f"x{part}" not in arrays:
            continue
        x, y = arrays[f"x{part}"], arrays.get(f"y{part}")
        if y is None or len(x) != len(y):
            raise DataError(f"expected a label in y{part} for each of {len(x)} texts in x{part}")
        table = io.StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["label", "text"])
        writer.writerows(zip(y.tolist(), x.tolist(), strict=True))
        tables[name] = table.getvalue().encode()
    if "test" not in tables:
        return _keep_table(tables["train"])
    folder = default_home() / "data" / hashlib.sha256(b"\x1f".join(tables.values())).hexdigest()[:32]
    for name, content in tables.items():
        write_bytes_atomically(folder / f"{name}.csv", content)
    return str(folder)


def _digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\x1f{array.dtype.str}\x1f{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _keep_table(content: bytes) -> str:
    return _keep(hashlib.sha256(content).hexdigest(), ".csv", lambda: content)


def _keep(identity: str, suffix: str, write: Callable[[], bytes]) -> str:
    path = default_home() / "data" / f"{identity[:32]}{suffix}"
    if not path.exists():
        try:
            write_bytes_atomically(path, write())
        except OSError as error:
            raise UsageError(f"cannot keep the data in {path.parent}: {error.strerror or error}") from None
    return str(path)
