"""A chat template with code in it reaches nothing of this machine: it is refused in words, or what it asks for is not there (R19)."""

from __future__ import annotations

import resource
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
    # widths and precisions
    "{{ '{:>9000000000}'.format('x') | length }}",
    "{{ '{:>{}}'.format('x', 9000000000) | length }}",
    "{{ '{w:>900000000}'.format_map({'w': 1}) | length }}",
    "{{ '{:.900000000f}'.format(1.5) | length }}",
    "{{ ('{:>900000000}' | attr('format'))('x') | length }}",
    "{{ ('{:>900000000}' | safe).format('x') | length }}",
    "{{ '%.900000000f' % 1.5 }}",
    "{{ '%-1.900000000f' % 1.5 }}",
    "{{ '%*d' % (900000000, 1) }}",
    "{{ '%900000000d' | format(1) | length }}",
    "{{ ('%9999d' * 100000) % (range(99999) | list)}}",
    "{{ 'x'.rjust(999999999) }}",
    "{{ 'x'.zfill(999999999) }}",
    "{{ 'x'.center(width=999999999) if false else 'x'.center(999999999) }}",
    "{{ 1.5 | round(999999999, 'ceil') }}",
    "{{ messages | tojson(indent=999999999) }}",
    "{{ messages | tojson(indent='x' * 16000000) }}",
    "{{ messages | tojson(separators=('x' * 16000000, 'y' * 16000000)) }}",
    # the same thing many times
    "{{ range(99999) | join('x' * 100000) | length }}",
    "{{ ('x' * 100000).join(range(99999) | map('string')) | length }}",
    "{{ ('x' * 100000).join('y' * 100000) | length }}",
    "{{ ('y' * 100000) | join('x' * 100000) | length }}",
    "{{ (['x' * 16000000] * 1000) | join | length }}",
    "{{ ([{'a': 'x' * 16000000}] * 1000) | join(attribute='a') | length }}",
    "{{ (['x' * 16000000] * 1000) | string | length }}",
    "{{ (['x' * 16000000] * 1000) ~ '' }}",
    "{{ (['x' * 16000000] * 1000) | upper | length }}",
    "{{ 'x' | replace(['x' * 16000000] * 1000, 'y') }}",
    "{{ 'xy' | join(['x' * 16000000] * 1000) | length }}",
    "{{ (['x' * 16000000] * 1000) | tojson | length }}",
    "{{ ['x' * 16000000] * 1000 }}",
    "{{ {'a': ['x' * 16000000] * 1000}.values() }}",
    "{{ namespace(a=['x' * 16000000] * 1000) }}",
    "{% set ns = namespace(a=['x' * 99999]) %}{% for a in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
    "{{ '{0}{0}{0}{0}'.format(['x' * 16000000] * 1000) | length }}",
    "{{ ('{0}' * 1000).format('x' * 16000000) | length }}",
    "{{ '{!r}'.format(['x' * 16000000] * 1000) | length }}",
    "{{ ('%s' * 1000) % ((['x' * 16000000] * 1000) | list) }}",
    "{{ ('%(a)s' * 1000) % {'a': 'x' * 16000000} }}",
    "{{ ('%(a)s' * 1000) | format(a='x' * 16000000) }}",
    "{% set x = 'x' * 16000000 %}{% for a in range(99999) %}{{ x }}{% endfor %}",
    "{% set x = 'x' * 16000000 %}{% set y %}{% for a in range(99999) %}{{ x }}{% endfor %}{% endset %}{{ y | length }}",
    "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{{ f('x' * 16000000) | length }}",
    "{{ raise_exception(['x' * 16000000] * 1000) or 'too long' * 9999999 }}",
    # lines, tabs and pieces
    "{{ ('\t' * 16000000).expandtabs(900) | length }}",
    "{{ ('\t' * 16000000).expandtabs() | length }}",
    "{{ ('\n' * 16000000) | indent(800) | length }}",
    "{{ ('\n' * 9999) | indent('x' * 99999) | length }}",
    "{{ ('x' * 16000000) | list | length }}",
    "{{ ('x ' * 8000000).split() | length }}",
    "{{ ('x ' * 8000000).rsplit(' ') | length }}",
    "{{ ('x\n' * 8000000).splitlines() | length }}",
    "{{ ('x ' * 8000000) | wordcount }}",
    "{{ ([[1]] * 1000000) | sum(start=[]) | length }}",
    "{{ [1] * 16000000 }}",
    # a little every time, and all of it kept
    "{% set ns = namespace(l=[]) %}{% for a in range(9999) %}{% set ns.l = ns.l + ['x' * (16000000 - a)] %}{% endfor %}",
    "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = [ns.l, 'x' * 9999 ~ a] %}{% endfor %}",
    "{% set ns = namespace(n=3) %}{% for a in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "{{ strftime_now('%c' * 9999) ~ 'x' * 99999999 }}",
)
# What no chat template needs is not there.
MISSING = (
    "{{ lipsum(999999999) }}",
    "{{ ('x' * 99999).translate({120: 'y' * 99999}) | length }}",
    "{{ (5).to_bytes(999999999, 'big') }}",
    "{{ ('x' * 9999).encode() * 999999999 }}",
    "{{ messages | pprint }}",
    "{{ 'x' | wordwrap(1, wrapstring='y' * 99999) }}",
    "{{ {'a': 1} | xmlattr }}",
    "{{ 'x' | urlize }}",
)


@pytest.mark.parametrize("attack", GREEDY)
def test_a_template_without_end_or_measure_is_refused(attack: str) -> None:
    before = peak_bytes()
    with pytest.raises(UserError, match=r"longer than 2 seconds|too long|no reason in words"):
        compile_template(attack).render(MESSAGES, "<s>", "</s>", False)
    assert peak_bytes() - before < 450 * 2**20


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("template", MISSING)
def test_what_no_chat_template_needs_is_not_there(template: str) -> None:
    with pytest.raises(UserError, match=r"No filter named|unsafe|undefined|not safe"):
        compile_template(template).render(MESSAGES, "<s>", "</s>", False)


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("{{ '{:>6}|{}'.format('ab', 3) }}", "    ab|3"),
        ("{{ '{a}'.format_map({'a': 1}) }}", "1"),
        ("{{ '%5.1f|%s' % (1.25, 'x') }}{{ '%(a)s' % {'a': 2} }}{{ '%s' | format(3) }}", "  1.2|x23"),
        ("{{ ['a', 1, none] | join(', ') }}{{ messages | map(attribute='role') | join('+') }}", "a, 1, Noneuser+assistant"),
        ("{{ messages | join('+', attribute='role') }}{{ '-'.join(['a', 'b']) }}{{ 'abc' | join('.') }}", "user+assistanta-ba.b.c"),
        ("{{ 'a\nb' | indent(2) }}{{ 'a\nb' | indent('>', true) }}{{ 'a\tb'.expandtabs(4) }}", "a\n  b>a\n>ba   b"),
        ("{{ {'a': [1]} | tojson(indent=1) }}{{ messages[0] }}", '{\n "a": [\n  1\n ]\n}' + str(MESSAGES[0])),
        ("{{ 123456 }}{{ 20000 ~ '' }}{{ 20000 | string }}{{ 2.5 | round }}{{ [1, 2] | sum }}", "1234562000020000" + "2.03"),
        ("{{ 'a b'.split() }}{{ 'a,b'.split(',')[-1] }}{{ 'ab' | list }}{{ ('x' * 20000).find('y', 15000) }}", "['a', 'b']b['a', 'b']-1"),
        ("{{ strftime_now('%Y') | length }}{{ 'x'.ljust(3) }}{{ 'aXa'.replace('X', 'yy') }}", "4x  ayya"),
    ],
)
def test_what_templates_do_with_text_goes_on_as_it_did(template: str, written: str) -> None:
    assert compile_template(template).render(MESSAGES, "", "", False) == written


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
