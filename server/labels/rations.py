"""What one node may hold of a label service at a time, so that it cannot stop the rest.

A synchronous server gives each call a thread. A node that opens many streams and stays silent gets
`MAX_CALLS` of them, the others are refused at once, and those it has are ended when nothing moves.
Nodes are told apart by their certificates; on plaintext nobody can be, and only silence ends a call.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from fedstill.common.errors import BusyError, UsageError

MAX_CALLS = 4
"""Calls of one certificate at a time: a node makes one after the other, a second while one is being ended."""
HEADER_SECONDS = 10.0
"""How long a call may be without its first message."""
SILENCE_SECONDS = 60.0
"""How long nothing may move after that; a slow link sends a chunk of 64 KiB in less."""
_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)
ItemT = TypeVar("ItemT")


class Cancellable(Protocol):
    """A call, as gRPC's context."""

    def cancel(self) -> object:
        """Ends it; whoever waits for its next message wakes up."""


class Pulse:
    """Says that a call moves.

    Args:
        call: The call.
        caller: Whose it is.
    """

    def __init__(self, call: Cancellable, caller: str) -> None:
        self.call = call
        self.caller = caller
        self.ends_at = math.inf  # for as long as it waits for us, and not we for it

    def beat(self) -> None:
        """A message came, or went."""
        self.ends_at = time.monotonic() + SILENCE_SECONDS

    def read_one(self, messages: Iterator[ItemT]) -> ItemT:
        """Reads the only message of a call that asks one thing.

        Raises:
            UsageError: The call ended without it.
        """
        self.ends_at = time.monotonic() + HEADER_SECONDS
        message = next(messages, None)
        self.ends_at = math.inf
        if message is None:
            raise UsageError("expected a message that says what is wanted, the call ended without one")
        return message

    def follow(self, messages: Iterable[ItemT]) -> Iterator[ItemT]:
        """Passes messages on and beats with each."""
        self.ends_at = time.monotonic() + HEADER_SECONDS
        for message in messages:
            self.beat()
            yield message
        self.ends_at = math.inf


class Rations:
    """Counts calls by caller and ends silent ones; safe among threads, a context manager."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Pulse] = set()
        self._counts: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="labels-rations", daemon=True)

    def start(self) -> None:
        """Looks after silent calls from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopping.set()
        self._thread.join()

    @contextmanager
    def admit(self, caller: str, call: Cancellable) -> Iterator[Pulse]:
        """Lets a call in for as long as the block lasts.

        Args:
            caller: The node, by its certificate; empty on plaintext.
            call: What is ended where it stays silent.

        Yields:
            Its pulse.

        Raises:
            BusyError: The node has as many calls as it may have.
        """
        pulse = Pulse(call, caller)
        with self._lock:
            if caller and self._counts[caller] >= MAX_CALLS:
                raise BusyError(f"{caller} has {MAX_CALLS} calls open already; end one, or try again")
            self._counts[caller] += 1
            self._open.add(pulse)
        try:
            yield pulse
        finally:
            with self._lock:
                self._open.discard(pulse)
                self._counts[caller] -= 1
                if not self._counts[caller]:
                    del self._counts[caller]

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            now = time.monotonic()
            with self._lock:
                silent = [pulse for pulse in self._open if now > pulse.ends_at]
            for pulse in silent:
                _log.warning("a call of %s stayed silent and was ended", pulse.caller or "a node")
                pulse.beat()  # it is on its way out; not ended twice
                pulse.call.cancel()
