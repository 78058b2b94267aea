"""The child of `core.running.sync`: trackio's own ``sync`` to a private Space, with a token that stays in this process."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from core.childio import Emit, serve
from core.errors import UserError

WHERE = "trackio"


def handle(payload: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Sends ``event: allowed`` once the Space may be written to. `is_running` of the result is False while the Hub still builds it.

    Raises:
        UserError: the package is not installed, the Space holds something else, or something was not sent.
    """
    token, space = payload["token"], payload["space"]
    os.environ["HF_TOKEN"] = token  # where trackio looks; what other processes see of this one's environment is how it began
    import huggingface_hub
    from huggingface_hub import constants

    # trackio 0.43 would leave the token in the Space as a secret, and ask for another one where this may not write.
    huggingface_hub.add_space_secret = _leave_out
    huggingface_hub.login = _refuse
    try:
        import trackio  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("The package trackio is not installed.", WHERE, "Install it: pip install trackio.", "PACKAGE") from None
    told = io.StringIO()
    is_running = True
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            if not payload["is_ours"] and huggingface_hub.HfApi(token=token).repo_exists(space, repo_type="space"):
                remedy = "Name a Space that does not exist yet: what one holds would be replaced by this run's curves."
                raise UserError(f"There is a Space {space} already, and it is not this run's.", WHERE, remedy)
            emit({"event": "allowed"})
            trackio.sync(project=payload["project"], space_id=space, private=True, force=True)  # pyright: ignore[reportUnknownMemberType]
    except UserError:
        raise
    except TimeoutError:  # of the wait for the Space, which comes after everything was sent
        is_running = False
    except Exception as error:  # noqa: BLE001 - trackio and the Hub's client have errors of many kinds, and all of them are answered in words
        problem = f"It was not sent: {type(error).__name__}: {error}".replace(token, "[secret]")[:400]
        raise UserError(
            problem, WHERE, "Look at the token, which must be allowed to write, and the network; then send again.", "SYNC"
        ) from None
    return {"page": f"{constants.ENDPOINT}/spaces/{space}", "is_running": is_running}


def _leave_out(*_: Any, **__: Any) -> None:
    """Instead of huggingface_hub's `add_space_secret`: the Space reads its bucket, and needs no token for that."""


def _refuse(*_: Any, **__: Any) -> None:
    raise UserError(
        "The token may not make a Space there.", WHERE, "Give a token that may write, and a Space of your own: YOU/NAME.", "SYNC"
    )


if __name__ == "__main__":
    serve(handle)
