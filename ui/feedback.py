"""The one place where an error becomes something on the page: problem, where, remedy; never a traceback, never a server path."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import secrets
import typing
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from pydantic import TypeAdapter, ValidationError

from core import paths
from core.errors import UserError
from core.redact import redact
from core.training.failures import is_disk_full
from ui.view import text

log = logging.getLogger("transmute")


def slot(elem_id: str | None = None, render: bool = True) -> gr.HTML:
    """An empty place for messages; `Shell.listen(slot=...)` fills and clears it."""
    return gr.HTML("", elem_id=elem_id, elem_classes=["feedback"], container=False, padding=False, render=render)


def said(problem: str, where: str = "", remedy: str = "", tone: str = "error") -> str:
    """A card of up to three parts. `tone` is error, warning or good."""
    parts = [f'<p class="what">{text(problem)}</p>']
    if where:
        parts.append(f'<p class="where"><span>Where</span> {text(where)}</p>')
    if remedy:
        parts.append(f'<p class="remedy"><span>What to do</span> {text(remedy)}</p>')
    role = "alert" if tone == "error" else "status"
    return f'<div class="message {tone}" role="{role}">{"".join(parts)}</div>'


def card(error: Exception) -> str:
    """The card of an error: a UserError as it says itself, anything else in one sentence with a number to find it in the log."""
    known = as_user_error(error)
    return said(known.problem, known.where, known.remedy)


def as_user_error(error: Exception) -> UserError:
    """`error` as it may be shown: secrets and server paths taken out; what we did not foresee goes to the log and gets a number."""
    if isinstance(error, UserError):
        return UserError(*(for_page(part) for part in (error.problem, error.where, error.remedy)), code=error.code)
    if isinstance(error, OSError) and is_disk_full(error):
        return UserError("The disk is full.", "", "Free some space, then try again: what the page shows is still there.", code="DISK")
    number = secrets.token_hex(3)
    log.error("unforeseen error %s", number, exc_info=error)
    remedy = f"Try again; if it stays, look for {number} in the server's log."
    return UserError("Something went wrong that Transmute did not foresee.", "", remedy, code="BUG")


def for_page(sentence: str) -> str:
    """`sentence` without secrets and without the folders of this server."""
    for folder in (paths.home(), paths.PROJECT):
        sentence = sentence.replace(f"{folder}/", "")
    return re.sub(r"(?<![\w./:])/(?:[\w.+@-]+/)+", "", redact(sentence))


def mapped(handler: Callable[..., Any], outputs: Sequence[Any] | dict[str, Any]) -> Callable[..., Any]:
    """`handler` with one output more, the slot: empty when all went well, the error's card (and nothing else changed) when not.

    Where `outputs` is a dict, the handler returns a dict with the names it changes.
    """
    unchanged = (gr.skip(),) * len(outputs)

    def whole(value: Any) -> tuple[Any, ...]:
        if isinstance(outputs, dict):
            assert value.keys() <= outputs.keys(), f"{handler.__name__} gives {value.keys() - outputs.keys()}, which nothing shows"
            return ("", *(value.get(name, gr.skip()) for name in outputs))
        if len(outputs) == 1:
            return ("", value)
        return ("", *(value if outputs else ()))

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def answered(*values: Any, **named: Any) -> Any:
            has_yielded = False
            try:
                for value in handler(*values, **named):
                    # Emptied once: what another handler says in this slot while this one goes on has to stay.
                    yield (gr.skip(), *whole(value)[1:]) if has_yielded else whole(value)
                    has_yielded = True
                if not has_yielded:
                    yield ("", *unchanged)  # Gradio would empty every output of a generator that yields nothing
            except Exception as error:  # noqa: BLE001 - the page's last line of defence; the log keeps the traceback
                yield (card(error), *unchanged)
    else:

        @functools.wraps(handler)
        def answered(*values: Any, **named: Any) -> Any:
            try:
                return whole(handler(*values, **named))
            except Exception as error:  # noqa: BLE001 - the page's last line of defence; the log keeps the traceback
                return (card(error), *unchanged)

    return answered


def _as(kind: TypeAdapter[Any], name: str, value: Any) -> Any:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "".join(f"[{part!r}]" for part in first["loc"])
        raise UserError(
            f"{first['msg']}.", f"{name}{place}", "See the endpoint's parameters under /gradio_api/info.", code="USAGE"
        ) from None


def for_programs(handler: Callable[..., Any]) -> Callable[..., Any]:
    """`handler`, marked by `ui.access.allowed`, as a named endpoint.

    Who may not call it learns that first; what is given is held against the annotations; an error reaches the client as one sentence.
    """
    own = [name for name in inspect.signature(handler).parameters if not name.startswith("_")]
    hints = typing.get_type_hints(handler)
    kinds = {name: TypeAdapter(hints[name]) for name in own if hints[name] is not gr.FileData}

    @functools.wraps(handler)
    def answered(request: Any, token: Any, /, *values: Any, **named: Any) -> Any:
        try:
            handler.admit(request, token)  # type: ignore[attr-defined]
            given = dict(zip(own, values, strict=False)) | named
            return handler(
                request, token, **{name: _as(kinds[name], name, value) if name in kinds else value for name, value in given.items()}
            )
        except Exception as error:  # noqa: BLE001 - the endpoint's last line of defence; the log keeps the traceback
            raise gr.Error(str(as_user_error(error)), print_exception=False) from None

    return answered
