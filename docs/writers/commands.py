"""The page of the commands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from docs.writers.markdown import code, escape, page, table
from fedstill.clients.cli import cli as node_cli
from fedstill.server.cli import cli


def write_commands() -> str:
    """Writes every command of both programs with its arguments and options."""
    lines = [
        "Exit codes of all: 0 done, 1 failed, 2 wrong usage, configuration or data, 130 interrupted.",
        "`--help` says the same on the spot; `--install-completion` completes commands in your shell.",
    ]
    for program, app in (("fedstill", cli), ("fedstill-node", node_cli)):
        lines += ["", f"## {program}"]
        for words, command in _walk(program, typer.main.get_command(app)):
            lines += ["", *_describe(words, command)]
    return page("Commands", "server/cli.py and clients/cli.py", *lines)


def _walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
    for name, one in (inner or {}).items():
        yield from _walk(f"{words} {name}", one)


def _describe(words: str, command: Any) -> list[str]:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = [words, *(_name_argument(argument) for argument in arguments)]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage += ["[OPTIONS]"] if options else []
    lines = [f"### {words}", "", "```text", " ".join(usage), "```", ""]
    help_text = inspect.cleandoc(command.help or "")
    lines += [line for part in help_text.split("\n\n") for line in (escape(part), "")]
    said = _read_help(command.callback)
    rows = [(code(_name_argument(one)), _default(one), escape(said[one.name])) for one in arguments]
    rows += [(_name_option(one), _default(one), escape(one.help or "") + _range(one)) for one in options]
    return lines + (table(("what", "default", "meaning"), rows) if rows else [])


def _read_help(function: Any) -> dict[str, str]:
    # From the signature: with click 8.5, Typer 0.20's parsed arguments have lost theirs.
    parameters = inspect.signature(function, eval_str=True).parameters
    return {
        name: next((one.help or "" for one in getattr(given.annotation, "__metadata__", ())), "")
        for name, given in parameters.items()
    }


def _name_argument(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper().strip("[]") + ("…" if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _name_option(option: Any) -> str:
    value = "" if option.is_flag else f" {option.type.name.upper().removesuffix(' RANGE')}"
    return ", ".join(code(name + value) for name in (*option.opts, *option.secondary_opts))


def _range(option: Any) -> str:
    least, most = getattr(option.type, "min", None), getattr(option.type, "max", None)
    limits = [f"≥ {least:g}"] if least is not None else []
    limits += [f"≤ {most:g}"] if most is not None else []
    return f" ({', '.join(limits)})" if limits else ""


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or isinstance(value, bool) or value == "" or callable(value):
        return ""
    return code(str(value))
