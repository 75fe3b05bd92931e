"""The state of a federation, committed once per round.

One file says which round was committed and how all nodes stand; it is replaced atomically,
so that a run is always either before or after a round. What the rounds were like is in
`rounds.jsonl` alone: a line that the state does not know of yet is no round.

    config.toml             written first
    rounds.jsonl            a line per round; appended to just before the state, which knows its length
    checkpoints/state.json  makes the folder a run; replaced once per round
    lock                    held (flock) by the one coordinator; it ends with its holder
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fedstill.common.compressors import CompressionPlan
from fedstill.common.devices import DeviceProfile
from fedstill.common.errors import DataError, UsageError
from fedstill.common.files import write_text_atomically
from fedstill.server.run.records import ClosingRecord, ExchangeRecord, NodeRecord, RoundRecord

STATE_FILE = Path("checkpoints") / "state.json"
ROUNDS_FILE = "rounds.jsonl"
LOCK_FILE = "lock"
LOCKS = Path("/proc/locks")


class NodePlan(BaseModel):
    """The student that was planned for one node's device, and what was expected of it."""

    model_config = ConfigDict(extra="forbid")

    model: str
    width: float
    compression: CompressionPlan
    name: str
    """All three in words."""
    reason: str
    accuracy: float | None
    """Of its pilot, on the server's validation part."""
    artefact_bytes: int
    latency_seconds: float
    """Expected on the device, at batch 1."""
    num_rounds: int = 0
    """Rounds that its student has been trained in; 0 begins with the initial one."""


class NodeState(BaseModel):
    """One node as of its last committed round."""

    model_config = ConfigDict(extra="forbid")

    node_id: str
    host: str = ""
    """The machine that it worked on last, as `fedstill.clients.machine` names it."""
    family: str = ""
    num_train_samples: int
    num_private_test: int
    base_round: int = 0
    shared_round: int = 0
    """Round whose array of this node is part of what is published; 0: none of its is."""
    shared_weight: float = 1.0
    """Weight of that array there; below 1 where it came late."""
    num_rounds: int = 0
    num_state_resets: int = 0
    arrays: list[str] = []
    """Digests of what the node has fetched, so that each counts once."""
    bytes_down: int = 0
    bytes_up: int = 0
    public_sample_bytes: int = 0
    evaluation_bytes: int = 0
    wire_bytes: int = 0
    fedavg_bytes: int = 0
    report: NodeRecord | None = None
    """Figures of its last round, as in that round's line of `rounds.jsonl`."""
    closing: ClosingRecord = ClosingRecord()
    """Control, latency and upload, once the run is over."""
    num_failures: int = 0
    """Rounds in a row that it was asked in and gave nothing that could be used."""
    num_rests: int = 0
    """Rests since its last good answer; each is twice as long."""
    rests_until: int = 0
    """Last round that it sits out."""
    rest_reason: str = ""
    """Why it rests: the reason of its last failure."""
    profile: DeviceProfile | None = None
    """Its device, where that is known."""
    is_simulated: bool = False
    """The profile is the configuration's; what is measured on the node is another machine's."""
    codec: str = ""
    """Codec of what it fetches, where each node has its own."""
    codec_reason: str = ""
    plan: NodePlan | None = None
    """Its own plan, where `student.plan` is "auto" and its device is known."""
    num_replans: int = 0
    refusal: str = ""
    """Why nothing can be planned for it; it is never asked."""
    device_latency_seconds: float | None = None
    """Of its last artefact, as measured in the round, on its device; scaled where that is simulated."""
    latency_correction: dict[str, float] = {}
    """Measured over expected latency, by arithmetic."""
    step_seconds: float | None = None
    """Of its last training step."""
    link_bytes_per_second: float | None = None
    """What was seen of its link, where it has one of its own; a moving mean."""

    @field_validator("report", mode="before")
    @classmethod
    def _nothing_yet(cls, value: object) -> object:
        return value or None  # version 0.1 wrote an empty table where there was no report


def count_rounds(node: NodeState) -> int:
    """Counts the rounds that a node's last student was trained in: all, unless it was planned anew."""
    return node.num_rounds if node.plan is None else node.plan.num_rounds


def find_uncompressed(node: NodeState) -> float | None:
    """Finds the accuracy of a student's uncompressed control: itself, where training was left alone."""
    accuracy = node.closing.uncompressed_accuracy
    return accuracy if accuracy is not None or node.report is None else node.report.uncompressed_accuracy


class FederationState(BaseModel):
    """All that the coordinator knows after a round."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    round: int = 0
    num_resumes: int = 0
    wall_seconds: float = 0.0
    num_late: int = 0
    stopped_because: str = ""
    is_closed: bool = False
    """Controls, latencies and artefacts are in; what is left is the summary."""
    exchange: ExchangeRecord = ExchangeRecord()
    """The teacher, and what the next round fetches in schemes that change it."""
    nodes: dict[str, NodeState] = {}
    rounds_bytes: int = 0
    """How much of `rounds.jsonl` is committed; what stands behind it is of a round that was not."""
    rounds: list[RoundRecord] = Field(default=[], exclude=True)
    """Rounds that are not committed yet."""


def commit_state(state: FederationState, run_dir: Path) -> None:
    """Appends to `rounds.jsonl` what is not there yet, and then replaces the state.

    It costs what a round brought and what the nodes' state holds, however many rounds there were.

    Args:
        state: Its `rounds` are in the file afterwards, and forgotten here.
        run_dir: The run's folder.
    """
    lines = "".join(json.dumps(line.to_line(), sort_keys=True) + "\n" for line in state.rounds).encode()
    with (run_dir / ROUNDS_FILE).open("ab") as file:
        file.truncate(state.rounds_bytes)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    state.rounds_bytes += len(lines)
    state.rounds = []
    write_text_atomically(run_dir / STATE_FILE, state.model_dump_json(indent=1))


def read_rounds(run_dir: Path, state: FederationState) -> Iterator[RoundRecord]:
    """Reads the committed rounds one by one.

    Args:
        run_dir: The run's folder.
        state: As it was committed last.

    Yields:
        The rounds in their order.

    Raises:
        DataError: They are gone, in part or all, or damaged.
    """
    path, number, num_bytes = run_dir / ROUNDS_FILE, 0, 0
    try:
        with path.open("rb") as file:
            while num_bytes < state.rounds_bytes and (line := file.readline()):
                num_bytes += len(line)
                record = RoundRecord.model_validate_json(line)
                number += 1
                yield record
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"cannot read {path} ({first}); the run cannot be resumed without it") from None
    if number < state.round:
        raise _rounds_lost(path, number, state.round)


@contextmanager
def hold_folder(folder: Path, *, option: str = "--run-dir") -> Iterator[None]:
    """Makes the folder where it lacks, its owner's alone, and keeps every other coordinator out of it.

    Args:
        folder: A run folder, or the home of a deployment's coordinator.
        option: How a user chooses another one.

    Raises:
        UsageError: Another coordinator works in it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what nodes sent is nobody else's to read
    with (folder / LOCK_FILE).open("ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode("ascii", "replace").strip() or "unknown"
            raise UsageError(
                f"another coordinator (process {holder}) works in {folder}: wait until it ends, or choose"
                f" another folder with {option}"
            ) from None
        with suppress(OSError):  # a full disk is for the first commit to report
            file.truncate(0)
            file.write(b"%d\n" % os.getpid())
        yield


def read_holders() -> set[tuple[int, int]]:
    """Reads which process holds which file's lock.

    Returns:
        Pairs of process id and inode; empty where the system does not tell.
    """
    try:
        lines = LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return set()
    fields = [line.split() for line in lines if "FLOCK" in line and "->" not in line]
    return {(int(part[4]), int(part[5].rpartition(":")[2])) for part in fields if len(part) >= 8}


def is_live(folder: Path, holders: set[tuple[int, int]]) -> bool:
    """Says whether a coordinator of this machine works in a run folder."""
    lock = folder / LOCK_FILE
    try:
        return (int(lock.read_text(encoding="ascii")), lock.stat().st_ino) in holders
    except (OSError, ValueError):
        return False


def sweep(run_dir: Path) -> None:
    """Removes what a killed coordinator was writing beside its files; only the holder may call it."""
    for pattern in (".*.*", f"{STATE_FILE.parent}/.*.*", "nodes/*/.predictions.npy.*"):
        for leftover in run_dir.glob(pattern):
            leftover.unlink(missing_ok=True)


def load_state(run_dir: Path) -> FederationState:
    """Reads the last committed state.

    Raises:
        DataError: The folder is no run folder, or of another version, or its rounds are gone.
    """
    path = run_dir / STATE_FILE
    try:
        state = FederationState.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(
            f"nothing to resume in {run_dir}: expected {STATE_FILE}, which a run writes as it begins;"
            " begin anew in an empty folder"
        ) from None
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} does not fit this version: {first}") from None
    num_bytes = _measure_rounds(run_dir / ROUNDS_FILE, num_rounds=state.round)
    if state.rounds_bytes not in (0, num_bytes):
        raise DataError(
            f"{run_dir / ROUNDS_FILE} is not as it was committed: expected {state.rounds_bytes:,} bytes of"
            f" {state.round} rounds, found {num_bytes:,}; bring it back, or begin anew in an empty folder"
        )
    state = state.model_copy(update={"rounds_bytes": num_bytes})
    for _ in read_rounds(run_dir, state):  # what is damaged is said now, and not when all is trained
        pass
    return state


def _measure_rounds(path: Path, *, num_rounds: int) -> int:
    """Measures the first lines of the rounds' file, bytes; older states do not say how long they are."""
    if not num_rounds:
        return 0
    try:
        with path.open("rb") as file:
            lengths = [len(line) for line in itertools.islice(file, num_rounds) if line.endswith(b"\n")]
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}); the run cannot be resumed without it"
        ) from None
    if len(lengths) < num_rounds:
        raise _rounds_lost(path, len(lengths), num_rounds)
    return sum(lengths)


def _rounds_lost(path: Path, num_found: int, num_rounds: int) -> DataError:
    return DataError(
        f"{path} holds {num_found} of {num_rounds} committed rounds; bring the rest back, or begin anew in an"
        " empty folder"
    )
