"""The planner of a run: what each node's device means for its student and its labels.

What it decides stands in the node's state and is committed with the round, so that a
resumed run decides nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable

from common.config import Config
from common.devices import DeviceProfile, Link, load_profile
from common.errors import ExchangeError
from common.models import InputSpec
from common.wire import profile_from_proto
from protos.fedstill.v1 import fleet_pb2
from server.checkpoints import NodeState
from server.events import Event, NodeBudgeted, NodePlanned, Warned
from server.planner.codecs import AUTO, choose_codec, choose_upload_codec, reconsider_codec
from server.planner.fixed import plan_student
from server.publication import Publication

# A fetch of less says more of the cache and of the handshake than of the link.
MIN_OBSERVED_BYTES = 65_536
# Weight of the newest observation in the moving mean of a link.
NEWEST_WEIGHT = 0.5


class Planner:
    """Plans for one run; everything that changes is in the nodes' states."""

    def __init__(self, config: Config, spec: InputSpec, observe: Callable[[Event], None]) -> None:
        """Reads the profiles that simulated nodes take.

        Args:
            config: The run's configuration.
            spec: What samples look like.
            observe: Told of every decision.

        Raises:
            ConfigError: A profile that is wrong or not there.
        """
        self._config = config
        self._spec = spec
        self._observe = observe
        self._profiles = read_profiles(config)
        self._announced: set[tuple[str, ...]] = set()

    def welcome(self, hello: fleet_pb2.HelloResponse, node: NodeState) -> None:
        """Takes a node's device into its state, the first time that it comes.

        Args:
            hello: How it introduced itself.
            node: Its state; changed in place.
        """
        if node.profile is None:
            node.profile, node.is_simulated = self._find_profile(hello)
        if node.profile is not None:
            self._observe(
                NodeBudgeted(node.node_id, node.profile.flash_bytes, node.profile.latency_budget_seconds)
            )

    def _find_profile(self, hello: fleet_pb2.HelloResponse) -> tuple[DeviceProfile | None, bool]:
        if hello.HasField("profile"):
            try:
                return profile_from_proto(hello.profile), False
            except ExchangeError as error:
                self._observe(Warned(f"{hello.node_id}: {error}; it is planned for as if it had none"))
        return choose_profile(self._profiles, hello.node_id), True

    def plan(self, node: NodeState) -> fleet_pb2.StudentPlan:
        """Says which student a node trains."""
        return plan_student(self._config, self._spec, node.node_id)

    def publication_of(self, node: NodeState, publication: Publication) -> Publication:
        """Chooses the form of the labels that a node gets; its first choice is decided here."""
        exchange = self._config.exchange
        if exchange.codec != AUTO or not publication.encodings:
            return publication
        if not node.codec:
            node.codec, node.codec_reason = choose_codec(
                publication.encodings, self._link(node), label_seconds=exchange.label_seconds
            )
            self._announce(node)
        return publication.in_codec(node.codec)

    def upload_codec(self, node: NodeState, publication: Publication) -> str:
        """Says in which codec a node sends logits back."""
        exchange = self._config.exchange
        return choose_upload_codec(
            exchange.codec, publication.encodings, self._link(node), label_seconds=exchange.label_seconds
        )

    def _link(self, node: NodeState) -> Link | None:
        link = node.profile.link if node.profile else None
        seen = node.link_bytes_per_second
        if seen is None or (node.is_simulated and node.profile is not None):
            return link  # what a simulated node's host sees is not the link that is simulated
        upward = seen if link is None else link.up_bytes_per_second * seen / link.down_bytes_per_second
        return Link(
            down_bytes_per_second=max(1.0, seen),
            up_bytes_per_second=min(1e12, max(1.0, upward)),
            latency_seconds=link.latency_seconds if link else 0.0,
        )

    def review(self, node: NodeState, publication: Publication) -> None:
        """Looks at a node's last report and changes its codec where its link asks for another.

        Args:
            node: Its state with the report of the round that is being closed; changed in place.
            publication: What the next round fetches.
        """
        observe_link(node)
        if self._config.exchange.codec != AUTO or not node.codec:
            return
        change = reconsider_codec(
            node.codec,
            publication.encodings,
            self._link(node),
            label_seconds=self._config.exchange.label_seconds,
        )
        if change is not None:
            node.codec, node.codec_reason = change
            self._announce(node, is_change=True)

    def _announce(self, node: NodeState, *, is_change: bool = False) -> None:
        profile = node.profile.name if node.profile else ""
        kind = (profile, node.codec)
        self._observe(
            NodePlanned(
                node_id=node.node_id,
                profile=profile,
                codec=node.codec,
                codec_reason=node.codec_reason,
                is_change=is_change,
                is_news=kind not in self._announced,
            )
        )
        self._announced.add(kind)


def read_profiles(config: Config) -> list[DeviceProfile]:
    """Reads the profiles that `federation.profiles` names; raises `ConfigError` where one is wrong."""
    names = [name.strip() for name in config.federation.profiles.split(",") if name.strip()]
    return [load_profile(name) for name in names]


def choose_profile(profiles: list[DeviceProfile], node_id: str) -> DeviceProfile | None:
    """Gives a simulated node its profile: the number at the end of its name is its turn."""
    number = node_id.rpartition("-")[2]
    return profiles[int(number) % len(profiles) if number.isdigit() else 0] if profiles else None


def observe_link(node: NodeState) -> None:
    """Takes the link's speed from a node's last report into its moving mean, where it says anything."""
    num_bytes = node.report.get("wire_bytes", 0)
    seconds = node.report.get("phase_seconds", {}).get("fetch", 0.0)
    if num_bytes < MIN_OBSERVED_BYTES or seconds <= 0:
        return
    rate, before = num_bytes / seconds, node.link_bytes_per_second
    node.link_bytes_per_second = (
        rate if before is None else NEWEST_WEIGHT * rate + (1 - NEWEST_WEIGHT) * before
    )
