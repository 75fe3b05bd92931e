"""The node's app, on nodes that die or freeze in the middle of a round, as the environment says.

CHAOS_KILLED and CHAOS_FROZEN are "round:node,node"; a frozen process leaves its id in CHAOS_FOLDER.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import app as node
from common.wire import unpack
from protos.fedstill.v1 import fleet_pb2

app = ClientApp()
app.query()(node.hello)
app.query("release")(node.release)
app.train("control")(node.control)
app.evaluate()(node.close)


def is_struck(name: str, task: fleet_pb2.TaskRequest, context: Context) -> bool:
    round_number, _, nodes = os.environ[name].partition(":")
    return task.round == int(round_number) and str(context.node_config["partition-id"]) in nodes.split(",")


@app.train()
def train(message: Message, context: Context) -> Message:
    task = unpack(message.content, fleet_pb2.TaskRequest)
    if is_struck("CHAOS_KILLED", task, context):
        os.kill(os.getpid(), signal.SIGKILL)
    if is_struck("CHAOS_FROZEN", task, context):
        (Path(os.environ["CHAOS_FOLDER"]) / "frozen").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    return node.train(message, context)
