"""What is packed comes back exactly, in fewer bytes, or not at all."""

import contextlib
import json
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstill.common.errors import ArtefactError
from fedstill.common.packing import MAGIC, Region, pack_bytes, unpack_bytes

RNG = np.random.default_rng(0)
SPARSE = np.where(RNG.random(4096) < 0.9, 0, RNG.integers(-63, 64, 4096)).astype(np.int8)
BINARY = np.where(RNG.random(4096) < 0.5, -63, 63).astype(np.int8)
DENSE = RNG.normal(size=1024).astype(np.float32)


def pack(*arrays, gap=b"between"):
    content, regions = b"", []
    for array in arrays:
        content += gap
        regions.append(Region(len(content), array.nbytes, array.itemsize))
        content += array.tobytes()
    return content + gap, pack_bytes(content + gap, regions)


@pytest.mark.parametrize("arrays", [(), (SPARSE,), (BINARY,), (DENSE,), (SPARSE, DENSE, BINARY, SPARSE[:9])])
def test_it_comes_back_exactly(arrays):
    content, packed = pack(*arrays)
    assert unpack_bytes(packed) == content


def test_two_values_take_a_bit_each():
    _, packed = pack(BINARY)
    assert len(packed) < 4096 / 8 + 250


def test_zeros_take_less_than_a_bit_each():
    _, packed = pack(SPARSE)
    # 0.47 bits for where, about 7 bits for each of 410 others.
    assert len(packed) < 4096 * 0.47 / 8 + 410 + 250


def test_the_same_input_gives_the_same_bytes():
    assert pack(SPARSE, DENSE) == pack(SPARSE, DENSE)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(0, 300), st.integers(1, 40)),
        min_size=0,
        max_size=4,
    ),
    st.binary(max_size=20),
)
def test_any_tensors_come_back(tensors, gap):
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, distinct, size=count).astype(f"<u{size}") for size, count, distinct in tensors]
    content, packed = pack(*arrays, gap=gap)
    assert unpack_bytes(packed) == content


def test_any_cut_is_refused():
    _, packed = pack(SPARSE, BINARY)
    for length in (0, 3, 8, 40, len(packed) // 2, len(packed) - 1):
        with pytest.raises(ArtefactError, match="truncated or altered"):
            unpack_bytes(packed[:length])


def test_any_flipped_byte_is_refused():
    content, packed = pack(SPARSE, DENSE, BINARY)
    for position in range(0, len(packed), 37):
        spoilt = bytearray(packed)
        spoilt[position] ^= 0x10
        with contextlib.suppress(ArtefactError):  # or a bit that zstandard does not look at
            assert unpack_bytes(bytes(spoilt)) == content


@pytest.mark.parametrize(
    "header",
    [
        {},
        [],
        {"num_bytes": 1, "sha256": "", "pieces": [["gap", 5]], "streams": []},
        {"num_bytes": 1, "sha256": "", "pieces": [["raw", 3, 5]], "streams": []},
        {"num_bytes": 1, "sha256": "", "pieces": [["raw", 8, 2**60]], "streams": []},
        {"num_bytes": 1, "sha256": "", "pieces": [["abacus", 1, 1]], "streams": []},
        {"num_bytes": 0, "sha256": "0", "pieces": [], "streams": []},
    ],
)
def test_headers_that_lie_are_refused(header):
    text = zstandard.ZstdCompressor().compress(json.dumps(header).encode())
    with pytest.raises(ArtefactError, match="truncated or altered"):
        unpack_bytes(MAGIC + struct.pack("<I", len(text)) + text)
