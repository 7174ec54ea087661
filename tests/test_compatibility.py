"""``prepare`` and ``train`` refuse the same rows, tokenizers, models and settings with the same
messages.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from conftest import write_rows
from prepared_sets import records

Command = Callable[..., tuple[int, str]]
QUICK = (
    "tracking=disabled",
    "trainer.precision=32-true",
    "evaluation.baselines=[]",
    "trainer.max_steps=2",
    "evaluation.max_new_tokens=4",
)
LONG = " ".join(["a long sentence without an end"] * 40)


def refused(hydratune: Command, *settings: str) -> str:
    """Return the message that both commands print."""
    messages = []
    for command, place in (("train", "hydra.run.dir=run"), ("prepare", "output=out")):
        code, text = hydratune(command, *QUICK, *settings, place)
        assert code == 2, (command, text)
        messages.append(text.rpartition(f"hydratune {command}: ")[2])
        assert not Path("out/train.parquet").exists()
        shutil.rmtree("out", ignore_errors=True)
        shutil.rmtree("run", ignore_errors=True)
    assert messages[0] == messages[1]
    return messages[0]


def accepted(hydratune: Command, *settings: str) -> None:
    for command in ("train", "prepare"):
        place = "output=out" if command == "prepare" else "hydra.run.dir=run"
        code, text = hydratune(command, *settings, *QUICK, place)
        assert code == 0, (command, text)
        shutil.rmtree("run", ignore_errors=True)
    assert Path("out/train.parquet").is_file()
    shutil.rmtree("out")


def sized(tiny: Any, folder: Path, rows: int | None = None, **changes: Any) -> Path:
    """Save the tiny model's tokenizer with two more tokens, which its template uses, and a model
    with ``rows`` embeddings (by default too few for the two tokens).
    """
    tokenizer = AutoTokenizer.from_pretrained(tiny[1].name)
    size = len(tokenizer)
    tokenizer.add_tokens(
        [AddedToken("<|user|>", special=True), AddedToken("<|answer|>", special=True)]
    )
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ ('<|answer|>' if m['role'] == 'assistant' else '<|user|>') +"
        " m['content'] + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|answer|>'"
        " }}{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=rows or size,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_tokenizer_larger_than_the_model_is_refused_and_the_advice_works(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    model, rows = sized(tiny, tmp_path / "model"), write_rows(tmp_path / "rows.jsonl", records(40))
    data = ("data=files", f"data.train={rows}", "data.max_length=200")
    text = refused(hydratune, "model=local", f"model.path={model}", *data)
    assert "rows.jsonl:1: the tokenizer writes <|user|> as" in text or "rows.jsonl:" in text
    assert "the model's embeddings end at" in text
    command = re.search(r"python (-c .*)\n\s+(model=local .*)", text)
    assert command is not None
    done = subprocess.run(
        [sys.executable, *shlex.split(command[1])],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    accepted(hydratune, *shlex.split(command[2]), *data)


def test_unused_embeddings_and_unused_tokens_are_accepted(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", records(40))
    data = ("data=files", f"data.train={rows}", "data.max_length=200", "model=local")
    accepted(hydratune, f"model.path={sized(tiny, tmp_path / 'padded', 2048)}", *data)
    # many models pad with a token that has no embedding
    unused = sized(tiny, tmp_path / "unused", pad_token="<|user|>")
    tokenizer = AutoTokenizer.from_pretrained(unused)
    tokenizer.chat_template = AutoTokenizer.from_pretrained(tiny[1].name).chat_template
    tokenizer.save_pretrained(unused)
    accepted(hydratune, f"model.path={unused}", *data)


def alike(count: int = 40, words: str = "") -> list[dict[str, Any]]:
    return [{**row, "prompt": f"{row['prompt']} {words}"} for row in records(count)]


CASES: dict[str, tuple[list[dict[str, Any]], tuple[str, ...], str]] = {
    "max_length beyond the window": (
        alike(),
        ("data.max_length=4096", "model.context_window=null"),
        "reads at most 2048 tokens",
    ),
    "every row too long": (
        alike(words=LONG),
        ("data.max_length=32",),
        "every train row was dropped",
    ),
    "an answer too long to be cut to": (
        [{**row, "completion": LONG} for row in alike()],
        ("data.max_length=32", "data.overlength=truncate_prompt"),
        "was dropped",
    ),
    "no room beside virtual tokens": (
        alike(words=LONG),
        ("adapter=prompt_tuning", "adapter.num_virtual_tokens=1900"),
        "the longest row has",
    ),
    "warm-up longer than the run": (
        alike(),
        ("optimizer.warmup_steps=50", "optimizer.warmup_ratio=null"),
        "has only 2 optimizer steps",
    ),
    "phases longer than the run": (
        alike(),
        ("adapter=adalora", "adapter.tinit=1", "adapter.tfinal=1"),
        "leave none to reduce",
    ),
    "fewer validation rows than devices": (
        alike(),
        ("trainer=ddp", "trainer.devices=9", "trainer.accelerator=cpu"),
        "every device needs one",
    ),
    "answers that are no JSON": (alike(), ("evaluation.task=json",), "is not one JSON object"),
    "answers that do not fit behind their prompts": (
        alike(),
        ("evaluation.max_new_tokens=2040",),
        "the longest test prompt and its answer",
    ),
    "a control that documents cannot have": (
        [{"text": f"{row['prompt']} {row['completion']}"} for row in alike()],
        ("data.control=shuffled_targets",),
        "is not possible",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_prepare_and_train_refuse_the_same(hydratune: Command, tmp_path: Path, case: str) -> None:
    rows, settings, message = CASES[case]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    quality = ("data.quality.near_leaks=off", "data.quality.exact_leaks=warn")
    text = refused(hydratune, "model=tiny", "data=files", f"data.train={file}", *quality, *settings)
    assert message in " ".join(text.split())
    if case.startswith("max_length"):
        fix = re.search(r"set (data\.max_length=\d+)", text)
        assert fix is not None
        accepted(hydratune, "model=tiny", "data=files", f"data.train={file}", *quality, fix[1])


@pytest.mark.slow
def test_prepared_rows_are_checked_again_with_another_model(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", records(40))
    assert (
        hydratune("prepare", "model=tiny", "data=files", f"data.train={rows}", "output=kept")[0]
        == 0
    )
    text = refused(
        hydratune,
        "model=local",
        f"model.path={sized(tiny, tmp_path / 'model')}",
        "data=prepared",
        "data.path=kept",
        "data.max_length=200",
    )
    assert "the model's embeddings end at" in text
    text = refused(
        hydratune,
        "model=local",
        f"model.path={sized(tiny, tmp_path / 'short')}",
        "data=prepared",
        "data.path=kept",
    )
    assert "reads at most 256 tokens" in text
    no_template = tmp_path / "base"
    shutil.copytree(tiny[1].name, no_template, ignore=shutil.ignore_patterns("digests.json"))
    (no_template / "chat_template.jinja").unlink()
    text = refused(
        hydratune, "model=local", f"model.path={no_template}", "data=prepared", "data.path=kept"
    )
    assert "has no chat template" in text
    accepted(
        hydratune,
        "model=local",
        f"model.path={no_template}",
        "model.chat_template=plain",
        "data=prepared",
        "data.path=kept",
    )


def test_a_model_without_an_end_cannot_take_documents(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny[1].name, model, ignore=shutil.ignore_patterns("digests.json"))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    for name in ("config.json", "generation_config.json"):
        (model / name).write_text(
            json.dumps({**json.loads((model / name).read_text()), "eos_token_id": None})
        )
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"text": f"{r['prompt']} {r['completion']}"} for r in records(40)]
    )
    for command in ("train", "prepare"):
        code, text = hydratune(
            command,
            "model=local",
            f"model.path={model}",
            "data=files",
            f"data.train={rows}",
            *QUICK,
        )
        assert code == 2 and "has no end-of-text token" in text, text
