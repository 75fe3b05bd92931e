"""Profiles are read with one clear line for what is impossible, and written so that they are read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstill.common.devices import (
    DeviceProfile,
    builtin_profiles,
    load_profile,
    parse_profile,
    profile_to_toml,
    write_profile,
)
from fedstill.common.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
VALID = """
name = "shed"
flash_bytes = 30_000
memory_bytes = 1_000_000
latency_budget_seconds = 0.01
runtimes = ["onnxruntime"]
arithmetic = ["fp32", "int8"]
[speed]
fp32_macs_per_second = 1e9
int8_macs_per_second = 2e9
source = "guessed for a test"
"""


@pytest.mark.parametrize("name", builtin_profiles())
def test_shipped_profile_is_valid_and_named_like_its_file(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.speed.source


def test_six_classes_of_devices_are_shipped() -> None:
    assert builtin_profiles() == ["jetson", "microcontroller", "phone", "pi-4", "pi-zero", "x86-gateway"]


def test_deploy_shows_the_files_that_are_shipped() -> None:
    shown = {path.name for path in (ROOT / "deploy" / "devices").glob("*.toml")}
    assert shown == {f"{name}.toml" for name in builtin_profiles()}


def test_written_profile_reads_back(tmp_path: Path) -> None:
    profile = load_profile("phone")
    write_profile(profile, tmp_path / "mine.toml")
    assert load_profile(str(tmp_path / "mine.toml")) == profile


def test_profile_without_a_link_reads_back() -> None:
    profile = parse_profile(VALID, origin="test")
    assert parse_profile(profile_to_toml(profile), origin="test") == profile
    assert profile.link is None


def test_integer_sums_are_as_fast_as_their_own_figure() -> None:
    profile = parse_profile(VALID, origin="test")
    assert (profile.macs_per_second("int8"), profile.macs_per_second("int4")) == (2e9, 1e9)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("flash_bytes = 30_000", "flash_bytes = -1", r"flash_bytes: .*greater than or equal to 1024.*-1"),
        ("flash_bytes = 30_000", "flash_bytes = 1e30", "flash_bytes"),
        ("memory_bytes = 1_000_000", "memory_bytes = 0", "memory_bytes"),
        ("latency_budget_seconds = 0.01", "latency_budget_seconds = 0", "latency_budget_seconds"),
        ("latency_budget_seconds = 0.01", "latency_budget_seconds = nan", "latency_budget_seconds"),
        ("fp32_macs_per_second = 1e9", "fp32_macs_per_second = inf", "speed.fp32_macs_per_second"),
        ("int8_macs_per_second = 2e9", "", "arithmetic names int8"),
        ('runtimes = ["onnxruntime"]', 'runtimes = ["tensorflow"]', "runtimes"),
        ('runtimes = ["onnxruntime"]', "runtimes = []", "runtimes"),
        ('name = "shed"', 'name = "a shed"', "name"),
        ("flash_bytes", "flash_byte", "unknown key flash_byte; did you mean flash_bytes"),
        ('name = "shed"', "name =", "not valid TOML"),
    ],
)
def test_impossible_profile_is_refused_in_one_line(before: str, after: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        parse_profile(VALID.replace(before, after), origin="shed.toml")
    assert "\n" not in str(caught.value) or "TOML" in str(caught.value)
    assert str(caught.value).startswith("shed.toml")


def test_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'pi-zero'"):
        load_profile("pi-zer0")


def test_profiles_are_equal_by_value() -> None:
    assert isinstance(load_profile("jetson"), DeviceProfile)
    assert load_profile("jetson") == load_profile("jetson")
