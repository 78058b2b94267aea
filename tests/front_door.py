"""The proxy in front of a Space: it ends TLS and says so to the page behind it. A login needs it, since its cookie travels by https only."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import ipaddress
import re
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PART_BYTES = 65536
KEY = ec.generate_private_key(ec.SECP256R1())  # of every door of this test run
HOP = re.compile(rb"(?i)^(connection|x-forwarded-[a-z]+):")


def certificate(folder: Path) -> Path:
    """A key and a certificate of 127.0.0.1 in one file."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    private = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "front-door.pem"
    path.write_bytes(private + made.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def trusted() -> str:
    """The argument that has Chromium take a door's certificate for a good one.

    Told instead to ignore the error in it, Chromium begins every request again, and where it opens many connections at once it now and then
    gives one up for that (ERR_TOO_MANY_RETRIES): a page that lacks one of its parts never begins to work.
    """
    public = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(hashlib.sha256(public).digest()).decode()}"


class FrontDoor:
    """``with FrontDoor(port, behind, folder) as door``: https on `port`, every request handed to the page on port `behind`.

    One loop does all of it: two threads must not read and write one TLS connection at the same time.
    """

    def __init__(self, port: int, behind: int, folder: Path) -> None:
        self.port, self.behind = port, behind
        self.url = f"https://127.0.0.1:{port}"
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate(folder))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FrontDoor:
        self._thread.start()
        opened = asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self._server = asyncio.run_coroutine_threadsafe(opened, self._loop).result(timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, visitor: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        """One request per connection, so that only its head has to be understood."""
        try:
            head = await visitor.readuntil(b"\r\n\r\n")
            page, inside = await asyncio.open_connection("127.0.0.1", self.behind)
            inside.write(rewritten(head.removesuffix(b"\r\n\r\n")))
            body = asyncio.create_task(hand_on(visitor, inside))
            await hand_on(page, answer)
            body.cancel()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one side has gone away, or the door closes
        finally:
            answer.close()


async def hand_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Everything that comes, and then the news that it has ended."""
    try:
        while part := await source.read(PART_BYTES):
            target.write(part)
            await target.drain()
    except OSError:
        pass  # one side has gone away
    finally:
        target.close()


def rewritten(head: bytes) -> bytes:
    """`head` with what the proxy knows, and without what a visitor only claims."""
    lines = [line for line in head.split(b"\r\n") if not HOP.match(line)]
    return b"\r\n".join([*lines, b"X-Forwarded-Proto: https", b"Connection: close", b"", b""])
