"""The configuration: one schema, read from a TOML file, from `--set key=value` and from Flower.

Flower's run configuration is flat, with dotted keys; all three meet in `Config`.
"""

from fedstill.common.config.federation import FederationConfig
from fedstill.common.config.json_schema import CONFIG_SCHEMA_PATH, config_schema
from fedstill.common.config.names import NAMING_KEYS, list_references, list_user_files
from fedstill.common.config.reading import (
    build_config,
    defaults,
    flatten,
    from_run_config,
    load_config,
    to_toml,
)
from fedstill.common.config.reference import reference
from fedstill.common.config.schema import (
    CompressConfig,
    Config,
    DataConfig,
    DistillConfig,
    ExchangeConfig,
    MonitoringConfig,
    PrivacyConfig,
    StudentConfig,
    TeacherConfig,
)
from fedstill.common.config.section import Scalar, Section

__all__ = [
    "CONFIG_SCHEMA_PATH",
    "NAMING_KEYS",
    "CompressConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "ExchangeConfig",
    "FederationConfig",
    "MonitoringConfig",
    "PrivacyConfig",
    "Scalar",
    "Section",
    "StudentConfig",
    "TeacherConfig",
    "build_config",
    "config_schema",
    "defaults",
    "flatten",
    "from_run_config",
    "list_references",
    "list_user_files",
    "load_config",
    "reference",
    "to_toml",
]
