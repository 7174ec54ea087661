"""A saved model ends an answer where evaluation does, when it is loaded with plain transformers and
PEFT.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from conftest import write_rows
from hydratune.models import turn_ends

Command = Callable[..., tuple[int, str]]
END, TEXT_END = "<|im_end|>", "<|endoftext|>"
KINDS: dict[
    str, tuple[str | None, str | None]
] = {  # the end tokens of the tokenizer and of the generation config
    "they disagree": (END, TEXT_END),
    "a base model": (TEXT_END, TEXT_END),
    "neither knows one": (None, None),
    "both are right": (END, END),
}


def mismatched(tiny: Any, folder: Path, tokenizer_end: str | None, model_end: str | None) -> Path:
    """The tiny model, whose template ends an answer with ``END``, with these two declarations."""
    shutil.copytree(tiny[1].name, folder, ignore=shutil.ignore_patterns("digests.json"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {
        END: tokenizer.convert_tokens_to_ids(END),
        TEXT_END: tokenizer.convert_tokens_to_ids(TEXT_END),
        None: None,
    }
    tokenizer.eos_token, tokenizer.pad_token = tokenizer_end, TEXT_END if tokenizer_end else None
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        content = json.loads((folder / name).read_text())
        content |= {
            "eos_token_id": ids[model_end],
            "pad_token_id": None if tokenizer_end is None else ids[TEXT_END],
        }
        (folder / name).write_text(json.dumps(content))
    return folder


def overfitted(hydratune: Command, tmp_path: Path, model: Path, *options: str) -> tuple[Path, str]:
    """Return (the saved folder of a run that has memorised one answer, printed text)."""
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"prompt": "Which colour?", "completion": "green"}] * 2
    )
    run = tmp_path / "run"
    settings = (
        "data=files",
        f"data.train={rows}",
        "data.overfit_rows=1",
        "data.batch_size=1",
        "model=local",
        f"model.path={model}",
    )
    training = (
        "trainer.max_epochs=40",
        "trainer.precision=32-true",
        "trainer.validations_per_epoch=1",
        "optimizer.schedule=constant",
    )
    quiet = (
        "tracking=disabled",
        "evaluation.baselines=[]",
        "evaluation.max_new_tokens=20",
        f"hydra.run.dir={run}",
    )
    code, text = hydratune("train", *settings, *training, *quiet, *options)
    assert code == 0, text
    return run / "adapter", text


def generated_tokens(model: Any, folder: Path) -> list[str]:
    """Return the tokens of plain ``generate`` as strings."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": "Which colour?"}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    return list(tokenizer.convert_ids_to_tokens(output[0, prompt["input_ids"].shape[1] :]))


@pytest.mark.parametrize(
    "kind",
    [k if k == "they disagree" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS],
)
def test_an_adapter_ends_its_answer_with_the_generation_config_beside_it(
    hydratune: Command, tmp_path: Path, tiny: Any, kind: str
) -> None:
    base = mismatched(tiny, tmp_path / "base", *KINDS[kind])
    folder, text = overfitted(hydratune, tmp_path, base, "optimizer.lr=0.01")
    scored = json.loads((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[0])
    assert (scored["prediction"], scored["finish_reason"]) == ("green", "stop")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    without = generated_tokens(model, folder)
    # the limit
    assert (
        (without[-1] == END and without.count(END) == 1)
        if KINDS[kind][1] == END
        else len(without) == 20
    )
    model.generation_config = GenerationConfig.from_pretrained(folder)
    words = generated_tokens(model, folder)
    assert words[-1] == END and words.count(END) == 1
    assert f"an answer ends with {END} (" in text and text.count(
        "the base model's own file lacks them"
    ) == (KINDS[kind][1] != END)
    typed = re.search(r"GenerationConfig.from_pretrained\('([^']+)'\)", text)
    if typed is not None:
        assert set(KINDS[kind]) - {None} | {END} == {
            tokens(folder)[i] for i in GenerationConfig.from_pretrained(typed[1]).eos_token_id
        }


def tokens(folder: Path) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["they disagree", "neither knows one"])
def test_a_fully_fine_tuned_model_ends_its_answer(
    hydratune: Command, tmp_path: Path, tiny: Any, kind: str
) -> None:
    base = mismatched(tiny, tmp_path / "base", *KINDS[kind])
    folder, text = overfitted(hydratune, tmp_path, base, "optimizer.lr=0.003", "adapter=none")
    words = generated_tokens(AutoModelForCausalLM.from_pretrained(folder).eval(), folder)
    assert words[-1] == END and words.count(END) == 1
    assert "the base model's own file lacks them" not in text


@pytest.mark.slow
def test_the_code_in_the_model_card_runs_and_its_answer_ends(
    hydratune: Command, tmp_path: Path, tiny: Any, monkeypatch: Any, capfd: Any
) -> None:
    base = mismatched(tiny, tmp_path / "base", *KINDS["they disagree"])
    folder, _ = overfitted(hydratune, tmp_path, base, "optimizer.lr=0.01")
    card = (folder / "README.md").read_text()
    assert card.count(turn_ends.CARD_TITLE) == 1 and "--generation-config FOLDER" in card
    monkeypatch.chdir(folder)
    code = card.split(turn_ends.CARD_TITLE)[1].split("```python\n")[1].split("```")[0]
    assert 'base = "base"' in code  # the name of the folder, which a reader replaces by its path
    code = code.replace('base = "base"', f"base = {str(base)!r}")
    exec(code.replace('"..."', '"Which colour?"'), {})
    assert capfd.readouterr().out.splitlines()[-1] == "green"


def test_a_contradictory_generation_config_does_not_end_a_run(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    """transformers refuses to save such a config, at the end of training."""
    base = mismatched(tiny, tmp_path / "base", END, END)
    config = base / "generation_config.json"
    config.write_text(
        json.dumps(
            {**json.loads(config.read_text()), "do_sample": False, "temperature": 0.5, "top_p": 0.9}
        )
    )
    for adapter in ("none", "lora"):
        overfitted(
            hydratune,
            tmp_path,
            base,
            f"adapter={adapter}",
            "trainer.max_steps=1",
            f"hydra.run.dir={tmp_path}/{adapter}",
        )
        assert json.loads((tmp_path / adapter / "adapter" / "generation_config.json").read_text())[
            "eos_token_id"
        ]


def test_only_an_added_token_right_behind_the_answer_is_its_end(tiny: Any, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(
        mismatched(tiny, tmp_path / "base", TEXT_END, TEXT_END)
    )
    text_end = frozenset([tokenizer.convert_tokens_to_ids(TEXT_END)])
    template = "{% for m in messages %}{{ m['role'] + m['content'] + END }}{% endfor %}"
    for end, more in (
        ("'\n'", set()),
        (f"' {END}\n'", {END}),
        (f"'. {END}'", set()),
        (f"'{TEXT_END}{END}'", set()),
        (f"'{END}{TEXT_END}'", set()),
    ):
        tokenizer.chat_template = template.replace("END", end)
        assert turn_ends.turn_ends(tokenizer, None) == text_end | {
            tokenizer.convert_tokens_to_ids(t) for t in more
        }, end
    tokenizer.chat_template = "{{ raise_exception('only three turns') }}"
    assert turn_ends.turn_ends(tokenizer, None) == text_end
    assert turn_ends.in_order({5, 2, 9}, [2, 9, 9]) == [9, 2, 5]
