"""The one kind of error a person sees: what is wrong, where, and how to mend it."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the input, the machine or the network that the person can mend.

    Attributes:
        problem: what is wrong, with the offending value, as one sentence.
        where: the place: a file and row, a field of the recipe, a step of a run.
        remedy: what to do about it, as one sentence.
        code: a short stable word for programs (``OOM``, ``DISK``, ``CRASH``, ...), empty when nothing asks for it.
    """

    def __init__(self, problem: str, where: str, remedy: str, code: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.remedy = remedy
        self.code = code

    def __str__(self) -> str:
        return f"{self.problem} ({self.where}). {self.remedy}"

    def as_dict(self) -> dict[str, str]:
        return {"problem": self.problem, "where": self.where, "remedy": self.remedy, "code": self.code}

    @classmethod
    def from_dict(cls, fields: dict[str, str]) -> UserError:
        return cls(fields["problem"], fields["where"], fields["remedy"], fields.get("code", ""))
