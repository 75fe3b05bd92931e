"""A ClientApp that does what a message tells it to; the actors of the tests import it."""

import os
import sys
import time
from pathlib import Path

import ray
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from fedstill.common.errors import RunError
from fedstill.server.grids import hosting

app = ClientApp()
imported_app = object()


@app.train()
def train(message: Message, context: Context) -> Message:
    order = message.content["order"]
    action = order["action"]
    if action == "raise":
        raise RunError("as told")
    if action == "exit":
        sys.exit(3)
    if action == "die":
        os._exit(3)
    if action == "wrong":
        return "no message"
    if action == "sleep":
        Path(order.get("mark", os.devnull)).write_text("begun")
        time.sleep(order["seconds"])
    if action == "where":
        time.sleep(order["seconds"])
    if action == "mutate":
        order["text"] = "changed"
    context.state["calls"] = ConfigRecord({"num": context.state.get("calls", {"num": 0})["num"] + 1})
    message.content["facts"] = ConfigRecord(
        {
            "pid": os.getpid(),
            "ray_node": ray.get_runtime_context().get_node_id() if action == "where" else "",
            "num_calls": context.state["calls"]["num"],
            "node_id": context.node_id,
            "partition": context.node_config["partition-id"],
            "num_partitions": context.node_config["num-partitions"],
            "seed": context.run_config["seed"],
            "threads": os.environ.get("OMP_NUM_THREADS", ""),
            "code": hosting.__file__,
        }
    )
    return Message(message.content, reply_to=message)
