"""What an actor takes of a Ray cluster, and how many have room in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedstill.common.errors import ConfigError


@dataclass(frozen=True)
class ActorNeeds:
    """What Ray sets aside for each actor, which works on one node at a time.

    Attributes:
        cpus: CPUs; fractions share one.
        gpus: GPUs; fractions share one. Without any an actor sees none.
        memory_bytes: Memory; 0 asks for none.
        kinds: Custom resources that machines were started with, as device families; actors
            and nodes belong to them in turn, and an actor takes one unit of its own.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0
    kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Words for an error."""
        parts = [f"{self.cpus:g} CPUs"]
        parts += [f"{self.gpus:g} GPUs"] if self.gpus else []
        parts += [f"{self.memory_bytes} bytes of memory"] if self.memory_bytes else []
        parts += [f"one of {', '.join(self.kinds)}"] if self.kinds else []
        return " and ".join(parts) + " each"

    def options(self, index: int) -> dict[str, Any]:
        """Gives Ray's options for the actor of that number."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory_bytes:
            options["memory"] = self.memory_bytes
        if self.kinds:
            options["resources"] = {self.kinds[index % len(self.kinds)]: 1}
        return options

    def environment(self) -> dict[str, str]:
        """Hides GPUs from actors that asked for none; Ray chooses for those that did."""
        return {} if self.gpus else {"CUDA_VISIBLE_DEVICES": ""}

    def check(self, available: Mapping[str, float]) -> None:
        """Refuses what no machine of the cluster has, which actors would wait for without end.

        Args:
            available: All resources of the cluster, by Ray's names.

        Raises:
            ConfigError: A GPU or a custom resource lacks, or one and a half of something is asked for.
        """
        for key, amount in (("cpus_per_node", self.cpus), ("gpus_per_node", self.gpus)):
            if amount > 1 and amount != int(amount):
                raise ConfigError(
                    f"federation.{key}: Ray takes whole numbers above 1, or a fraction; got {amount:g}"
                )
        if self.gpus and not available.get("GPU"):
            raise ConfigError(
                f"federation.gpus_per_node is {self.gpus:g} and no machine of the Ray cluster has a GPU;"
                " set it to 0, or add one"
            )
        for kind in self.kinds:
            if not available.get(kind):
                raise ConfigError(
                    f"federation.node_resources: no machine of the Ray cluster has {kind}; start one with"
                    f" ray start --address=HOST:PORT --resources='{{\"{kind}\": 1}}'"
                )

    def count_actors(self, available: Mapping[str, float], *, num_nodes: int) -> int:
        """Counts the actors that have room in a cluster, one at least, and no more than there are nodes.

        Args:
            available: All resources of the cluster, by Ray's names.
            num_nodes: Virtual nodes.
        """
        # Ray's own rule: an actor of no CPU at all still works with one.
        room = [available.get("CPU", 0) // (self.cpus or 1)]
        if self.gpus:
            room.append(available.get("GPU", 0) // self.gpus)
        if self.memory_bytes:
            room.append(available.get("memory", 0) // self.memory_bytes)
        if self.kinds:
            room.append(len(self.kinds) * min(available.get(kind, 0) for kind in self.kinds))
        return max(1, min(num_nodes, int(min(room))))
