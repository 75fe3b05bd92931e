"""What compression buys, measured on artefacts, beside plain use of what it stands on.

    FEDSTILL_DATA=FOLDER python -m benchmarks.compression resnet|cnn|student [--output DIR] [--json]

trains a model, runs `fedstill compress` on it, and does with torchao, ONNX Runtime and
Torch-Pruning what their first pages say, in the same process. FOLDER holds cifar10_mini and
fashion_mnist. What is finished in DIR is not done again, so a run may be stopped at any time.

Everything stands against **ONNX Runtime fp32 of the uncompressed model**, one thread, medians
of one process; accuracy is on a test part that nothing was chosen on, beside the control: the
uncompressed model trained on for the same steps with the same distillation. Expected before it
was measured: prune + int8 .pte 10 times smaller and 8 times faster on the ResNet within two
points, int8 alone in ONNX Runtime 4 times faster; x86 without VNNI multiplies 8 bits at about
the speed of floats, so those factors need a processor that has it (`avx512_vnni` or `avx_vnni`).

Seen with VNNI on an idle machine (seed 0, files of the model alone; accuracy on the test part, smaller,
faster at batch 1 / 64). ResNet, 1,700 training samples, control .425: int8 ONNX Runtime .422, 3.7, 3.0/3.2;
int8 .pte .422, 3.7, 3.4/3.5; half the channels + int8 ONNX Runtime .411, 12.3, 4.8/5.5; half the channels +
int8 .pte .414, 11.8, 8.6/8.7; 90 % sparse packed .411, 25.4, 3.0/3.2; 1 bit packed .424 with QAT and .214
without, 29.1, 3.0/3.3. Plain Torch-Pruning, tuned on labels, reaches .450 in floats, 3.9 smaller: the given
model (.422) teaches less there than the labels do. CNN of 4.3 M, 5,100 training samples, control .877: int8
ONNX Runtime .878, 4.0, 3.0/2.1; int8 .pte .878, 4.0, 4.8/3.6; half the channels + int8 .pte .869, 15.6,
13.4/10.5; rank 32 + int8 .pte .869, 49.7, 14.0/10.9, packed .871, 66.1, 5.0/3.1; 90 % sparse packed .865,
32.1, 3.0/2.2; 1 bit packed .874 with QAT and .758 without, 31.2, 3.0/2.1. Tuned on labels, plain
Torch-Pruning reaches .891, 4.0 smaller. All artefacts gave the same logits bit for bit in a fresh process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks.compression_peers import Peer, measure_peers
from fedstill.common.artefact import read_artefact
from fedstill.common.config import DataConfig
from fedstill.common.datasets import load_dataset
from fedstill.common.models import build_model
from fedstill.common.training import (
    Optimisation,
    deterministic,
    fit,
    load_weights,
    save_weights,
    shuffled_batches,
    steps_per_epoch,
)
from fedstill.server.compress import Budget, Front, Request, compress_model, print_front
from fedstill.server.compress.material import load_material
from fedstill.server.compress.records import Material, Row

VALIDATION_FRACTION = 0.15
NUM_RELOADED = 64


@dataclass(frozen=True)
class Case:
    """One model on one data set."""

    source: str
    model: str
    width: float
    num_train: int
    num_test: int
    teacher_epochs: int
    budget: Budget
    plans: tuple[str, ...]


FEW_BITS = ("sparsify=0.9,bits=8,storage=packed", "bits=1,qat=true,storage=packed", "bits=1,storage=packed")
CASES = {
    "resnet": Case(
        "cifar10_mini",
        "resnet-small",
        1.0,
        num_train=2_000,
        num_test=1_000,
        teacher_epochs=25,
        budget=Budget(num_epochs=12, learning_rate=2e-3),
        plans=(
            "bits=8",
            "bits=8,runtime=executorch",
            "bits=4,storage=packed",
            "prune=0.5,bits=8,runtime=executorch",
            "prune=0.5,bits=8",
            *FEW_BITS,
        ),
    ),
    "cnn": Case(
        "fashion_mnist",
        "cnn-large",
        2.23,
        num_train=6_000,
        num_test=2_000,
        teacher_epochs=4,
        budget=Budget(num_epochs=4, learning_rate=1e-3),
        plans=(
            "bits=8",
            "bits=8,runtime=executorch",
            "bits=4,storage=packed",
            "lowrank=1,rank=32,bits=8,runtime=executorch",
            "lowrank=1,rank=32,bits=8,storage=packed",
            *FEW_BITS,
            "prune=0.5,bits=8,runtime=executorch",
        ),
    ),
    "student": Case(
        "fashion_mnist",
        "cnn-small",
        3.07,
        num_train=6_000,
        num_test=2_000,
        teacher_epochs=8,
        budget=Budget(num_epochs=4, learning_rate=2e-3),
        plans=(
            "bits=8",
            "bits=8,runtime=executorch",
            "bits=4,storage=packed",
            "prune=0.5,bits=8,runtime=executorch",
            *FEW_BITS,
        ),
    ),
}


def prepare_data(case: Case, output_dir: Path) -> DataConfig:
    """Writes the first samples of a data set as one file, so that a run takes minutes."""
    path = output_dir / "data.npz"
    if not path.exists():
        source = Path(os.environ["FEDSTILL_DATA"]) / case.source
        data = load_dataset(DataConfig(source=str(source)), seed=0)
        output_dir.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            x_train=data.x_train[: case.num_train],
            y_train=data.y_train[: case.num_train],
            x_test=data.x_test[: case.num_test],
            y_test=data.y_test[: case.num_test],
        )
    return DataConfig(source=str(path))


def train_teacher(case: Case, material: Material, path: Path, *, num_threads: int) -> None:
    """Trains the model that is compressed, on the training part alone."""
    x_S, y_S = material.x_train, material.y_train
    batches = (
        (torch.from_numpy(x_S[index]), torch.from_numpy(y_S[index]))
        for index in shuffled_batches(len(y_S), 64, np.random.default_rng(0))
    )
    with deterministic(0, num_threads=num_threads):
        model = build_model(case.model, material.spec, num_classes=10, width=case.width)
        fit(
            model,
            batches,
            lambda module, batch: (functional.cross_entropy(module(batch[0]), batch[1]),),
            loss_weights=(1.0,),
            num_steps=case.teacher_epochs * steps_per_epoch(len(y_S), 64),
            optimisation=Optimisation(2e-3, 1e-3),
        )
    save_weights(model, path)


def count_reloaded(front: Front, output_dir: Path, x_S: np.ndarray) -> int:
    """Counts the artefacts that give, in a process that only reads them, the same logits bit for bit."""
    samples = output_dir / "reload.npy"
    np.save(samples, x_S[:NUM_RELOADED], allow_pickle=False)
    code = (
        "import hashlib, sys, numpy as np\nfrom pathlib import Path\n"
        "from fedstill.common.artefact import read_artefact\n"
        "logits = read_artefact(Path(sys.argv[1])).predict(np.load(sys.argv[2], allow_pickle=False))\n"
        "print(hashlib.sha256(logits.tobytes()).hexdigest())"
    )
    same = 0
    for row in front.rows:
        here = hashlib.sha256(
            read_artefact(output_dir / row.artefact).predict(x_S[:NUM_RELOADED]).tobytes()
        ).hexdigest()
        command = [sys.executable, "-c", code, str(output_dir / row.artefact), str(samples)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        same += done.stdout.strip() == here
    return same


def run_case(name: str, output_dir: Path, *, num_threads: int) -> tuple[Front, list[Peer], int]:
    """Trains, compresses, measures peers and reloads."""
    case = CASES[name]
    data = prepare_data(case, output_dir)
    material = load_material(data, seed=0, validation_fraction=VALIDATION_FRACTION, num_calibration=256)
    weights = output_dir / "teacher.safetensors"
    if not weights.exists():
        print("training the teacher", file=sys.stderr)
        train_teacher(case, material, weights, num_threads=num_threads)
    request = Request(
        str(weights),
        data,
        output_dir / "plans",
        case.plans,
        case.model,
        case.width,
        case.budget,
        VALIDATION_FRACTION,
        num_threads=num_threads,
    )
    front = compress_model(request, say=lambda line: print(line, file=sys.stderr))
    model = build_model(case.model, material.spec, num_classes=10, width=case.width)
    load_weights(model, weights)
    tuning = replace(case.budget, distill_lambda=0.0)
    peers = measure_peers(model, material, tuning, folder=output_dir / "peers", num_threads=num_threads)
    return front, peers, count_reloaded(front, output_dir / "plans", material.dataset.x_test)


def print_peers(peers: list[Peer], given: Row) -> None:
    """Prints what plain use of the libraries gives, against the same baseline."""
    print(f"\n{'plain use':<44}{'accuracy':>9}{'bytes':>12}{'÷':>6}" + f"{'batch':>12}{'×':>6}" * 2)
    for peer in peers:
        size = f"{peer.num_bytes:>12,}{given.artefact_bytes / peer.num_bytes:>6.1f}"
        times = ""
        for mine, its in (
            (peer.latency_seconds_batch1, given.latency_seconds_batch1),
            (peer.latency_seconds_batch64, given.latency_seconds_batch64),
        ):
            times += f"{mine * 1e3:>9.3f} ms{(its or 0) / mine:>6.1f}"
        print(f"{peer.name:<44}{peer.accuracy:>9.4f}{size}{times}")


def has_vnni() -> bool:
    """Says whether this processor multiplies 8 bits faster than floats."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures compressed models beside plain use of libraries.")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--output", type=Path, help="folder that is filled or gone on with")
    parser.add_argument("--threads", type=int, default=1, help="threads of training")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if "FEDSTILL_DATA" not in os.environ:
        parser.error("expected FEDSTILL_DATA to name the folder that holds cifar10_mini and fashion_mnist")
    output_dir = (arguments.output or Path("benchmark-compression") / arguments.case).resolve()
    front, peers, num_reloaded = run_case(arguments.case, output_dir, num_threads=arguments.threads)
    if arguments.json:
        rows = [peer.to_json() for peer in peers]
        document = front.model_dump() | {"peers": rows, "num_reloaded": num_reloaded, "vnni": has_vnni()}
        print(json.dumps(document))
        return
    print_front(front, output_dir)
    print_peers(peers, front.rows[0])
    print(
        f"\n{num_reloaded} of {len(front.rows)} artefacts give the same logits bit for bit in a fresh process"
    )
    print(f"8-bit dot products (VNNI) on this processor: {'yes' if has_vnni() else 'no'}")


if __name__ == "__main__":
    main()
