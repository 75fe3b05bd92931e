"""What is refused before anything is computed."""

from __future__ import annotations

import pytest

from fedstill.common.config import load_config
from fedstill.common.errors import ConfigError
from fedstill.server.federation.preparation import check_names


def test_averaged_weights_keep_one_shape() -> None:
    config = load_config(overrides=["federation.scheme=weights", "compress.steps=prune,quantise"])
    with pytest.raises(ConfigError, match="averages weights of one shape"):
        check_names(config)
