"""Tables of the report."""

from __future__ import annotations


def render_table(head: str, body: str, *, css: str = "") -> str:
    """Writes a table that scrolls by itself on a narrow screen; `head` and `body` are escaped already."""
    thead = f"<thead>{head}</thead>" if head else ""
    table = f"<table class={css}>" if css else "<table>"
    return f"<div class=scroll tabindex=0>{table}{thead}<tbody>{body}</tbody></table></div>"
