"""Markdown that reads the same on a page of the site and beside the code."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Reference", "References")


def escape(text: str) -> str:
    """Keeps text from being read as markup; what stands in backticks is left as it is."""
    parts = re.split(r"(`+[^`]*`+)", " ".join(text.split()))
    return "".join(
        part if part.startswith("`") else re.sub(r"(\*|\b_|_\b|<(?=[\w/!]))", r"\\\1", part) for part in parts
    )


def code(text: str) -> str:
    """Writes text as code."""
    return f"`{text}`"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Writes a table; cells are Markdown already."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return lines


def page(title: str, written_by: str, *lines: str) -> str:
    """Writes a page, with a line that says where its content is changed."""
    head = [
        f"# {title}",
        "",
        f"<!-- Written from {written_by} by `make generate`; a test compares them. -->",
        "",
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*head, *lines])).rstrip() + "\n"


def first_line(thing: object) -> str:
    """The purpose that a docstring opens with."""
    return (inspect.getdoc(thing) or "").partition("\n\n")[0]


def read_attributes(kind: type) -> dict[str, tuple[str, str]]:
    """The annotated attributes of a class: its type and the string below it, which may be empty, by name."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for one, after in itertools.zip_longest(tree.body, tree.body[1:]):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            said = after.value if isinstance(after, ast.Expr) else None
            text = str(said.value) if isinstance(said, ast.Constant) else ""
            found[one.target.id] = (ast.unparse(one.annotation), text)
    return found


def describe(text: str) -> list[str]:
    """Writes a docstring: its paragraphs, then Args, Returns and Raises as lists."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        head, _, body = paragraph.partition("\n")
        section = head.rstrip(":")
        if head.endswith(":") and section in SECTIONS:
            lines += ["", f"**{section}**", "", *_list_items(section, inspect.cleandoc("\n" + body))]
        elif paragraph.startswith("    "):
            lines += ["", "```python", *inspect.cleandoc("\n" + paragraph).split("\n"), "```"]
        elif re.match(r"[├└]|\w+ +exit \d", paragraph):
            lines += ["", "```text", *paragraph.split("\n"), "```"]
        else:
            lines += ["", escape(paragraph)]
    return lines[1:]


def _list_items(section: str, body: str) -> list[str]:
    if section in ("Returns", "Yields", "Reference", "References"):
        return [escape(body)]
    items = re.split(r"\n(?=\S)", body)
    return [f"- {code(name)}: {escape(text)}" for name, _, text in (item.partition(":") for item in items)]
