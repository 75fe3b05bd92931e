"""Building an encoder from the texts that may be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fedstill.common.encoders.kinds import ENCODERS
from fedstill.common.encoders.records import MAX_IDS, NUM_RESERVED, Encoder, make_tokenizer_encoder
from fedstill.common.encoders.tokenizer import open_tokenizer
from fedstill.common.errors import DataError, unknown_name

# Most texts whole, without the few very long ones setting the cost of all.
_QUANTILE = 0.95
_GRAIN = 8


def fit_encoder(kind: str, texts_S: Iterable[str], *, num_ids: int = MAX_IDS, max_length: int = 0) -> Encoder:
    """Builds an encoder; the order of the texts does not matter.

    Args:
        kind: A name of the registry.
        texts_S: Raw texts: the server's and the public ones, never private ones.
        num_ids: Ids at most, padding and unknown among them; the most frequent
            symbols get one.
        max_length: Symbols per sample; 0: as many as 95 of 100 texts have, up to the
            limit of the kind.

    Returns:
        The encoder.

    Raises:
        ConfigError: An unknown kind.
        DataError: The texts hold no symbol at all.
    """
    if kind not in ENCODERS:
        raise unknown_name("encoder", kind, ENCODERS)
    chosen = ENCODERS[kind]
    counts: Counter[str] = Counter()
    lengths = []
    for text in texts_S:
        symbols = chosen.split(text)
        counts.update(symbols)
        lengths.append(len(symbols))
    if not counts:
        raise DataError(f"expected texts to build an encoder of {kind} on, got {len(lengths)} without any")
    max_length = max_length or choose_length(lengths, longest=chosen.longest)
    return Encoder(kind, tuple(chosen.choose(counts)[: num_ids - NUM_RESERVED]), max(1, max_length))


def choose_length(lengths: Sequence[int], *, longest: int) -> int:
    """Chooses the symbols per sample: as many as 95 of 100 texts have, up to a limit."""
    typical = int(np.quantile(lengths, _QUANTILE, method="higher"))
    return min(-(-typical // _GRAIN) * _GRAIN, longest)


def read_tokenizer(path: Path, texts_S: Iterable[str], *, max_length: int = 0) -> Encoder:
    """Makes an encoder of a tokenizer.json of Hugging Face's library.

    Args:
        path: The file.
        texts_S: Raw texts, for the length: the server's and the public ones, never private ones.
        max_length: Tokens per sample, special ones among them; 0: as many as 95 of 100 texts have, up to
            the limit of words.

    Returns:
        The encoder. Ids are the file's where 0 is its padding, else one higher.

    Raises:
        UsageError: The package `tokenizers` is not installed.
        DataError: The file is missing, or none that the library reads.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"data.tokenizer: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"data.tokenizer: {path} is no tokenizer.json: it is no text") from None
    origin = f"data.tokenizer: {path}"
    if not max_length:
        tokenizer = open_tokenizer(content, origin=origin)
        lengths = [len(found.ids) for found in tokenizer.encode_batch([str(text) for text in texts_S])]
        max_length = max(_GRAIN, choose_length(lengths, longest=ENCODERS["words"].longest))
    return make_tokenizer_encoder(content, max_length=max_length, origin=origin)
