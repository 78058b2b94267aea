"""A child for the tests of `core.export.jobs`: each job says what becomes of it."""

import os
import time

from core.childio import serve
from core.errors import UserError


def handle(payload, emit):
    for job in payload["jobs"]:
        for done in range(1, 101):
            emit({"event": "progress", "done": done, "total": 100})
        if job["do"] == "crash":
            os.abort()
        if job["do"] == "hang":
            time.sleep(60)
        if job["do"] == "refuse":
            raise UserError("No.", job["id"], "Stop asking.", "NO")
        emit({"event": "done", "id": job["id"], "value": os.getpid()})


if __name__ == "__main__":
    serve(handle)
