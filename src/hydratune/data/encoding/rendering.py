"""Render chat templates within limits of time and memory.

Chat templates are programs of others. The sandbox of transformers keeps a template from files and
from Python; it does not keep it from looping for days or from asking for all memory. So each
template is first tried in a process with limits, and then rendered here with a time limit.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.bounds import TooSlowError, time_limit
from hydratune.data.encoding.template_trial import EXIT_TOO_LARGE
from hydratune.data.rows import Tool
from hydratune.signals import kept_from_children

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_SECONDS, MAX_MEBIBYTES = 10, 1024  # for one conversation
_TRIAL = Path(__file__).with_name("template_trial.py")
_TOO_SLOW = (signal.SIGXCPU, signal.SIGKILL)  # by the limit of the process's CPU time
_faults: dict[int, str] = {}  # hash of a template -> what is wrong with it, or nothing


class EndlessTemplateError(ValueError):
    """A template takes more time or memory than it may."""


def render(
    tokenizer: "PreTrainedTokenizerBase",
    turns: Sequence[Mapping[str, object]],
    tools: Sequence[Tool],
    *,
    generation_prompt: bool,
) -> str:
    """Return the template's text of a conversation.

    Raises ``EndlessTemplateError``, and whatever the template raises.
    """
    tool_list = list(map(dict, tools)) or None
    has_template = getattr(tokenizer, "chat_template", None)
    template = tokenizer.get_chat_template(tools=tool_list) if has_template else ""
    key = hash(template)
    if key not in _faults:
        values = {"messages": turns, "tools": tool_list, **tokenizer.special_tokens_map}
        _faults[key] = try_template(template, values) if template else ""
    if _faults[key]:
        raise EndlessTemplateError(_faults[key])
    try:
        with time_limit(MAX_SECONDS):
            text = tokenizer.apply_chat_template(
                list(turns),
                tools=tool_list,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
    except TooSlowError:
        raise EndlessTemplateError(f"it is not done after {MAX_SECONDS} s") from None
    except MemoryError:
        raise EndlessTemplateError("it asks for more memory than there is") from None
    return str(text)


def try_template(template: str, values: Mapping[str, object]) -> str:
    """Render ``template`` in a process with limits; return what is wrong with it, or nothing."""
    plain_values = json.dumps(values, default=str)
    size = len(plain_values)
    job = {
        "template": template,
        "values": json.loads(plain_values),
        "seconds": MAX_SECONDS,
        "bytes": MAX_MEBIBYTES * 2**20 + 64 * size,
        "characters": 2**26 + 16 * size,
    }
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PATH": os.environ.get("PATH", ""),
    }
    most_seconds = 2 * MAX_SECONDS
    with contextlib.suppress(OSError):  # no process can be started: it is rendered here at once
        with kept_from_children():  # it would be taken for a template that takes too long
            trial = subprocess.Popen(
                [sys.executable, "-P", str(_TRIAL)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        try:
            trial.communicate(json.dumps(job).encode(), most_seconds + 5)
        except subprocess.TimeoutExpired:
            return f"it is not done after {most_seconds} s"
        finally:  # also if this run is interrupted
            trial.kill()
            trial.wait()
        if trial.returncode == EXIT_TOO_LARGE:
            return f"it writes without end, or asks for more than {MAX_MEBIBYTES:,} MiB of memory"
        if -trial.returncode in _TOO_SLOW:
            return f"it is not done after {MAX_SECONDS} s"
        if trial.returncode < 0:
            name = signal.Signals(-trial.returncode).name
            return f"it makes the process crash that renders it ({name})"
    return ""
