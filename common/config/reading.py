"""Reads a configuration from TOML, from `key=value` and from flat, dotted keys."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from fedstill.common.config.schema import Config
from fedstill.common.config.section import Scalar
from fedstill.common.errors import ConfigError

# Flower's run configuration carries them beside ours; each is set by an option of a command.
LAUNCH_KEYS = {
    "run.dir": "`fedstill simulate --run-dir DIR`",
    "run.id": "`fedstill coordinator --run-id NAME`",
    "run.resume": "`fedstill simulate --resume RUN`",
}


def defaults() -> dict[str, Scalar]:
    """Lists every key with its default, flat and dotted, in the order of the schema."""
    return flatten(Config())


def flatten(config: Config) -> dict[str, Scalar]:
    """Turns a configuration into flat, dotted keys, as Flower's run configuration has them."""
    flat: dict[str, Scalar] = {}
    for key, value in config.model_dump(by_alias=True).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


def build_config(values: Mapping[str, Any]) -> Config:
    """Validates flat, dotted keys.

    Args:
        values: Values by dotted key; what is missing takes its default.

    Returns:
        The configuration.

    Raises:
        ConfigError: An unknown key (the nearest known one is named) or a value of
            a wrong type or out of range.
    """
    known = defaults()
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if key in LAUNCH_KEYS:
            raise ConfigError(f"{key} belongs to the launch, not to the configuration: {LAUNCH_KEYS[key]}")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            if not near:
                leaf = key.rsplit(".", 1)[-1]
                near = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
            hint = f"did you mean {near[0]}?" if near else "`fedstill config` lists the known keys."
            raise ConfigError(f"unknown configuration key {key}; {hint}")
        if isinstance(value, int) and not isinstance(value, bool) and isinstance(known[key], float):
            value = _as_float(value)
        section, _, name = key.rpartition(".")
        if section:
            nested.setdefault(section, {})[name] = value
        else:
            nested[name] = value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(detail) for detail in error.errors())) from None


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:  # refused like any other infinity
        return float("inf")


def from_run_config(run_config: Mapping[str, Any]) -> Config:
    """Reads Flower's run configuration; keys of the launch itself, `run.…`, are not ours to read."""
    return build_config({key: value for key, value in run_config.items() if not key.startswith("run.")})


def _explain(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if not key:
        return str(message)
    return f"{key}: {message[0].lower()}{message[1:]}, got {detail['input']!r}"


def load_config(path: Path | None = None, *, overrides: Iterable[str] = ()) -> Config:
    """Reads a TOML file and applies `key=value` overrides.

    Args:
        path: The file; None is the embedded default.
        overrides: Items such as "distill.temperature=2"; values are TOML, and
            what is no TOML value is taken as text, and lists are joined by commas.

    Returns:
        The configuration.

    Raises:
        ConfigError: The file is missing or no TOML, or a key or value is wrong.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
        values.update(_flatten_document(document))
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator:
            raise ConfigError(f"--set takes key=value, got {item!r}")
        values[key.strip()] = _parse_scalar(text.strip(), key=key.strip())
    return build_config(values)


def _flatten_document(document: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": _joined(inner) for name, inner in value.items()})
        else:
            flat[key] = _joined(value)
    return flat


def _joined(value: Any) -> Any:
    # Flower's run configuration holds scalars only, so lists travel as text.
    return ",".join(str(item) for item in value) if isinstance(value, list) else value


def _parse_scalar(text: str, *, key: str) -> Any:
    try:
        value = _joined(tomllib.loads(f"value = {text}")["value"])
    except tomllib.TOMLDecodeError:
        return text
    # A name such as 2024 or true stays the text that it is where text is expected.
    return text if isinstance(defaults().get(key), str) and not isinstance(value, str) else value


def to_toml(config: Config) -> str:
    """Writes a configuration as TOML that `load_config` reads back."""
    return tomli_w.dumps(config.model_dump(by_alias=True))
