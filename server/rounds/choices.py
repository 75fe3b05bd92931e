"""What nodes chose for themselves: from their reports to figures, and from those to the summary."""

from __future__ import annotations

import math

from fedstill.common.errors import ExchangeError
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.run.records import ChoiceRecord, RoundRecord
from fedstill.server.run.summary import ChoiceSummary

MAX_WHY_LETTERS = 200


def describe_choice(response: fleet_pb2.TaskResponse) -> ChoiceRecord | None:
    """Reads a node's choice from its report.

    Args:
        response: The node's answer.

    Returns:
        The choice as `rounds.jsonl` has it; None where the node chose nothing.

    Raises:
        ExchangeError: Figures that no choice can have.
    """
    if not response.HasField("choice"):
        return None
    choice = response.choice
    ratios = (choice.distill_lambda, choice.public_share, choice.own_accuracy, choice.alone_accuracy)
    if not all(0 <= ratio <= 1 for ratio in ratios) or not 0 < choice.temperature < math.inf:
        raise ExchangeError(
            f"expected a choice of ratios within 0 to 1 and a finite temperature, got temperature"
            f" {choice.temperature:g} and {', '.join(f'{ratio:g}' for ratio in ratios)}"
        )
    return ChoiceRecord(
        temperature=choice.temperature,
        distill_lambda=choice.distill_lambda,
        num_steps=choice.num_steps,
        public_share=choice.public_share,
        own_accuracy=choice.own_accuracy,
        alone_accuracy=choice.alone_accuracy,
        num_validation=choice.num_validation,
        num_trial_steps=choice.num_trial_steps,
        why=choice.why[:MAX_WHY_LETTERS],
    )


def add_choices(found: dict[str, list[ChoiceSummary]], record: RoundRecord) -> None:
    """Adds what nodes chose in a round, by node; called with the rounds in their order."""
    for report in record.nodes:
        if report.choice is not None:
            choice = ChoiceSummary(round=record.round, **report.choice.model_dump(by_alias=True))
            found.setdefault(report.node_id, []).append(choice)
