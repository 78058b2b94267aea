"""Whether a login may publish where it wants to, asked before anything is sent; and what the base model's licence asks of whoever does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from core.hubclient import api, patiently
from core.publish.preflight import Plan, RepoType, address_of, repo_problems
from core.publish.push import existing, explain, made_here, not_logged_in
from core.publish.quota import private_note
from core.publish.scopes import publishing_problem
from core.publish.terms import terms

MAY_WRITE = ("contributor", "write", "admin")  # a contributor writes to what they made themselves


@dataclass(frozen=True)
class Standing:
    """What the Hub says of a login and a repository. Nothing can be sent while there are `problems`."""

    who: str
    exists: bool
    is_ours: bool
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def standing(
    repo_id: str, token: str | None, repo_type: RepoType = "model", base_model: str = "", scope: str = "", size_bytes: int = 0
) -> Standing:
    """Whether the owner of `token` can publish as `repo_id`, and under which terms of `base_model` (a Hub id).

    Args:
        scope: what a login through a Space was allowed, as `core.publish.scopes` reads it; empty where nobody says.
        size_bytes: what would be sent, compared with what the owner has free; 0 where that is not known yet.

    Raises:
        UserError: no login, or one that the Hub does not accept (code LOGIN); the Hub cannot be reached (code NET).
    """
    if not token:
        raise not_logged_in(repo_id)
    if wrong := repo_problems(repo_id):
        return Standing("", False, False, tuple(wrong))
    hub = api(token)
    known: dict[str, Any] = patiently(hub.whoami, lambda error: explain(error, repo_id))
    info = existing(hub, repo_id, repo_type)
    who, exists = str(known.get("name", "")), info is not None
    is_made_here = exists and made_here(hub, address_of(repo_id, repo_type), info)
    by_pull_request = exists and not is_made_here
    found = (
        _token_problem(known, repo_id, exists, by_pull_request),
        publishing_problem(scope, exists, by_pull_request),
        _owner_problem(known, repo_id, by_pull_request),
    )
    notes = [f"{repo_id} exists and was not made here: its owner decides on a pull request."] if by_pull_request else []
    if info is None or (is_made_here and info.private):
        notes += filter(None, [private_note(hub, known, repo_id, size_bytes)])
    return Standing(who, exists, is_made_here, tuple(filter(None, found)), (*notes, *_base_terms(hub, base_model)))


def places(token: str) -> tuple[str, ...]:
    """The names that the owner of `token` may publish under: their own first, then organisations where they may write.

    Raises:
        UserError: as `standing`.
    """
    return _places(patiently(api(token).whoami, lambda error: explain(error, "the Hub")))


def _places(known: dict[str, Any]) -> tuple[str, ...]:
    organisations = known.get("orgs") or ()
    return str(known.get("name", "")), *(str(each.get("name")) for each in organisations if each.get("roleInOrg") in MAY_WRITE)


def require(plan: Plan, token: str | None, scope: str = "") -> Standing:
    """`standing` of a plan.

    Raises:
        UserError: as `standing`, and when something speaks against it (code ACCESS).
    """
    found = standing(plan.repo_id, token, plan.repo_type, plan.base_model, scope, plan.total_bytes)
    if found.problems:
        raise UserError(found.problems[0], plan.repo_id, "Use another token, or publish under a name of your own.", "ACCESS")
    return found


def _token_problem(known: dict[str, Any], repo_id: str, exists: bool, by_pull_request: bool) -> str:
    """Why the token cannot write; empty when it can, or when `whoami` does not say (a login through a Space).

    A repository that exists and refuses the write is reached by pull request, so a fine-grained token that may open one is enough there.
    """
    access: dict[str, Any] = (known.get("auth") or {}).get("accessToken") or {}
    name = access.get("displayName")
    said = f"The token {name!r}" if name else "This token"
    if access.get("role") == "read":
        return f"{said} can only read. Make one of type Write at https://huggingface.co/settings/tokens."
    if access.get("role") != "fineGrained":
        return ""
    owner, fine = repo_id.partition("/")[0], access.get("fineGrained") or {}
    scoped: list[dict[str, Any]] = fine.get("scoped") or []
    there = _permissions(each for each in scoped if (each.get("entity") or {}).get("name") in (owner, repo_id))
    everywhere = _permissions(scoped) | set(fine.get("global") or ())
    discusses = "discussion.write" in everywhere
    if "repo.write" in there or (exists and discusses) or (by_pull_request and "repo.write" in everywhere):
        return ""
    deed = "open pull requests" if by_pull_request else f"write to repositories of {owner}"
    return f"{said} is fine-grained and may not {deed}. Allow that at https://huggingface.co/settings/tokens."


def _permissions(scoped: Iterable[dict[str, Any]]) -> set[str]:
    return {permission for each in scoped for permission in each.get("permissions") or ()}


def _owner_problem(known: dict[str, Any], repo_id: str, by_pull_request: bool) -> str:
    """Why nothing can be made under the owner named; empty when it can."""
    owner, name = repo_id.partition("/")[0], str(known.get("name", ""))
    if by_pull_request or owner.lower() in (place.lower() for place in _places(known)):
        return ""
    if owner in (org.get("name") for org in known.get("orgs") or ()):
        return f"{name} may only read in the organisation {owner}. Ask for the role write there, or publish as {name}."
    return f"This login is {name}, and {owner} is neither {name} nor an organisation of {name}. Possible here: {', '.join(_places(known))}."


def _base_terms(hub: Any, base_model: str) -> tuple[str, ...]:
    """The terms of the base as its page on the Hub states them; none when it cannot be seen."""
    info = existing(hub, base_model) if base_model else None
    if info is None:
        return ()
    card: Any = info.card_data or {}
    said = terms(str(card.get("license") or ""), str(card.get("license_name") or ""))
    gated = f"{base_model} is gated: whoever uses an adapter of it must accept its terms first." if info.gated else ""
    return tuple(each for each in (said, gated) if each)
