"""Chat templates of our own, for model folders that come without one.

Each is written here in Jinja from the public description of its format. A
family's template is taken only when the tokenizer knows its special tokens; else
ChatML, where its tokens are known; else plain text with roles. Base models that
never learnt a format get the plain one, too. transformers drops one line break
after every {% %}, hence the order of the pieces. `fix_settings` fixes what a template would take from its caller or
from the clock. This module renders nothing.
"""

import json
import re
from collections.abc import Collection
from datetime import date, datetime

LONGEST_TEMPLATE = 1_000_000  # characters; the longest known ones have 30,000
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set kept = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set kept.system = kept.system + message['content'] + '\n\n' %}"
    "{% elif message['role'] == 'user' %}[INST] {{ kept.system }}{{ message['content'] }}[/INST]"
    "{% set kept.system = '' %}"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% set kept = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set kept.system = kept.system + message['content'] + '\n\n' %}"
    "{% elif message['role'] == 'user' %}<start_of_turn>user\n{{ kept.system }}{{ message['content'] }}<end_of_turn>\n"
    "{% set kept.system = '' %}"
    "{% else %}<start_of_turn>model\n{{ message['content'] }}<end_of_turn>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3 = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GRANITE = (
    "{% for message in messages %}<|start_of_role|>{{ message['role'] }}<|end_of_role|>{{ message['content'] }}"
    "<|end_of_text|>\n{% endfor %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
_OWN: dict[str, tuple[str, tuple[str, ...]]] = {
    "llama": (LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "mistral": (MISTRAL, ("[INST]", "[/INST]")),
    "gemma2": (GEMMA, ("<start_of_turn>", "<end_of_turn>")),
    "gemma3_text": (GEMMA, ("<start_of_turn>", "<end_of_turn>")),
    "phi3": (PHI3, ("<|user|>", "<|assistant|>", "<|end|>")),
    "granite": (GRANITE, ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")),
}


def template_for(family: str, vocabulary: Collection[str], adds_bos: bool) -> str:
    """The chat template for a model without one.

    `family` is the config's model_type, `vocabulary` the tokenizer's tokens, `adds_bos` whether its encoding of a
    text normally begins with the beginning-of-sequence token (the plain format then begins with it, too).
    """
    template, tokens = _OWN.get(family, (CHATML, _CHATML_TOKENS))
    if all(token in vocabulary for token in tokens):
        return template
    if all(token in vocabulary for token in _CHATML_TOKENS):
        return CHATML
    return ("{{ bos_token }}" if adds_bos else "") + PLAIN


# What templates take from their caller where it gives them: no thinking blocks, and the day that Llama's templates fall back on.
_CALLERS = {"enable_thinking": "false", "date_string": '"26 Jul 2024"'}
_DATED = re.compile(r"""strftime_now\(\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")
_DIRECTIVE = re.compile("%-?[aAwdbBmyYHIpMSfzZjUWcxXGuVeDFTRhnt%]")
_MACRO = "{%- macro strftime_now(format) -%}"


def fix_settings(template: str, day: date) -> str:
    """The template with its settings and the date written into it, so that whoever renders it gets the same text on every day.

    `strftime_now`, with which templates ask for today's date, gives the noon of `day`. A template that asks for nothing, or
    was fixed before, is returned as it is.
    """
    noon = datetime(day.year, day.month, day.day, 12)
    fixed = _DATED.sub(lambda call: json.dumps(_written(noon, call[1] if call[1] is not None else call[2])), template)
    for name, value in _CALLERS.items():
        setting = f"{{%- set {name} = {value} %}}\n"  # the line break goes with the block, see above
        if re.search(rf"\b{name}\b", fixed) and setting not in fixed:
            fixed = setting + fixed
    return _macro(noon) + fixed if "strftime_now" in fixed and _MACRO not in fixed else fixed


def _written(moment: datetime, text: str) -> str:
    """A moment in a format of strftime; %-d and the like, which not every system knows, are without leading zeros."""
    def one(found: re.Match[str]) -> str:
        written = moment.strftime("%" + found[0][-1])
        return (written.lstrip("0") or "0") if "-" in found[0] else written

    return _DIRECTIVE.sub(one, text)


def _macro(noon: datetime) -> str:
    """strftime_now for formats that are put together while the template is rendered, directive by directive."""
    known = [f"%{dash}{one}" for dash in ("-", "") for one in "aAwdbBmyYHIpMSfjUWGuVeDFTR"]
    filters = "".join(f" | replace({json.dumps(one)}, {json.dumps(_written(noon, one))})" for one in known)
    return f"{_MACRO}{{{{ format{filters} }}}}{{%- endmacro %}}\n"
