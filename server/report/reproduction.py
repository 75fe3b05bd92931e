"""The report's section on having the run again: exact commands, versions, seeds and digests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from fedstill.common.errors import DataError
from fedstill.server.display.units import UNKNOWN
from fedstill.server.report.tables import render_table
from fedstill.server.run.summary import Summary

_STUDENT = re.compile(rb'"student_digest": "[0-9a-f]*"')
CHECK_COMMAND = """grep -o '"student_digest": "[0-9a-f]*"' {}/rounds.jsonl | sha256sum"""
# What is installed by these is told by their own pins; Python's and the system's stand beside.
_NOT_INSTALLED = ("python", "system")


@dataclass(frozen=True)
class Identity:
    """What a second run can be held against.

    Attributes:
        config_digest: sha256 of config.toml.
        students_digest: sha256 of what `CHECK_COMMAND` counts: the students of all nodes in all rounds.
        label_sets: Ids of the label sets that rounds fetched, each once, in their order.
    """

    config_digest: str
    students_digest: str
    label_sets: Sequence[str]


def read_identity(run_dir: Path, label_sets: Sequence[str]) -> Identity:
    """Digests the files of a run that a second run repeats.

    Args:
        run_dir: The run folder.
        label_sets: Ids of the rounds' label sets; repeated ones are left out.

    Returns:
        The identity.

    Raises:
        DataError: A file is missing.
    """
    students = hashlib.sha256()
    try:
        config_digest = hashlib.sha256((run_dir / "config.toml").read_bytes()).hexdigest()
        with (run_dir / "rounds.jsonl").open("rb") as file:
            for line in file:
                students.update(b"".join(match + b"\n" for match in _STUDENT.findall(line)))
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename} ({error.strerror}); give the folder of a finished run"
        ) from None
    return Identity(config_digest, students.hexdigest(), list(dict.fromkeys(label_sets)))


def render_reproduction(summary: Summary, identity: Identity, config: Mapping[str, Any]) -> str:
    """Renders the section.

    Args:
        summary: The finished run.
        identity: Its digests.
        config: The resolved configuration, flat with dotted keys.

    Returns:
        HTML without its heading.
    """
    packages = {name: text for name, text in summary.versions.items() if name not in _NOT_INSTALLED}
    pins = "".join(f" {name}=={text.partition('+')[0]}" for name, text in packages.items())
    python = f", with Python {summary.versions['python']}" if "python" in summary.versions else ""
    if config.get("data.private") == "nodes":
        command, folder = "fedstill coordinator config.toml --run-id again", "coordinator/runs/again"
        note = "With the same devices and the data that they hold; their order and deadlines may differ."
    else:
        command, folder = "fedstill simulate config.toml --run-dir again", "again"
        note = (
            "A data.source that is a path is relative to where the command runs. The same seed gives the same"
            " labels, students and rounds.jsonl, times and cache counters aside, on any grid, unless a"
            " deadline closed a round."
        )
    return (
        f"<p>In the run folder{escape(python)}:</p>"
        f'<pre>pip install "fedstill[server]=={escape(summary.version)}"{escape(pins)}\n'
        f"{escape(command)}</pre>"
        f"<p class=lead>{escape(note)}</p>"
        "<p>Then this prints the digest of all students in all rounds, as it stands below:</p>"
        f"<pre>{escape(CHECK_COMMAND.format(folder))}</pre>"
        "<p class=lead>Every shared figure follows from <code>nodes/*/predictions.npy</code> and the"
        " evaluation set.</p>" + _identity_table(summary, identity)
    )


def _identity_table(summary: Summary, identity: Identity) -> str:
    rows = [
        ("Version", summary.version),
        ("Seed", str(summary.seed)),
        *((name, text) for name, text in summary.versions.items()),
        ("Configuration", identity.config_digest),
        ("Students", identity.students_digest),
    ]
    if summary.teacher is not None:
        rows.append(("Teacher", summary.teacher.digest))
    rows += [
        ("Label set" if number == 0 else "", label_set)
        for number, label_set in enumerate(identity.label_sets[:20])
    ]
    if len(identity.label_sets) > 20:
        rows.append(("", f"and {len(identity.label_sets) - 20} more in rounds.jsonl"))
    rows.append(("Evaluation set", str(summary.eval_set.get("digest", UNKNOWN))))
    body = "".join(f"<tr><td>{escape(name)}<td><code>{escape(text)}</code>" for name, text in rows)
    return render_table("", body)
