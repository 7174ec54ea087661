"""Chat templates are programs of others: each is tried in a process with limits before it is
rendered here, and has its time.

The sandbox of transformers keeps a template from files and from Python; it does not keep it from
looping for days or from asking for all memory.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydratune.bounds import TooSlowError, time_limit
from hydratune.data.encoding.template_trial import TOO_MUCH

SECONDS, MEBIBYTES = 10, 1024  # for one conversation
_TRIAL = Path(__file__).with_name("template_trial.py")
_verdicts: dict[int, str] = {}  # hash of a template -> what is wrong with it, or nothing


class EndlessTemplateError(ValueError):
    """A template takes more time or memory than it may."""


def render(
    tokenizer: Any,
    turns: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    *,
    generation_prompt: bool,
) -> str:
    """The template's text. Raises ``EndlessTemplateError``, and whatever the template raises."""
    options = {
        "tools": list(map(dict, tools)) or None,
        "tokenize": False,
        "add_generation_prompt": generation_prompt,
    }
    template = (
        tokenizer.get_chat_template(tools=options["tools"])
        if getattr(tokenizer, "chat_template", None)
        else ""
    )
    key = hash(template)
    if key not in _verdicts:
        values = {"messages": turns, "tools": options["tools"], **tokenizer.special_tokens_map}
        _verdicts[key] = _tried(template, values) if template else ""
    if _verdicts[key]:
        raise EndlessTemplateError(_verdicts[key])
    try:
        with time_limit(SECONDS):
            return str(tokenizer.apply_chat_template(list(turns), **options))
    except TooSlowError:
        raise EndlessTemplateError(f"it is not done after {SECONDS} s") from None
    except MemoryError:
        raise EndlessTemplateError("it asks for more memory than there is") from None


def _tried(template: str, values: Mapping[str, Any]) -> str:
    """What is wrong with ``template``, rendered once in a process with limits, or nothing."""
    size = len(told := json.dumps(values, default=str))
    asked = {"template": template, "values": json.loads(told), "seconds": SECONDS}
    asked |= {"bytes": MEBIBYTES * 2**20 + 64 * size, "characters": 2**26 + 16 * size}
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PATH": os.environ.get("PATH", ""),
    }
    with contextlib.suppress(OSError):  # no process more: then it is rendered here at once
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(_TRIAL)],
                input=json.dumps(asked).encode(),
                capture_output=True,
                timeout=2 * SECONDS + 5,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it is not done after {2 * SECONDS} s"
        if done.returncode == TOO_MUCH:
            return f"it writes without end, or asks for more than {MEBIBYTES:,} MiB of memory"
        if done.returncode < 0:
            return f"it is not done after {SECONDS} s"
    return ""
