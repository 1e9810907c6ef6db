"""Protobuf's text format, as much of it as configuration files need.

    to_text({"name": "a", "dims": [1, 2], "input": [{"kind": Word("KIND_CPU")}]})

A list of messages is a repeated field, one block each; `Word` is an enum's value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


class Word(str):
    """Written without quotes."""

    __slots__ = ()


def to_text(message: Mapping[str, Any]) -> str:
    """The fields of a message, one a line, in their order."""
    return "".join(f"{line}\n" for line in _fields(message))


def entries(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A map field: its entries are messages of a key and a value."""
    return [{"key": key, "value": value} for key, value in values.items()]


def _fields(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield from _block(name, value)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for item in value:
                yield from _block(name, item)
        else:
            yield f"{name}: {_plain(value)}"


def _block(name: str, message: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name} {{"
    yield from (f"  {line}" for line in _fields(message))
    yield "}"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Word):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
