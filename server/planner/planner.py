"""The planner of a run: what each node's device means for its student and its labels.

What it decides stands in the node's state and is committed with the round, so that a
resumed run decides nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedstill.common.config import Config
from fedstill.common.devices import DeviceProfile, Link, builtin_profiles, load_profile
from fedstill.common.errors import ConfigError, ExchangeError
from fedstill.common.models import InputSpec
from fedstill.common.wire import profile_from_proto
from fedstill.protos.fedstill.v1 import fleet_pb2
from fedstill.server.exchange.encodings import AUTO
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.exchange.publication import Publication
from fedstill.server.planner.choice import Choice, Option
from fedstill.server.planner.codecs import choose_codec, choose_upload_codec, reconsider_codec
from fedstill.server.planner.fixed import plan_node
from fedstill.server.planner.fronts import Front, refuse
from fedstill.server.planner.replanning import (
    find_conditions,
    observe_report,
    observe_timeout,
    read_candidate,
    reconsider,
    record_plan,
)
from fedstill.server.run.events import Event, NodeBudgeted, NodePlanned, Warned
from fedstill.server.run.state import NodePlan, NodeState
from fedstill.server.schemes import get_scheme

# A fetch of less says more of the cache and of the handshake than of the link.
MIN_OBSERVED_BYTES = 65_536
# Weight of the newest observation in the moving mean of a link.
NEWEST_WEIGHT = 0.5


class Planner:
    """Plans for one run; everything that changes is in the nodes' states."""

    def __init__(
        self,
        config: Config,
        spec: InputSpec,
        observe: Callable[[Event], None],
        front: Front | None = None,
    ) -> None:
        """Reads the profiles that simulated nodes take.

        Args:
            config: The run's configuration.
            spec: What samples look like.
            observe: Told of every decision.
            front: What students can be chosen from, where `student.plan` is "auto".

        Raises:
            ConfigError: A profile that is wrong or not there.
        """
        self._config = config
        self._spec = spec
        self._observe = observe
        self._front = front
        self._choices: dict[str, Choice] = {}
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

    def settle(self, node: NodeState) -> None:
        """Plans a node's student by its device, once; what was planned before stays.

        Args:
            node: Its state; changed in place.

        Raises:
            UsageError: Nothing fits a simulated device. One that came by itself is left out.
        """
        if self._front is not None and node.plan is None and not node.refusal:
            if node.profile is None:
                self._observe(
                    Warned(f"{node.node_id} has no device profile and gets the student of [student]")
                )
            else:
                self._settle_by_profile(node, self._front, node.profile)
        node.family = self.plan(node).model

    def _settle_by_profile(self, node: NodeState, front: Front, profile: DeviceProfile) -> None:
        conditions = find_conditions(node, None, self._config, num_steps=0)
        key = profile.model_dump_json()
        if key not in self._choices:
            self._choices[key] = front.choose(profile, conditions)
        choice = self._choices[key]
        if choice.chosen is None:
            if node.is_simulated:
                raise refuse(choice, profile)
            node.refusal = str(refuse(choice, profile))
            self._observe(Warned(f"{node.node_id} is left out: {node.refusal}"))
            return
        node.plan = record_plan(choice.chosen, choice.reason, conditions, None)
        self._announce(node)

    def plan(self, node: NodeState) -> fleet_pb2.StudentPlan:
        """Says which student a node trains."""
        return plan_node(self._config, self._spec, node)

    def starts_anew(self, node: NodeState) -> bool:
        """Says whether a node's next student has another architecture than its last one."""
        return node.plan is not None and not node.plan.num_rounds and node.base_round > 0

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

    def close_round(
        self,
        reported: Sequence[NodeState],
        silent: Sequence[NodeState],
        publication: Publication,
        *,
        rounds_left: int,
    ) -> None:
        """Reviews the nodes that reported in a round, and those that missed its deadline."""
        for node in reported:
            self.review(node, publication, rounds_left=rounds_left)
        num_steps = max((node.report.num_steps for node in reported if node.report is not None), default=0)
        for node in silent:
            self.review_timeout(node, num_steps=num_steps, rounds_left=rounds_left)

    def review(self, node: NodeState, publication: Publication, *, rounds_left: int) -> None:
        """Looks at a node's last report, and changes its codec and its plan where they no longer fit.

        Args:
            node: Its state with the report of the round that is being closed; changed in place.
            publication: What the next round fetches.
            rounds_left: Rounds that are still to come.
        """
        observe_link(node)
        self._review_codec(node, publication)
        if self._front is None or node.plan is None:
            return
        node.plan.num_rounds += 1
        if not rounds_left:
            return
        option = self._find_option(node.plan, self._front)
        if option is None:
            return
        observe_report(node, option)
        num_steps = 0 if node.report is None else node.report.num_steps
        self._replan(node, option, self._front, num_steps=num_steps, rounds_left=rounds_left)

    def _find_option(self, plan: NodePlan, front: Front) -> Option | None:
        """Finds what was planned among the options, its pilot run: a resumed run has not yet."""
        option = front.find(read_candidate(plan))
        if option is None:
            return None
        front.try_out([option])
        return front.find(option.candidate)

    def _replan(
        self, node: NodeState, option: Option, front: Front, *, num_steps: int, rounds_left: int
    ) -> None:
        found = reconsider(node, option, front, self._config, num_steps=num_steps, rounds_left=rounds_left)
        if found is None:
            return
        choice, cause = found
        if choice.chosen is None:
            self._observe(
                Warned(f"{node.node_id} is over its budget ({cause}) and nothing fits it; {choice.nearest}")
            )
            return
        if choice.chosen.candidate == option.candidate:
            return
        assert node.plan is not None
        conditions = find_conditions(node, option, self._config, num_steps=num_steps)
        before = node.plan
        node.plan = record_plan(choice.chosen, f"{before.name} left: {cause}", conditions, before)
        node.num_replans += 1
        self._announce(node, is_change=True)

    def review_timeout(self, node: NodeState, *, num_steps: int, rounds_left: int) -> None:
        """Looks for a plan that a node can finish in time, after it missed a round's deadline."""
        if self._front is None or node.plan is None or not rounds_left:
            return
        observe_timeout(node, self._config, num_steps=num_steps)
        option = self._find_option(node.plan, self._front)
        if option is not None:
            if node.report is not None and node.report.num_steps:
                num_steps = node.report.num_steps
            self._replan(node, option, self._front, num_steps=num_steps, rounds_left=rounds_left)

    def _review_codec(self, node: NodeState, publication: Publication) -> None:
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
        plan = node.plan
        kind = (profile, plan.name if plan else "", node.codec)
        self._observe(
            NodePlanned(
                node_id=node.node_id,
                profile=profile,
                plan=plan.name if plan else "",
                plan_reason=plan.reason if plan else "",
                codec=node.codec,
                codec_reason=node.codec_reason,
                is_change=is_change,
                is_news=kind not in self._announced,
            )
        )
        self._announced.add(kind)


def make_planner(config: Config, exchange: Exchange, observe: Callable[[Event], None]) -> Planner:
    """Makes a run's planner; students are planned per device only where `student.plan` is "auto"."""
    front = Front(exchange, observe) if config.student.plan == "auto" else None
    return Planner(config, exchange.spec, observe, front)


def check_planning(config: Config) -> None:
    """Refuses, before anything is computed, what cannot be planned for.

    Raises:
        ConfigError: A profile that is wrong, `auto` without profiles, or in a scheme whose
            nodes need equal students.
    """
    profiles = read_profiles(config)
    if config.student.plan != "auto":
        return
    name = config.federation.scheme
    if shared := get_scheme(name).shares:
        raise ConfigError(
            f"student.plan = auto gives nodes different students, and the scheme {name} averages {shared};"
            " set student.plan = fixed, or choose another scheme"
        )
    if not profiles and config.data.private == "split":
        raise ConfigError(
            "student.plan = auto: name the devices of simulated nodes in federation.profiles, as"
            f" {','.join(builtin_profiles()[:2])}"
        )


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
    if node.report is None:
        return
    num_bytes, seconds = node.report.wire_bytes, node.report.phase_seconds.fetch
    if num_bytes < MIN_OBSERVED_BYTES or seconds <= 0:
        return
    rate, before = num_bytes / seconds, node.link_bytes_per_second
    node.link_bytes_per_second = (
        rate if before is None else NEWEST_WEIGHT * rate + (1 - NEWEST_WEIGHT) * before
    )
