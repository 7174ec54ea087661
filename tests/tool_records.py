"""Tools, calls and conversations with calls, for the tests of the file formats."""

from typing import Any

from row_files import USER_TURN

TEXT = {"type": "text", "text": "In the attic."}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": "x",
            "parameters": {"type": "object", "properties": properties},
        },
    }


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOWN = {"type": "string", "description": "a town"}
TICKER = {"type": "string", "description": "a share", "enum": ["ABC"]}
WEATHER, PRICE = tool("weather", town=TOWN), tool("price", ticker=TICKER)


def record_with_calls(*calls: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {
        "messages": [USER_TURN, {"role": "assistant", "content": "", "tool_calls": list(calls)}],
        **columns,
    }
