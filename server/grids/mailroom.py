"""Which messages wait, and which host takes which node next."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A message on its way; `expires_at` is on the monotonic clock."""

    message_id: str
    node_id: int
    data: bytes
    expires_at: float
    group: str = ""
    """Those of one group may be carried out side by side on one host; "" is none."""
    travels_alone: bool = False
    """It was in a batch that took its host along, so no other may share its fate again."""


class Mailroom:
    """Messages that wait, by node, for hosts that ask for them.

    A host takes the nodes that it hosted last, so that their data and students are
    warm, and helps another out when it has none left. A node has one message in
    hand at most, and gets its messages in the order in which they came.

    With kinds, nodes and hosts belong to them in turn, and a host takes nodes of its own kind only.

    Args:
        num_hosts: Hosts, named 0 to num_hosts - 1; one of each kind at least.
        num_kinds: Kinds of hosts.
    """

    def __init__(self, num_hosts: int, *, num_kinds: int = 1) -> None:
        self.num_hosts = num_hosts
        self._num_kinds = num_kinds
        self._waiting: dict[int, deque[Job]] = {}
        self._in_hand: set[int] = set()
        self._homes: dict[int, int] = {}
        # Nodes that have a message and none in hand, each once, at its home.
        self._ready: list[deque[int]] = [deque() for _ in range(num_hosts)]

    def __len__(self) -> int:
        """Counts nodes that could be taken now."""
        return sum(len(ready) for ready in self._ready)

    def put(self, job: Job) -> int:
        """Adds a message behind those that its node already has; returns the node's home."""
        mail = self._waiting.setdefault(job.node_id, deque())
        home = self._homes.setdefault(job.node_id, self._first_home(job.node_id))
        mail.append(job)
        if len(mail) == 1 and job.node_id not in self._in_hand:
            self._ready[home].append(job.node_id)
        return home

    def _first_home(self, node_id: int) -> int:
        turn, kind = divmod(node_id - 1, self._num_kinds)
        hosts = range(kind, self.num_hosts, self._num_kinds)
        return hosts[turn % len(hosts)]

    def _reach(self, host: int) -> list[deque[int]]:
        return self._ready[host % self._num_kinds :: self._num_kinds]

    def may_wait(self, host: int, *, until: float) -> bool:
        """Says whether a host's next message may wait behind another: one that has time until then.

        The host's last message is left for a host that has none.
        """
        own = self._ready[host]
        if len(own) < 2:
            return False
        job = self._waiting[own[0]][0]
        return job.expires_at > until and not job.travels_alone and not job.group

    def take(self, host: int, *, at_most: int = 1, of_group: int = 1) -> list[Job]:
        """Hands out messages for a host, each of another node, which is busy until `done`.

        Args:
            host: Who asks.
            at_most: Messages wanted; it gets no more than its share of those that wait.
            of_group: Messages wanted where they are of one group: its own, and a share of others'.

        Returns:
            Messages in the order to carry them out; none where none wait.
        """
        reach = self._reach(host)
        share = math.ceil(sum(map(len, reach)) / len(reach))
        num_wanted = min(at_most, share)
        jobs: list[Job] = []
        while len(jobs) < num_wanted:
            own = self._ready[host]
            # Its own from the front, others' from the back, where they would wait longest.
            ready = own or max(reach, key=len)
            node_id = own[0] if own else ready[-1]
            job = self._waiting[node_id][0]
            if not jobs and job.group:
                num_wanted = min(of_group, max(share, len(own)))
            if jobs and (job.travels_alone or job.group != jobs[0].group):
                break
            _ = own.popleft() if own else ready.pop()
            self._in_hand.add(node_id)
            self._homes[node_id] = host
            jobs.append(self._waiting[node_id].popleft())
            if jobs[-1].travels_alone:
                break
        return jobs

    def put_back(self, job: Job) -> None:
        """Takes a message back that was not begun; it is its node's next again."""
        self._in_hand.remove(job.node_id)
        self._waiting[job.node_id].appendleft(job)
        self._ready[self._homes[job.node_id]].appendleft(job.node_id)

    def done(self, node_id: int) -> None:
        """Says that the message in a node's hand is answered."""
        self._in_hand.remove(node_id)
        if self._waiting[node_id]:
            self._ready[self._homes[node_id]].append(node_id)
