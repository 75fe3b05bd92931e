"""The Flower ClientApp: unpack, call, pack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from fedstill.clients.closing import close_run
from fedstill.clients.controls import train_control, train_controls
from fedstill.clients.fetching import NodeContext
from fedstill.clients.labels import LabelCache, Transport
from fedstill.clients.lessons import attempt
from fedstill.clients.node_config import CERTIFICATES_DIR, PROFILE
from fedstill.clients.node_store import NodeStore
from fedstill.clients.private import digest_private, load_private, name_node
from fedstill.clients.tasks import evaluate_student, run_task, run_tasks
from fedstill.common.certificates import read_credentials, sign_hello
from fedstill.common.codecs import get_codec
from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.config import Config, Scalar, from_run_config
from fedstill.common.devices import load_profile
from fedstill.common.errors import RunError
from fedstill.common.files import default_home
from fedstill.common.installation import installed_version, works_with
from fedstill.common.modules import confined_to_bundle, is_reference
from fedstill.common.wire import pack, profile_to_proto, unpack
from fedstill.protos.fedstill.v1 import fleet_pb2


def _confine(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    # On a device; where virtual nodes are simulated, their grid says where modules lie.
    with confined_to_bundle():
        return call_next(message, context)


app = ClientApp(mods=[_confine])


def _read_config(run_config: Mapping[str, Scalar]) -> Config:
    # With their types: to a dictionary 1 and True are the same.
    return _check_config(tuple((key, type(value), value) for key, value in run_config.items()))


@functools.lru_cache(maxsize=1)
def _check_config(items: tuple[tuple[str, type, Scalar], ...]) -> Config:
    return from_run_config({key: value for key, _, value in items})


@functools.lru_cache(maxsize=1)
def _open_cache(root: Path, max_bytes: int, transport: Transport, run_id: str) -> LabelCache:
    # One for all nodes of this process: an array is read through once, and connections end with the run.
    del run_id
    return LabelCache(root, max_bytes=max_bytes, transport=transport)


def _open_node(context: Context, run_id: str, expected: fleet_pb2.InputSpec | None = None) -> NodeContext:
    config = _read_config(context.run_config)
    if config.exchange.codec != "auto":
        get_codec(config.exchange.codec)  # from here on manifests may name it
    if is_reference(config.compress.runtime):
        EXPORTERS[config.compress.runtime]
    private = load_private(config, context.node_config, expected)
    bundle = str(context.node_config.get(CERTIFICATES_DIR, ""))
    transport = Transport(Path(bundle) if bundle else None, config.exchange.allow_insecure)
    home = Path(config.exchange.cache_dir) if config.exchange.cache_dir else default_home()
    return NodeContext(
        config=config,
        private=private,
        cache=_open_cache(home / "labels", config.exchange.cache_bytes, transport, run_id),
        store=NodeStore(home, run_id=run_id, node_id=private.node_id),
        transport=transport,
        graphs_dir=home / "graphs",
    )


@app.query()
def hello(message: Message, context: Context) -> Message:
    """Introduces the node; one without a partition answers with an empty name."""
    request = unpack(message.content, fleet_pb2.HelloRequest)
    # The code is the bundle's, so the coordinator's own; what is installed here gives it its libraries.
    version = installed_version()
    if not works_with(request.version, version):
        raise RunError(
            f"the coordinator runs fedstill {request.version}, this node has {version}: install one that is"
            " at most a minor version apart"
        )
    reply = fleet_pb2.HelloResponse(version=version)
    if name_node(context.node_config, _read_config(context.run_config)) is not None:
        node = _open_node(context, request.run_id, request.input)
        reply.node_id = node.private.node_id
        reply.num_train_samples = len(node.private.train)
        reply.num_validation_samples = len(node.private.validation)
        reply.num_test_samples = len(node.private.test)
        reply.private_digest = digest_private(node.private)
        reply.group = node.private.group
        reply.num_partitions = int(context.node_config.get("num-partitions", 0))
        if PROFILE in context.node_config:
            reply.profile.CopyFrom(profile_to_proto(load_profile(str(context.node_config[PROFILE]))))
        if node.transport.certificates is not None:
            own = read_credentials(node.transport.certificates)
            reply.certificate = own.certificate
            reply.proof = sign_hello(own, run_id=request.run_id, nonce=request.nonce)
    return Message(pack(reply), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Carries out one round's task."""
    task = unpack(message.content, fleet_pb2.TaskRequest)
    return Message(pack(run_task(_open_node(context, task.run_id, task.input), task)), reply_to=message)


def train_together(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message | Exception]:
    """Carries out many nodes' tasks of one round; a process that hosts them calls it in place of `app`."""
    return _answer_together(messages, contexts, fleet_pb2.TaskRequest, run_tasks)


def control_together(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message | Exception]:
    """Trains many nodes' controls alike."""
    return _answer_together(messages, contexts, fleet_pb2.ControlRequest, train_controls)


TOGETHER = {"train": train_together, "train.control": control_together}
"""By type of message, what carries out many at a time."""


def _answer_together(
    messages: Sequence[Message],
    contexts: Sequence[Context],
    kind: type[Any],
    action: Callable[..., list[Any]],
) -> list[Message | Exception]:
    requests = [unpack(message.content, kind) for message in messages]
    nodes = [
        attempt(_open_node, context, request.run_id, request.input)
        for context, request in zip(contexts, requests, strict=True)
    ]
    opened = [
        (node, request)
        for node, request in zip(nodes, requests, strict=True)
        if isinstance(node, NodeContext)
    ]
    replies = iter(action(opened))
    ends = [next(replies) if isinstance(node, NodeContext) else node for node in nodes]
    return [
        end if isinstance(end, Exception) else Message(pack(end), reply_to=message)
        for end, message in zip(ends, messages, strict=True)
    ]


@app.train("control")
def control(message: Message, context: Context) -> Message:
    """Trains the control that stands beside the student."""
    request = unpack(message.content, fleet_pb2.ControlRequest)
    node = _open_node(context, request.run_id, request.input)
    return Message(pack(train_control(node, request)), reply_to=message)


@app.train("evaluate")
def evaluate(message: Message, context: Context) -> Message:
    """Makes and evaluates the artefact of a student that a round left without one."""
    task = unpack(message.content, fleet_pb2.TaskRequest)
    return Message(
        pack(evaluate_student(_open_node(context, task.run_id, task.input), task)), reply_to=message
    )


@app.evaluate()
def close(message: Message, context: Context) -> Message:
    """Carries out the closing task: latency and artefact."""
    request = unpack(message.content, fleet_pb2.ClosingRequest)
    return Message(pack(close_run(_open_node(context, request.run_id), request)), reply_to=message)


@app.query("release")
def release(message: Message, context: Context) -> Message:
    """Forgets the node's part of a run that is over."""
    request = unpack(message.content, fleet_pb2.ReleaseRequest)
    node = _open_node(context, request.run_id)
    node.store.release()
    return Message(pack(fleet_pb2.ReleaseResponse(node_id=node.private.node_id)), reply_to=message)
