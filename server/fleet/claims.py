"""Numbers that a node says of itself: ranged and finite, or its answer is not used.

What a number may be follows from its name, so that one that is added later is checked too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from fedstill.common.errors import ExchangeError

MAX_COUNT = 2**48
MAX_SECONDS = 1e8  # three years
MAX_LOSS = 1e12
MAX_RATE = 1e18
# What a name holds (the first that fits), lowest, highest, and whether NaN says that it is not known.
_RANGES = (
    ("accuracy", 0.0, 1.0, True),
    ("lambda", 0.0, 1.0, False),
    ("share", 0.0, 1.0, False),
    ("loss", -MAX_LOSS, MAX_LOSS, True),
    ("per_second", 0.0, MAX_RATE, False),
    ("seconds", 0.0, MAX_SECONDS, False),
    ("", 0.0, MAX_RATE, False),
)
_PHASES = "PhaseSeconds"
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_COUNTS = (
    FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_INT32,
)


def check_claims(message: Message) -> None:
    """Refuses an answer in which a number is not what its name says it is.

    Args:
        message: The answer; those inside it are looked at too.

    Raises:
        ExchangeError: The first such number, what it is, and what it may be.
    """
    for field, value in message.ListFields():
        if field.cpp_type in _FLOATS:
            for number in _all(field, value):
                _check_float(field, number)
        elif field.cpp_type in _COUNTS:
            for number in _all(field, value):
                if not 0 <= number <= MAX_COUNT:
                    raise _absurd(field, number, 0, MAX_COUNT)
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            for inner in _all(field, value):
                check_claims(inner)


def _check_float(field: FieldDescriptor, number: float) -> None:
    owner = field.containing_type
    name = "seconds" if owner is not None and owner.name == _PHASES else field.name
    _, low, high, may_be_unknown = next(known for known in _RANGES if known[0] in name)
    if math.isnan(number) and may_be_unknown:
        return
    if not low <= number <= high:
        raise _absurd(field, number, low, high)


def _all(field: FieldDescriptor, value: Any) -> Iterable[Any]:
    return value if field.is_repeated else (value,)


def _absurd(field: FieldDescriptor, number: object, low: float, high: float) -> ExchangeError:
    return ExchangeError(f"claims {field.name} = {number}; expected {low:g} to {high:g}")
