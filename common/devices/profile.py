"""Device profiles: what a device can hold, how fast it is and how it is connected, as a TOML file."""

from __future__ import annotations

import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedstill.common.errors import ConfigError
from fedstill.common.files import write_text_atomically

Runtime = Literal["onnxruntime", "executorch", "packed"]
Arithmetic = Literal["fp32", "int8", "int4", "binary"]
# A hundred terabytes or a second hundred thousand times over are typing errors, not devices.
Bytes = Annotated[int, Field(ge=1024, le=10**14)]
BytesPerSecond = Annotated[float, Field(ge=1, le=1e12)]
MacsPerSecond = Annotated[float, Field(ge=1e3, le=1e16)]


class _Record(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False, extra="forbid", frozen=True)


class Link(_Record):
    """The device's link to the coordinator."""

    down_bytes_per_second: BytesPerSecond
    up_bytes_per_second: BytesPerSecond
    latency_seconds: float = Field(0.0, ge=0, le=60, description="one way")


class Speed(_Record):
    """What one thread of the device reaches on the fixed graphs of `common/devices/suite.py`."""

    fp32_macs_per_second: MacsPerSecond = Field(description="multiply-adds per second in floats")
    int8_macs_per_second: MacsPerSecond | None = Field(None, description="the same with 8-bit weights")
    step_seconds: float | None = Field(None, gt=0, le=3600, description="one step of the fixed training")
    source: str = Field(min_length=1, description="who measured it, on what; or how it was estimated")


class DeviceProfile(_Record):
    """A device as the planner sees it: budgets, runtimes, arithmetic, speed and link."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str = ""
    flash_bytes: Bytes = Field(description="room for the whole artefact")
    memory_bytes: Bytes = Field(description="room for weights and activations while it runs")
    latency_budget_seconds: float = Field(gt=0, le=60, description="longest prediction at batch 1")
    runtimes: tuple[Runtime, ...] = Field(min_length=1)
    arithmetic: tuple[Arithmetic, ...] = Field(min_length=1)
    speed: Speed
    link: Link | None = None
    measured: dict[str, str | int | float] = Field(
        {}, description="what else `fedstill-node bench` found; not used for planning"
    )

    @model_validator(mode="after")
    def _holds_together(self) -> DeviceProfile:
        if "int8" in self.arithmetic and self.speed.int8_macs_per_second is None:
            raise ValueError("arithmetic names int8: expected speed.int8_macs_per_second beside it")
        return self

    def macs_per_second(self, arithmetic: Arithmetic) -> float:
        """Says how fast the device is in 8-bit sums, or in floats for everything else."""
        int8 = self.speed.int8_macs_per_second
        return int8 if arithmetic == "int8" and int8 is not None else self.speed.fp32_macs_per_second


def parse_profile(text: str, *, origin: str) -> DeviceProfile:
    """Reads a profile.

    Args:
        text: TOML.
        origin: Where it comes from, for messages.

    Returns:
        The profile.

    Raises:
        ConfigError: No TOML, an unknown key (the nearest is named), or an impossible number.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}") from None
    try:
        return DeviceProfile.model_validate(document)
    except ValidationError as error:
        # A misspelt key is also one that is missing: its own error says more.
        first = min(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        raise ConfigError(f"{origin}: {_explain(first)}") from None


def _explain(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if not key:
        return str(message)
    if detail["type"] == "extra_forbidden":
        known = [*DeviceProfile.model_fields, *Link.model_fields, *Speed.model_fields]
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")
    return f"{key}: {message[0].lower()}{message[1:]}, got {detail['input']!r}"


def builtin_profiles() -> list[str]:
    """Lists the names of the profiles that are shipped, sorted."""
    folder = resources.files("fedstill.common.devices") / "builtin"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_profile(name: str) -> DeviceProfile:
    """Reads a profile by the name of a shipped one, or by path.

    Args:
        name: As "pi-4", or a path to a TOML file.

    Returns:
        The profile.

    Raises:
        ConfigError: Neither a shipped profile nor a file, or one that is wrong.
    """
    known = builtin_profiles()
    if name in known:
        text = (resources.files("fedstill.common.devices") / "builtin" / f"{name}.toml").read_text(
            encoding="utf-8"
        )
        return parse_profile(text, origin=f"device profile {name}")
    path = Path(name).expanduser()
    try:
        return parse_profile(path.read_text(encoding="utf-8"), origin=str(path))
    except (OSError, UnicodeDecodeError):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(
            f"expected the path of a device profile or a shipped one, got {name!r}{hint}"
            f" Shipped: {', '.join(known)}."
        ) from None


def write_profile(profile: DeviceProfile, path: Path) -> None:
    """Writes a profile as TOML that `load_profile` reads back, atomically."""
    write_text_atomically(path, profile_to_toml(profile))


def profile_to_toml(profile: DeviceProfile) -> str:
    """Writes a profile as TOML; what is not known is left out."""
    return tomli_w.dumps(profile.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
