"""Flower's grid within this process, for tests and debugging."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Self

from flwr.clientapp import ClientApp

from fedstill.common.config import Scalar
from fedstill.server.grids.hosted_grid import HostedGrid
from fedstill.server.grids.hosting import NodeHost
from fedstill.server.grids.mailroom import Job


class LocalGrid(HostedGrid):
    """Runs nodes in this process, one message at a time, in the order they were sent.

    Messages wait when pushed, and each pull gives one reply, though a group is carried out as one: a
    round can be closed before all replies are in, and the rest come late, as on a real fleet.

    Args:
        client_app: The app, or where to import it from, as "fedstill.clients.app:app".
        num_nodes: Virtual nodes; their ids are 1 to num_nodes.
        run_config: Flat, dotted keys that each node finds in its context.
        max_together: As for `HostedGrid`.
    """

    def __init__(
        self,
        client_app: ClientApp | str = "fedstill.clients.app:app",
        *,
        num_nodes: int,
        run_config: Mapping[str, Scalar],
        max_together: int = 0,
    ) -> None:
        super().__init__(num_nodes=num_nodes, max_together=max_together)
        self._host = NodeHost(client_app, num_nodes=num_nodes, run_config=run_config)
        self._queue: deque[Job] = deque()
        self._replies_to_come: deque[tuple[Job, bytes]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops what is queued."""
        self._queue.clear()
        self._replies_to_come.clear()

    def _accept(self, job: Job) -> None:
        self._queue.append(job)

    def _advance(self, timeout_seconds: float) -> None:
        if self._replies_to_come:
            self._answer(*self._replies_to_come.popleft())
            return
        if not self._queue:
            time.sleep(timeout_seconds)
            return
        jobs = [self._queue.popleft()]
        group = jobs[0].group
        while group and self._queue and len(jobs) < self._max_together and self._queue[0].group == group:
            jobs.append(self._queue.popleft())
        jobs = [job for job in jobs if not self._expired(job)]
        if not group:
            replies = [self._host.handle(job.data) for job in jobs]
        else:
            replies = self._host.handle_together([(job.data, False) for job in jobs])
        self._replies_to_come.extend(zip(jobs, replies, strict=True))
        if self._replies_to_come:
            self._answer(*self._replies_to_come.popleft())
