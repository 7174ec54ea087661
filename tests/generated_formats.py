"""Chat templates, each in Jinja and in plain Python.

The Python version writes a conversation as pieces of text, each trained or not, without the
project's code.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from generated_tokenizers import BEGIN, END

Turn = dict[str, Any]
Pieces = list[tuple[str, bool]]  # texts, and whether each is trained


@dataclass(frozen=True)
class Format:
    """One chat template, in Jinja and in Python."""

    jinja: str
    # pieces of the conversation; answers and their ends are trained
    write: Callable[[list[Turn], list[Any]], Pieces]
    system: bool = True
    tools: bool = False
    thoughts: bool = False
    rewrites: bool = False  # what is written for a turn depends on whether later turns follow
    begin: bool = False  # writes begin-of-text itself

    def pieces(self, turns: list[Turn], tools: list[Any]) -> Pieces:
        return ([(BEGIN, False)] if self.begin else []) + self.write(turns, tools)


def _header(open_: str, close: str, after: str) -> Callable[[list[Turn], list[Any]], Pieces]:
    def write(turns: list[Turn], tools: list[Any]) -> Pieces:
        pieces: Pieces = []
        for turn in turns:
            answer = turn["role"] == "assistant"
            pieces += [
                (open_.format(turn["role"]), False),
                (turn["content"] + close, answer),
                (after, False),
            ]
        return pieces

    return write


def _inst(turns: list[Turn], tools: list[Any]) -> Pieces:
    pieces: Pieces = []
    for turn in turns:
        if turn["role"] == "assistant":
            pieces.append((" " + turn["content"] + END, True))
        else:
            pieces.append(("[INST] " + turn["content"] + " [/INST]", False))
    return pieces


def _plain(turns: list[Turn], tools: list[Any]) -> Pieces:
    pieces: Pieces = []
    for turn in turns:
        answer = turn["role"] == "assistant"
        pieces += (
            [(turn["content"] + END, True), ("\n", False)]
            if answer
            else [(turn["content"].strip() + "\n", False)]
        )
    return pieces


def _alpaca(turns: list[Turn], tools: list[Any]) -> Pieces:
    names = {"system": "### System", "user": "### Instruction", "assistant": "### Response"}
    pieces: Pieces = []
    for turn in turns:
        answer = turn["role"] == "assistant"
        pieces += [
            (names[turn["role"]] + ":\n", False),
            (turn["content"] + (END if answer else ""), answer),
            ("\n\n", False),
        ]
    return pieces


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _calls(turn: Turn) -> str:
    calls = [
        {"name": c["function"]["name"], "arguments": c["function"]["arguments"]}
        for c in turn.get("tool_calls", [])
    ]
    return "".join(f"\n<call>{_as_json(call)}</call>" for call in calls)


def _agent(turns: list[Turn], tools: list[Any]) -> Pieces:
    """Write ChatML with tools, calls and thoughts, all of which stay in the history."""
    pieces: Pieces = (
        [("<|system|>\nTools: " + _as_json(tools) + END + "\n", False)] if tools else []
    )
    for turn in turns:
        answer = turn["role"] == "assistant"
        thoughts = (
            f"<think>\n{turn['reasoning_content']}\n</think>\n\n"
            if turn.get("reasoning_content")
            else ""
        )
        text = thoughts + turn["content"] + (_calls(turn) if answer else "") + END
        pieces += [(f"<|{turn['role']}|>\n", False), (text, answer), ("\n", False)]
    return pieces


def _thinker(turns: list[Turn], tools: list[Any]) -> Pieces:
    """Write as ``_agent`` does, but thoughts, or an empty block of them, in the last turn only."""
    pieces: Pieces = (
        [("<|system|>\nTools: " + _as_json(tools) + END + "\n", False)] if tools else []
    )
    for number, turn in enumerate(turns):
        answer = turn["role"] == "assistant"
        last = answer and number == len(turns) - 1
        thoughts = f"<think>\n{turn.get('reasoning_content', '')}\n</think>\n\n" if last else ""
        text = thoughts + turn["content"] + (_calls(turn) if answer else "") + END
        pieces += [(f"<|{turn['role']}|>\n", False), (text, answer), ("\n", False)]
    return pieces


_EACH_TURN = "{% for m in messages %}"
_TOOLS = (
    "{% if tools %}{{ '<|system|>\nTools: ' + (tools | tojson) + eos_token + '\n' }}{% endif %}"
)
_CALL = (
    "{% for c in m.tool_calls or [] %}{{ '\n<call>' + ({'name': c.function.name, 'arguments':"
    " c.function.arguments} | tojson) + '</call>' }}{% endfor %}"
)
_GENERATION_PROMPT = "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
_TURN = "{{ '<|' + m.role + '|>\n' }}"
FORMATS = {
    "ChatML": Format(
        _EACH_TURN + _TURN + "{{ m.content + eos_token + '\n' }}{% endfor %}" + _GENERATION_PROMPT,
        _header("<|{}|>\n", END, "\n"),
    ),
    "no line break": Format(
        "{{ bos_token }}"
        + _EACH_TURN
        + "{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        _header("<|{}|>", END, ""),
        begin=True,
    ),
    "two line breaks": Format(
        "{{ bos_token }}"
        + _EACH_TURN
        + "{{ '<|' + m.role + '|>\n\n' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n\n' }}{% endif %}",
        _header("<|{}|>\n\n", END, ""),
        begin=True,
    ),
    "INST": Format(
        "{{ bos_token }}"
        + _EACH_TURN
        + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
        "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}",
        _inst,
        system=False,
        begin=True,
    ),
    "plain": Format("plain", _plain),
    "Alpaca": Format(
        _EACH_TURN + "{{ {'system': '### System', 'user': '### Instruction', 'assistant': '###"
        " Response'}[m.role] + ':\n' + m.content }}{% if m.role == 'assistant' %}{{ eos_token"
        " }}{% endif %}{{ '\n\n' }}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n'"
        " }}{% endif %}",
        _alpaca,
    ),
    "agent": Format(
        _TOOLS
        + _EACH_TURN
        + _TURN
        + "{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{%"
        " endif %}{{ m.content }}{% if m.role == 'assistant' %}"
        + _CALL
        + "{% endif %}{{ eos_token + '\n' }}{% endfor %}"
        + _GENERATION_PROMPT,
        _agent,
        tools=True,
        thoughts=True,
    ),
    "thinker": Format(
        _TOOLS
        + _EACH_TURN
        + _TURN
        + "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n' + (m.reasoning_content or '')"
        " + '\n</think>\n\n' }}{% endif %}{{ m.content }}{% if m.role == 'assistant' %}"
        + _CALL
        + "{% endif %}{{ eos_token + '\n' }}{% endfor %}"
        + _GENERATION_PROMPT,
        _thinker,
        tools=True,
        thoughts=True,
        rewrites=True,
    ),
}
