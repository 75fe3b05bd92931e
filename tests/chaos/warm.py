"""Runs `fedstill` again and again in processes of their own that need not import anything.

A line of JSON on stdin, {"arguments": […], "log": PATH}, forks one; its process id and
then its exit status come back as a line each. Whatever it is told to do is done by
`fedstill.server.cli.run`, as in the command: only the seconds that Python needs to read torch
and Flower are spared.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

MODULES = (
    "fedstill.server.cli",
    "fedstill.server.app",
    "fedstill.server.simulate",
    "fedstill.server.display.progress",
    "fedstill.server.report",
    "fedstill.clients.app",
    "onnxruntime",
    "onnxruntime.quantization",
    "onnxscript",
    "torch.onnx",
    "torch.onnx._internal.exporter._core",
    "torch._dynamo",
    "sklearn.datasets",
)


def live(arguments: list[str], log: str) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["fedstill", *arguments]
    from fedstill.server.cli import run

    code = run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            live(**request)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
