"""The configuration's table `federation`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedstill.common.config.section import Section, Unit


class FederationConfig(Section):
    """Nodes, rounds and what is exchanged."""

    scheme: str = Field(
        "teacher",
        description="name from the scheme registry or module:name: what is exchanged, as teacher (soft"
        " labels), weights or local (nothing); fedstill list schemes shows all",
    )
    num_nodes: int = Field(8, ge=1, le=100_000, description="nodes of the federation")
    num_rounds: int = Field(3, ge=1, le=10_000, description="upper limit of rounds in which students learn")
    profiles: str = Field(
        "",
        description="device profiles that simulated nodes take in turn, with commas: shipped names"
        " (microcontroller, pi-zero, pi-4, jetson, phone, x86-gateway) or paths",
    )
    evaluate_every: int = Field(
        1,
        ge=1,
        le=10_000,
        description="rounds from one in which students become artefacts and are evaluated to the next; the"
        " last round always is one",
    )
    local_epochs: int = Field(
        0,
        ge=0,
        le=10_000,
        description="passes of each node over its own training samples in a round, which then set its steps;"
        " 0: all make as many steps as distill.num_epochs over the public set",
    )
    partitioner: str = Field("dirichlet", description="name from the partitioner registry or module:function")
    alpha: float = Field(0.5, gt=0, description="dirichlet: concentration; small is skewed")
    min_samples_per_node: int = Field(8, ge=0, description="dirichlet: samples that every node gets at least")
    labels_per_node: int = Field(2, ge=1, description="shards: distinct label shards per node")
    empty_nodes: Literal["refuse", "skip"] = Field("refuse", description="what a node without data means")
    aggregator: str = Field(
        "mean",
        description="name from the aggregator registry or module:function: how nodes' logits become one"
        " label set",
    )
    aggregator_temperature: float = Field(
        0.1, gt=0, lt=1, description="era: divides the mean probability; lower is sharper"
    )
    aggregator_exponent: float = Field(
        1.5, gt=0, le=1000, description="enhanced_era: power of the mean probability; over 1 sharpens"
    )
    aggregator_trim_ratio: float = Field(
        0.2, ge=0, lt=0.5, description="trimmed_mean, cronus: share of nodes cut off at each end, or dropped"
    )
    selective_quantile: Unit = Field(
        0.0,
        description="ensemble, co-teaching: nodes withhold logits of public samples farther from their own"
        " data than this share of it is; 0: they send all",
    )
    revisit_ratio: float = Field(
        0.5,
        gt=0,
        le=20,
        description="ensemble, co-teaching: steps on private data alone before a node labels the public set,"
        " as a share of the round's; what is learnt in them is only said, not kept",
    )
    staleness: Literal["drop", "weigh"] = Field(
        "drop",
        description="answers to a round that is over are counted and dropped, or weigh less the older they"
        " are; then no task is given up at the deadline",
    )
    staleness_exponent: float = Field(
        0.5, ge=0, le=10, description="weigh: an answer that is n rounds late weighs (1 + n) to minus this"
    )
    proximal_mu: float = Field(
        0.0, ge=0, le=1000, description="weights: FedProx's proximal term; 0 is FedAvg"
    )
    sample_fraction: float = Field(1.0, gt=0, le=1, description="nodes sampled for each round")
    quorum: float = Field(1.0, gt=0, le=1, description="share of sampled nodes whose replies close the round")
    deadline_seconds: float = Field(
        0.0, ge=0, description="a round closes after this long in any case; 0: never"
    )
    over_sampling: float = Field(
        1.0, ge=1, le=10, description="nodes asked per node wanted; the round closes at quorum of the wanted"
    )
    min_nodes: int = Field(
        0, ge=0, description="fewer nodes than this neither begin nor close a round; 0: all begin, one closes"
    )
    rest_after: int = Field(
        3, ge=0, description="failures in a row after which a node rests 1, 2, 4 … rounds; 0: never"
    )
    target_gap: float = Field(
        0.0,
        ge=0,
        le=1,
        description="stop once the students' gap to the teacher, and a standard error more, is this small",
    )
    wait_seconds: float = Field(
        60.0, gt=0, description="how long to wait for nodes to come, or to come back where too few are free"
    )
    num_actors: int = Field(
        0, ge=0, description="Ray actors that host the nodes; 0: one per CPU, num_nodes at most"
    )
    cpus_per_node: float = Field(
        1.0, ge=0, description="CPUs, or a share, that Ray reserves for a node at work"
    )
    gpus_per_node: float = Field(
        0.0, ge=0, description="GPUs, or a share, that Ray reserves for a node at work"
    )
    memory_bytes_per_node: int = Field(0, ge=0, description="memory that Ray reserves for it; 0: none")
    node_resources: str = Field(
        "", description="custom Ray resources (device families), with commas: nodes take theirs in turn"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="trains students; auto: a GPU if any")
    threads_per_node: int = Field(1, ge=1, le=256, description="threads that train one student")
    cohort: Literal["auto", "off", "require"] = Field(
        "auto",
        description="simulated nodes whose students have layers that allow it are trained as one batch, each"
        " as if it were alone, in sums of another order; off: one after the other, as devices do;"
        " require: others are refused",
    )
    control_fraction: Unit = Field(1.0, description="nodes that also train the `local` control at the end")
