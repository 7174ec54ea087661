"""``model.chat_template=tools``: a chat template that writes tools, tool calls and their results.

It is for models whose own template has none of them. The form is that of Qwen2.5 and Hermes: JSON
between <tool_call> tags. Every turn ends with the tokenizer's end-of-text token, at which
generation stops anyway.
"""

from typing import TYPE_CHECKING

from hydratune.data.encoding.tokenizing import adds_begin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHATML = "<|im_start|>"  # begins a turn where the tokenizer has it and turns end as in ChatML
_CHATML_END = "<|im_end|>"
_PLAIN = "### "  # begins a turn elsewhere

_TEMPLATE = """\
{%- if messages[0].role == 'system' -%}
    {%- set system = messages[0].content -%}
{%- else -%}
    {%- set system = '' -%}
{%- endif -%}
{%- if tools -%}
    {{- 'BEGINsystem\\n' -}}
    {%- if system -%}{{- system + '\\n\\n' -}}{%- endif -%}
    {{- 'Functions that may be called, as JSON between <tools> tags:\\n<tools>' -}}
    {%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}
    {{- '\\n</tools>\\n' -}}
    {{- 'A call is a JSON object with name and arguments between <tool_call> tags.' -}}
    {{- eos_token + '\\n' -}}
{%- elif system -%}
    {{- 'BEGINsystem\\n' + system + eos_token + '\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {{- 'BEGINassistant\\n' -}}
        {%- if message.reasoning_content -%}
            {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' -}}
        {%- endif -%}
        {{- message.content or '' -}}
        {%- for call in message.tool_calls or [] -%}
            {%- if not loop.first or message.content -%}{{- '\\n' -}}{%- endif -%}
            {%- set given = call.function.arguments -%}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
            {{- (given if given is string else given | tojson) + '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- eos_token + '\\n' -}}
    {%- elif message.role == 'tool' -%}
        {{- 'BEGINtool\\n' + message.content + eos_token + '\\n' -}}
    {%- elif not (loop.first and message.role == 'system') -%}
        {{- 'BEGIN' + message.role + '\\n' + message.content + eos_token + '\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'BEGINassistant\\n' -}}{%- endif -%}
"""


def tools_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the template for a tokenizer, which begins as the tokenizer begins a text."""
    is_chatml = tokenizer.eos_token == _CHATML_END and _CHATML in tokenizer.get_vocab()
    template = _TEMPLATE.replace("BEGIN", _CHATML if is_chatml else _PLAIN)
    return ("{{- bos_token -}}" if adds_begin(tokenizer) else "") + template
