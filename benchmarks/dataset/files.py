"""Generated Vicuna files of any size, the same for everyone: shared chats by their lengths, some Chinese, code, quotes and a few faults."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = """the of and to in a is that for it as with on be by this are or from at your have can an which you we if not will more one all
about when there use time what how model data function return value list class print open file user name type error system number result
string set example different large small people world first also new like between because where into other some very over order general
local important problem point change""".split()
CHINESE = "你好我们可以使用这个方法来解决问题请注意数据模型训练结果因为所以如果时间系统"
NUM_DIFFERENT = 3000  # conversations; each is used again with another beginning
FAULT_EVERY = 1500  # rows
FAULTS = ((0, "gpt"), (1, "human"), (0, "robot"), (1, "robot"))  # the turn and its wrong role, one after the other


def write(path: Path, size: int) -> tuple[int, int]:
    """A list as FastChat writes it (``.json``, indent 2) or lines (``.jsonl``); (rows, rows with a wrong role)."""
    dice = random.Random(1)
    pool = [conversation(dice) for _ in range(NUM_DIFFERENT)]
    is_list = path.suffix == ".json"
    written = row = num_bad = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[\n" if is_list else "")
        while written < size:
            turns = [dict(turn) for turn in pool[row % NUM_DIFFERENT]]
            turns[0]["value"] = f"{row}: {turns[0]['value']}"
            if row % FAULT_EVERY == FAULT_EVERY - 1:
                turn, role = FAULTS[num_bad % len(FAULTS)]
                turns[turn]["from"] = role
                num_bad += 1
            text = json.dumps({"id": f"row_{row}", "conversations": turns}, ensure_ascii=False, indent=2 if is_list else None)
            text = "  " + text.replace("\n", "\n  ") if is_list else text
            file.write((",\n" if row and is_list else "") + text + ("" if is_list else "\n"))
            written += len(text.encode())
            row += 1
        file.write("\n]\n" if is_list else "")
    return row, num_bad


def conversation(dice: random.Random) -> list[dict[str, Any]]:
    num_pairs = min(1 + int(dice.expovariate(1 / 2.5)), 20)
    lengths = [length for _ in range(num_pairs) for length in (10 + dice.expovariate(1 / 250), 20 + dice.expovariate(1 / 1100))]
    return [{"from": ("human", "gpt")[number % 2], "value": text(dice, length)} for number, length in enumerate(lengths)]


def text(dice: random.Random, length: float) -> str:
    """About `length` characters: sentences, lists, code, HTML now and then; one text in twelve is Chinese."""
    is_chinese, said = dice.random() < 0.08, ""
    while len(said) < length:
        kind = dice.random()
        if is_chinese:
            said += "".join(dice.choices(CHINESE, k=dice.randint(8, 30))) + "。"
        elif kind < 0.06:
            said += f'\n\n```python\nfor i in range({dice.randint(1, 99)}):\n    print("{dice.choice(WORDS)}", i < 3)\n```\n'
        elif kind < 0.12:
            said += f"\n\n{dice.randint(1, 9)}. {sentence(dice)}"
        elif kind < 0.14:
            said += f"<p>It’s “{dice.choice(WORDS)}”</p> "
        else:
            said += sentence(dice)
    return said.strip()


def sentence(dice: random.Random) -> str:
    words = " ".join(dice.choices(WORDS, k=dice.randint(5, 22)))
    return words[0].upper() + words[1:] + dice.choice((". ", ". ", ", so it is. ", "? "))
