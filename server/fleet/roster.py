"""Who is in a run: names of the nodes, by Flower's ids and ours, and what they still owe."""

from __future__ import annotations

from collections.abc import Callable

from fedstill.server.fleet.guard import Guard
from fedstill.server.fleet.mailbox import Mailbox
from fedstill.server.run.events import ReplyDropped


class Roster:
    """Names of the nodes, and what they have not answered yet."""

    def __init__(self, *, run_id: str, on_drop: Callable[[ReplyDropped], None]) -> None:
        """Knows nobody yet.

        Args:
            run_id: Our run id.
            on_drop: Told of every answer that is an error or late.
        """
        self.run_id = run_id
        self.mailbox = Mailbox()
        self.flower_ids: dict[str, int] = {}
        """Flower's node id by ours."""
        self.guard: Guard | None = None
        """Lets nodes in and opens rounds; None: anyone, at any time."""
        self.departed: set[str] = set()
        """Nodes that are not on the grid any more, as far as it was looked at."""
        self.round = 0
        """The round that is open."""
        self.is_introduced = False
        """Whether the federation has begun; who comes now joins it as it runs."""
        self.drop = on_drop
        self._names: dict[int, str] = {}

    @property
    def pending_rounds(self) -> list[int]:
        """Rounds of the messages that are not answered."""
        return [number for number, _ in self.mailbox.pending.values()]

    def name(self, flower_id: int) -> str:
        """Gives our name of one of Flower's nodes."""
        return self._names.get(flower_id, f"flower-{flower_id}")

    @property
    def busy(self) -> set[str]:
        """Names of nodes that still owe an answer."""
        owing = {flower_id for _, flower_id in self.mailbox.pending.values()}
        return {self._names[flower_id] for flower_id in owing & self._names.keys()}

    def list_silent(self, round_number: int) -> list[str]:
        """Lists the nodes that owe the answer of a round."""
        pending = self.mailbox.pending.values()
        return [self.name(flower_id) for asked_in, flower_id in pending if asked_in == round_number]

    def enter(self, node_id: str, flower_id: int) -> None:
        """Gives a name to one of Flower's nodes."""
        self.flower_ids[node_id] = flower_id
        self._names[flower_id] = node_id
        self.departed.discard(node_id)

    def forget(self, node_id: str) -> None:
        """Takes a name from the one of Flower's nodes that had it, and gives up what that one owes."""
        flower_id = self.flower_ids.pop(node_id)
        del self._names[flower_id]
        for message_id, (asked_in, owing) in list(self.mailbox.pending.items()):
            if owing == flower_id:
                del self.mailbox.pending[message_id]
                reason = "lost" if asked_in == self.round else "late"
                self.drop(ReplyDropped(asked_in, node_id, reason, "its SuperNode was started again"))
