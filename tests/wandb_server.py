"""As much of Weights & Biases' server as its client asks of it when an offline run is sent."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """Takes runs from whoever has `key`; `history` is what they logged."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.history: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                code, answer = server.answer(self.path, self.headers.get("Authorization", ""), body)
                content = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, login: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path.startswith("/sdk/"):  # telemetry of the client
            return 200, {}
        if login != f"Basic {base64.b64encode(f'api:{self.key}'.encode()).decode()}":
            return 401, {"errors": [{"message": "user is not logged in"}]}
        if path.endswith("/file_stream"):
            files = json.loads(body).get("files") or {}
            self.history += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
            return 200, {"limits": {}}
        asked = json.loads(body)
        if "upsertBucket" in asked["query"]:
            name = asked["variables"].get("name") or "run"
            project = {"id": "p", "name": asked["variables"].get("project") or "transmute", "entity": {"id": "e", "name": "me"}}
            bucket = {
                "id": "b",
                "name": name,
                "displayName": name,
                "description": "",
                "config": "{}",
                "sweepName": None,
                "project": project,
            }
            return 200, {"data": {"upsertBucket": {"bucket": bucket | {"historyLineCount": 0}, "inserted": True}}}
        if "createRunFiles" in asked["query"]:
            names = asked["variables"]["files"]
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in names]
            return 200, {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        return 200, {"data": {}}
