"""Any chat template is rendered as transformers renders it, and each answer's place in the text is found from the template alone."""

from __future__ import annotations

import pytest

from core.conversation import Conversation, Turn
from core.data.render import encode_text, generation_prompt, in_one_pass, label_tokens, render, turn_by_turn
from core.data.template import MARK, MAX_TEMPLATE_BYTES, compile_template
from core.data.tokenizer import VICUNA_TEMPLATE, load_tokenizer
from core.errors import UserError
from core.paths import STARTER

TALK = Conversation("t", (Turn("user", "Hi"), Turn("assistant", "Hello"), Turn("user", "Bye"), Turn("assistant", "See you")))
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
FORGETFUL = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content if loop.last else '...' }}|{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        (VICUNA_TEMPLATE, [" Hello</s>", " See you</s>"]),
        (CHATML, ["Hello<|im_end|>\n", "See you<|im_end|>\n"]),
        (LLAMA_3, ["Hello<|eot_id|>", "See you<|eot_id|>"]),
        (LLAMA_2, [" Hello </s>", " See you </s>"]),
    ],
    ids=["vicuna", "chatml", "llama-3", "llama-2"],
)
def test_the_answers_are_found_from_the_template(template: str, answers: list[str]) -> None:
    rendered = render(TALK, template, "<s>", "</s>")
    assert [rendered.text[start:end] for start, end in rendered.answers] == answers


def test_the_text_equals_that_of_transformers() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    generation = "{% for m in messages %}{% generation %}\n  {{ m.content }}{% endgeneration %}{% if 1 %}\n{% endif %}!\n{% endfor %}"
    tools = (
        "{%- for m in messages %}\n  {{- m | tojson }}\n{%- if loop.first %}{% continue %}{% endif %}\n    {{ m.content }}\n{%- endfor %}"
    )
    for template in (VICUNA_TEMPLATE, CHATML, LLAMA_3, LLAMA_2, generation, tools):
        (theirs,), _ = render_jinja_template([TALK.messages()], chat_template=template, bos_token="<s>", eos_token="</s>")
        assert render(TALK, template, "<s>", "</s>").text == theirs


def test_the_generation_prompt_of_vicuna_ends_with_the_colon() -> None:
    assert generation_prompt(TALK.messages()[:3], VICUNA_TEMPLATE).endswith("USER: Hi ASSISTANT: Hello</s>USER: Bye ASSISTANT:")


def test_a_template_that_rewrites_earlier_turns_is_refused_by_turn() -> None:
    with pytest.raises(UserError, match="writes turn 1 differently"):
        render(TALK, FORGETFUL)
    single = render(Conversation("t", TALK.turns[:1]), FORGETFUL)
    assert single.answers == ()


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("", "no chat template"),
        ("{% if %}", "no valid Jinja"),
        ("{{ raise_exception('no system please') }}", "no system please"),
        ("{{ messages[99].content }}", "refuses these turns"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.append(1) }}", "refuses these turns"),
        ("{{ ''.__class__.__mro__ }}", "refuses these turns"),
        ("{% for x in range(10**9) %}{% endfor %}", "refuses these turns"),
        ("x" * (MAX_TEMPLATE_BYTES + 1), "longer than"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "no valid Jinja"),
    ],
)
def test_a_template_that_fails_is_a_user_error(template: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        render(TALK, template)


def test_a_template_that_writes_bos_gets_no_second_one() -> None:
    tokenizer = load_tokenizer(STARTER)
    ids, offsets = encode_text("<s>Hi", tokenizer)
    assert ids == tokenizer.encode("Hi")[0]
    assert offsets[0] == (0, 3)
    assert encode_text("Hi", tokenizer)[0] == ids


def test_a_token_carries_loss_if_and_only_if_it_overlaps_an_answer() -> None:
    offsets = [(0, 0), (0, 4), (4, 5), (5, 5), (5, 8), (5, 8), (8, 9), (9, 12)]
    ids = list(range(10, 18))
    assert label_tokens(ids, offsets, ((5, 9),)) == [-100, -100, -100, -100, 14, 15, 16, -100]
    assert label_tokens(ids, offsets, ((4, 5), (11, 12))) == [-100, -100, 12, -100, -100, -100, -100, 17]
    assert label_tokens(ids, offsets, ()) == [-100] * 8


# Templates that one rendering can place the answers of, and those that need one for every turn.
FORWARD = {
    "vicuna": VICUNA_TEMPLATE,
    "chatml": CHATML,
    "llama 3": LLAMA_3,
    "llama 2": LLAMA_2,
    "first message": "{{ messages[0]['content'] }}{% if messages %}!{% endif %}{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}",
    "remembering": (
        "{% set seen = namespace(n=0) %}{% for m in messages %}{% set seen.n = seen.n + 1 %}{{ seen.n }}{{ m.content }}"
        "{% if m.role == 'user' %}{% continue %}{% endif %};{% endfor %}"
    ),
    "all but the first": (
        "{% if messages and messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}"
        "{% for m in messages %}{{ m.role }}={{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant={% endif %}"
    ),
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}|{% endgeneration %}{% endfor %}",
}
LOOKING_AHEAD = {
    "last": FORGETFUL,
    "last by name": "{% for m in messages %}{{ m.content }}{{ loop['last'] }}{% endfor %}",
    "length": "{% for m in messages %}{{ m.content }}{{ loop.length }}{% endfor %}",
    "count": "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "next": "{% for m in messages %}{{ m.content }}{{ loop.nextitem is defined }}{% endfor %}",
    "final": "{{ messages[-1].content }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "second": "{{ messages[1].content }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "inside": "{% for m in messages %}{{ m.content }}{{ messages[loop.index0 + 1] is defined }}{% endfor %}",
    "rest": "{% set rest = messages[1:] %}{% if rest %}more:{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}",
    "alias": "{% set all = messages %}{% for m in messages %}{{ m.content }}{{ all | length }}{% endfor %}",
    "two loops": "{% for m in messages %}{{ m.role[0] }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}",
    "tail": "{% for m in messages %}{{ m.content }}{% endfor %}the end",
    "asked inside": "{% for m in messages %}{{ m.content }}{{ add_generation_prompt }}{% endfor %}",
    "asked before": "{% if add_generation_prompt %}?{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}",
    "prompt of the last": (
        "{% set n = namespace(x='') %}{% for m in messages %}{{ m.content }}{% set n.x = m.role %}{% endfor %}"
        "{% if add_generation_prompt %}{{ n.x }}:{% endif %}"
    ),
    "breaking": "{% for m in messages %}{{ m.content }}{% if m.content == 'Bye' %}{% break %}{% endif %}{% endfor %}",
    "filtered": "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
    "reversed": "{% for m in messages | reverse %}{{ m.content }}{% endfor %}",
    "macro": "{% macro say(m) %}{{ m.content }}{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
    "nested": "{% if true %}{% for m in messages %}{{ m.content }}{% endfor %}{% endif %}",
}
SYSTEM = Conversation("s", (Turn("system", "Be brief."), *TALK.turns))


@pytest.mark.parametrize("name", [*FORWARD, *LOOKING_AHEAD])
def test_one_rendering_places_the_answers_where_one_for_every_turn_does(name: str) -> None:
    compiled = compile_template((FORWARD | LOOKING_AHEAD)[name])
    assert (compiled.marked is not None) == (name in FORWARD)
    for talk in (
        TALK,
        SYSTEM,
        Conversation("one", TALK.turns[:2]),
        Conversation("marks", (Turn("user", MARK), Turn("assistant", "A" + MARK))),
    ):
        messages = talk.messages()
        try:
            slowly = turn_by_turn("t", messages, compiled, "<s>", "</s>")
        except UserError:
            continue
        assert in_one_pass(messages, compiled, "<s>", "</s>") in (slowly, None)
    if name in FORWARD:
        messages = TALK.messages()
        assert in_one_pass(messages, compiled, "<s>", "</s>") == turn_by_turn("t", messages, compiled, "<s>", "</s>")
