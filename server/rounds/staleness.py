"""Answers to older rounds, which count less the older they are, or not at all.

Reference: Xie, Koyejo, Gupta 2019, "Asynchronous Federated Optimization" (FedAsync),
arXiv:1903.03934.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from flwr.app import Message

from fedstill.common.errors import ExchangeError
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.exchange.publication import Publication
from fedstill.server.fleet.mailbox import UnusedReplyError, read_answer
from fedstill.server.rounds.answers import ReplyScore
from fedstill.server.run.events import ReplyDropped
from fedstill.server.run.state import FederationState

DROP, WEIGH = "drop", "weigh"


def weigh_age(age: int, *, exponent: float) -> float:
    """Computes (1 + age)^−a, the weight of what a node learned some rounds ago.

    Args:
        age: Rounds between the task that was answered and the one that is concluded, 0 or more.
        exponent: a, 0 or more; 0 lets every age count alike.

    Returns:
        A weight in (0, 1]; 1 for an answer in time.

    Reference:
        Xie et al. 2019, arXiv:1903.03934, its polynomial s_a. There it mixes one model into
        the server's; here it weighs one node among those whose answers are aggregated.
    """
    return float((1 + age) ** -exponent)


@dataclass(frozen=True)
class _Late:
    round: int
    node_id: str
    reply: Message


class LateAnswers:
    """Keeps answers that came after their round, until the next round is concluded with them.

    Which ones that are follows from when they came; in which order they came does not
    matter. A coordinator that is started again knows nothing of tasks that it had sent,
    so there are none to keep.
    """

    def __init__(self, *, exponent: float) -> None:
        """Keeps nothing yet; `exponent` is that of `weigh_age`."""
        self._exponent = exponent
        self._kept: list[_Late] = []
        self._published: dict[int, Publication] = {}

    def keep(self, round_number: int, node_id: str, reply: Message) -> bool:
        """Takes an answer in; False where it is an error, or of a round that concludes nothing."""
        if reply.has_error() or round_number not in self._published:
            return False
        self._kept.append(_Late(round_number, node_id, reply))
        return True

    def note_round(self, round_number: int, publication: Publication, *, pending: Iterable[int]) -> int:
        """Remembers what a round's tasks refer to, as long as any of them may still be answered.

        Args:
            round_number: The round that begins, or is concluded.
            publication: What its nodes fetch.
            pending: Rounds of all tasks that are not answered.

        Returns:
            The oldest round whose answers may still be used.
        """
        self._published[round_number] = publication
        open_rounds = {round_number, *pending, *(late.round for late in self._kept)}
        self._published = {
            number: published for number, published in self._published.items() if number in open_rounds
        }
        return min(self._published)

    def take(
        self,
        round_number: int,
        state: FederationState,
        in_time: Sequence[ReplyScore],
        *,
        score: Callable[[fleet_pb2.TaskResponse, Publication], ReplyScore],
        drop: Callable[[ReplyDropped], None],
    ) -> list[ReplyScore]:
        """Hands over what is kept, scored and weighed, sorted by node.

        Args:
            round_number: The round that is concluded.
            state: The run's state.
            in_time: Answers to this round; their nodes said something newer.
            score: Scores an answer with what its task referred to, contribution included.
            drop: Told of answers that are not used, with the reason.

        Returns:
            Scored answers; their contributions weigh by their age.
        """
        kept, self._kept = sorted(self._kept, key=lambda late: (late.node_id, late.round)), []
        newer = {answer.node_id for answer in in_time}
        scores = []
        for late in kept:
            try:
                if late.node_id in newer:
                    raise UnusedReplyError("late", "the node has answered a newer round")
                response = read_answer(
                    late.reply, run_id=state.run_id, round_number=late.round, node_id=late.node_id
                )
                scored = score(response, self._published[late.round])
            except (UnusedReplyError, ExchangeError) as error:
                kind = error.kind if isinstance(error, UnusedReplyError) else "refused"
                drop(ReplyDropped(late.round, late.node_id, kind, str(error)))
                continue
            weight = weigh_age(round_number - late.round, exponent=self._exponent)
            assert scored.contribution is not None  # only rounds with a conclusion are kept
            scores.append(replace(scored, contribution=replace(scored.contribution, weight=weight)))
        return scores

    def drop_all(self, drop: Callable[[ReplyDropped], None]) -> None:
        """Lets go of what is kept, where nothing will be concluded any more."""
        for late in sorted(self._kept, key=lambda late: (late.node_id, late.round)):
            drop(ReplyDropped(late.round, late.node_id, "late", "its round was closed"))
        self._kept = []
