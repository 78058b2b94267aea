"""A pull request that was opened and whose answer was lost on the way back: found again, so that no second one is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.publish.preflight import Plan, PlannedFile


def opened(hub: Any, plan: Plan, title: str, files: Sequence[PlannedFile]) -> tuple[str, str] | None:
    """(commit, address) of an open pull request of this login that holds `files` already; None when there is none."""
    author = hub.whoami()["name"]
    mine = hub.get_repo_discussions(
        plan.repo_id, author=author, discussion_type="pull_request", discussion_status="open", repo_type=plan.repo_type
    )
    for each in mine:
        if each.title == title and _holds(hub, plan, each.git_reference, files):
            return hub.repo_info(plan.repo_id, revision=each.git_reference, repo_type=plan.repo_type).sha, each.url
    return None


def _holds(hub: Any, plan: Plan, revision: str, files: Sequence[PlannedFile]) -> bool:
    entries = hub.get_paths_info(plan.repo_id, [file.path for file in files], revision=revision, repo_type=plan.repo_type)
    there = {entry.path: entry for entry in entries}
    return all(file.path in there and file.is_same(there[file.path]) for file in files)
