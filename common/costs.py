"""What one prediction costs, apart from time: multiplications, and memory at its peak.

`python -m fedstill.common.costs ARTEFACT` measures the memory of an artefact in a process of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedstill.common.artefact import read_artefact
from fedstill.common.errors import FedStillError
from fedstill.common.runtimes import executorch_program

if TYPE_CHECKING:
    from torch import nn

_STATUS = Path("/proc/self/status")
_NUM_RUNS = 8


def count_macs(model: nn.Module, sample_shape: tuple[int, ...], dtype: str) -> int:
    """Counts the multiply-accumulates of one prediction, those of layers with weights.

    Args:
        model: A model from raw samples to logits.
        sample_shape: Shape of a raw sample.
        dtype: Type of its values.

    Returns:
        Half of what torch counts as floating-point operations. Additions of
        normalisation, activations and pooling are left out, as is usual.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    example = torch.zeros((1, *sample_shape), dtype=getattr(torch, dtype))
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    return int(counter.get_total_flops()) // 2


def measure_peak_memory(artefact_dir: Path) -> int | None:
    """Measures by how much an artefact raises the memory of a fresh process, at its peak.

    Args:
        artefact_dir: Folder of the artefact.

    Returns:
        Bytes that reading the artefact and predicting one sample at a time add to those of
        the interpreter and the runtime's library; None where the system does not tell.

    Raises:
        FedStillError: The artefact could not be run.
    """
    # -P: the folder that the command runs in may hold a `common` of its own.
    command = [
        sys.executable,
        "-P",
        "-c",
        "from fedstill.common.costs import main; main()",
        str(artefact_dir),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own code
    if done.returncode:
        cause = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise FedStillError(f"cannot run {artefact_dir} in a process of its own: {cause}")
    peak: int | None = json.loads(done.stdout)
    return peak


def main() -> None:
    """Prints the memory that the artefact named on the command line takes, bytes, as JSON."""
    folder = Path(sys.argv[1])
    if (folder / executorch_program.MODEL_FILE).exists():
        executorch_program.load_library()  # what the library itself takes is not the artefact's
    before = _restart_peak()
    artefact = read_artefact(folder)
    sample = np.zeros((1, *artefact.sample_shape), artefact.dtype)
    for _ in range(_NUM_RUNS):
        artefact.predict(sample)
    after = _read_status("VmHWM")
    peak = None if before is None or after is None else max(0, after - before)
    sys.stdout.write(json.dumps(peak) + "\n")


def _restart_peak() -> int | None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _read_status("VmRSS")


def _read_status(key: str) -> int | None:
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


if __name__ == "__main__":
    main()
