"""``make audit``: known vulnerabilities of the installed packages, risky calls in the code, and secrets in the repository.

Every finding that stays is justified here and nowhere else; one that is not here fails the audit (exit status 1), and so does a justification
that nothing needs any more. Risky calls and secrets are looked for without a network. Packages are looked up in the database of PyPI: where it
cannot be asked and nothing else was found, the exit status is 2, so that nobody takes silence for an answer; with ``--offline`` they are left
out on purpose, which is said and is no failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
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
    ("B615", "core/chat/transformers_child.py"): OFFLINE,
    ("B615", "core/export/imatrix_child.py"): OFFLINE,
    ("B615", "core/export/merge_whole_child.py"): OFFLINE,
    ("B615", "core/export/names.py"): OFFLINE,
    ("B615", "core/export/prove_child.py"): OFFLINE,
    ("B615", "core/training/models.py"): "asks for what lies in the Hub's cache already (local_files_only), and fetches nothing",
    ("B615", "core/training/train.py"): OFFLINE,
    ("B701", "core/publish/card.py"): "writes Markdown, which must not be escaped as HTML; the page shows it sanitised",
}
MADE_UP = "made up for the test"
SECRETS: dict[tuple[str, str], str] = {
    ("Hex High Entropy String", "core/export/converter.py"): "the sha256 of a source distribution",
    ("Secret Keyword", "ui/shell.py"): CODE["B105", "ui/shell.py"],
    ("Secret Keyword", "tests/space.py"): MADE_UP,
    ("Secret Keyword", "tests/integration/test_password.py"): MADE_UP,
    ("Secret Keyword", "tests/integration/test_strangers.py"): MADE_UP,
    ("Secret Keyword", "tests/unit/publish/test_datasets.py"): MADE_UP,
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


NOT_ASKED_THERE = "packages: NOT CHECKED: the vulnerability database cannot be asked from here, so nothing is known of {} of {}"


class NoAnswerError(Exception):
    """A check could not be made; the sentence says which and why."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Look for vulnerable packages, risky calls and secrets.")
    parser.add_argument("--offline", action="store_true", help="leave the packages out: their database needs the network")
    is_offline = parser.parse_args().offline
    found: list[str] = []
    unchecked: list[str] = []
    for check in (risky_calls, kept_secrets) if is_offline else (risky_calls, kept_secrets, packages):
        try:
            found += check()
        except NoAnswerError as error:
            unchecked.append(str(error))
    left_out = ["packages: left out, as --offline asks"] if is_offline else []
    print(*found, *left_out, *unchecked, sep="\n")
    print(f"{len(found)} findings are not justified, {len(unchecked)} checks could not be made.")
    sys.exit(1 if found else 2 if unchecked else 0)


def risky_calls() -> list[str]:
    return judge("code", code(), CODE)


def kept_secrets() -> list[str]:
    return judge("secret", secrets(), SECRETS)


def judge(kind: str, found: set[tuple[str, str]], justified: dict[tuple[str, str], str]) -> list[str]:
    """A sentence per finding without a reason and per reason without a finding."""
    print(f"{kind}: {len(found)} findings, {len(found & justified.keys())} of them justified")
    bare = [f"{kind}: {what} in {where} is not justified in tests/audit.py" for what, where in sorted(found - justified.keys())]
    return bare + [f"{kind}: {what} in {where} is justified and not there any more" for what, where in sorted(justified.keys() - found)]


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


def packages() -> list[str]:
    """A sentence per known vulnerability.

    Raises:
        NoAnswerError: the database could not be asked about most of the packages.
    """
    try:
        found: list[dict[str, Any]] = output([str(BIN / "pip-audit"), "--progress-spinner", "off", "--format", "json"])["dependencies"]
    except NoAnswerError:
        raise NoAnswerError(NOT_ASKED_THERE.format("any", "them")) from None
    known = [package for package in found if "skip_reason" not in package]
    print(f"packages: {len(known)} of {len(found)} were looked up")
    failures = [
        f"packages: {package['name']} {package['version']} has {flaw['id']}; mended in {', '.join(flaw['fix_versions']) or 'none'}"
        for package in known
        for flaw in package["vulns"]
        if (flaw["id"], package["name"]) not in PACKAGES
    ]
    if not failures and len(known) < (1 - MOST_UNKNOWN) * len(found):
        raise NoAnswerError(NOT_ASKED_THERE.format(len(found) - len(known), f"the {len(found)} packages"))
    return failures


def output(argv: list[str]) -> dict[str, Any]:
    """What a tool prints as JSON. Its exit status says whether it found something, which the JSON says better."""
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        raise NoAnswerError(f"{Path(argv[0]).name}: NOT CHECKED: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
