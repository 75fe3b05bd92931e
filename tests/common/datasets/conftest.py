import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from fedstill.common.config import build_config
from fedstill.common.datasets import load_dataset


@pytest.fixture
def load():
    def load_source(source, *, seed=0, **keys):
        config = build_config({"data.source": str(source)} | {f"data.{key}": v for key, v in keys.items()})
        return load_dataset(config.data, seed=seed)

    return load_source


@pytest.fixture
def real_data():
    folder = os.environ.get("FEDSTILL_DATA")
    if not folder:
        pytest.skip("FEDSTILL_DATA is not set; it names the folder of real data")
    return Path(folder)


@pytest.fixture
def write_idx():
    codes = {"uint8": 0x08, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}

    def write(path, array):
        head = bytes([0, 0, codes[str(array.dtype)], array.ndim]) + struct.pack(
            f">{array.ndim}I", *array.shape
        )
        content = head + array.astype(array.dtype.newbyteorder(">")).tobytes()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return path

    return write


@pytest.fixture
def images():
    """Forty images of 6×6 of four classes."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(40, 6, 6), dtype=np.uint8), np.arange(40) % 4
