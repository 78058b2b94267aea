"""Sending a prepared publication to the Hub: in one commit, so that all of it is there or nothing; what is there already is not sent again.

The token is an argument of each call and is kept nowhere. Whether a repository was made here is remembered in the workspace, because one
that was not is reached by pull request only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.hubclient import Stopped, api, patiently, status
from core.publish.ledger import is_ours, is_published, remember, was_asked
from core.publish.preflight import CARD, LEAKY, PROVENANCE, Plan, PlannedFile, RepoType
from core.publish.pulls import opened
from core.publish.quota import LIMITS
from core.redact import redact, tokens

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi


@dataclass(frozen=True)
class Difference:
    """The planned files against those of the repository; `only_there` stay as they are."""

    exists: bool
    is_ours: bool
    is_private: bool
    commit: str | None
    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    only_there: tuple[str, ...] = ()

    @property
    def by_pull_request(self) -> bool:
        """A repository that was not made here is not written to: its owner decides on a pull request."""
        return self.exists and not self.is_ours

    @property
    def groups(self) -> list[tuple[str, tuple[str, ...]]]:
        """The files by what happens to them, for people; without the groups that are empty."""
        every = [("new", self.new), ("changed", self.changed), ("the same", self.same), ("only there, kept", self.only_there)]
        return [(said, names) for said, names in every if names]


@dataclass(frozen=True)
class Pushed:
    """What is on the Hub now. `commit` is empty when everything was there already."""

    repo_id: str
    url: str
    commit: str
    pull_request: str
    sent: tuple[str, ...]
    sent_bytes: int


def compare(plan: Plan, token: str | None) -> Difference:
    """What sending `plan` would change in its repository.

    Raises:
        UserError: the Hub cannot be reached, or does not accept the login (code LOGIN).
    """
    hub = api(token)
    info = existing(hub, plan.repo_id, plan.repo_type)
    if info is None:
        return Difference(False, True, True, None, new=tuple(file.path for file in plan.files))
    tree = patiently(
        lambda: list(hub.list_repo_tree(plan.repo_id, recursive=True, repo_type=plan.repo_type)),
        lambda error: explain(error, plan.repo_id),
    )
    there = {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}
    named = {file.path for file in plan.files}
    same = {file.path for file in plan.files if file.path in there and file.is_same(there[file.path])}
    return Difference(
        exists=True,
        is_ours=made_here(hub, plan.address, info),
        is_private=bool(info.private),
        commit=info.sha,
        new=tuple(sorted(named - set(there))),
        changed=tuple(sorted((named & set(there)) - same)),
        same=tuple(sorted(same)),
        only_there=tuple(sorted(set(there) - named - {".gitattributes"})),
    )


def push(
    plan: Plan,
    token: str | None,
    *,
    private: bool = True,
    pull_request: bool = False,
    despite_proofs: bool = False,
    despite_tokens: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Pushed:
    """Send `plan`; run again after a break, it sends only what is missing.

    Args:
        private: of a repository that is made now; an existing one keeps what it is.
        pull_request: open one even where the repository was made here.
        despite_proofs: send although a proof does not hold; other problems still stop it.
        despite_tokens: send although something in it looks like an access token.
        on_progress: called with the bytes sent so far and the bytes to send.
        should_stop: end before the next part of a file, or the next file through Xet storage; nothing of it can be seen on the Hub then.

    Raises:
        UserError: the plan has problems, no login (code LOGIN), no right to write, nor to open a pull request where the repository
            exists (code ACCESS), the repository changed meanwhile (code CHANGED), or the Hub cannot be reached (code NET).
        Stopped: `should_stop` became true.
    """
    refuse_problems(plan, despite_proofs, despite_tokens)
    if not token:
        raise not_logged_in(plan.repo_id)
    hub = api(token)

    def said(error: BaseException) -> UserError:
        return explain(error, plan.repo_id)

    difference = compare(plan, token)
    wanted = set(difference.new + difference.changed)
    if CARD in wanted:
        require_valid_card(plan, said)
    if not difference.exists:
        # One that exists now was made a moment ago, by a first try of ours whose answer was lost.
        patiently(lambda: hub.create_repo(plan.repo_id, private=private, repo_type=plan.repo_type, exist_ok=True), said, should_stop)
        remember(plan.address, "created")
    files = [file for file in plan.files if file.path in wanted]
    if not files:
        if not is_published(plan.address, plan.sources):  # a crash came between the commit and the line about it
            remember(plan.address, "committed", commit=difference.commit, sources=list(plan.sources))
        return Pushed(plan.repo_id, f"{hub.endpoint}/{plan.address}", "", "", (), 0)
    asks = difference.exists and (pull_request or difference.by_pull_request)
    title = f"Publish {', '.join(sorted(wanted))[:60]} with Transmute"

    def deliver(asks: bool) -> tuple[str, str]:
        operations = _upload(hub, plan, files, asks, on_progress, should_stop)

        def commit() -> tuple[str, str]:
            # Looked for at every try: that before may have opened one although its answer was lost.
            if asks and (there := opened(hub, plan, title, files)):
                return there
            options = {"create_pr": asks, "parent_commit": difference.commit if difference.exists else None}
            made = hub.create_commit(plan.repo_id, operations, repo_type=plan.repo_type, commit_message=title, **options)
            return made.oid, made.pr_url or ""

        return patiently(commit, said, should_stop)

    try:
        oid, pr_url = deliver(asks)
    except UserError as error:
        if error.code != "ACCESS" or asks or not difference.exists:
            raise
        asks = True  # a login through a Space writes to what that Space made, and elsewhere it opens a pull request
        oid, pr_url = deliver(asks)
    remember(plan.address, "pull_request" if asks else "committed", commit=oid, sources=list(plan.sources))
    sent_bytes = sum(file.size_bytes for file in files)
    return Pushed(plan.repo_id, f"{hub.endpoint}/{plan.address}", oid, pr_url, tuple(sorted(wanted)), sent_bytes)


def _upload(
    hub: HfApi,
    plan: Plan,
    files: list[PlannedFile],
    asks: bool,
    on_progress: Callable[[int, int], None] | None,
    should_stop: Callable[[], bool],
) -> list[CommitOperationAdd]:
    """Send the contents of `files`, one after the other, and return the operations of the commit that is to show them."""
    from core.publish.progress import Count, heard_by, operation

    def tell(done: int, of: int) -> None:
        if should_stop():
            raise Stopped
        if on_progress:
            on_progress(done, of)

    count = Count(sum(file.size_bytes for file in files), tell)
    operations = [operation(file, count) for file in files]
    options: dict[str, Any] = {"repo_type": plan.repo_type, "create_pr": asks, "free_memory": False}
    for file, each in zip(files, operations, strict=True):
        with heard_by(count):
            patiently(
                lambda each=each: hub.preupload_lfs_files(plan.repo_id, [each], **options),
                lambda error: explain(error, plan.repo_id),
                should_stop,
            )
        count.finish(file)
    return operations


def not_logged_in(repo_id: str) -> UserError:
    return UserError("Nobody is logged in to the Hub.", repo_id, "Sign in on the page, or run `hf auth login`.", code="LOGIN")


def with_card(plan: Plan, card: str) -> Plan:
    """`plan` with the model card as somebody has edited it.

    Raises:
        UserError: its front matter is not YAML. A token in it is one more problem of the plan.
    """
    import yaml

    front = card.split("---\n")[1] if card.startswith("---\n") and card.count("---\n") > 1 else ""
    try:
        yaml.safe_load(front)
    except yaml.YAMLError as error:
        raise UserError(f"The card's front matter is not YAML: {error}", CARD, "Mend the lines between the two `---`.") from None
    files = tuple(PlannedFile(CARD, len(card.encode()), text=card) if file.path == CARD else file for file in plan.files)
    leaky = (f"The card {LEAKY}; take it out.",) if tokens(card) else ()
    return dataclasses.replace(plan, files=files, problems=plan.problems + leaky, token_problems=plan.token_problems + leaky)


def require_valid_card(plan: Plan, said: Callable[[BaseException], UserError]) -> None:
    """Have the Hub check the card by its own rules before anything is made or sent; a commit would check it behind the last byte.

    Raises:
        UserError: what the Hub has against the card (code CARD), or it cannot be reached.
    """
    from huggingface_hub import DatasetCard, ModelCard

    text = next(file.text or "" for file in plan.files if file.path == CARD)

    def check() -> None:
        try:
            card = DatasetCard(text) if plan.repo_type == "dataset" else ModelCard(text)
            card.validate()
        except ValueError as error:
            raise ValueError(f"The Hub does not accept this README.md: {_first_error(error)}") from None

    patiently(check, said)


def _first_error(error: ValueError) -> str:
    """What the Hub says is wrong, out of its JSON where it is some."""
    try:
        return str(json.loads(str(error))["errors"][0]["message"])
    except (ValueError, LookupError, TypeError):
        return str(error)[:300]


def refuse_problems(plan: Plan, despite_proofs: bool = False, despite_tokens: bool = False) -> None:
    """UserError when something speaks against sending `plan` that was not overruled."""
    overruled = (plan.proof_problems if despite_proofs else ()) + (plan.token_problems if despite_tokens else ())
    problems = [problem for problem in plan.problems if problem not in overruled]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        known = " If it is no token, say so: --despite-tokens, or the box on the page." if problems[0] in plan.token_problems else ""
        remedy = f"Mend what the dry run lists, then send it.{known}"
        raise UserError(f"This cannot be published yet: {problems[0]}{more}", plan.repo_id, remedy)


def explain(error: BaseException, repo_id: str) -> UserError:
    """What went wrong, for a person, with what helps."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    code = status(error)
    match error:
        case OfflineModeIsEnabled():
            return UserError("The Hub is switched off here (HF_HUB_OFFLINE).", repo_id, "Unset HF_HUB_OFFLINE.", "NET")
        case ValueError() if "README.md" in str(error):
            return UserError(
                str(error).replace("\n", " "), CARD, "Mend the front matter of the card, the lines between the two `---`.", "CARD"
            )
        case HFValidationError():
            return UserError(str(error), repo_id, "Write it as USER/NAME.", "NAME")
        case _ if code == 401:
            return UserError("The Hub does not accept this login.", repo_id, "Log in again; what was prepared is kept.", "LOGIN")
        case _ if code in (400, 403) and "storage limit" in str(error).lower():
            owner = repo_id.partition("/")[0]
            remedy = f"Make room there, or publish it for everybody. What arrived is kept. {LIMITS}"
            return UserError(f"The private storage of {owner} on the Hub is full.", repo_id, remedy, "FULL")
        case _ if code == 403:
            owner = repo_id.partition("/")[0]
            remedy = f"Give the token write rights for {owner}, or publish under a name of your own."
            return UserError(f"This login may not write to {repo_id}.", repo_id, remedy, "ACCESS")
        case _ if code == 404:
            return UserError(f"There is no {repo_id} on the Hub for this login.", repo_id, "Check the owner and the spelling.", "MISSING")
        case _ if code in (409, 412):
            return UserError("Somebody changed the repository meanwhile.", repo_id, "Compare again, then send.", "CHANGED")
        case _ if code == 429:
            return UserError("The Hub says that it is asked too often.", repo_id, "Wait a few minutes, then send again.", "NET")
        case _ if code >= 500:
            remedy = "Send again later: what arrived is kept there. https://status.huggingface.co knows more."
            return UserError(f"The Hub has a fault of its own (HTTP {code}).", repo_id, remedy, "NET")
        case _ if code:
            return UserError(f"The Hub refused it (HTTP {code}): {redact(str(error))[:300]}", repo_id, "Mend what it names.", "REFUSED")
        case _:
            return UserError(
                f"{repo_id} could not be reached.", repo_id, "Check the network, then send again: only the rest is sent.", "NET"
            )


def existing(hub: Any, repo_id: str, repo_type: RepoType = "model") -> Any | None:
    """The repository's information, or None when there is no such repository."""
    from huggingface_hub.errors import RepositoryNotFoundError

    def look() -> Any | None:
        try:
            return hub.repo_info(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError as error:
            if status(error) == 401:
                raise
            return None

    return patiently(look, lambda error: explain(error, repo_id))


def made_here(hub: Any, address: str, info: Any) -> bool:
    """Whether this workspace made the repository, or one before it: a Space without a volume forgets, the repository does not.

    One that was reached by pull request is not ours for holding our files: its owner has merged them.
    """
    if is_ours(address):
        return True
    if was_asked(address):
        return False
    named = {each.rfilename for each in info.siblings or ()}
    if PROVENANCE not in named and "transmute" not in ((info.card_data or {}).get("tags") or ()):  # the second of a dataset
        return False
    who = patiently(hub.whoami, lambda error: explain(error, info.id))["name"]
    return str(who).lower() == info.id.partition("/")[0].lower()
