"""GGUF files written by hand, good and bad, independently of the reader under test."""

import struct
from pathlib import Path

UINT32, FLOAT32, STRING, ARRAY, INT32 = 4, 6, 8, 9, 5


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, data):
    return text(key) + struct.pack("<I", kind) + data


def strings(values):
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def numbers(kind, code, values):
    return struct.pack("<IQ", kind, len(values)) + struct.pack(f"<{len(values)}{code}", *values)


def tensor(name, shape, type_number, offset):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_number, offset)


def gguf(entries=(), tensors=(), data=b"", *, version=3, num_tensors=None, num_entries=None):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if num_tensors is None else num_tensors,
                                 len(entries) if num_entries is None else num_entries)  # fmt: skip
    head += b"".join(entries) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


ARCHITECTURE = entry("general.architecture", STRING, text("llama"))
GOOD = gguf(
    [
        ARCHITECTURE,
        entry("general.name", STRING, text("Small")),
        entry("general.file_type", UINT32, struct.pack("<I", 1)),
        entry("llama.context_length", UINT32, struct.pack("<I", 64)),
        entry("tokenizer.ggml.model", STRING, text("llama")),
        entry("tokenizer.ggml.tokens", ARRAY, strings(["<unk>", "<s>", "</s>", "▁a"])),
        entry("tokenizer.chat_template", STRING, text("{{ messages }}")),
    ],
    [tensor("token_embd.weight", (32, 4), 1, 0), tensor("output.weight", (32, 4), 2, 256)],
    bytes(256 + 72),
)


def three_tokens(path: Path) -> Path:
    """A file whose header is right and whose vocabulary of three tokens makes llama.cpp abort its process."""
    settings = {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32, "attention.head_count": 1}
    entries = [ARCHITECTURE, *(entry(f"llama.{key}", UINT32, struct.pack("<I", value)) for key, value in settings.items())]
    entries += [
        entry("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-6)),
        entry("tokenizer.ggml.model", STRING, text("llama")),
        entry("tokenizer.ggml.tokens", ARRAY, strings(["<unk>", "<s>", "</s>"])),
        entry("tokenizer.ggml.scores", ARRAY, numbers(FLOAT32, "f", [0.0, 0.0, 0.0])),
        entry("tokenizer.ggml.token_type", ARRAY, numbers(INT32, "i", [2, 3, 3])),
    ]
    path.write_bytes(gguf(entries, [tensor("token_embd.weight", (32, 3), 1, 0)], bytes(192)))
    return path
