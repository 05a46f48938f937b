"""Chat templates, small ones built as those of known models are, and conversations."""

from __future__ import annotations

from typing import Any


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def tool(text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text}


TOOLS = [{"type": "function", "function": {"name": "at", "description": "?", "parameters": {}}}]

# As SmolLM2's: a system message of its own where there is none.
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|s|>system\nBe kind.<|e|>\n"
    "{% endif %}{{ '<|s|>' + m['role'] + '\n' + m['content'] + '<|e|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|s|>assistant\n{% endif %}"
)
# As Llama 3.1's: contents are stripped, and the system's turn begins with the date and the tools.
LLAMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}"
    "<|h|>system<|/h|>\n\nToday is Monday.\n{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}\n"
    "{{ said }}<|e|>{% for m in messages %}<|h|>{{ m['role'] }}<|/h|>\n\n{{ m['content'] | trim }}<|e|>"
    "{% endfor %}{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
# As Gemma's: turns alternate, the assistant is called model, the system speaks in the user's turn.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ first if loop.first }}{{ m['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>model\n{% endif %}"
)
# As Mistral's: no answer is asked for in words, system and tools stand in the last user's turn.
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{{- bos_token }}{%- for m in rest %}{%- if m['role'] == 'user' %}"
    "{%- if tools and loop.last %}[TOOLS]{{ tools | tojson }}[/TOOLS]{%- endif %}"
    "{{- '[INST] ' }}{%- if loop.last and said is defined %}{{- said + '\n\n' }}{%- endif %}"
    "{{- m['content'] + '[/INST]' }}{%- elif m['role'] == 'assistant' %}"
    "{{- ' ' + m['content'] | trim + eos_token }}{%- else %}"
    "{{- raise_exception('Only user and assistant') }}{%- endif %}{%- endfor %}"
)
# As Qwen 3's: thoughts of earlier answers are left out, those of the last are written anew; calls of
# tools, whose answers share one turn.
QWEN = (
    "{% if tools %}<|s|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}"
    "{% endif %}# Tools\n{{ tools | tojson }}<|e|>\n{% elif messages[0].role == 'system' %}"
    "<|s|>system\n{{ messages[0].content }}<|e|>\n{% endif %}{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' and not m.content.startswith('<response>') %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{% if m.role == 'user' %}<|s|>user\n{{ m.content }}<|e|>\n{% elif m.role == 'assistant' %}"
    "{% set said = m.content %}{% set why = '' %}{% if '</think>' in said %}"
    "{% set why = said.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}<|s|>assistant\n"
    "{% if loop.index0 > ns.last and (loop.last or why) %}<think>\n{{ why.strip('\n') }}\n</think>\n\n"
    "{% endif %}{{ said }}{% for call in m.tool_calls or [] %}<call>"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</call>'
    "{% endfor %}<|e|>\n{% elif m.role == 'tool' %}"
    "{% if messages[loop.index0 - 1].role != 'tool' %}<|s|>user\n{% endif %}"
    "<response>{{ m.content }}</response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|e|>\n{% endif %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|s|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
