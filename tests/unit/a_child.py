"""A real child process for the tests of `core.process.call_child`; it does what its payload says."""

import os
import time

from core.childio import serve
from core.errors import UserError


def handle(payload, emit):
    match payload["do"]:
        case "environment":
            return dict(os.environ)
        case "count":
            for done in range(3):
                emit({"event": "progress", "done": done})
            return {"counted": 3}
        case "print":
            print("from python", flush=True)
            os.write(1, b"from below\n")
            return "quiet"
        case "refuse":
            raise UserError("p", "w", "r", "C")
        case "crash":
            os.kill(os.getpid(), payload["signal"])
        case "talk":
            began_s = time.monotonic()
            for done in range(11):
                emit({"event": "progress", "done": done, "s": time.monotonic() - began_s})
                time.sleep(0.5)
            return "said"
        case "hang":
            time.sleep(60)
    return None


if __name__ == "__main__":
    serve(handle)
