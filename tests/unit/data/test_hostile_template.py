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


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_with_code_in_it_reaches_nothing(attack: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    try:
        said = compile_template(attack.format(mark=mark)).render(MESSAGES, "<s>", "</s>", False)
    except UserError:
        said = ""
    assert said == "", "what is not allowed is not there"
    assert not mark.exists() and len(MESSAGES) == 2
