"""`train` on several machines of one's own: the command that each of them is given."""

from __future__ import annotations

import socket
import sys

from rich.console import Console

from core.errors import UserError
from core.training.launch import Node, node_commands

OURS = ("--nodes", "--rank", "--address", "--port", "--detach", "--json")


def place(count: int, rank: int | None, address: str, port: int) -> Node:
    """This machine's place among `count`; without a `rank` that of the first one, whose address is then this machine's name.

    Raises:
        UserError: a number or an address that cannot be.
    """
    if rank is not None and not address:
        raise UserError("Where is the first machine?", "--address", "Give its name or IP address, the same on every machine.")
    return Node(count, rank or 0, address or socket.gethostname(), port)


def commands(node: Node, arguments: list[str]) -> list[str]:
    """The command line for each machine, made of this one's `arguments` behind ``train``."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word.partition("=")[0] in OURS:
            if "=" not in word and word not in ("--detach", "--json"):
                next(words, None)
            continue
        kept.append(word)
    return node_commands(node, kept)


def tell(node: Node, out: Console) -> list[str]:
    """Print what to type on each machine; nothing is started."""
    arguments = sys.argv[sys.argv.index("train") + 1 :] if "train" in sys.argv else []
    found = commands(node, arguments)
    out.print(
        f"On each of the {node.count} machines, in Transmute's folder, with the same version, data file and base model; a folder of its own "
        f"for each workspace (TRANSMUTE_HOME). Machine 0 must be reached by the others at {node.address}, port {node.port}.",
        markup=False,
    )
    for rank, line in enumerate(found):
        out.print(f"Machine {rank}: {line}", markup=False, soft_wrap=True)
    return found
