"""The bytes of a data file as a stream of UTF-8, whatever encoding it is in, with the way back to the original offset."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

CHUNK_BYTES = 1 << 20
FIRST_LETTERS = bytes(range(0x20, 0x7F)) + b"\t\r\n"  # what a text without a byte order mark begins with
SAMPLE_BYTES = 1 << 18
REMEMBERED_BYTES = 16 << 20
CYRILLIC_SHARE = 0.8  # of the letters of such words; French has a quarter

# What a file that is not text begins with, whatever its name says. Nothing is ever decompressed or unpickled.
MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"PK\x03\x04", "a zip archive (or a torch, Excel or Word file)"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-zip archive"),
    (0, b"Rar!\x1a\x07", "a rar archive"),
    (0, b"\x04\x22\x4d\x18", "an lz4 archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"ARROW1", "an Arrow file"),
    (0, b"FEA1", "a Feather file"),
    (0, b"ORC", "an ORC file"),
    (0, b"Obj\x01", "an Avro file"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"SQLite format 3\x00", "an SQLite database"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"\x7fELF", "a program"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"\x89PNG\r\n\x1a\n", "an image"),
    (0, b"\xff\xd8\xff", "an image"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
)
BOMS: tuple[tuple[bytes, str], ...] = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def _bytes_as_surrogates(error: UnicodeError) -> tuple[str, int]:
    """Keep bytes that are no text as U+DC00 + byte: the offsets stay exact, and the row that holds them is found out later."""
    if isinstance(error, UnicodeDecodeError):
        return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end
    raise error


KEEP_BYTES = "transmute-keep-bytes"
KEPT = re.compile("[\udc00-\udcff]")
codecs.register_error(KEEP_BYTES, _bytes_as_surrogates)


@dataclass(frozen=True)
class Encoding:
    """How a file's bytes become text: the codec's name, and the length of the byte order mark before it."""

    name: str
    bom_bytes: int
    likely: str = ""  # of a file that is read as UTF-8 and for the greater part is none: what it may be in; too uncertain to be decoded by

    @property
    def is_utf8(self) -> bool:
        return self.name == "utf-8"

    def original_length(self, utf8: bytes) -> int:
        """How many bytes of the original file the text `utf8` takes."""
        if self.is_utf8:
            return len(utf8)
        text = utf8.decode("utf-8", "surrogatepass")
        whole = KEPT.sub("", text)
        return len(whole.encode(self.name)) + len(text) - len(whole)


def refused_kind(path: Path) -> str | None:
    """``a gzip archive``, ``a Parquet file``, ... when the first bytes say that this is not text; else None."""
    with path.open("rb") as file:
        head = file.read(512)
    for at, magic, kind in MAGIC:
        if head[at : at + len(magic)] == magic:
            return kind
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle"
    if head[8:10] == b'{"' and 0 < int.from_bytes(head[:8], "little") < 1 << 27:
        return "a safetensors file"
    return None


def detect_encoding(path: Path) -> Encoding:
    """The encoding by byte order mark, by the zero bytes of UTF-16, or by whether the first non-ASCII text is UTF-8 or GB18030."""
    status = path.stat()
    if status.st_size < REMEMBERED_BYTES:
        return _detect_encoding(path)
    return _detected(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _detected(path: Path, _size_bytes: int, _changed_ns: int) -> Encoding:
    """A large file of ASCII is read to its end for this, so it is done once."""
    return _detect_encoding(path)


def _detect_encoding(path: Path) -> Encoding:
    with path.open("rb") as file:
        head = file.read(8)
        for bom, name in BOMS:
            if head.startswith(bom):
                return Encoding(name, len(bom))
        if len(head) >= 2 and head[1] == 0 and head[0] in FIRST_LETTERS:
            return Encoding("utf-16-le", 0)
        if len(head) >= 2 and head[0] == 0 and head[1] in FIRST_LETTERS:
            return Encoding("utf-16-be", 0)
        file.seek(0)
        while (chunk := file.read(CHUNK_BYTES)) and chunk.isascii():
            pass
        first = re.search(rb"[\x80-\xff]", chunk)
        start = first.start() if first else 0
        sample = (chunk + file.read(SAMPLE_BYTES))[start : start + SAMPLE_BYTES]
    if not _is_other(sample):
        return Encoding("utf-8", 0)
    return Encoding("gb18030", 0) if _looks_gb18030(sample) else Encoding("utf-8", 0, _likely(sample))


def _is_other(sample: bytes) -> bool:
    """Whether `sample` is no UTF-8, not even with a few broken bytes: that is made of valid sequences for the greater part."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        return False
    except UnicodeDecodeError:
        pass
    num_high = len(re.findall(rb"[\x80-\xff]", sample))
    num_valid = sum(len(character.encode()) for character in sample.decode("utf-8", "ignore") if character >= "\x80")
    return num_valid < 0.6 * num_high


def _likely(sample: bytes) -> str:
    """Windows' encoding for Cyrillic where words have no other letters, else that for Western Europe, of which Latin-1 is a part.

    Empty where one and the same byte is wrong, which is rather damage than a language.
    """
    if len(set(sample) - set(range(0x80))) < 2:
        return ""
    words = b"".join(re.findall(rb"[A-Za-z]*[\x80-\xff][A-Za-z\x80-\xff]*", sample))
    num_high = len(re.findall(rb"[\x80-\xff]", words))
    return "WINDOWS-1251" if num_high > CYRILLIC_SHARE * len(words) else "WINDOWS-1252"


def _looks_gb18030(sample: bytes) -> bool:
    """Whether `sample`, which is no UTF-8, reads as Chinese.

    Latin-1 text also decodes as GB18030, but gives characters that GB 2312 does not have.
    """
    text = codecs.getincrementaldecoder("gb18030")(KEEP_BYTES).decode(sample)
    wide = "".join(character for character in text if character >= "\x80")
    known = wide.encode("gb2312", "ignore").decode("gb2312")
    return len(known) >= 0.9 * len(wide)


def utf8_chunks(path: Path, encoding: Encoding, on_bytes: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """The file after its byte order mark, as UTF-8, in pieces of about 1 MB, none of them empty. `on_bytes` hears how far the reading is.

    Bytes that are no text in `encoding` come out as bytes that are no UTF-8, so that the row which holds them is refused.
    """
    decoder = None if encoding.is_utf8 else codecs.getincrementaldecoder(encoding.name)(KEEP_BYTES)
    with path.open("rb") as file:
        file.seek(encoding.bom_bytes)
        while chunk := file.read(CHUNK_BYTES):
            if text := chunk if decoder is None else decoder.decode(chunk).encode("utf-8", "surrogatepass"):
                yield text
            if on_bytes:
                on_bytes(file.tell())
    if decoder is not None and (rest := decoder.decode(b"", final=True)):
        yield rest.encode("utf-8", "surrogatepass")
