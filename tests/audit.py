"""``make audit``: known vulnerabilities of the installed packages, risky calls in the code, and secrets in the repository.

Every finding that stays is justified here and nowhere else; one that is not here fails the audit, and so does a justification that nothing
needs any more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.paths import PROJECT

BIN = Path(sys.executable).parent
# assert marks our own mistakes; subprocess is used with argument lists only, which ruff's S602, S604 and S605 check.
NOT_ASKED = "B101,B404,B603"
OFFLINE = "loads a folder of this machine with HF_HUB_OFFLINE=1 and local_files_only or a path, so there is no revision to pin"
TOKEN_OF_TEXT = "a token of text, not of a login"
DRAWS = "draws samples or an order; nothing secret depends on it"
CODE: dict[tuple[str, str], str] = {
    ("B104", "app.py"): "on a Space the container's port is the platform's; elsewhere an open address needs a password",
    ("B105", "app.py"): "a switch of huggingface_hub whose name ends in TOKEN",
    ("B105", "core/chat/answer.py"): TOKEN_OF_TEXT,
    ("B105", "core/data/tokenizer.py"): TOKEN_OF_TEXT,
    ("B105", "ui/shell.py"): "only ids and form values are kept in the browser under it",
    ("B311", "core/data/sampling.py"): DRAWS,
    ("B311", "core/data/split.py"): DRAWS,
    ("B311", "ui/chat_vote.py"): DRAWS,
    ("B606", "core/jobs/bootstrap.py"): "the job becomes the program that it was started for; an argument list, no shell",
    ("B615", "core/chat/sources.py"): "a GGUF file that a person names; data only, its header is checked before it is loaded",
    ("B615", "core/chat/transformers_child.py"): OFFLINE,
    ("B615", "core/export/imatrix_child.py"): OFFLINE,
    ("B615", "core/export/merge_whole_child.py"): OFFLINE,
    ("B615", "core/export/names.py"): OFFLINE,
    ("B615", "core/export/prove_child.py"): OFFLINE,
    ("B615", "core/training/train.py"): OFFLINE,
    ("B701", "core/publish/card.py"): "writes Markdown, which must not be escaped as HTML; the page shows it sanitised",
}
MADE_UP = "made up for the test"
SECRETS: dict[tuple[str, str], str] = {
    ("Hex High Entropy String", "core/export/converter.py"): "the sha256 of a source distribution",
    ("Secret Keyword", "ui/shell.py"): CODE["B105", "ui/shell.py"],
    ("Secret Keyword", "tests/space.py"): MADE_UP,
    ("Secret Keyword", "tests/unit/publish/test_deploy.py"): MADE_UP,
    ("Secret Keyword", "tests/unit/ui/test_page.py"): MADE_UP,
    ("Basic Auth Credentials", "tests/unit/chat/test_sources.py"): MADE_UP,
    ("Hex High Entropy String", "tests/unit/publish/test_card.py"): MADE_UP,
    ("Base64 High Entropy String", "tests/unit/running/test_live.py"): MADE_UP,
    ("Base64 High Entropy String", "tests/unit/test_redact.py"): MADE_UP,
    ("JSON Web Token", "tests/unit/test_redact.py"): MADE_UP,
}
PACKAGES: dict[tuple[str, str], str] = {}  # (vulnerability, package)
MOST_UNKNOWN = 0.1  # of the packages: builds such as torch's for CPU are not known by their version


def main() -> None:
    failures = [*judge("code", code(), CODE), *judge("secret", secrets(), SECRETS), *packages()]
    print(*(failures or ["Nothing was found that is not justified."]), sep="\n")
    sys.exit(bool(failures))


def judge(kind: str, found: set[tuple[str, str]], justified: dict[tuple[str, str], str]) -> Iterator[str]:
    """A sentence per finding without a reason and per reason without a finding."""
    print(f"{kind}: {len(found)} findings, {len(found & justified.keys())} of them justified")
    yield from (f"{kind}: {what} in {where} is not justified in tests/audit.py" for what, where in sorted(found - justified.keys()))
    yield from (f"{kind}: {what} in {where} is justified and not there any more" for what, where in sorted(justified.keys() - found))


def code() -> set[tuple[str, str]]:
    """(rule, file) of every finding of bandit in what ships."""
    report = output([str(BIN / "bandit"), "-q", "-r", "app.py", "core", "ui", "-f", "json", "--skip", NOT_ASKED])
    assert not report["errors"], report["errors"]
    return {(each["test_id"], each["filename"].removeprefix("./")) for each in report["results"]}


def secrets() -> set[tuple[str, str]]:
    """(kind, file) of what looks like a secret in a tracked file. Notebooks and benchmark results are full of hashes and hold no code."""
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
    files = [path for path in tracked if not path.startswith("benchmarks/results/") and not path.endswith((".ipynb", ".png"))]
    report = output([str(BIN / "detect-secrets"), "scan", *files])
    return {(each["type"], path) for path, found in report["results"].items() for each in found}


def packages() -> Iterator[str]:
    """A sentence per known vulnerability, and one when the database could not be asked."""
    report = output([str(BIN / "pip-audit"), "--progress-spinner", "off", "--format", "json"])
    known = [package for package in report["dependencies"] if "skip_reason" not in package]
    print(f"packages: {len(known)} of {len(report['dependencies'])} were looked up")
    if len(known) < (1 - MOST_UNKNOWN) * len(report["dependencies"]):
        yield "packages: the vulnerability database cannot be asked from here, so nothing is known about most of them"
    for package in known:
        for flaw in package["vulns"]:
            if (flaw["id"], package["name"]) not in PACKAGES:
                yield f"packages: {package['name']} {package['version']} has {flaw['id']}; mended in {', '.join(flaw['fix_versions']) or 'none'}"


def output(argv: list[str]) -> dict[str, Any]:
    """What a tool prints as JSON. Its exit status says whether it found something, which the JSON says better."""
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("{"), done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
