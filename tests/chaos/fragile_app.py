"""The node's app, on nodes that die, freeze or fail in the middle of a round, as the environment says.

CHAOS_STRUCK is JSON, {"round": {"partition": moment}}, the moment one of

    before   killed as it gets its task
    during   killed in the middle of training
    upload   killed when half of what it sends has arrived
    after    killed with everything on disk and sent, and nothing answered
    frozen   stopped as it gets its task; its process id is left in CHAOS_FOLDER
    raises   answers with an error: what the coordinator should make of all the others
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedstill.clients import app as node
from fedstill.clients import tasks
from fedstill.clients.labels import send
from fedstill.common.wire import unpack
from fedstill.protos.fedstill.v1 import fleet_pb2

app = ClientApp()
app.query()(node.hello)
app.query("release")(node.release)
app.train("control")(node.control)
app.evaluate()(node.close)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_third_step(seconds: float) -> object:
    return lambda step: die() if step == 3 else False


def die_in_mid_upload(upload: send._Upload, arrived: set[int]) -> Iterator[bytes]:
    messages = whole_upload(upload, arrived)
    yield next(messages)
    yield next(messages)
    time.sleep(0.5)  # long enough for the first chunk to arrive
    assert next(messages, None) is not None, "there is no second half to be missed"
    die()


whole_upload = send._Upload._messages


@app.train()
def train(message: Message, context: Context) -> Message:
    task = unpack(message.content, fleet_pb2.TaskRequest)
    struck = json.loads(os.environ["CHAOS_STRUCK"]).get(str(task.round), {})
    match struck.get(str(context.node_config["partition-id"])):
        case "before":
            die()
        case "during":
            tasks.make_deadline = die_at_third_step
        case "upload":
            send._Upload._messages = die_in_mid_upload
        case "after":
            node.train(message, context)
            die()
        case "frozen":
            (Path(os.environ["CHAOS_FOLDER"]) / "frozen").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raises":
            raise RuntimeError("as told")
    return node.train(message, context)
