"""The write side: repositories made, files sent through LFS, and commits, as huggingface_hub asks for them."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.hub.repos import GOOD_TOKEN, LFS_BYTES, OTHER_TOKEN, Repo, digest

if TYPE_CHECKING:
    from tests.hub.server import Hub

Answer = tuple[int, dict[str, str], bytes]
OWNERS = {GOOD_TOKEN: ("someone", "org"), OTHER_TOKEN: ("other",)}  # the namespaces that a token may write to
WRITE_ROUTES = (
    (r"/api/repos/create", "create"),
    (r"/api/validate-yaml", "validate_yaml"),
    (r"/api/(?P<kind>datasets|models|spaces)/(?P<id>[\w.-]+/[\w.-]+)/preupload/(?P<rev>.+)", "preupload"),
    (r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"/api/(?P<kind>datasets|models|spaces)/(?P<id>[\w.-]+/[\w.-]+)/xet-write-token/(?P<rev>.+)", "xet_write_token"),
    (r"/lfs/(?P<sha>[0-9a-f]{64})", "lfs_put"),
    (r"/lfs/(?P<sha>[0-9a-f]{64})/verify", "lfs_verify"),
    (r"/api/(?P<kind>datasets|models|spaces)/(?P<id>[\w.-]+/[\w.-]+)/commit/(?P<rev>.+)", "commit"),
    (r"/api/spaces/(?P<id>[\w.-]+/[\w.-]+)/(?P<what>variables|secrets|volumes|hardware|sleeptime)", "configure"),
    (r"/api/buckets/(?P<id>[\w.-]+/[\w.-]+)", "bucket"),
)


class Writes:
    """Mixed into the server's answers."""

    hub: Hub
    headers: Any
    body: bytes  # of the request, read whole whatever the answer will be
    rfile: Any
    path: str

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts: list[bytes] = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _require_writer(self, repo_id: str) -> None:
        from tests.hub.server import RefusedError

        token = self._token()
        if token not in OWNERS:
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        if repo_id.partition("/")[0] not in OWNERS[token] or token in self.hub.asks_only:
            raise RefusedError(403, message=f"You don't have the rights to write to {repo_id}")

    def create(self) -> Answer:
        asked = json.loads(self.body)
        token = self._token()
        repo_id = f"{asked.get('organization') or OWNERS.get(token, ('',))[0]}/{asked['name']}"
        self._require_writer(repo_id)
        kind = {"dataset": "datasets", "space": "spaces"}.get(asked.get("type", "model"), "models")
        address = repo_id if kind == "models" else f"{kind}/{repo_id}"
        url = {"url": f"{self.hub.url}/{address}", "name": repo_id}
        if (kind, repo_id) in self.hub.repos:
            return 409, {"Content-Type": "application/json"}, json.dumps(url | {"error": "You already created this model repo"}).encode()
        private = asked.get("visibility") == "private" or asked.get("private")
        self.hub.repos[(kind, repo_id)] = Repo(repo_id, kind=kind, access="private" if private else "open")  # type: ignore[arg-type]
        return self._said(url)

    def configure(self, id: str, what: str) -> Answer:
        """A Space's settings; what came stands in the repository's `settings`."""
        self._require_writer(id)
        repo, asked = self._repo("spaces", id), json.loads(self.body)
        repo.settings.append((what, asked))
        if what in ("variables", "secrets"):
            return self._said({asked["key"]: {"value": asked["value"]}})
        return self._said({"stage": "BUILDING", "hardware": {"current": None, "requested": asked.get("flavor")}, "storage": None})

    def bucket(self, id: str) -> Answer:
        self._require_writer(id)
        self.hub.buckets.add(id)
        return self._said({"url": f"{self.hub.url}/buckets/{id}"})

    def validate_yaml(self) -> Answer:
        import yaml

        content = json.loads(self.body)["content"]
        try:
            front = yaml.safe_load(content.split("---\n")[1])
            if " " in str(front.get("license", "")):
                raise ValueError('"license" must be one of the licences that the Hub knows')
        except (yaml.YAMLError, IndexError, ValueError) as error:
            return 400, {"Content-Type": "application/json"}, json.dumps({"errors": [{"message": str(error)}], "warnings": []}).encode()
        return self._said({"errors": [], "warnings": []})

    def preupload(self, kind: str, id: str, rev: str) -> Answer:
        body = json.loads(self.body)
        if "create_pr" not in parse_qs(urlsplit(self.path).query):
            self._require_writer(id)
        self._repo(kind, id)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LFS_BYTES else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in body["files"]
        ]
        return self._said({"files": files})

    def xet_write_token(self, kind: str, id: str, rev: str) -> Answer:
        """Where Xet storage lies: in a folder, which the client's own storage library knows how to write to."""
        self._require_writer(id)
        self._repo(kind, id)
        return self._said({"accessToken": "of-the-storage", "exp": int(time.time()) + 3600, "casUrl": f"local://{self.hub.storage}"})

    def lfs_batch(self, id: str, kind: str | None = None) -> Answer:
        objects = json.loads(self.body)["objects"]
        answers: list[dict[str, Any]] = []
        for each in objects:
            actions = {
                "upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"},
                "verify": {"href": f"{self.hub.url}/lfs/{each['oid']}/verify"},
            }
            answers.append(each | ({} if each["oid"] in self.hub.objects else {"actions": actions}))
        return self._said({"transfer": "basic", "objects": answers})

    def lfs_put(self, sha: str) -> Answer:
        from tests.hub.server import RefusedError

        content = self.body
        if digest(content, "sha256") != sha:
            raise RefusedError(400, message="the content is not what its name says")
        self.hub.objects[sha] = content
        return 200, {}, b""

    def lfs_verify(self, sha: str) -> Answer:
        return (200 if sha in self.hub.objects else 404), {}, b""

    def commit(self, kind: str, id: str, rev: str) -> Answer:
        from tests.hub.server import RefusedError

        asks = "create_pr" in parse_qs(urlsplit(self.path).query)
        lines = [json.loads(line) for line in self.body.splitlines()]
        if not asks:
            self._require_writer(id)
        repo = self._repo(kind, id)
        parent = lines[0]["value"].get("parentCommit")
        if parent and not asks and parent != repo.commit(repo.files):
            raise RefusedError(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(repo.files)
        for line in lines[1:]:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        raise RefusedError(400, message=f"the content of {value['path']} was not sent")
                    files[value["path"]] = self.hub.objects[value["oid"]]
                case "deletedFolder":
                    files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
                case _:
                    files.pop(value["path"], None)
        oid = repo.commit(files)
        made = {"commitUrl": f"{self.hub.url}/{id}/commit/{oid}", "commitOid": oid}
        if asks:
            number = sum(name.startswith("refs/pr/") for name in repo.branches) + 1
            repo.branches[f"refs/pr/{number}"] = files
            repo.pull_requests.append((number, lines[0]["value"]["summary"], self._person()))
            return self._said(made | {"pullRequestUrl": f"{self.hub.url}/{id}/discussions/{number}"})
        repo.history[oid] = repo.files = files
        return self._said(made)

    def _said(self, value: Any) -> Answer:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    def _token(self) -> str:
        raise NotImplementedError

    def _person(self) -> str:
        raise NotImplementedError

    def _repo(self, kind: str | None, repo_id: str) -> Repo:
        raise NotImplementedError
