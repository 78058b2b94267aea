"""The HTTP side: one thread per request, every answer a method, every request remembered."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from huggingface_hub import constants

from tests.hub.faults import Fault
from tests.hub.jobs import JOB_ROUTES, Job, Jobs
from tests.hub.login import LOGIN_ROUTES, Login
from tests.hub.repos import GOOD_TOKEN, LFS_BYTES, OTHER_TOKEN, Repo, blob_id, digest
from tests.hub.writes import WRITE_ROUTES, Writes

NAME = r"(?P<id>[\w.-]+/[\w.-]+)"
ROUTES = (
    (r"/api/whoami-v2", "whoami"),
    (r"/api/(?P<kind>datasets|models|spaces)", "search"),
    (rf"/api/(?P<kind>datasets|models|spaces)/{NAME}", "info"),
    (rf"/api/(?P<kind>datasets|models)/{NAME}/revision/(?P<rev>.+)", "info"),
    (rf"/api/(?P<kind>datasets|models)/{NAME}/tree/(?P<rev>[^/]+)(?P<folder>/.*)?", "tree"),
    (rf"/api/(?P<kind>datasets|models)/{NAME}/refs", "refs"),
    (rf"/api/(?P<kind>datasets|models)/{NAME}/discussions", "discussions"),
    (rf"/api/(?P<kind>datasets|models)/{NAME}/paths-info/(?P<rev>.+)", "paths_info"),
    (rf"/(?P<kind>datasets)/{NAME}/resolve/(?P<rev>refs/convert/parquet|[^/]+)/(?P<path>.+)", "resolve"),
    (rf"/{NAME}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
    (r"/cdn/(?P<sha>[0-9a-f]{64})", "content"),
)


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]


class RefusedError(Exception):
    """An answer other than the one asked for."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Hub:
    """A running Hub; ``with Hub([Repo(...)]) as hub`` and then ``hub.url``."""

    def __init__(self, repos: Iterable[Repo] = ()) -> None:
        self.repos = {(repo.kind, repo.repo_id): repo for repo in repos}
        self.objects: dict[str, bytes] = {}  # sent through LFS, by sha256
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.people: dict[str, dict[str, Any]] = {}  # what `whoami` says of further tokens
        self.same_person: dict[str, str] = {}  # a later login's token to the one whose rights it has
        self.expired: set[str] = set()  # tokens that were good once
        self.asks_only: set[str] = set()  # tokens that may open pull requests and write nothing
        self.clients: dict[str, str] = {}  # secrets of the applications that people may log in to, by id
        self.codes: dict[str, dict[str, str]] = {}  # of logins that are going on
        self.buckets: set[str] = set()
        self.page_size = 1000  # repositories of a listing that are told at once
        self.jobs: list[Job] = []
        self.runs_jobs = True  # else a test writes a job's lines and stage
        self.networks = Path(tempfile.mkdtemp(prefix="networks-"))
        self.storage = Path(tempfile.mkdtemp(prefix="xet-"))  # what was sent through Xet; a test says in `objects` what that was
        self.image_env: dict[str, str] = {}  # what a job's image has set
        hub = self

        class Handler(Answers):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.content_url = f"http://localhost:{port}"  # another host: the client follows redirects within one host only

    def __enter__(self) -> Hub:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self._endpoint = constants.ENDPOINT
        self._is_endpoint(self.url)  # a few calls of the client take no other
        return self

    @staticmethod
    def _is_endpoint(url: str) -> None:
        constants.ENDPOINT = url
        constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"

    def __exit__(self, *_: object) -> None:
        self._is_endpoint(self._endpoint)
        for job in self.jobs:
            job.end("CANCELED", at_once=True)
            if job.folder:
                shutil.rmtree(job.folder, ignore_errors=True)
        for folder in (self.networks, self.storage):
            shutil.rmtree(folder)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self, method: str = "GET") -> list[str]:
        return [asked.path for asked in self.asked if asked.method == method]


class Answers(Writes, Jobs, Login, BaseHTTPRequestHandler):
    hub: Hub
    stream: Iterator[bytes] | None = None  # of an answer whose length nobody knows yet
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(Asked(self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        fault = next((fault for fault in self.hub.faults if fault.takes(f"{self.command} {path}")), None)
        if fault and fault.kind == "cut":  # the line breaks while the client still sends
            self.rfile.read(fault.after_bytes)
            self.close_connection = True
            return None
        self.body = self.read_body() if self.command in ("POST", "PUT") else b""
        try:
            if fault and fault.kind == "slow":
                (fault.until or threading.Event()).wait(fault.seconds)
            if fault and fault.kind == "status":
                raise RefusedError(fault.status, message=fault.message)
            if fault and fault.kind == "expire":
                self.hub.expired.add(self._bearer())
            if self._bearer() in self.hub.expired:
                raise RefusedError(401, message="Invalid credentials in Authorization header")
            for pattern, name in (*ROUTES, *WRITE_ROUTES, *JOB_ROUTES, *LOGIN_ROUTES):
                if match := re.fullmatch(pattern, path):
                    status, headers, body = getattr(self, name)(**match.groupdict())
                    if fault and fault.kind == "late":
                        raise RefusedError(fault.status)
                    return self._send(status, headers, body, fault if fault and fault.kind == "drop" else None)
            raise RefusedError(404)
        except RefusedError as refused:
            said = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(refused.status, {name: value for name, value in said.items() if value}, b"{}")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _send(self, status: int, headers: dict[str, str], body: bytes, drop: Fault | None = None) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            return self._send_stream(status, headers, stream, drop)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        self.wfile.write(body[: drop.after_bytes] if drop else body)
        if drop:
            self.close_connection = True
        return None

    def _send_stream(self, status: int, headers: dict[str, str], stream: Iterator[bytes], drop: Fault | None) -> None:
        """In chunks; a drop breaks off in the middle, without the last chunk."""
        self.send_response(status)
        for name, value in (headers | {"Transfer-Encoding": "chunked"}).items():
            self.send_header(name, value)
        self.end_headers()
        left = drop.after_bytes if drop else None
        for part in stream:
            kept = part if left is None else part[:left]
            if kept:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(kept), kept))
            if left is not None and (left := left - len(kept)) <= 0:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")

    def _bearer(self) -> str:
        """The token as it came."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _token(self) -> str:
        """The token by which rights are told."""
        return self.hub.same_person.get(self._bearer(), self._bearer())

    def _person(self) -> str:
        return self.hub.people.get(self._token(), {"name": "someone" if self._token() == GOOD_TOKEN else "other"})["name"]

    def _json(self, value: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    def _repo(self, kind: str | None, repo_id: str) -> Repo:
        repo = self.hub.repos.get((kind or "models", repo_id))
        token = self._token()
        if token and token not in (GOOD_TOKEN, OTHER_TOKEN, *self.hub.people):
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        if repo is None or (repo.access == "private" and token != GOOD_TOKEN):
            raise RefusedError(404 if token else 401, "RepoNotFound", "Repository not found")
        if repo.access == "disabled":
            raise RefusedError(403, message="Access to this resource is disabled.")
        return repo

    def _files(self, repo: Repo, revision: str | None) -> dict[str, bytes]:
        found = repo.revisions().get(revision or "main")
        if found is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def whoami(self) -> tuple[int, dict[str, str], bytes]:
        if known := self.hub.people.get(self._bearer()):
            return self._json(known)
        if self._token() != GOOD_TOKEN:
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        return self._json(
            {"type": "user", "name": "someone", "fullname": "Some One", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        )

    def info(self, kind: str, id: str, rev: str | None = None) -> tuple[int, dict[str, str], bytes]:
        repo = self._repo(kind, id)
        files = self._files(repo, rev)
        siblings = [{"rfilename": path, "size": len(content), "blobId": digest(content)} for path, content in sorted(files.items())]
        gated = "manual" if repo.access == "gated" else False
        value = {"_id": "1", "id": id, "author": id.partition("/")[0], "sha": repo.commit(files), "private": repo.access == "private"}
        return self._json(value | {"gated": gated, "disabled": False, "tags": [], "siblings": siblings, "cardData": repo.card or {}})

    def search(self, kind: str) -> tuple[int, dict[str, str], bytes]:
        """The repositories of an author, or whose ids hold the words, private ones only for their owner, page by page; each model is for text."""
        asked = parse_qs(urlsplit(self.path).query)
        first = {name: values[0] for name, values in asked.items()}
        can_see = self._token() == GOOD_TOKEN
        known = [repo for (of, _), repo in self.hub.repos.items() if of == kind and (repo.access != "private" or can_see)]
        found = [
            {"_id": "1", "id": repo.repo_id, "pipeline_tag": first.get("pipeline_tag", "text-generation")}
            | repo.expanded(asked.get("expand", []))
            for repo in known
            if first.get("search", "").lower() in repo.repo_id.lower() and first.get("author") in (None, repo.repo_id.partition("/")[0])
        ]
        begin = int(first.get("cursor", 0))
        end = begin + min(self.hub.page_size, int(first.get("limit", 1000)))
        more = urlencode(asked | {"cursor": [str(end)]}, doseq=True)
        status, headers, body = self._json(found[begin:end])
        link = {"Link": f'<{self.hub.url}/api/{kind}?{more}>; rel="next"'} if end < len(found) else {}
        return status, headers | link, body

    def tree(self, kind: str, id: str, rev: str, folder: str | None = None) -> tuple[int, dict[str, str], bytes]:
        files = self._files(self._repo(kind, id), rev)
        inside = (folder or "").strip("/")
        chosen = {path: content for path, content in files.items() if path.startswith(inside)}
        return self._json(
            [
                {"type": "file", "oid": blob_id(content), "size": len(content), "path": path} | lfs(content)
                for path, content in chosen.items()
            ]
        )

    def paths_info(self, kind: str, id: str, rev: str) -> tuple[int, dict[str, str], bytes]:
        """As `tree`, of the paths asked for in a form."""
        wanted = parse_qs(self.body.decode()).get("paths", [])
        files = self._files(self._repo(kind, id), rev)
        each = [(path, files[path]) for path in wanted if path in files]
        return self._json(
            [{"type": "file", "oid": blob_id(content), "size": len(content), "path": path} | lfs(content) for path, content in each]
        )

    def discussions(self, kind: str, id: str) -> tuple[int, dict[str, str], bytes]:
        """The pull requests, all of them open; by one author, if asked so."""
        author = parse_qs(urlsplit(self.path).query).get("author", [""])[0]
        found = [
            {
                "num": number,
                "title": title,
                "author": {"name": name},
                "createdAt": "2026-01-01T00:00:00.000Z",
                "status": "open",
                "isPullRequest": True,
                "repo": {"name": id, "type": kind.removesuffix("s")},
            }
            for number, title, name in self._repo(kind, id).pull_requests
            if author in ("", name)
        ]
        return self._json({"count": len(found), "start": 0, "discussions": found})

    def refs(self, kind: str, id: str) -> tuple[int, dict[str, str], bytes]:
        repo = self._repo(kind, id)
        named = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": repo.commit(self._files(repo, name))}
            for name in ["main", *repo.branches]
        ]
        converts = [each | {"ref": each["name"]} for each in named if each["name"].startswith("refs/convert/")]
        return self._json({"branches": [each for each in named if each not in converts], "converts": converts, "tags": []})

    def resolve(self, id: str, rev: str, path: str, kind: str | None = None) -> tuple[int, dict[str, str], bytes]:
        repo = self._repo(kind, id)
        if repo.access == "gated" and self._token() != GOOD_TOKEN:
            raise RefusedError(403 if self._token() else 401, "GatedRepo", "Access to this dataset is restricted")
        files = self._files(repo, rev)
        if path not in files:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        content, headers = files[path], {"X-Repo-Commit": repo.commit(files), "Accept-Ranges": "bytes"}
        if len(content) < LFS_BYTES:
            return self._part(content, headers | {"ETag": f'"{digest(content)}"'})
        sha = digest(content, "sha256")
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha}"', "Location": f"{self.hub.content_url}/cdn/{sha}"}
        return 302, headers | linked, b""

    def content(self, sha: str) -> tuple[int, dict[str, str], bytes]:
        every = (content for repo in self.hub.repos.values() for files in repo.revisions().values() for content in files.values())
        found = next((content for content in every if digest(content, "sha256") == sha), None)
        if found is None:
            raise RefusedError(404)
        return self._part(found, {"ETag": f'"{sha}"', "Accept-Ranges": "bytes"})

    def _part(self, content: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """The whole content, or the range asked for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return 200, headers, content
        start, end = int(wanted[1]), int(wanted[2]) + 1 if wanted[2] else len(content)
        place = f"bytes {start}-{min(end, len(content)) - 1}/{len(content)}"
        return 206, headers | {"Content-Range": place}, content[start:end]


def lfs(content: bytes) -> dict[str, Any]:
    """What a listing says of a file that lies on the content server."""
    if len(content) < LFS_BYTES:
        return {}
    return {"lfs": {"oid": digest(content, "sha256"), "size": len(content), "pointerSize": 130}}
