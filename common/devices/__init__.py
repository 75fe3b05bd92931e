"""Devices: their profiles, and the fixed suite that measures how fast one is."""

from fedstill.common.devices.profile import (
    Arithmetic,
    DeviceProfile,
    Link,
    Runtime,
    Speed,
    builtin_profiles,
    load_profile,
    parse_profile,
    profile_to_toml,
    write_profile,
)

__all__ = [
    "Arithmetic",
    "DeviceProfile",
    "Link",
    "Runtime",
    "Speed",
    "builtin_profiles",
    "load_profile",
    "parse_profile",
    "profile_to_toml",
    "write_profile",
]
