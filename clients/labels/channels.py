"""Connections to label services: one channel per address and process, and words for what fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

import grpc

from fedstill.clients.labels.transport import Transport
from fedstill.common.errors import AccessError, DigestError, ExchangeError, NotPublishedError

SERVICE = "/fedstill.v1.LabelService"
ResponseT = TypeVar("ResponseT")
_FATAL = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DATA_LOSS,
}


@dataclass(frozen=True)
class RetryPolicy:
    """How often a call is tried again.

    Attributes:
        num_attempts: Failures in a row, without any progress between, that end it.
        backoff_seconds: Pause after the first failure; it doubles up to 5 s.
        timeout_seconds: Longest silence before a call counts as failed.
    """

    num_attempts: int
    backoff_seconds: float
    timeout_seconds: float

    def pause(self, failures: int) -> None:
        """Waits after the given number of failures in a row."""
        time.sleep(min(5.0, self.backoff_seconds * 2 ** (failures - 1)))


@dataclass
class Channels:
    """Opens channels lazily and keeps them; a forked child opens its own."""

    transport: Transport = field(default_factory=Transport)
    _pid: int = 0
    _open: dict[str, grpc.Channel] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, address: str) -> grpc.Channel:
        """Returns this process's channel to an address."""
        if self._pid != os.getpid():
            # A parent's channels do not work in its child, and its lock may be held there for ever.
            self._pid, self._open, self._lock = os.getpid(), {}, threading.Lock()
        with self._lock:
            if address not in self._open:
                self._open[address] = self.transport.open(address)
            return self._open[address]

    def forget(self, address: str) -> None:
        """Lets go of an address's channel, which may be dead; calls that use it elsewhere go on."""
        if self._pid == os.getpid():
            with self._lock:
                self._open.pop(address, None)

    def close(self) -> None:
        """Closes the channels of this process."""
        if self._pid == os.getpid():
            with self._lock:
                for channel in self._open.values():
                    channel.close()
                self._open.clear()


class Cancellable(Protocol):
    """A call that can be ended from another thread."""

    def cancel(self) -> Any: ...


class Silence:
    """Cancels a call on which nothing has moved for too long; a context manager.

    gRPC's own deadline bounds a whole call, and a large array on a slow link may
    rightly take hours.
    """

    def __init__(
        self, call: Cancellable, timeout_seconds: float, *, clock: Callable[[], float] = time.monotonic
    ):
        self._call = call
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._last_move = clock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="label-silence", daemon=True)
        self.expired = False

    def moved(self) -> None:
        """Notes that something came or went."""
        self._last_move = self._clock()

    def _watch(self) -> None:
        while not self._ended.wait(max(0.01, self._last_move + self._timeout_seconds - self._clock())):
            if self._clock() - self._last_move >= self._timeout_seconds:
                self.expired = True
                self._call.cancel()
                return

    def __enter__(self) -> Silence:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._call.cancel()
        self._thread.join()


def _status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    # What a call raises is a Call too, although gRPC's types do not say so.
    call = cast(grpc.Call, error)
    return call.code(), call.details()


def is_fatal(error: grpc.RpcError, problem: ExchangeError | None = None) -> bool:
    """Says whether trying again is pointless, by the status or by what `explain` made of it."""
    return _status(error)[0] in _FATAL or isinstance(problem, AccessError)


def explain(
    error: grpc.RpcError, *, address: str, action: str, transport: Transport, silent_seconds: float = 0
) -> ExchangeError:
    """Puts a failed call into words.

    Args:
        error: What gRPC raised.
        address: The service's address.
        transport: How it was called; asked for the cause where no connection came about.
        action: What was being done, as "fetching array 12ab…".
        silent_seconds: Above 0 if the call was cancelled for its silence.

    Returns:
        The error to raise; an `AccessError` is not worth another attempt.
    """
    code, details = _status(error)
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return AccessError(f"label service {address} refused {action}: {details}")
    if code is grpc.StatusCode.UNAVAILABLE and (cause := transport.diagnose(address)):
        return AccessError(f"label service {address}, {action}: {cause}")
    if code is grpc.StatusCode.NOT_FOUND:
        return NotPublishedError(f"label service {address}, {action}: {details}")
    if code is grpc.StatusCode.DATA_LOSS:
        return DigestError(f"label service {address}, {action}: {details}")
    if is_fatal(error):
        return ExchangeError(f"label service {address} refused {action}: {details} ({code.name})")
    reason = f"nothing came for {silent_seconds:g} s" if silent_seconds else f"{details} ({code.name})"
    return ExchangeError(
        f"label service {address} failed while {action}: {reason}; check that it runs and that this machine"
        " reaches that address"
    )


def send_stream(
    call: grpc.StreamUnaryMultiCallable[bytes, ResponseT],
    messages: Iterator[bytes],
    *,
    address: str,
    action: str,
    retry: RetryPolicy,
    transport: Transport,
) -> ResponseT | ExchangeError:
    """Sends a stream of messages, once.

    Args:
        call: The method.
        messages: Serialised requests; taking one counts as a sign of life.
        address: The service's address, for messages.
        action: What is being done, as "uploading for node-0001".
        retry: Says how long nothing may move.
        transport: How the service is called.

    Returns:
        The service's answer, or what went wrong and may go better.

    Raises:
        ExchangeError: The service refused, and would again.
    """
    watch: list[Silence] = []

    def moving() -> Iterator[bytes]:
        for message in messages:
            for silence in watch:
                silence.moved()
            yield message

    future = call.future(moving())
    with Silence(future, retry.timeout_seconds) as silence:
        watch.append(silence)
        try:
            response: ResponseT = future.result()
            return response
        except grpc.FutureCancelledError:
            return ExchangeError(
                f"label service {address} failed while {action}: nothing moved for"
                f" {retry.timeout_seconds:g} s; check that it runs and that the link is up"
            )
        except grpc.RpcError as error:
            problem = explain(error, address=address, action=action, transport=transport)
            # Bytes that were altered on the way come right at the next try.
            if is_fatal(error, problem) and not isinstance(problem, DigestError):
                raise problem from None
            return problem
