"""No secret survives redaction, wherever it stands and however a stream cuts it."""

from __future__ import annotations

import io
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.redact import RedactingFilter, install, redact, redact_stream, tokens, without_tokens

LIVE = "correct horse battery"
TOKENS = [
    "hf_" + "CANARYcanary0123456789abcdefABCDEF",
    "hf_oauth_" + "eyJhbGciOiJFZERTQSJ9.eyJyZWFkIjoiMSJ9.c2lnbmF0dXJl-_",
    "hf_jwt_" + "eyJhbGciOiJFZERTQSJ9.eyJyZWFkIjoiMSJ9.c2ln",
    "api_org_" + "CANARYcanary0123456789abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP",
    "sk-" + "proj-CANARYcanary0123456789",
    LIVE,
]
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(list(" \n.=:\"'hf_skeyJbr")), max_size=80)


@pytest.fixture(autouse=True)
def live_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", LIVE)


@pytest.fixture(scope="module", autouse=True)
def live_secret_for_hypothesis() -> object:
    """Hypothesis runs many examples inside one function fixture; the variable must stand for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", LIVE)
        yield


@given(before=texts, token=st.sampled_from(TOKENS), after=texts)
def test_no_token_survives_in_any_text(before: str, token: str, after: str) -> None:
    assert token not in redact(before + token + after)


@given(before=texts, token=st.sampled_from(TOKENS), after=texts, sizes=st.lists(st.integers(1, 40), min_size=1))
def test_no_token_survives_however_a_stream_is_cut(before: str, token: str, after: str, sizes: list[int]) -> None:
    text = before + token + after
    assert token not in "".join(redact_stream(cut(text, sizes)))


@given(text=texts, sizes=st.lists(st.integers(1, 40), min_size=1))
def test_a_stream_says_what_the_whole_text_says(text: str, sizes: list[int]) -> None:
    assert "".join(redact_stream(cut(text, sizes))) == redact(text)


@settings(max_examples=40)
@given(prefix=st.integers(0, 40_000), size=st.integers(500, 9_000), token=st.sampled_from(TOKENS), filler=st.sampled_from("-!"))
def test_a_text_without_white_space_is_not_kept_back_for_ever(prefix: int, size: int, token: str, filler: str) -> None:
    text = filler * prefix + token + filler * 40_000
    pieces = list(redact_stream(cut(text, [size])))
    assert token not in "".join(pieces)
    assert len(pieces) > 1


@pytest.mark.parametrize("header", ["Authorization: Bearer abc.DEF-123456789", "authorization: bearer   abc.DEF-123456789"])
@pytest.mark.parametrize("size", range(1, 45))
def test_what_follows_bearer_goes(header: str, size: int) -> None:
    assert "abc.DEF-123456789" not in "".join(redact_stream(cut(header + " x", [size])))
    assert "abc.DEF-123456789" not in redact(header)


@pytest.mark.parametrize(
    "harmless",
    [
        "training loss 0.31 at step 12, hf_hub offline",
        "the bearer of good news",
        "https://huggingface.co/lmsys/vicuna-7b-v1.5",
        "sha256 832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
        "task-specific risk-taking desk-side",
    ],
)
def test_ordinary_text_stays(harmless: str) -> None:
    assert redact(harmless) == harmless


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    "around", ["{}", "my key: {}, please", '{{"key": "{}"}}', r'"line\n{}"', r'"\u201c{}"', "Authorization: Bearer {}"]
)
def test_what_is_a_token_beyond_doubt_stops_a_publication(token: str, around: str) -> None:
    text = around.format(token)
    assert tokens(text) and token not in without_tokens(text)


@pytest.mark.parametrize(
    "doubtful",
    [
        "task-oriented-dialogue-system",
        "ask-hn-what-are-you-reading-2024-10",
        "the bearer acknowledges the risk-management-framework-1",
        "curl -H 'Authorization: Bearer YOUR_ACCESS_TOKEN_12345678'",
        "Authorization: Bearer xxxxxxxxxxxxxxxxxxxxxxxx",
        "OPENAI_API_KEY=sk-your-openai-api-key-goes-here",
        "hf_" + "x" * 34,
        "hf_hub_download(repo_id, filename) from hf_oauth_redirect_path",
        "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",
        "sk-learn-feature-extraction",
    ],
)
def test_what_only_resembles_a_token_stops_nothing(doubtful: str) -> None:
    assert tokens(doubtful) == [] and without_tokens(doubtful) == doubtful


def test_a_log_record_loses_its_secrets_also_in_arguments_and_tracebacks() -> None:
    out = io.StringIO()
    logger = logging.Logger("redact-test")
    handler = logging.StreamHandler(out)
    handler.addFilter(RedactingFilter())
    logger.addHandler(handler)
    try:
        raise ValueError(f"401 for {TOKENS[0]}")
    except ValueError:
        logger.exception("push with %s failed", TOKENS[1])
    assert TOKENS[0] not in out.getvalue()
    assert TOKENS[1] not in out.getvalue()
    assert "ValueError" in out.getvalue()


def test_installed_it_covers_every_logger(caplog: pytest.LogCaptureFixture) -> None:
    factory = logging.getLogRecordFactory()
    try:
        install()
        logging.getLogger("somebody.else").warning("login %s", TOKENS[0])
    finally:
        logging.setLogRecordFactory(factory)
    assert "[secret]" in caplog.text
    assert TOKENS[0] not in caplog.text


def cut(text: str, sizes: list[int]) -> list[str]:
    """`text` in pieces of these sizes, over and over."""
    pieces: list[str] = []
    start = turn = 0
    while start < len(text):
        size = sizes[turn % len(sizes)]
        pieces.append(text[start : start + size])
        start, turn = start + size, turn + 1
    return pieces
