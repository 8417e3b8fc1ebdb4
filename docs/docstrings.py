"""Docstrings for autodoc: ours are plain text with `code`, Sphinx reads reStructuredText."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator


def process(app, what, name, obj, options, lines: list[str]) -> None:
    """Rewrites the docstring `lines` in place, as autodoc wants it; NamedTuples also show their fields."""
    lines[:] = as_rst(lines)
    if inspect.isclass(obj) and issubclass(obj, tuple) and hasattr(obj, "_fields"):
        lines += ["", *literal(fields(obj))]


def skip(app, what, name, obj, skipped, options) -> bool | None:
    """Leaves out the fields of NamedTuples one by one: `process` shows them together, with their comments."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def as_rst(lines: list[str]) -> list[str]:
    """Plain text with `code`, lists and indented blocks in reStructuredText."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    return [line for paragraph in paragraphs for line in [*_paragraph(paragraph), ""]]


def literal(text: str) -> list[str]:
    """A block of code."""
    return ["::", "", *textwrap.indent(textwrap.dedent(text), "    ").splitlines()]


def fields(cls: type) -> str:
    """The fields of a NamedTuple as its source has them, with their comments."""
    body = inspect.getsource(cls).splitlines()
    first = next((i for i, line in enumerate(body) if re.match(r"    (# |\w+:)", line)), len(body))
    last = next((i for i in range(first, len(body)) if re.match(r"    (@|def )", body[i])), len(body))
    return "\n".join(body[first:last]).rstrip()


def _paragraph(text: str) -> Iterator[str]:
    if text.startswith("    "):
        yield from literal(text)
        return
    listed = False
    for line in _inline(text).splitlines():
        if re.match(r"(-|\d+\.) ", line):
            listed = True
            yield ""  # Sphinx wants an empty line between a paragraph and its list
        yield line if listed else line.strip()


def _inline(text: str) -> str:
    """`code` as ``code``; what would be markup elsewhere is escaped."""
    parts = re.split(r"(`[^`]+`)", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"\\ ``{' '.join(part[1:-1].split())}``\\ "
        else:
            parts[i] = re.sub(r"([\\*_|`])", r"\\\1", part)
    return "".join(parts)
