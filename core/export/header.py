"""What a GGUF file says about itself, read without native code and without trusting a byte of it (reliability rule R17).

llama.cpp can abort its whole process on a damaged file, and other readers can hang on one, so every file passes here first. Only the
header is read, never the weights. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (read 2026-11-23).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from core.errors import UserError

MAX_ENTRIES = 65_536  # metadata keys, and tensors
MAX_STRING_BYTES = 64 * 2**20
MAX_ARRAY_ITEMS = 2**28
MAX_STRING_ITEMS = 2**22  # strings must be walked one by one; the largest vocabularies have 262,144 tokens
MAX_ALIGNMENT = 2**20
WINDOW_BYTES = 2**20
METADATA_START = 24  # behind magic, version and two counts

UINT32, BOOL, STRING, ARRAY, UINT64 = 4, 7, 8, 9, 10
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", UINT32: "I", 5: "i", 6: "f", BOOL: "?", UINT64: "Q", 11: "q", 12: "d"}

# ggml type -> (name, elements per block, bytes per block); gguf-py's GGML_QUANT_SIZES of llama-cpp-python 0.3.36.
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip

LEGACY_MAGICS = {b"lmgg", b"fmgg", b"tjgg", b"algg", b"nsgg", b"ggml", b"ggmf", b"ggjt", b"ggla", b"ggsn"}
OTHER_FORMATS = {
    b"PK\x03\x04": "a PyTorch or zip file",
    b"\x80\x02": "a Python pickle",
    b"\x1f\x8b": "a gzip file",
    b"version https://git-lfs": "a Git LFS pointer: the real file was never downloaded",
    b"<!": "a web page: the download failed",
    b"{": "a JSON file",
}


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array of the metadata: its kind and length; the values are not kept."""

    kind: int
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    shape: tuple[int, ...]  # fastest dimension first, as GGUF writes it
    type: str  # "F16", "Q4_0", ...
    offset: int  # from the start of the data
    size_bytes: int
    type_number: int = 0  # ggml's number for `type`


@dataclass(frozen=True)
class Header:
    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    header_bytes: int
    data_offset: int  # where the first tensor lies: the header's end, aligned
    alignment: int = 32
    metadata_start: int = METADATA_START
    metadata_end: int = METADATA_START

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def name(self) -> str:
        return str(self.metadata.get("general.name") or self.path.stem)

    @property
    def template(self) -> str | None:
        found = self.metadata.get("tokenizer.chat_template")
        return found if isinstance(found, str) else None

    @property
    def tokenizer(self) -> str:
        """``llama`` (SentencePiece), ``gpt2`` (byte-level BPE), ..."""
        return str(self.metadata.get("tokenizer.ggml.model", ""))

    @property
    def context_length(self) -> int:
        found = self.metadata.get(f"{self.architecture}.context_length", 0)
        return found if isinstance(found, int) else 0

    @property
    def vocabulary_size(self) -> int:
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.count if isinstance(tokens, GgufArray) else 0

    @property
    def file_type(self) -> int | None:
        """The number that llama.cpp gives the level; see `core.export.levels`."""
        found = self.metadata.get("general.file_type")
        return found if isinstance(found, int) else None

    @property
    def num_parameters(self) -> int:
        return sum(_product(tensor.shape) for tensor in self.tensors)


def gguf_header(path: Path) -> Header:
    """The header of a GGUF file, in milliseconds and whatever its size.

    Raises:
        UserError: not GGUF (an old GGML file is named as such), or a header that contradicts itself or the file's length.
    """
    try:
        with path.open("rb") as file:
            return _Reader(path, file).header()
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}.", str(path), "Give the path of a .gguf file.") from error


def gguf_template(path: Path) -> str | None:
    """The chat template inside a GGUF file, or None."""
    return gguf_header(path).template


def tensor_bytes(shape: tuple[int, ...], type_number: int) -> int:
    _, block_size, block_bytes = TENSOR_TYPES[type_number]
    return _product(shape) // block_size * block_bytes


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size = path.stat().st_size
        self.position = 0
        self.string_items = 0

    def header(self) -> Header:
        version = self._version()
        num_tensors, num_keys = self._scalar("Q"), self._scalar("Q")
        if num_keys > MAX_ENTRIES or num_tensors > MAX_ENTRIES:
            self._refuse(f"it claims {num_tensors} tensors and {num_keys} metadata keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._string()
            if key in metadata:
                self._refuse(f"the metadata key {key!r:.80} appears twice")
            metadata[key] = self._value()
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self._refuse(f"the alignment is {alignment!r:.40}")
        metadata_end = self.position
        tensors = tuple(self._tensor() for _ in range(num_tensors))
        data_offset = -(-self.position // alignment) * alignment
        self._check_data(tensors, data_offset, alignment)
        return Header(self.path, version, metadata, tensors, self.position, data_offset, alignment, METADATA_START, metadata_end)

    def _version(self) -> int:
        magic = self.file.read(24)
        if magic[:4] in LEGACY_MAGICS:
            raise UserError(
                f"{self.path.name} is a GGML file, the container that llama.cpp used until August 2023 and no longer reads.",
                str(self.path),
                "Convert the original Hugging Face model to GGUF: `python -m core gguf MODEL_FOLDER --levels f16,q4_0`.",
                code="GGML",
            )
        if magic[:4] != b"GGUF":
            for start, what in OTHER_FORMATS.items():
                if magic.startswith(start):
                    self._refuse(f"it is {what}")
            self._refuse(f"it starts with {magic[:4]!r} instead of b'GGUF'")
        self.file.seek(4)
        self.position = 4
        version = self._scalar("I")
        if version in (2 << 24, 3 << 24):
            self._refuse("it was written for big-endian machines")
        if version not in (2, 3):
            self._refuse(f"its version is {version}, and 2 and 3 are known")
        return version

    def _take(self, count: int) -> bytes:
        if count > self.size - self.position:
            self._refuse(f"{count} bytes should follow at byte {self.position}, and {self.size - self.position} are left")
        data = self.file.read(count)
        if len(data) != count:
            self._refuse("it became shorter while it was read")
        self.position += count
        return data

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _string(self) -> str:
        length = self._scalar("Q")
        if length > MAX_STRING_BYTES:
            self._refuse(f"a text of {length} bytes begins at byte {self.position}")
        return self._take(length).decode("utf-8", errors="replace")

    def _value(self) -> Any:
        kind = self._scalar("I")
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array()
        if kind not in SCALARS:
            self._refuse(f"a metadata value has the unknown kind {kind}")
        return self._scalar(SCALARS[kind])

    def _array(self) -> GgufArray:
        kind, count = self._scalar("I"), self._scalar("Q")
        if count > MAX_ARRAY_ITEMS:
            self._refuse(f"an array claims {count} items")
        if kind == STRING:
            self.string_items += count
            if self.string_items > MAX_STRING_ITEMS:
                self._refuse(f"its lists of texts claim {self.string_items} items")
            self._skip_strings(count)
        elif kind in SCALARS:
            self._skip(count * struct.calcsize("<" + SCALARS[kind]))
        else:
            self._refuse(f"an array has items of the kind {kind}")
        return GgufArray(kind, count)

    def _skip_strings(self, count: int) -> None:
        """Step over `count` texts by their lengths alone; a vocabulary of 256,000 takes a tenth of a second."""
        length_at = struct.Struct("<Q").unpack_from
        window, base, at = b"", self.position, 0
        for _ in range(count):
            if at + 8 > len(window):
                base, at = base + at, 0
                self.file.seek(base)
                window = self.file.read(WINDOW_BYTES)
            if len(window) < 8:
                self._refuse(f"a list of {count} texts is cut short")
            at += 8 + length_at(window, at)[0]
            if base + at > self.size:
                self._refuse(f"a text should end at byte {base + at}, and the file has {self.size}")
        self.position = base + at
        self.file.seek(self.position)

    def _skip(self, count: int) -> None:
        if count > min(self.size - self.position, MAX_ARRAY_ITEMS * 8):
            self._refuse(f"{count} bytes should follow at byte {self.position}, and {self.size - self.position} are left")
        self.file.seek(count, 1)
        self.position += count

    def _tensor(self) -> Tensor:
        name = self._string()
        num_dimensions = self._scalar("I")
        if not 1 <= num_dimensions <= 4:
            self._refuse(f"the tensor {name!r:.80} has {num_dimensions} dimensions")
        shape: tuple[int, ...] = struct.unpack(f"<{num_dimensions}Q", self._take(8 * num_dimensions))
        if 0 in shape or _product(shape) >= 2**63:
            self._refuse(f"the tensor {name!r:.80} has the shape {shape}")
        type_number, offset = self._scalar("I"), self._scalar("Q")
        if type_number not in TENSOR_TYPES:
            self._refuse(f"the tensor {name!r:.80} has the unknown type {type_number}")
        type_name, block_size, _ = TENSOR_TYPES[type_number]
        if shape[0] % block_size:
            self._refuse(f"the rows of {name!r:.80} have {shape[0]} numbers, and {type_name} needs a multiple of {block_size}")
        return Tensor(name, shape, type_name, offset, tensor_bytes(shape, type_number), type_number)

    def _check_data(self, tensors: tuple[Tensor, ...], data_offset: int, alignment: int) -> None:
        names = {tensor.name for tensor in tensors}
        if len(names) != len(tensors):
            self._refuse("two tensors have the same name")
        for tensor in tensors:
            end = data_offset + tensor.offset + tensor.size_bytes
            if tensor.offset % alignment or end > self.size:
                self._refuse(f"the tensor {tensor.name!r:.80} should end at byte {end}, and the file has {self.size}")

    def _refuse(self, why: str) -> NoReturn:
        remedy = "Download or convert the model again; a file that was cut short is the usual cause."
        raise UserError(f"{self.path.name} is not a usable GGUF file: {why}.", str(self.path), remedy, code="GGUF")


def cache_bytes(header: Header, context_length: int) -> int:
    """The memory of keys and values (float16) for so many tokens; 0 when the file does not say enough to know."""
    of = {key.partition(".")[2]: value for key, value in header.metadata.items()}
    layers, heads, width = of.get("block_count"), of.get("attention.head_count"), of.get("embedding_length")
    kv_heads = of.get("attention.head_count_kv") or heads
    key, value = of.get("attention.key_length"), of.get("attention.value_length")
    if isinstance(layers, int) and isinstance(kv_heads, int) and isinstance(key, int) and isinstance(value, int):
        return 2 * context_length * layers * kv_heads * (key + value)
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(kv_heads, int) and isinstance(width, int) and heads):
        return 0
    return 4 * context_length * layers * kv_heads * (width // heads)
