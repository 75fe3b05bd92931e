"""Encoders: from raw text and sequences to the integer ids that models take.

An encoder is built on the server's and the public samples alone, or made of a tokenizer.json that the
user brings; it is published like a label set, and shipped with the artefact, so that a device encodes
as the coordinator did.
"""

from fedstill.common.encoders.fitting import fit_encoder, read_tokenizer
from fedstill.common.encoders.kinds import ENCODER_OF_TASK, ENCODERS, EncoderKind
from fedstill.common.encoders.records import PADDING, UNKNOWN, Encoder, encoder_from_json

__all__ = [
    "ENCODERS",
    "ENCODER_OF_TASK",
    "PADDING",
    "UNKNOWN",
    "Encoder",
    "EncoderKind",
    "encoder_from_json",
    "fit_encoder",
    "read_tokenizer",
]
