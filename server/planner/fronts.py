"""The measured front of a run: every candidate with its cost, and with its accuracy where it may fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedstill.common.config import Config
from fedstill.common.devices import DeviceProfile
from fedstill.common.devices.suite import host_speed
from fedstill.common.errors import UsageError
from fedstill.common.files import default_home
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.exchange.vocabulary import read_encoder
from fedstill.server.planner.candidates import Candidate, list_candidates
from fedstill.server.planner.choice import Choice, Conditions, Option, choose_option, find_feasible
from fedstill.server.planner.measuring import Subject, measure_costs
from fedstill.server.planner.pilots import run_pilots
from fedstill.server.run.events import Observer, PhaseAdvanced, Warned, timed_phase


class Front:
    """Options of one run, measured when they are first asked for."""

    def __init__(self, exchange: Exchange, observe: Observer) -> None:
        """Measures nothing yet.

        Args:
            exchange: The run's data and teacher; its scheme's labels are published.
            observe: Told of progress.
        """
        self._exchange = exchange
        self._observe = observe
        self._options: dict[Candidate, Option] = {}
        config = exchange.config
        self._cache_dir = find_cache_dir(config)
        calibration = exchange.dataset.x_train[exchange.splits.public][: config.compress.num_calibration]
        publication = exchange.publication
        self._subject = Subject(
            exchange.spec,
            publication.class_names,
            publication.feature_names,
            calibration,
            read_encoder(exchange),
        )

    def options(self) -> list[Option]:
        """Lists all candidates with what they cost; accuracies as far as pilots have run."""
        if not self._options:
            candidates = list_candidates(self._exchange.config, self._exchange.spec)
            with timed_phase(self._observe, "measuring", len(candidates)):
                costs = measure_costs(
                    candidates,
                    self._subject,
                    cache_dir=self._cache_dir / "costs",
                    on_done=lambda done: self._observe(PhaseAdvanced("measuring", done)),
                    on_skip=lambda text: self._observe(Warned(text)),
                )
            self._options = {
                candidate: Option(
                    candidate,
                    artefact_bytes=cost.artefact_bytes,
                    memory_bytes=cost.memory_bytes,
                    num_parameters=cost.num_parameters,
                    num_macs=cost.num_macs,
                    latency_seconds=cost.latency_seconds,
                    fp32_latency_seconds=costs[candidate.uncompressed].latency_seconds,
                    step_seconds=0.0,
                )
                for candidate, cost in costs.items()
            }
        return list(self._options.values())

    def try_out(self, options: Sequence[Option]) -> None:
        """Runs the pilots that these options still lack."""
        missing = [option.candidate for option in options if self._options[option.candidate].accuracy is None]
        if not missing:
            return
        with timed_phase(self._observe, "pilots", len(missing)):
            pilots = run_pilots(
                missing,
                self._subject,
                self._exchange,
                cache_dir=self._cache_dir / "pilots",
                on_done=lambda done: self._observe(PhaseAdvanced("pilots", done)),
            )
        for candidate, pilot in pilots.items():
            self._options[candidate] = replace(
                self._options[candidate], accuracy=pilot.accuracy, step_seconds=pilot.step_seconds
            )

    def choose(self, profile: DeviceProfile, conditions: Conditions) -> Choice:
        """Chooses for a device; pilots are run of everything that may fit it.

        Args:
            profile: The device.
            conditions: How it differs from this host.

        Returns:
            The choice.
        """
        feasible, _ = find_feasible(self.options(), profile, replace(conditions, step_limit_seconds=0.0))
        self.try_out(feasible)
        return choose_option(self.options(), profile, conditions)

    def find(self, candidate: Candidate) -> Option | None:
        """Looks a candidate up; None where it is none of this run's."""
        self.options()
        return self._options.get(candidate)


def find_cache_dir(config: Config) -> Path:
    """Says where measurements and pilots are kept."""
    home = Path(config.exchange.cache_dir) if config.exchange.cache_dir else default_home()
    return home / "planner"


def scale_latencies(profile: DeviceProfile) -> dict[str, float]:
    """Divides this host's speed by the device's, both on the fixed suite: seconds there per second here."""
    host = host_speed()
    return {
        "fp32": host.fp32_macs_per_second / profile.macs_per_second("fp32"),
        "int8": host.int8_macs_per_second / profile.macs_per_second("int8"),
    }


def refuse(choice: Choice, profile: DeviceProfile) -> UsageError:
    """Builds the error for a device that nothing fits."""
    return UsageError(
        f"device profile {profile.name}: none of {len(choice.rejected)} candidates fits; {choice.nearest}."
        " Raise the budget, or name smaller students in student.model and student.width"
    )
