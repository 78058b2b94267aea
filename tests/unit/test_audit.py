"""``make audit`` says what it found, what it could not look up, and does not pass the one off as the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import audit

KNOWN = [{"name": "good", "version": "1", "vulns": []}]
FLAWED = [{"name": "bad", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]
UNKNOWN = [{"name": f"unheard-{number}", "skip_reason": "not found"} for number in range(9)]


def outcome(monkeypatch: pytest.MonkeyPatch, packages: list[dict[str, Any]] | None, found: set[tuple[str, str]], *argv: str) -> int:
    """The exit status when these packages are told of, None for no answer, and these risky calls are found."""

    def output(_argv: list[str]) -> dict[str, Any]:
        if packages is None:
            raise audit.NoAnswerError("no answer")
        return {"dependencies": packages}

    monkeypatch.setattr(audit, "output", output)
    monkeypatch.setattr(audit, "code", lambda: found)
    monkeypatch.setattr(audit, "CODE", {("B000", "app.py"): "a reason"})
    monkeypatch.setattr(audit, "secrets", set)
    monkeypatch.setattr(audit, "SECRETS", {})
    monkeypatch.setattr("sys.argv", ["audit", *argv])
    with pytest.raises(SystemExit) as ended:
        audit.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


JUSTIFIED = {("B000", "app.py")}


@pytest.mark.parametrize(
    ("packages", "found", "argv", "status", "said"),
    [
        (KNOWN, JUSTIFIED, (), 0, "0 findings are not justified, 0 checks could not be made"),
        (None, JUSTIFIED, (), 2, "NOT CHECKED"),
        (KNOWN + UNKNOWN, JUSTIFIED, (), 2, "nothing is known of 9 of the 10 packages"),
        (None, JUSTIFIED, ("--offline",), 0, "left out, as --offline asks"),
        (FLAWED, JUSTIFIED, (), 1, "bad 1 has CVE-1; mended in 2"),
        (FLAWED + UNKNOWN, JUSTIFIED, (), 1, "bad 1 has CVE-1"),
        (None, JUSTIFIED | {("B602", "core/x.py")}, (), 1, "B602 in core/x.py is not justified"),
        (KNOWN, set[tuple[str, str]](), ("--offline",), 1, "B000 in app.py is justified and not there any more"),
    ],
)
def test_findings_fail_and_so_does_what_was_not_looked_up(
    packages: Any, found: Any, argv: Any, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(monkeypatch, packages, found, *argv) == status
    assert said in capsys.readouterr().out


def test_a_tool_that_prints_no_answer_has_checked_nothing(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    tool.chmod(0o755)
    with pytest.raises(audit.NoAnswerError, match=r"tool: NOT CHECKED.*no network"):
        audit.output([str(tool)])
    tool.write_text(f"#!/bin/sh\necho '{json.dumps({'results': []})}'\nexit 1\n")
    assert audit.output([str(tool)]) == {"results": []}
