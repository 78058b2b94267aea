"""Secrets out of text: tokens by their shape, and the values of this process's own secret variables word for word.

Used wherever text leaves for a log, a page or a terminal (reliability rule R8): there a word too many may go. What keeps somebody's
data from being published has to be sure of itself: `tokens`.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

REPLACEMENT = "[secret]"
SECRET_SUFFIXES = ("TOKEN", "KEY", "SECRET", "PASSWORD")
SHORTEST_SECRET = 8  # a shorter value would blot out ordinary words

# No pattern is anchored at a word's start: a token glued to other text is still a token.
SHAPES = re.compile(
    r"""
      hf_(?:oauth|jwt)_[\w.~+/=-]{8,8000}                     # OAuth and short-lived tokens of the Hub
    | (?:hf_|api_org_)[A-Za-z0-9]{20,200}                     # user and organisation tokens of the Hub
    | eyJ[\w-]{6,2000}\.[\w-]{6,4000}\.[\w-]{0,2000}          # a JSON Web Token
    | sk-[\w-]{16,1000}                                       # OpenAI and what is compatible with it
    | (?<=bearer)[ \t]{1,8}[\w.~+/=-]{12,8000}                # what follows "Bearer" in a header
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
# What is a token beyond reasonable doubt: at a word's start, and long enough to have been drawn at random, see `_is_random`.
CERTAIN = re.compile(
    r"""
    (?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=\\u[0-9a-fA-F]{4}))(?:  # also behind an escape of JSON
      (?:hf_|api_org_)(?P<letters>[A-Za-z0-9]{20,200})
    | (?:hf_(?:oauth|jwt)_|sk-|(?i:bearer)[ \t]{1,8})(?P<body>[\w.~+/=-]{16,8000})
    | eyJ[\w-]{6,2000}\.[\w-]{6,4000}\.
    )""",
    re.VERBOSE | re.ASCII,
)
RUN = re.compile(r"[A-Za-z0-9]{16,}")
FEWEST_CHARACTERS = 8  # different ones of a token; a placeholder repeats itself
BEARER_PENDING = re.compile(r"bearer[ \t]{0,8}$", re.IGNORECASE)
SPACE = re.compile(r"\s")
# A stream keeps back at most this much while it waits for the end of a word; no token is longer.
LONGEST_WORD = 16_384


def redact(text: str) -> str:
    """`text` with every secret replaced by ``[secret]``."""
    text = SHAPES.sub(_replace, text)
    for secret in live_secrets():
        text = text.replace(secret, REPLACEMENT)
    return text


def live_secrets() -> list[str]:
    """The values of environment variables whose names say that they are secret, longest first."""
    values = {value for name, value in os.environ.items() if name.upper().endswith(SECRET_SUFFIXES) and len(value) >= SHORTEST_SECRET}
    return sorted(values, key=len, reverse=True)


def tokens(text: str) -> list[str]:
    """What in `text` is an access token beyond reasonable doubt: no `task-oriented-dialogue`, no `Bearer YOUR_ACCESS_TOKEN`."""
    found = [match[0] for match in CERTAIN.finditer(text) if _is_random(match)]
    return found + [secret for secret in live_secrets() if secret in text]


def without_tokens(text: str) -> str:
    """`text` with every one of its `tokens` replaced by ``[secret]``."""
    for token in tokens(text):
        text = text.replace(token, REPLACEMENT)
    return text


def _is_random(match: re.Match[str]) -> bool:
    """Whether a token's body mixes letters and digits within one run of them. Tokens of the Hub may do without digits, then not without capitals."""
    letters, body = match["letters"], match["body"]
    if letters:
        few = min(sum(map(str.isupper, letters)), sum(map(str.islower, letters)))
        return len(set(letters)) >= FEWEST_CHARACTERS and (_is_mixed(letters) or few >= len(letters) / 5)
    return body is None or any(_is_mixed(run) and len(set(run)) >= FEWEST_CHARACTERS for run in RUN.findall(body))


def _is_mixed(run: str) -> bool:
    return any(map(str.isdigit, run)) and any(map(str.isalpha, run))


def _replace(match: re.Match[str]) -> str:
    return " " + REPLACEMENT if match[0][0] in " \t" else REPLACEMENT


class RedactingStream:
    """Redacts a text that arrives in pieces, however a secret is cut by them.

    What `feed` returns is final; the last word is kept back until it is known to be whole, and `close` returns it.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, chunk: str) -> str:
        buffer = self._held + chunk
        if len(buffer) < LONGEST_WORD and not SPACE.search(chunk):
            self._held = buffer  # the word goes on
            return ""
        cut = _safe_cut(buffer)
        self._held = buffer[cut:]
        return redact(buffer[:cut])

    def close(self) -> str:
        rest, self._held = redact(self._held), ""
        return rest


def redact_stream(chunks: Iterable[str]) -> Iterator[str]:
    """The pieces of a text, redacted as a whole."""
    stream = RedactingStream()
    for chunk in chunks:
        if text := stream.feed(chunk):
            yield text
    if text := stream.close():
        yield text


def _safe_cut(buffer: str) -> int:
    """How much of `buffer` can be let go: no secret begins before that point and ends, or may yet end, behind it."""
    secrets = live_secrets()
    longest = max((len(secret) for secret in secrets), default=1)
    cut = _word_start(buffer, len(buffer) - (longest - 1))
    if len(buffer) - cut > max(LONGEST_WORD, 2 * longest):
        cut = len(buffer) - max(LONGEST_WORD, longest) // 2
    pending = BEARER_PENDING.search(buffer, 0, cut)
    if pending:
        cut = pending.start()
    spans = [match.span() for match in SHAPES.finditer(buffer)]
    spans += [match.span() for secret in secrets for match in re.finditer(re.escape(secret), buffer)]
    for begin, end in sorted(spans, reverse=True):
        if begin < cut < end:
            cut = begin
    return cut


def _word_start(text: str, end: int) -> int:
    """Where the word begins that ``text[:end]`` ends in; `end` itself behind white space."""
    end = max(0, end)
    while end > 0 and not text[end - 1].isspace():
        end -= 1
    return end


class RedactingFilter(logging.Filter):
    """Takes the secrets out of a log record: its message, its arguments and its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info and record.exc_info[0]:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
        elif record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


def install() -> None:
    """Redact every log record of this process from now on, whichever logger and handler it passes."""
    make = logging.getLogRecordFactory()
    redacting = RedactingFilter()

    def make_redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        redacting.filter(record)
        return record

    logging.setLogRecordFactory(make_redacted)
