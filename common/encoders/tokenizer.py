"""Tokenizers that a user brings, as the `tokenizer.json` of Hugging Face's library."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from fedstill.common.errors import DataError, UsageError
from fedstill.common.installation import install_command

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KIND = "tokenizer"
EXTRA = "text"
_PADDING_TOKENS = ("[PAD]", "<pad>", "[pad]", "<PAD>")


def shorten(content: str, *, origin: str) -> str:
    """Writes the content of a tokenizer.json without white space; raises `DataError` where it is no JSON."""
    try:
        return json.dumps(json.loads(content), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{origin} is no tokenizer.json: {error}") from None


def open_tokenizer(content: str, *, origin: str) -> Tokenizer:
    """Opens a tokenizer; it neither cuts nor fills up yet.

    Args:
        content: What a tokenizer.json holds.
        origin: Where it came from, for the message.

    Returns:
        The library's object.

    Raises:
        UsageError: The library is not installed.
        DataError: The content is none that it knows.
    """
    # One thread, as everywhere on a node; and the library warns where a process with its threads forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError(
            f"{origin} needs the package tokenizers ({error}): {install_command(EXTRA)}"
        ) from None
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        said = " ".join(str(error).split())
        raise DataError(f"{origin} is no tokenizer.json that this version reads: {said}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def list_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Lists a tokenizer's tokens by id, added ones too; ids that it gives to none are empty."""
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = [""] * (max(ids.values(), default=-1) + 1)
    for token, number in ids.items():
        tokens[number] = token
    return tuple(tokens)


def begins_with_padding(tokens: tuple[str, ...]) -> bool:
    """Says whether id 0 is a tokenizer's own padding, as our models take it."""
    return bool(tokens) and tokens[0] in _PADDING_TOKENS
