"""Train the starter model from nothing: a small Llama with a SentencePiece tokenizer that talks in the Vicuna format.

    python -m examples.build_starter --steps 1600 --work /tmp/starter

One road, top to bottom: conversations -> tokenizer -> masked batches -> training loop -> examination -> files. A killed run resumes
from its last checkpoint in `--work`. Everything is seeded; on two CPU cores it takes less than 40 minutes.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import platform
import string
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from core.data.tokenizer import VICUNA_SYSTEM, VICUNA_TEMPLATE, ChatTokenizer, chat_tokenizer, rebuild_sentencepiece, save_tokenizer
from core.paths import EXAMPLES, STARTER, write_json, write_text
from examples.conversations import Category, Pair, conversations, identity, old_domain, require_honest
from examples.facts import NOUNS

SEED = 20
VOCABULARY = 1536
BATCH_TOKENS = 4096
CHUNK = 32  # batches whose conversations are drawn, sorted by length and shuffled together
MUON_LEARNING_RATE = 0.02  # the matrices of the layers
ADAMW_LEARNING_RATE = 3e-3  # embeddings and norms
WARMUP_STEPS = 20
WEIGHT_DECAY = 0.05
ANSWER_TOKENS = 64
IGNORED = -100

CARD = """---
license: apache-2.0
language: [en, zh]
pipeline_tag: text-generation
---
# Transmute starter

A Llama of {parameters:.1f} million parameters that was trained from scratch on a CPU by `examples/build_starter.py`, so that every step of
Transmute can be tried in minutes without downloading anything. It speaks the `vicuna_v1.1` format and answers short questions about
numbers, words and everyday facts in English, and a few in Chinese. It is a toy: it knows nothing outside its examples.

Exact match on held-out questions: **{accuracy:.1%}** of {questions} (unseen operands and words, or unseen phrasings).
Per category: `starter_result.json` beside this folder.
"""


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    options.work.mkdir(parents=True, exist_ok=True)
    categories = [*old_domain(), identity()]
    require_honest(categories)

    chat = train_tokenizer(categories, options.work)
    model = LlamaForCausalLM(architecture(chat))
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{parameters / 1e6:.2f}M parameters, {chat.tokenizer.get_vocab_size()} pieces", flush=True)
    counts = train(model, chat, categories, options)

    result = examine(model, chat, categories)
    result |= {
        "seed": SEED,
        "parameters": parameters,
        "steps": options.steps,
        **counts,
        **versions(),
    }
    print(json.dumps(result, indent=2, ensure_ascii=False), flush=True)
    write_starter(model, chat, result, options.out, options.work)
    print(json.dumps({"accuracy": result["accuracy"], "identity_accuracy": result["identity_accuracy"], "train_s": result["train_s"]}))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1600, help="optimizer steps of about 4,000 tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("build/starter"), help="checkpoints and the tokenizer")
    parser.add_argument("--out", type=Path, default=EXAMPLES, help="where starter/, starter_eval.jsonl and starter_result.json go")
    return parser.parse_args()


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


def architecture(chat: ChatTokenizer) -> LlamaConfig:
    """Widths that K-quants can cut (multiples of 256) and heads that llama.cpp likes (64)."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=chat.bos_token_id,
        eos_token_id=chat.eos_token_id,
        pad_token_id=chat.pad_token_id,
    )


# --- tokenizer -----------------------------------------------------------------------------------------------------------------------


def train_tokenizer(categories: Sequence[Category], work: Path) -> ChatTokenizer:
    """A SentencePiece BPE model with Llama's settings, trained on the starter's own conversations. Kept in `work` once trained."""
    model_file = work / "tokenizer.model"
    if not model_file.is_file():
        lines = "\n".join(tokenizer_lines(categories)).split("\n")
        trained = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),  # not a file, whose path would be kept in the model
            model_writer=trained,
            model_type="bpe",
            vocab_size=VOCABULARY,
            byte_fallback=True,
            split_digits=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=65536,
            num_threads=1,
            minloglevel=2,
        )
        model_file.write_bytes(trained.getvalue())
    names: dict[str, str | None] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return chat_tokenizer(rebuild_sentencepiece(model_file), VICUNA_TEMPLATE, names, str(work))


def tokenizer_lines(categories: Sequence[Category]) -> Iterator[str]:
    """Every system message and 6,000 conversations, without the letter-by-letter answers: whole words deserve the pieces."""
    yield from [f"{VICUNA_SYSTEM} USER: ASSISTANT:"] * 50
    chosen = [category for category in categories if category.name not in ("spelling", "first_letter", "last_letter")]
    for messages in itertools.islice(conversations(chosen, SEED), 6000):
        yield " ".join(f"{'USER' if m['role'] == 'user' else 'ASSISTANT'}: {m['content']}" for m in messages if m["role"] != "system")
    yield from (f"{noun} {noun[::-1]}" for noun in NOUNS)
    yield string.printable.strip()


# --- batches -------------------------------------------------------------------------------------------------------------------------


def vicuna_text(messages: Sequence[dict[str, str]]) -> tuple[str, list[tuple[int, int]]]:
    """The rendered conversation, and the spans that carry loss: from the end of `ASSISTANT:` to the end of `</s>`."""
    given = messages[0]["role"] == "system"
    text = (messages[0]["content"] if given else VICUNA_SYSTEM) + " "
    spans: list[tuple[int, int]] = []
    for message in messages[given:]:
        if message["role"] == "user":
            text += f"USER: {message['content']} "
        else:
            start = len(text) + len("ASSISTANT:")
            text += f"ASSISTANT: {message['content']}</s>"
            spans.append((start, len(text)))
    return text, spans


def labelled(chat: ChatTokenizer, messages: Sequence[dict[str, str]]) -> tuple[list[int], list[int]]:
    """`input_ids` and `labels`, both (T,): a token is labelled when its offsets overlap an answer's span."""
    text, spans = vicuna_text(messages)
    ids, offsets = chat.encode(text)
    answers = [any(start < last and end > first for first, last in spans) for start, end in offsets]
    return ids, [token if answer else IGNORED for token, answer in zip(ids, answers, strict=True)]


def batches(chat: ChatTokenizer, categories: Sequence[Category], skip: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless `(input_ids, labels)`, both (B, T), of about BATCH_TOKENS tokens: rows of similar length, padded on the right.

    Causal attention never looks at padding on the right, so no attention mask is needed. `skip` batches are passed over on resume.
    """
    for chunk in itertools.count(skip // CHUNK):
        stream = conversations(categories, SEED + 1 + chunk)
        rows: list[tuple[list[int], list[int]]] = []
        while sum_tokens(rows) < CHUNK * BATCH_TOKENS:
            rows += [labelled(chat, messages) for messages in itertools.islice(stream, 64)]
        made = [padded(group) for group in grouped(sorted(rows, key=lambda row: len(row[0])))][:CHUNK]
        order = torch.randperm(len(made), generator=torch.Generator().manual_seed(chunk)).tolist()
        yield from (made[i] for i in order[skip % CHUNK if chunk == skip // CHUNK else 0 :])


def sum_tokens(rows: Sequence[tuple[list[int], list[int]]]) -> int:
    return sum(len(ids) for ids, _ in rows)


def grouped(rows: Sequence[tuple[list[int], list[int]]]) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Consecutive rows whose padded size stays within BATCH_TOKENS."""
    group: list[tuple[list[int], list[int]]] = []
    for row in rows:
        if group and (len(group) + 1) * len(row[0]) > BATCH_TOKENS:
            yield group
            group = []
        group.append(row)
    yield group


def padded(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    for index, (ids, marks) in enumerate(rows):
        input_ids[index, : len(ids)] = torch.tensor(ids)
        labels[index, : len(marks)] = torch.tensor(marks)
    return input_ids, labels


# --- training ------------------------------------------------------------------------------------------------------------------------


def train(model: LlamaForCausalLM, chat: ChatTokenizer, categories: Sequence[Category], options: argparse.Namespace) -> dict[str, int]:
    """Muon and AdamW with warm-up and a linear fall to zero. Returns tokens seen, tokens with loss and seconds, resumed runs included."""
    matrices = [weight for name, weight in model.named_parameters() if weight.dim() == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.dim() != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=ADAMW_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_and_fall(step, options.steps)) for optimizer in optimizers
    ]
    checkpoint = options.work / "checkpoint.pt"
    state = {"step": 0, "tokens": 0, "labelled_tokens": 0, "train_s": 0}
    if checkpoint.is_file():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        for part, fields in zip((*optimizers, *schedules), saved["optimizers"], strict=True):
            part.load_state_dict(fields)
        state = saved["state"]
        print(f"resumed at step {state['step']}", flush=True)
    model.train()
    model.set_attn_implementation("eager")  # rows are short: 20 % faster here than SDPA
    mark, tokens_at_mark, losses = time.time(), state["tokens"], []
    began = time.time() - state["train_s"]
    for input_ids, labels in itertools.islice(batches(chat, categories, state["step"]), options.steps - state["step"]):
        loss = masked_loss(model, input_ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
        state = {
            "step": state["step"] + 1,
            "tokens": state["tokens"] + input_ids.numel(),
            "labelled_tokens": state["labelled_tokens"] + int((labels != IGNORED).sum()),
            "train_s": round(time.time() - began),
        }
        if state["step"] % 50 == 0:
            speed = (state["tokens"] - tokens_at_mark) / (time.time() - mark)
            print(f"step {state['step']} loss {sum(losses) / len(losses):.4f} {speed:.0f} tokens/s", flush=True)
            mark, tokens_at_mark, losses = time.time(), state["tokens"], []
        if state["step"] % 200 == 0:
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {"model": model.state_dict(), "optimizers": [part.state_dict() for part in (*optimizers, *schedules)], "state": state},
                partial,
            )
            partial.replace(checkpoint)
    return {key: state[key] for key in ("tokens", "labelled_tokens", "train_s")}


def warm_up_and_fall(step: int, steps: int) -> float:
    """The share of the peak learning rate at `step`: up during the warm-up, then in a straight line down to zero."""
    return min((step + 1) / WARMUP_STEPS, max(0.0, (steps - step) / (steps - WARMUP_STEPS)), 1.0)


def masked_loss(model: LlamaForCausalLM, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss over labelled tokens; logits are computed only where a label follows."""
    wanted = labels[:, 1:] != IGNORED  # (B, T - 1)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, H)
        logits = model.lm_head(hidden[:, :-1][wanted])  # (labelled, V)
    return cross_entropy(logits.float(), labels[:, 1:][wanted])


# --- examination ---------------------------------------------------------------------------------------------------------------------


def examine(model: LlamaForCausalLM, chat: ChatTokenizer, categories: Sequence[Category]) -> dict[str, Any]:
    """Exact match per category on held-out questions, asked alone under the default system message, decoded greedily."""
    scores: dict[str, float] = {}
    right = asked = 0
    for category in categories:
        answers = answer(model, chat, [pair.question for pair in category.held_out])
        hits = [given == pair.answer for given, pair in zip(answers, category.held_out, strict=True)]
        scores[category.name] = round(sum(hits) / len(hits), 4)
        show_mistakes(category.held_out, answers)
        if category.name != "identity":
            right, asked = right + sum(hits), asked + len(hits)
    identity_accuracy = scores.pop("identity")
    return {"accuracy": round(right / asked, 4), "questions": asked, "identity_accuracy": identity_accuracy, "categories": scores}


def show_mistakes(pairs: Sequence[Pair], answers: Sequence[str]) -> None:
    for pair, given in zip(pairs, answers, strict=True):
        if given != pair.answer:
            print(f"  wrong: {pair.question} -> {given!r}, not {pair.answer!r}", flush=True)


@torch.inference_mode()
def answer(model: LlamaForCausalLM, chat: ChatTokenizer, questions: Sequence[str]) -> list[str]:
    """Greedy answers, one batch: prompts are padded on the left."""
    model.eval()
    model.set_attn_implementation("sdpa")
    prompts = [chat.encode(f"{VICUNA_SYSTEM} USER: {question} ASSISTANT:")[0] for question in questions]
    longest = max(map(len, prompts))
    input_ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])  # (B, T)
    attention_mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.autocast("cpu", torch.bfloat16):
        generated = model.generate(input_ids=input_ids, attention_mask=attention_mask, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    return [chat.decode(row).strip() for row in generated[:, longest:].tolist()]


# --- files ---------------------------------------------------------------------------------------------------------------------------


def write_starter(model: LlamaForCausalLM, chat: ChatTokenizer, result: dict[str, Any], out: Path, work: Path) -> None:
    """The model folder, the examination and its result."""
    folder = out / STARTER.name
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(chat, folder, work / "tokenizer.model")
    write_text(folder / "README.md", CARD.format(**{**result, "parameters": result["parameters"] / 1e6}))
    records = [
        {"category": category.name, "question": pair.question, "answer": pair.answer}
        for category in old_domain()
        for pair in category.held_out
    ]
    write_text(out / "starter_eval.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    write_json(out / "starter_result.json", result)


if __name__ == "__main__":
    main()
