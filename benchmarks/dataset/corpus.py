"""Conversations made of real English text and code: the docstrings of the pinned packages, so that everyone's are the same."""

from __future__ import annotations

import random
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "numpy", "pandas", "pyarrow", "datasets", "huggingface_hub", "gradio", "accelerate", "peft", "trl")
DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)


def paragraphs() -> list[str]:
    """Every different paragraph of the packages' docstrings, in a fixed order."""
    found: dict[str, None] = {}
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec
        assert spec.origin
        for file in sorted(Path(spec.origin).parent.rglob("*.py")):
            for docstring in DOCSTRING.findall(file.read_text(encoding="utf-8", errors="ignore")):
                for paragraph in re.split(r"\n\s*\n", docstring):
                    text = re.sub(r"\n[ \t]+", "\n", paragraph).strip()
                    if len(text) > 40 and "</s>" not in text and "\0" not in text and "ASSISTANT:" not in text:
                        found[text] = None
    return list(found)


def conversations(count: int, seed: int = 7) -> list[dict[str, Any]]:
    """Vicuna records: one to six pairs, short questions and long answers, as shared chats have."""
    dice, texts = random.Random(seed), paragraphs()
    dice.shuffle(texts)
    at = 0

    def say(length: float) -> str:
        nonlocal at
        said = ""
        while len(said) < length:
            said += ("\n\n" if said else "") + texts[at % len(texts)]
            at += 1
        return said

    made: list[dict[str, Any]] = []
    for number in range(count):
        turns: list[dict[str, str]] = []
        for _ in range(dice.choice((1, 1, 2, 2, 3, 4, 6))):
            turns.append({"from": "human", "value": say(dice.expovariate(1 / 80))})
            turns.append({"from": "gpt", "value": say(dice.expovariate(1 / 900))})
        made.append({"id": f"row_{number}", "conversations": turns})
    return made
