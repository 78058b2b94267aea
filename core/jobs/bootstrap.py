"""The first thing that runs on a rented machine: fetch the bundle at its commit, refuse it unless its hash is right, install, start.

Sent as text in the job's command, so it needs nothing but Python itself: ``python -c TEXT REPO COMMIT SHA256 RUN_ID``.
"""

import hashlib
import http.client
import os
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path


class WithoutToken(urllib.request.HTTPRedirectHandler):
    """A redirect leads to a content server, which is not told the token."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            request.headers.pop("Authorization", None)
        return request


TRIES = 6


def main() -> None:
    repo, commit, sha256, run_id = sys.argv[1:5]
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    url = endpoint + "/" + repo + "/resolve/" + urllib.parse.quote(commit, safe="") + "/bundle.tar"
    if fetch(url, Path("bundle.tar")) != sha256:
        sys.exit("The bundle is not the one that was sent.")
    with tarfile.open("bundle.tar") as bundle:
        bundle.extractall("transmute", filter="data")
    Path("bundle.tar").unlink()
    os.chdir("transmute")
    environment = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    check = [sys.executable, "-c", "import sys; from core.jobs.installed import missing; sys.exit(bool(missing()))"]
    if subprocess.run(check, env=environment).returncode:
        install = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "-r", "requirements.txt"]
        subprocess.run(install, env=environment, check=True)
    os.execv(  # noqa: S606 - an argument list, and no shell
        sys.executable, [sys.executable, "-m", "core.jobs.remote", run_id]
    )


def fetch(url: str, to: Path) -> str:
    """The sha256 of what was fetched; a Hub that is busy is asked again."""
    for number in range(TRIES):
        request = urllib.request.Request(url, headers={"Authorization": "Bearer " + os.environ["HF_TOKEN"]})  # noqa: S310 - the Hub's own address
        digest = hashlib.sha256()
        try:
            with urllib.request.build_opener(WithoutToken).open(request, timeout=300) as answer, to.open("wb") as file:
                while chunk := answer.read(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
                if file.tell() != int(answer.headers.get("Content-Length", file.tell())):
                    raise OSError("the connection broke")
            return digest.hexdigest()
        except urllib.error.HTTPError as error:
            if number == TRIES - 1 or (error.code < 500 and error.code != 429):
                sys.exit("The bundle could not be fetched: HTTP " + str(error.code))
        except (OSError, http.client.HTTPException) as error:
            if number == TRIES - 1:
                sys.exit("The bundle could not be fetched: " + str(error))
        time.sleep(2**number)
    raise AssertionError("the last try returns or ends")


if __name__ == "__main__":
    main()
