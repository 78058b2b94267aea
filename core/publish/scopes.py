"""What a login through a Space was allowed to do, against what publishing and renting machines need; in words when it is too little.

The Hub writes the scopes of an OAuth token as one line with spaces between them, and Gradio hands that line on. They are judged only where
every one of them is known: nobody is refused for a scope that is newer than this list, or where none is told, as of a pasted token.
"""

from __future__ import annotations

# https://huggingface.co/docs/hub/oauth#currently-supported-scopes, and those of a Space (both read 2026-11-29).
KNOWN = frozenset(
    "openid profile email read-billing read-repos gated-repos contribute-repos write-repos manage-repos inference-api jobs webhooks "
    "write-discussions read-memberships".split()
)
# `contribute-repos` makes repositories and writes to those that the Space made. By its description only `manage-repos` makes others, but
# the Hub's own tools make them with `write-repos` too, so that one is not refused here.
WRITES = frozenset(("contribute-repos", "write-repos", "manage-repos"))
DISCUSSES = "write-discussions"
JOBS = "jobs"


def publishing_problem(scope: str, exists: bool, by_pull_request: bool) -> str:
    """Why a login with `scope` cannot publish; empty when it can, or when that is not known.

    A repository that exists and refuses the write is reached by pull request, so the right to open one is enough there.
    """
    given = _known(scope)
    if given is None or (exists and DISCUSSES in given):
        return ""
    if by_pull_request:
        # These two write to repositories that exist; whether they also open pull requests elsewhere, the Hub does not say.
        return "" if given & {"write-repos", "manage-repos"} else _lacks("open pull requests", DISCUSSES)
    return "" if given & WRITES else _lacks("make repositories and write to them", "contribute-repos")


def jobs_problem(scope: str) -> str:
    """Why a login with `scope` cannot rent a machine, whose run is kept in a private repository; empty when it can, or that is not known."""
    given = _known(scope)
    if given is None:
        return ""
    if JOBS not in given:
        return _lacks("run jobs", JOBS)
    return "" if given & WRITES else _lacks("make the repository that keeps the run", "contribute-repos")


def _known(scope: str) -> frozenset[str] | None:
    given = frozenset(scope.replace(",", " ").split())
    return given if given and given <= KNOWN else None


def _lacks(deed: str, scope: str) -> str:
    mend = f"Sign out and in again, and allow it; if it is not asked for, add {scope} to hf_oauth_scopes in the Space's README.md."
    return f"This login was not allowed to {deed} (the scope {scope}). {mend}"
