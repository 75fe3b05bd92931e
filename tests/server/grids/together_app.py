"""A ClientApp whose module carries out many tasks at a time: each is told how many there were."""

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from fedstill.common.errors import RunError

app = ClientApp()


def _answer(message: Message, num_beside: int) -> Message:
    message.content["facts"] = ConfigRecord({"num_beside": num_beside})
    return Message(message.content, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    return _answer(message, 0)


@app.query()
def query(message: Message, context: Context) -> Message:
    return _answer(message, 0)


def _train_together(messages: list[Message], contexts: list[Context]) -> list[Message | Exception]:
    actions = [message.content["order"]["action"] for message in messages]
    if "break" in actions:
        raise RunError("all of them")
    return [
        RunError(f"as told to node {context.node_id}")
        if action == "raise"
        else _answer(message, len(messages))
        for action, message, context in zip(actions, messages, contexts, strict=True)
    ]


TOGETHER = {"train": _train_together}
