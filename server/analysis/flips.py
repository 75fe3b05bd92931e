"""The samples that compression flipped on most nodes, kept in the run folder for its report.

They are where to look first: Hooker et al. 2019 (arXiv:1911.05248) find them to be
mislabelled, ambiguous or rare more often than others.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from fedstill.common.config import Config
from fedstill.common.encoders import PADDING, Encoder
from fedstill.common.errors import DataError
from fedstill.common.files import write_text_atomically
from fedstill.common.models import InputSpec
from fedstill.common.seeding import stream
from fedstill.server.exchange.exchange import Exchange
from fedstill.server.exchange.vocabulary import read_encoder
from fedstill.server.run.state import FederationState

FLIPS_FILE = "flips.json"
MAX_FLIPS = 12
# Every node's predictions are a file: of a large fleet this many are read.
MAX_NODES = 1000
MAX_PIXELS = 64
MAX_LETTERS = 160


class Flip(BaseModel):
    """One evaluation sample and what students made of it; classes are indices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int
    num_nodes: int
    """Nodes on which compression changed its class."""
    true_class: int
    fp32_class: int
    artefact_class: int
    """The two most frequent classes among these nodes, before and after."""
    png: str = ""
    """The image, base64; empty where samples are none."""
    text: str = ""
    """What a model sees of a text or a sequence."""


class Flips(BaseModel):
    """All of `flips.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_nodes: int
    """Nodes whose predictions were looked at."""
    class_names: list[str]
    flips: list[Flip]


def write_flips(run_dir: Path, config: Config, state: FederationState, exchange: Exchange) -> None:
    """Writes `flips.json`; nothing where `monitoring.quality_nodes` is 0.

    Args:
        run_dir: Folder with `nodes/<node>/predictions.npy`.
        config: The run's configuration.
        state: Which nodes took part.
        exchange: The evaluation samples.
    """
    if not config.monitoring.quality_nodes:
        return
    nodes = [node_id for node_id, node in sorted(state.nodes.items()) if node.num_rounds]
    if len(nodes) > MAX_NODES:
        nodes = sorted(stream(config.seed, "flips").choice(nodes, size=MAX_NODES, replace=False).tolist())
    pairs: dict[int, Counter[tuple[int, int]]] = {}
    for node_id in nodes:
        table = np.load(run_dir / "nodes" / node_id / "predictions.npy", allow_pickle=False)
        for index in np.flatnonzero(table["class"] != table["fp32_class"]).tolist():
            change = (int(table["fp32_class"][index]), int(table["class"][index]))
            pairs.setdefault(index, Counter())[change] += 1
    most = sorted(pairs, key=lambda index: (-pairs[index].total(), index))[:MAX_FLIPS]
    encoder = read_encoder(exchange)
    flips = [_describe(index, pairs[index], exchange, encoder) for index in most]
    record = Flips(num_nodes=len(nodes), class_names=list(exchange.dataset.class_names), flips=flips)
    write_text_atomically(run_dir / FLIPS_FILE, record.model_dump_json(indent=1) + "\n")


def read_flips(run_dir: Path) -> Flips | None:
    """Reads what `write_flips` wrote; None where a run has none.

    Raises:
        DataError: The file is damaged.
    """
    path = run_dir / FLIPS_FILE
    try:
        return Flips.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        raise DataError(f"{path} does not fit this version: {str(error).splitlines()[0]}") from None


def _describe(
    index: int, changes: Counter[tuple[int, int]], exchange: Exchange, encoder: Encoder | None
) -> Flip:
    (before, after), _ = min(changes.items(), key=lambda item: (-item[1], item[0]))
    dataset = exchange.dataset
    sample = dataset.x_test[index]
    is_image = dataset.task == "image"
    limits = (float(dataset.x_test.min()), float(dataset.x_test.max())) if is_image else (0.0, 0.0)
    return Flip(
        index=index,
        num_nodes=changes.total(),
        true_class=int(dataset.y_test[index]),
        fp32_class=before,
        artefact_class=after,
        png=base64.b64encode(to_png(sample, exchange.spec, limits)).decode() if is_image else "",
        text="" if encoder is None else to_text(sample, encoder),
    )


def to_png(sample: np.ndarray, spec: InputSpec, limits: tuple[float, float]) -> bytes:
    """Draws one image of a data set.

    Args:
        sample: The image, raw; one or three channels, of others the first is drawn.
        spec: Its layout.
        limits: What is black and what is white.

    Returns:
        A PNG of at most 64 pixels a side; larger images are thinned out.
    """
    image = sample if spec.channel_axis is None else np.moveaxis(sample, spec.channel_axis, -1)
    if image.ndim == 3 and image.shape[2] != 3:
        image = image[:, :, 0]
    step = -(-max(image.shape[:2]) // MAX_PIXELS)
    image = image[::step, ::step].astype(np.float64)
    low, high = limits
    pixels = np.clip(np.rint((image - low) * (255 / max(high - low, 1e-30))), 0, 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def to_text(ids_T: np.ndarray, encoder: Encoder) -> str:
    """Writes what a model sees of a text: words that it never met are dots, the rest is cut off."""
    between = "" if encoder.kind == "letters" else " "
    text = between.join(encoder.describe(int(number)) for number in ids_T if number != PADDING)
    return text if len(text) <= MAX_LETTERS else text[:MAX_LETTERS] + "…"
