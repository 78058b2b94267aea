"""A process without a network: every connection but one to this machine fails, as on a machine whose cable is out."""

from __future__ import annotations

from pathlib import Path

from core.paths import PROJECT

SITE = """
import errno, ipaddress, socket

def is_here(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "")

def refusing(connect):
    def connected(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_here(address[0]):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return connect(self, address)
    return connected

socket.socket.connect = refusing(socket.socket.connect)
socket.socket.connect_ex = refusing(socket.socket.connect_ex)
look_up = socket.getaddrinfo

def getaddrinfo(host, *rest, **named):
    if host and not is_here(host if isinstance(host, str) else host.decode()) and host != "0.0.0.0":
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return look_up(host, *rest, **named)

socket.getaddrinfo = getaddrinfo
"""


def offline(folder: Path) -> dict[str, str]:
    """The environment variables of such a Python process; what does it is written into `folder`."""
    site = folder / "offline"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    return {"PYTHONPATH": f"{site}:{PROJECT}"}
