"""form=ollama: the GGUF file with a Modelfile, which `ollama create` reads.

Ollama does not run Jinja templates: it is given one of its own where the chat template of the run
is ChatML or that of Llama 3, which is found out by rendering a conversation.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.data.encoding.rendering import render
from hydratune.export import gguf_form
from hydratune.export.form import Written
from hydratune.export.opened import OpenedRun
from hydratune.settings.export import ExportSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

load, check = gguf_form.load, gguf_form.check

_MOST_CONTEXT = 8192  # tokens; Ollama reserves memory for all of them
_NO_TEMPLATE = (
    "# The chat template of this model is neither ChatML nor that of Llama 3: write a TEMPLATE for"
    " it here,\n# or serve the GGUF file by llama-server --jinja, which reads the template in it.\n"
)
Turn = Mapping[str, str]


def _chatml(turns: Sequence[Turn]) -> str:
    texts = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns]
    return "".join(texts) + "<|im_start|>assistant\n"


def _llama3(turns: Sequence[Turn]) -> str:
    texts = [
        f"<|start_header_id|>{turn['role']}<|end_header_id|>\n\n{turn['content']}<|eot_id|>"
        for turn in turns
    ]
    return "".join(texts) + "<|start_header_id|>assistant<|end_header_id|>\n\n"


# how a conversation is written, and the same as a template of Ollama
_FAMILIES: tuple[tuple[Callable[[Sequence[Turn]], str], str], ...] = (
    (
        _chatml,
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n",
    ),
    (
        _llama3,
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}"
        "<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
)
_TURN_STARTS = ("<|im_start|>", "<|start_header_id|>")
_SYSTEM, _USER = "\u2740 system", "\u2740 user"
_PROBE = (
    {"role": "system", "content": _SYSTEM},
    {"role": "user", "content": _USER},
    {"role": "assistant", "content": "\u2740 answer"},
    {"role": "user", "content": "\u2740 again"},
)


def write(
    opened: OpenedRun, merged: "PreTrainedModel | None", config: ExportSettings, to: Path
) -> Written:
    """Write the GGUF file and the Modelfile into the folder ``to``."""
    written = gguf_form.write(opened, merged, config, to)
    template, default = family(opened.tokenizer)
    system = config.system if config.system is not None else system_prompt(opened) or default
    lines = [f"FROM ./{written.facts['file']}\n"]
    lines.append(f"TEMPLATE {_quoted(template)}\n" if template is not None else _NO_TEMPLATE)
    notes = [] if template is not None else ["The Modelfile lacks a TEMPLATE: see the file."]
    if system and '"""' in system:
        notes.append("The system prompt has three quotes and stands in no Modelfile: send it.")
    elif system:
        lines.append(f"SYSTEM {_quoted(system)}\n")
    for token in opened.job.answer_ends:
        text = str(opened.tokenizer.convert_ids_to_tokens(token))
        lines.append(f"PARAMETER stop {_escaped(text)}\n")
    lines.append(f"PARAMETER temperature {config.temperature:g}\n")
    lines.append(f"PARAMETER num_ctx {min(_MOST_CONTEXT, opened.job.reader.context_window)}\n")
    (to / "Modelfile").write_text("".join(lines), "utf-8")
    facts = {**written.facts, "template": "written" if template is not None else "missing"}
    return Written(written.exactness, [*written.notes, *notes], facts)


def family(tokenizer: "PreTrainedTokenizerBase") -> tuple[str | None, str]:
    """Return Ollama's template for a tokenizer, and the system prompt that its own adds.

    None: its chat template is of no family that is known here.
    """
    rendered = _rendered(tokenizer, _PROBE)
    for written, template in _FAMILIES:
        if rendered != written(_PROBE):
            continue
        alone = _rendered(tokenizer, _PROBE[1:2])
        if alone == written(_PROBE[1:2]):
            return template, ""
        before, _, after = written(_PROBE[:2]).partition(_SYSTEM)
        added = (alone or "").removeprefix(before).removesuffix(after)
        if alone == before + added + after:
            return template, added
    return None, ""


def _rendered(tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Turn]) -> str | None:
    """Return the prompt of a conversation without the token that begins a text."""
    try:
        text = render(tokenizer, [dict(turn) for turn in turns], (), generation_prompt=True)
    # a template may refuse a system prompt, and raise anything
    except Exception:
        return None
    if text.startswith(_TURN_STARTS):  # which can be that token as well
        return text
    return text.removeprefix(str(tokenizer.bos_token or ""))


def system_prompt(opened: OpenedRun) -> str:
    """Return the system prompt of all training rows; empty if they have several, or none."""
    prompts = {
        row.messages[0].content if row.messages and row.messages[0].role == "system" else ""
        for row in opened.job.sets.train
        if not row.is_text
    }
    return prompts.pop() if len(prompts) == 1 else ""


def _quoted(text: str) -> str:
    return f'"""{text}"""'


def _escaped(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def usage(opened: OpenedRun, config: ExportSettings) -> str:
    """Return how Ollama runs the model."""
    return (
        "## How to run it\n\nIn this folder: `ollama create NAME -f Modelfile`, then `ollama run"
        f" NAME`.\n\n{gguf_form.how_to_run(opened, config)}"
    )
