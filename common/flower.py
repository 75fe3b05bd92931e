"""Settings of Flower's programs that coordinator and devices start alike."""

from __future__ import annotations

TASK_POLL = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
TASK_POLL_SECONDS = "0.25"
"""How often a SuperExec asks for work; Flower's own second is half a second of every task. A quarter
costs a hundredth of a core."""
