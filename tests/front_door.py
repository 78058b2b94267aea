"""The proxy in front of a Space: it ends TLS and says so to the page behind it. A login needs it, since its cookie travels by https only."""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PART_BYTES = 65536
HOP = re.compile(rb"(?i)^(connection|x-forwarded-[a-z]+):")


def certificate(folder: Path) -> Path:
    """A key and a certificate of 127.0.0.1 in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "front-door.pem"
    path.write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


class FrontDoor:
    """``with FrontDoor(port, behind, folder) as door``: https on `port`, every request handed to the page on port `behind`."""

    def __init__(self, port: int, behind: int, folder: Path) -> None:
        self.port, self.behind = port, behind
        self.url = f"https://127.0.0.1:{port}"
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate(folder))
        self._socket = socket.create_server(("127.0.0.1", port), backlog=128)

    def __enter__(self) -> FrontDoor:
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(visitor,), daemon=True).start()

    def _serve(self, visitor: socket.socket) -> None:
        """One request per connection, so that only its head has to be understood."""
        try:
            with self._tls.wrap_socket(visitor, server_side=True) as outside:
                head, rest = read_head(outside)
                if not head:
                    return
                with socket.create_connection(("127.0.0.1", self.behind)) as inside:
                    inside.sendall(rewritten(head) + rest)
                    threading.Thread(target=self._hand_in, args=(outside, inside), daemon=True).start()
                    while part := inside.recv(PART_BYTES):
                        outside.sendall(part)
        except OSError:
            return  # one side has gone away

    @staticmethod
    def _hand_in(outside: socket.socket, inside: socket.socket) -> None:
        """The body, and then the news that the visitor has gone."""
        try:
            while part := outside.recv(PART_BYTES):
                inside.sendall(part)
            inside.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def read_head(outside: socket.socket) -> tuple[bytes, bytes]:
    """The head of a request, and what came of its body with it."""
    read = b""
    while b"\r\n\r\n" not in read:
        if not (part := outside.recv(PART_BYTES)):
            return b"", b""
        read += part
    head, _, rest = read.partition(b"\r\n\r\n")
    return head, rest


def rewritten(head: bytes) -> bytes:
    """`head` with what the proxy knows, and without what a visitor only claims."""
    lines = [line for line in head.split(b"\r\n") if not HOP.match(line)]
    return b"\r\n".join([*lines, b"X-Forwarded-Proto: https", b"Connection: close", b"", b""])
