"""A chat template with code in it reaches nothing of this machine: it is refused in words, or what it asks for is not there (R19)."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.data.template import compile_template
from core.errors import UserError

MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
ATTACKS = (
    "{{{{ messages.__class__.__mro__[1].__subclasses__() }}}}",
    "{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}",
    "{{{{ lipsum.__globals__['os'].popen('touch {mark}').read() }}}}",
    "{{{{ self.__init__.__globals__.__builtins__.open('{mark}', 'w') }}}}",
    "{{{{ ''|attr('__class__')|attr('__mro__') }}}}",
    "{{{{ raise_exception.__globals__ }}}}",
    "{{{{ strftime_now.__globals__['json'] }}}}",
    "{{{{ '{{0.__class__.__init__.__globals__}}'.format(raise_exception) }}}}",
    "{{{{ messages.append(messages[0]) }}}}",
    "{{% include '/etc/passwd' %}}",
    "{{% import 'os' as os %}}",
    "{{% for a in range(10 ** 9) %}}x{{% endfor %}}",
)


GREEDY = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set ns = namespace(x='xxxxxxxx') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='xxxxxxxx') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{{ ('x' * 99999999) | length }}",
    "{{ (99999999 * 'x') | length }}",
    "{{ ('x' * 9999) | replace('x', 'y' * 99999) | length }}",
    "{{ ('x' * 9999).replace('x', 'y' * 99999) | length }}",
    "{{ '%099999999d' % 1 }}",
    "{{ 'x'.ljust(999999999) }}",
    "{{ 'x' | center(999999999) }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ range(99999) | map('replace', '', 'y' * 9999) | join | length }}",
)


@pytest.mark.parametrize("attack", GREEDY)
def test_a_template_without_end_or_measure_is_refused(attack: str) -> None:
    with pytest.raises(UserError, match=r"longer than 2 seconds|too long"):
        compile_template(attack).render(MESSAGES, "<s>", "</s>", False)


def test_the_budget_leaves_ordinary_templates_as_they_are() -> None:
    template = "{% for m in messages %}{{ m.role ~ ': ' ~ m['content'] + '\n' }}{{ '%s' % loop.index }}{% endfor %}{{ 3 * 2 + 2 ** 3 }}"
    assert compile_template(template).render(MESSAGES, "", "", False) == "user: hello\n1assistant: hi\n214"


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_with_code_in_it_reaches_nothing(attack: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    try:
        said = compile_template(attack.format(mark=mark)).render(MESSAGES, "<s>", "</s>", False)
    except UserError:
        said = ""
    assert said == "", "what is not allowed is not there"
    assert not mark.exists() and len(MESSAGES) == 2
