"""Transmute's page: ``python app.py`` on your own machine, or the entry point of a Space. It builds the page and launches it."""

import gc
import os

gc.disable()  # until all is imported and built: it would look at that again and again, for a sixth of the start
if os.environ.get("SYSTEM") == "spaces":
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"  # noqa: S105 - a Space's own HF_TOKEN is not lent to who has none; read at the first import

import spaces  # isort: skip  # noqa: F401 - a Space wants it before gradio and torch

import argparse
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from huggingface_hub.constants import HF_HOME
from starlette.middleware import Middleware

from core import paths, redact
from core.errors import UserError
from core.jobs import dispatch
from ui import access, answers, doors, downloads, layout, limits, sessions, theme

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_PASSWORD = 12
demo = layout.build()
gc.freeze()
gc.enable()


def main() -> None:
    """Start the server. Off a Space it is for this machine alone, unless TRANSMUTE_PASSWORD is set."""
    parser = argparse.ArgumentParser(description="Open Transmute's page in a browser.")
    parser.add_argument("--host", default="0.0.0.0" if access.on_space() else "127.0.0.1", help="where to listen")  # noqa: S104
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")), help="which port")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's tunnel; needs a password")
    options = parser.parse_args()
    password = os.environ.get("TRANSMUTE_PASSWORD", "")
    is_open = options.share or options.host not in LOOPBACK
    if access.on_space():
        password = ""
    elif password and len(password) < SHORTEST_PASSWORD:
        remedy = f"Set it to at least {SHORTEST_PASSWORD} characters that nobody guesses."
        sys.exit(str(UserError(f"The password has {len(password)} characters, which are soon guessed.", "TRANSMUTE_PASSWORD", remedy)))
    elif is_open and not password:
        remedy = "Set the environment variable TRANSMUTE_PASSWORD (the user is transmute), or leave out --share and --host."
        sys.exit(str(UserError("Without a password the page is for this machine only.", "--share, --host", remedy)))
    redact.install()
    downloads.fetch_nothing()
    answers.write_all()
    sessions.keep_little()
    if not access.on_space():  # there a login belongs to a visitor
        dispatch.take_up(access.saved_token())
    try:
        launch(options, password)
    except OSError as error:
        sys.exit(f"The page cannot listen on {options.host}:{options.port}. Choose another port with --port. ({error.__class__.__name__})")


def launch(options: argparse.Namespace, password: str) -> None:
    """Serve until stopped. Nothing of the workspace or of the program is reachable as a file."""
    demo.launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        auth=("transmute", password) if password else None,
        theme=theme.theme(),
        head=theme.HEAD,
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        allowed_paths=[],
        blocked_paths=[str(paths.home()), str(paths.PROJECT), HF_HOME, "/proc"],
        max_file_size=limits.MAX_FILE_BYTES,
        state_session_capacity=sessions.MOST,
        app_kwargs={"middleware": [Middleware(each) for each in (doors.Doors, limits.BodyLimit, downloads.OnlyMade, answers.Blame)]},
    )


if __name__ == "__main__":
    main()
