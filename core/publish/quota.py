"""What an account still has free for private repositories, as far as the Hub tells it.

https://huggingface.co/docs/hub/storage-limits (read 2026-11-29): a free account or organisation has 100 GB for private repositories, PRO
includes 1 TB, paid organisations 1 TB a seat; what PRO and paid organisations keep beyond is billed. Public repositories are not counted.
"""

from __future__ import annotations

from typing import Any

from core.publish.preflight import FREE_PRIVATE_BYTES
from core.units import size

PRO_PRIVATE_BYTES = 10**12
ASKED_FROM_BYTES = 10**9  # a smaller upload hardly fills an account, and is not worth three listings more
MOST_LISTED = 5000  # repositories of a kind that are looked at: five pages of the Hub's
LIMITS = "https://huggingface.co/docs/hub/storage-limits"


def private_note(hub: Any, known: dict[str, Any], repo_id: str, size_bytes: int) -> str:
    """What speaks against keeping `size_bytes` more as the private repository `repo_id`; empty when nothing does, or it is not known.

    It is a note and no problem, for nothing that the Hub tells makes it certain: accounts have been given more than their plan says, what
    they held before there were limits is not counted, buckets are counted and not listed here, and the Hub has refused uploads while its
    own page showed room (huggingface_hub issue 3049). `core.publish.push.explain` has words for the refusal itself.

    Args:
        known: the answer of `whoami`.
        repo_id: what it holds already is left out of the sum, because the same files are not kept twice.
    """
    owner = repo_id.partition("/")[0]
    if size_bytes < ASKED_FROM_BYTES or not (allowed_bytes := _included_bytes(known, owner)):
        return ""
    used_bytes = _used_bytes(hub, owner, repo_id)
    if used_bytes is None or used_bytes + size_bytes <= allowed_bytes:
        return ""
    left = f"{size(max(0, allowed_bytes - used_bytes))} are left of the {size(allowed_bytes)}"
    said = (
        f"{owner} keeps {size(used_bytes)} in other private repositories: {left} that the plan includes, and this has {size(size_bytes)}."
    )
    refusal = "What is beyond is billed" if allowed_bytes > FREE_PRIVATE_BYTES else "The Hub may refuse it as a private repository"
    return f"{said} {refusal}: {LIMITS}"


def _included_bytes(known: dict[str, Any], owner: str) -> int | None:
    """What the plan of `owner` includes; None where the Hub does not tell, as of paid organisations: theirs goes by seats."""
    if owner.lower() == str(known.get("name", "")).lower():
        is_pro = known.get("isPro")
        return None if is_pro is None else PRO_PRIVATE_BYTES if is_pro else FREE_PRIVATE_BYTES
    organisation: dict[str, Any] = next((each for each in known.get("orgs") or () if each.get("name") == owner), {})
    is_paid = organisation.get("plan") or organisation.get("periodEnd") or organisation.get("isEnterprise") is not False
    return None if is_paid else FREE_PRIVATE_BYTES


def _used_bytes(hub: Any, owner: str, repo_id: str) -> int | None:
    """What the private repositories of `owner` hold that this login sees, without `repo_id`; None when the Hub does not say.

    The client asks a Hub with a fault again for some 23 s; then that is no answer either.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    total_bytes = 0
    for listing in (hub.list_models, hub.list_datasets, hub.list_spaces):
        try:
            found = list(listing(author=owner, expand=["private", "usedStorage"], limit=MOST_LISTED))
        except (HfHubHTTPError, HTTPError, OSError):
            return None
        others = [each.used_storage for each in found if each.private and each.id != repo_id]
        if None in others:
            return None
        total_bytes += sum(others)
    return total_bytes
