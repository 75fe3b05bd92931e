"""Flower's grid over Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import ray
from flwr.common.constant import ErrorCode
from ray.exceptions import ActorDiedError, RayError

from fedstill.common.config import Scalar
from fedstill.common.errors import RunError
from fedstill.server.grids.actor_needs import ActorNeeds
from fedstill.server.grids.hosted_grid import HostedGrid
from fedstill.server.grids.hosting import BatchHost, Progress
from fedstill.server.grids.mailroom import Job, Mailroom
from fedstill.server.grids.ray_connection import actor_environment, connect, unclosed_files_ignored

START_SECONDS = 120.0
# An actor is given up after so many starts and so long; on a busy machine Ray itself takes its time.
MAX_FAILED_STARTS = 3
FAILING_SECONDS = 30.0
START_PAUSE_SECONDS = 0.25
# Messages that take no longer travel together, so that a call's own cost is shared.
# It is also the longest that one may hold up others, and next to nothing beside training.
BATCH_SECONDS = 0.05
MAX_BATCH = 32
# While messages take no longer than half of it, the next one waits so long on its actor at most.
AHEAD_SECONDS = 0.25
# Those that have no more time than this, a round's deadline, do not: an actor that freezes would keep them.
AHEAD_LEFT_SECONDS = 3600.0


@dataclass
class _Slot:
    """An actor and what the driver knows of it."""

    index: int
    actor: Any
    is_idle: bool = False
    at_work: Any = None
    """The call whose messages it carries out; None while it is idle, or starts."""

    ahead: Any = None
    """The call that waits on the actor behind that one, so that no time passes between them."""

    last_seconds: float = math.inf
    """What its last message took, or batch of them."""

    batch_size: int = 1
    num_starts: int = 0
    num_failed_starts: int = 0
    failing_since: float = 0.0
    starts_at: float | None = None
    """When it is to be started again, on the monotonic clock; None where that is not due."""

    is_given_up: bool = False

    @property
    def incarnation(self) -> tuple[int, int]:
        return self.index, self.num_starts


@dataclass
class _Call:
    """What an actor is at; no jobs: it is starting."""

    slot: _Slot
    jobs: Sequence[Job]
    shares_fate: bool = False
    """The actor was lost with another call beside this one."""


class RayGrid(HostedGrid):
    """Dispatches messages to persistent Ray actors that host several nodes each.

    An idle actor takes the next node that waits, its own ones first, so a straggler
    holds up nobody. Messages of a group go side by side, others one by one; while they are short and
    have no deadline, the next one waits on the actor already, and while they are very short, they go in
    batches. An actor that is
    lost costs one message, which is answered by an error (`NODE_UNAVAILABLE`), and Ray
    brings the actor back, on another machine if need be. Where several were on the actor
    nobody knows which of them it was: each is sent again, alone, so a message may be
    carried out twice. `Context.state` does not follow a node from
    actor to actor: it starts empty there, so what has to last belongs on disk.

    Args:
        client_app_ref: Where the actors import the client app from.
        num_nodes: Virtual nodes; their ids are 1 to num_nodes.
        run_config: Flat, dotted keys that each node finds in its context.
        num_actors: Actors; 0 is one per CPU of the cluster. Never more than nodes.
        ray_address: An existing cluster, to which the code is shipped; None starts
            Ray here, unless this process is connected to one already.
        needs: What Ray sets aside for each actor.
        working_dir: A folder of the user's whose modules the actors can import.
        environment: Variables for the actors, over `ray_connection.ENVIRONMENT`.
        max_together: As for `HostedGrid`.

    Raises:
        ConfigError: No Ray cluster answers at `ray_address`.
        RunError: Ray does not start.
    """

    def __init__(
        self,
        client_app_ref: str = "fedstill.clients.app:app",
        *,
        num_nodes: int,
        run_config: Mapping[str, Scalar],
        num_actors: int = 0,
        ray_address: str | None = None,
        needs: ActorNeeds | None = None,
        working_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        max_together: int = 0,
    ) -> None:
        super().__init__(num_nodes=num_nodes, max_together=max_together)
        self._slots: list[_Slot] = []
        self._in_flight: dict[Any, _Call] = {}
        self._hosted: dict[int, tuple[int, int]] = {}
        self._last_failure = ""
        self._has_started = False
        self._owns_ray = False
        self._client_app_ref = client_app_ref
        self._actor_arguments = {"num_nodes": num_nodes, "run_config": dict(run_config)}
        self._needs = needs = needs or ActorNeeds()
        try:
            num_actors = min(num_actors, num_nodes)
            self._owns_ray = connect(ray_address, needs, num_actors=num_actors, working_dir=working_dir)
            needs.check(ray.cluster_resources())
            variables = needs.environment() | actor_environment(environment or {}, ray_address, working_dir)
            self._actor_options = {
                "max_restarts": -1,
                "max_task_retries": 0,  # which messages go again is decided here
                "max_concurrency": 2,  # one call at work, one that waits
                "runtime_env": {"env_vars": variables},
            }
            num_actors = num_actors or needs.count_actors(ray.cluster_resources(), num_nodes=num_nodes)
            num_kinds = max(1, min(len(needs.kinds), num_nodes))
            self._mail = Mailroom(max(num_actors, num_kinds), num_kinds=num_kinds)
            self._deadline = time.monotonic() + START_SECONDS
            for index in range(self._mail.num_hosts):
                self._slots.append(_Slot(index, self._create_actor(index)))
                self._start(self._slots[-1])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def num_actors(self) -> int:
        """Actors that are ready for work or at it; may be read from another thread."""
        starting = {call.slot.index for call in list(self._in_flight.values()) if not call.jobs}
        gone = {slot.index for slot in list(self._slots) if slot.starts_at is not None or slot.is_given_up}
        return sum(slot.index not in starting | gone for slot in list(self._slots))

    @property
    def num_restarts(self) -> int:
        """Actors that were started again."""
        return sum(max(0, slot.num_starts - 1) for slot in list(self._slots))

    def close(self) -> None:
        """Ends the actors, in the middle of their work too, and Ray if it was started here."""
        slots, self._slots = self._slots, []
        self._in_flight.clear()
        if not ray.is_initialized():
            return
        for slot in slots:
            with contextlib.suppress(RayError, ValueError):
                ray.kill(slot.actor, no_restart=True)
        if self._owns_ray:
            with unclosed_files_ignored():
                ray.shutdown()

    def _accept(self, job: Job) -> None:
        home = self._slots[self._mail.put(job)]
        if home.is_idle and not job.group:  # others of its group may come yet
            self._give_work(home)

    def _advance(self, timeout_seconds: float) -> None:
        for slot in self._slots:
            if slot.starts_at is not None and time.monotonic() > slot.starts_at:
                self._start(slot)
        self._send_ahead()
        self._give_all_work()
        if not self._in_flight:
            self._check_started()
            time.sleep(timeout_seconds)
            return
        ready, _ = ray.wait(list(self._in_flight), num_returns=1, timeout=timeout_seconds)
        for ref in ready:
            self._finish(ref)
        if not self._has_started:
            self._check_started()

    def _finish(self, ref: Any) -> None:
        slot = self._in_flight[ref].slot
        if ref == slot.ahead and slot.at_work is not None and ray.wait([slot.at_work], timeout=0)[0]:
            self._finish(slot.at_work)  # what came before is read before
        call = self._in_flight.pop(ref)
        was_ahead = ref == slot.ahead
        if was_ahead:
            slot.ahead = None
        try:
            progress = ray.get(ref)
        except RayError as error:
            self._last_failure = " ".join(str(error).split())
            self._lose_jobs(call)
            if not was_ahead:
                self._restart(call, error)
        else:
            if not call.jobs:
                self._has_started = True
                slot.num_failed_starts = 0
                slot.is_idle = True
            else:
                self._settle(call, progress)
                if not progress.num_begun:
                    slot.last_seconds = math.inf  # it waited in vain
                if not was_ahead:
                    self._go_on(call, progress)
        self._give_all_work()

    def _settle(self, call: _Call, progress: Progress) -> None:
        for job in call.jobs[: progress.num_begun]:
            self._hosted[job.node_id] = call.slot.incarnation
        for job, reply in zip(call.jobs, progress.replies, strict=False):
            self._mail.done(job.node_id)
            self._answer(job, reply)
        self._put_back(call.jobs[progress.num_begun :])

    def _go_on(self, call: _Call, progress: Progress) -> None:
        slot, num_done = call.slot, len(progress.replies)
        if progress.num_begun and not call.jobs[0].group:
            slot.last_seconds = progress.seconds
            if progress.seconds < BATCH_SECONDS / 2:
                slot.batch_size = min(2 * slot.batch_size, MAX_BATCH)
            elif progress.seconds > BATCH_SECONDS:
                slot.batch_size = max(1, slot.batch_size // 2)
        slot.at_work, slot.ahead = slot.ahead, None
        if progress.num_begun > num_done:
            begun = call.jobs[num_done : progress.num_begun]
            slot.at_work = self._call(slot, slot.actor.finish.remote(), begun)
        slot.is_idle = slot.at_work is None

    def _put_back(self, jobs: Sequence[Job]) -> None:
        for job in reversed(jobs):
            self._mail.put_back(job)

    def _give_all_work(self) -> None:
        for slot in self._slots:
            if slot.is_idle and self._mail:
                self._give_work(slot)

    def _give_work(self, slot: _Slot) -> None:
        slot.at_work = self._send(slot)
        slot.is_idle = slot.at_work is None

    def _send_ahead(self) -> None:
        until = time.monotonic() + AHEAD_LEFT_SECONDS
        for slot in self._slots:
            is_short = slot.batch_size == 1 and slot.last_seconds < AHEAD_SECONDS / 2
            if not is_short or slot.at_work is None or slot.ahead is not None:
                continue
            has_company = not any(job.travels_alone for job in self._in_flight[slot.at_work].jobs)
            if has_company and self._mail.may_wait(slot.index, until=until):
                slot.ahead = self._send(slot, is_ahead=True)

    def _send(self, slot: _Slot, *, is_ahead: bool = False) -> Any:
        jobs: list[Job] = []
        for job in self._mail.take(slot.index, at_most=slot.batch_size, of_group=self._max_together):
            if self._expired(job):
                self._mail.done(job.node_id)
            else:
                jobs.append(job)
        if not jobs:
            return None
        batch = [(job.data, self._hosted.get(job.node_id) != slot.incarnation) for job in jobs]
        if jobs[0].group:
            return self._call(slot, slot.actor.handle_together.remote(batch), jobs)
        if is_ahead:
            return self._call(slot, slot.actor.wait_and_handle.remote(batch, AHEAD_SECONDS), jobs)
        ref = slot.actor.handle.remote(batch, BATCH_SECONDS if len(jobs) > 1 else None)
        return self._call(slot, ref, jobs)

    def _call(self, slot: _Slot, ref: Any, jobs: Sequence[Job]) -> Any:
        self._in_flight[ref] = _Call(slot, jobs)
        return ref

    def _start(self, slot: _Slot) -> None:
        # An actor that waits for room in the cluster, or for its restart, answers this
        # when it is there; until then no message is tied to it.
        slot.num_starts += 1
        slot.batch_size = 1
        slot.starts_at = None
        self._call(slot, slot.actor.warm_up.remote(), [])

    def _lose_jobs(self, call: _Call) -> None:
        others = [other for other in self._in_flight.values() if other.slot is call.slot]
        for other in others:
            other.shares_fate = True
        if len(call.jobs) == 1 and not others and not call.shares_fate:
            [job] = call.jobs
            self._mail.done(job.node_id)
            reason = f"lost with its actor: {self._last_failure}"
            self._fail(job, code=ErrorCode.NODE_UNAVAILABLE, reason=reason)
        else:
            # Nobody knows which of them it was, so each gets another try by itself.
            self._put_back([replace(job, travels_alone=True) for job in call.jobs])

    def _restart(self, call: _Call, error: RayError) -> None:
        slot = call.slot
        slot.at_work = None
        if not call.jobs:
            slot.failing_since = slot.failing_since if slot.num_failed_starts else time.monotonic()
            slot.num_failed_starts += 1
        if isinstance(error, ActorDiedError):
            slot.actor = self._create_actor(slot.index)
        now, num_failed = time.monotonic(), slot.num_failed_starts
        slot.is_given_up = num_failed >= MAX_FAILED_STARTS and now - slot.failing_since > FAILING_SECONDS
        if not slot.is_given_up:
            slot.starts_at = now + START_PAUSE_SECONDS * min(8, num_failed)

    def _create_actor(self, index: int) -> Any:
        options = self._actor_options | self._needs.options(index)
        return ray.remote(BatchHost).options(**options).remote(self._client_app_ref, **self._actor_arguments)

    def _check_started(self) -> None:
        if self._slots and all(slot.is_given_up for slot in self._slots):
            raise RunError(f"no Ray actor stays alive long enough to take a message: {self._last_failure}")
        if not self._has_started and time.monotonic() > self._deadline:
            free = ray.available_resources().get("CPU", 0)
            raise RunError(
                f"Ray started none of {len(self._slots)} actors, {self._needs}, within {START_SECONDS:.0f} s;"
                f" {free:g} CPUs are free there: end what else runs on the cluster, or lower"
                " federation.cpus_per_node and its like"
            )
