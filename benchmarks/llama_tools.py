"""llama.cpp's own tools, built once from the source distribution that the project pins, with the flags of its wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.export.converter import VERSION, download_source
from core.paths import PROJECT

FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF "
    "-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF"
).split()


def tools(names: Sequence[str]) -> Path:
    """The folder with these programs, built when they are not there; needs cmake, a C++ compiler and the package index."""
    root = PROJECT / "build" / f"llama.cpp-{VERSION}"
    binaries = root / "build" / "bin"
    if all((binaries / name).is_file() for name in names):
        return binaries
    if not (root / "CMakeLists.txt").is_file():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder, tarfile.open(download_source(Path(folder))) as archive:
            for member in archive:
                _, _, member.name = member.name.partition("/vendor/llama.cpp/")
                if member.name:
                    archive.extract(member, root, filter="data")
    print(f"building {', '.join(names)} in {root.relative_to(PROJECT)}; this takes minutes", file=sys.stderr)
    nice = ["nice", "cmake"]
    subprocess.run([*nice, "-S", str(root), "-B", str(root / "build"), *FLAGS], check=True, stdout=sys.stderr)
    command = [*nice, "--build", str(root / "build"), "-j", str(os.cpu_count() or 1), "--target", *names]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return binaries
