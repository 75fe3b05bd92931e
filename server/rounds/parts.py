"""What rounds and the end of a run share: a federation's configuration, state, nodes and publication."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedstill.common.config import Config
from fedstill.common.training import steps_per_epoch
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.exchange.publication import Publication
from fedstill.server.figures.scoring import Truth
from fedstill.server.fleet.fleet import Fleet
from fedstill.server.planner import plan_training
from fedstill.server.planner.planner import Planner
from fedstill.server.run.events import Event
from fedstill.server.run.state import FederationState, NodeState
from fedstill.server.schemes import Scheme, get_scheme


@dataclass
class Federation:
    """The parts of a federation; `publication` and `truth` change as a scheme concludes rounds."""

    config: Config
    state: FederationState
    fleet: Fleet
    planner: Planner
    publication: Publication
    """What nodes fetch."""
    truth: Truth
    """Labels and teacher predictions that nodes' answers are compared with."""
    num_steps: int
    """Optimiser steps of a node's round, where its own samples do not set them."""
    last_round: int
    observe: Callable[[Event], None]
    """Told of everything that happens."""
    concludes: bool = False
    """Nodes send what they learned, and each round publishes something new."""

    @property
    def scheme(self) -> Scheme:
        """What is exchanged."""
        return get_scheme(self.config.federation.scheme)

    def wants_upload(self, round_number: int) -> bool:
        """Says whether nodes send what they learned in a round; in the last one nobody would use it."""
        return self.concludes and round_number < self.last_round

    def evaluates_in(self, round_number: int) -> bool:
        """Says whether students become artefacts and are evaluated in a round."""
        return round_number >= self.last_round or round_number % self.config.federation.evaluate_every == 0

    def learns_in(self, round_number: int) -> bool:
        """Says whether nodes learn in a round, or only take over what the last one made."""
        return not self.scheme.takes_over or self.wants_upload(round_number)

    def count_steps(self, node: NodeState) -> int:
        """Counts the optimiser steps of a node's round."""
        num_epochs, batch_size = self.config.federation.local_epochs, self.config.distill.batch_size
        if not num_epochs:
            return self.num_steps
        if self.scheme.uses_public:  # half as many private samples beside public ones
            batch_size = max(1, batch_size // 2)
        return num_epochs * max(1, steps_per_epoch(node.num_train_samples, batch_size))

    def describe_training(self, node: NodeState, *, num_rounds: int = 1) -> fleet_pb2.Hyperparameters:
        """Packs the hyperparameters of as many steps as some rounds of a node have."""
        return plan_training(self.config, num_steps=self.count_steps(node) * num_rounds)

    def write_task(
        self, node: NodeState, round_number: int, *, deadline_seconds: float
    ) -> fleet_pb2.TaskRequest:
        """Writes a node's task of a round.

        Args:
            node: The node as of its last committed round.
            round_number: The round.
            deadline_seconds: Time that the node has; 0 is unlimited.
        """
        return fleet_pb2.TaskRequest(
            run_id=self.state.run_id,
            round=round_number,
            base_round=node.base_round,
            shared_round=node.shared_round,
            shared_weight=node.shared_weight,
            labels=self.planner.publication_of(node, self.publication).source(),
            plan=self.planner.plan(node),
            hyperparameters=self.describe_training(node),
            deadline_seconds=deadline_seconds,
            seed=self.config.seed,
            input=self.publication.input(),
            wants_upload=self.wants_upload(round_number),
            upload_codec=self.planner.upload_codec(node, self.publication),
            upload_nonce=self.fleet.nonce,
            starts_anew=self.planner.starts_anew(node),
            wants_latency=node.plan is not None,
            skips_evaluation=not self.evaluates_in(round_number),
        )
