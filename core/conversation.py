"""The one in-memory form of chat data. Every vocabulary of roles and keys is mapped here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]

# ShareGPT, FastChat, OpenAI and their relatives; developer is OpenAI's, model Gemini's, prompter OpenAssistant's.
ROLE_ALIASES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "claude": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
}
VICUNA_ROLES: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One training example: an optional system turn, then user and assistant turns in alternation."""

    id: str
    turns: tuple[Turn, ...]

    def messages(self) -> list[dict[str, str]]:
        """The OpenAI form that chat templates take: ``[{"role", "content"}, ...]``."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]

    def vicuna(self) -> dict[str, object]:
        """The record of a Vicuna file: ``{"id", "conversations": [{"from", "value"}, ...]}``."""
        turns = [{"from": VICUNA_ROLES[turn.role], "value": turn.content} for turn in self.turns]
        return {"id": self.id, "conversations": turns}
