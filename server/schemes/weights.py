"""`weights`: Flower's own federated averaging of the students' weights, the baseline.

Reference: McMahan et al. 2017, "FedAvg", arXiv:1602.05629. FedProx differs on the nodes only.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from fedstill.server.exchange.exchange import Exchange
from fedstill.server.schemes.records import Contribution, Scheme


def average_weights(exchange: Exchange, contributions: list[Contribution]) -> None:
    """Averages weights by the nodes' sample counts, through Flower's FedAvg, and publishes them."""
    records = [
        RecordDict(
            {
                "weights": ArrayRecord({"row": Array(contribution.values[0].astype(np.float64))}),
                "samples": MetricRecord(
                    {"num_samples": float(contribution.counts_R.sum() * contribution.weight)}
                ),
            }
        )
        for contribution in contributions
    ]
    average = aggregate_arrayrecords(records, "num_samples")["row"].numpy()
    counts = sum(int(contribution.counts_R.sum()) for contribution in contributions)
    exchange.publish_rows(average[None, :], np.array([counts]))


BUILT_IN = {
    "weights": Scheme(
        conclude=average_weights,
        rows="weights",
        shares="weights of one shape",
        begins_together=True,
        takes_over=True,
    )
}
