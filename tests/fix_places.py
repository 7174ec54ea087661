"""What commands of the cases find in their folder: rows, models, adapters and runs.

Each is made once per session by the function of its name, and copied into the folder of a case.
"""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compared_runs import write_run
from conftest import SMALL, write_rows
from prepared_sets import records
from small_models import SIZES

Command = Callable[..., tuple[int, str]]


def put(name: str, into: Path, store: Path, hydratune: Command) -> None:
    """Copy the thing called ``name`` into a folder. ``store`` keeps it for the next case.

    ``hydratune``: the command line, in the current folder.
    """
    kept = store / name
    if not kept.is_dir():
        kept.mkdir()
        globals()[name](kept, hydratune)
    shutil.copytree(kept, into, dirs_exist_ok=True)


def rows(folder: Path, _: Command) -> None:
    """Files of rows that can be trained on."""
    write_rows(folder / "rows.jsonl", records(40))
    write_rows(folder / "rows.csv", records(40))


def stored(folder: Path, _: Command) -> None:
    """A data set of Hugging Face that was saved to disk, ``stored``."""
    import datasets

    datasets.Dataset.from_list(records(40)).save_to_disk(folder / "stored")


def compared(folder: Path, _: Command) -> None:
    """Run directories that were written without training, in ``compared``."""
    values: dict[str, Any] = {"cost/cpu_seconds": 3.0, "own": 1.0}
    for name in ("a", "b"):
        write_run(folder / "compared" / name, seed=ord(name), **values)
    write_run(folder / "compared" / "other", **{**values, "eval/field_f1": 0.5})
    write_run(folder / "compared" / "broken", loss=None, **values)


def prepared(folder: Path, hydratune: Command) -> None:
    """A prepared data set, ``prepared``."""
    write_rows(folder / "rows.jsonl", records(40))
    words = ("data=files", "data.train=rows.jsonl", "output=prepared")
    with contextlib.chdir(folder):
        code, text = hydratune("prepare", "model=tiny", *words)
    assert code == 0, text


def run(folder: Path, hydratune: Command) -> None:
    """A finished run, ``run``."""
    _train(folder, hydratune, "adapter.r=4", "hydra.run.dir=run")


def full(folder: Path, hydratune: Command) -> None:
    """A finished run that trained the whole model, ``full``."""
    _train(folder, hydratune, "adapter=none", "hydra.run.dir=full")


def texts(folder: Path, hydratune: Command) -> None:
    """A finished run on texts without answers, ``texts``."""
    write_rows(folder / "texts.jsonl", [{"text": f"{row['prompt']} Yes."} for row in records(40)])
    words = ("data=files", "data.train=texts.jsonl", "hydra.run.dir=texts")
    _train(folder, hydratune, *words)


def local_run(folder: Path, hydratune: Command) -> None:
    """A finished run on a copy of the toy model, which it has from ``it's``."""
    shutil.copytree(toy(), folder / "it's", ignore=shutil.ignore_patterns("digests.json"))
    _train(folder, hydratune, "model=local", 'model.path="it\'s"', "hydra.run.dir=local_run")


def _train(folder: Path, hydratune: Command, *words: str) -> None:
    """Make a run that takes about a second, in ``folder``."""
    with contextlib.chdir(folder):
        code, text = hydratune("train", *SMALL, *words)
    assert code == 0, text


def toy() -> Path:
    """Return the folder of the toy model."""
    from hydratune.models.sources.tiny import TinyModel

    return Path(TinyModel(name="tiny").locate().name)


def models(folder: Path, _: Command) -> None:
    """Models with the tokenizer of the toy model, named for what is special about them."""
    llama = {"num_key_value_heads": 2}
    for name, kind, values in (
        ("base", "Llama", llama),
        ("deep", "Llama", {**llama, "num_hidden_layers": 11}),
        ("window", "Mistral", {**llama, "sliding_window": 64}),
        ("phi", "Phi3", {"pad_token_id": 0}),
        ("padded", "Bart", {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 4}),
        ("experts", "Mixtral", {**llama, "num_local_experts": 2}),
        ("more_tokens", "Llama", {**llama, "vocab_size": 900}),
    ):
        _build(folder / name, kind, **values)
    for name in ("bare", "short", "moe", "it's base", "base_of_others"):
        shutil.copytree(folder / "base", folder / name)
    change_json(folder / "short" / "config.json", max_position_embeddings=512)
    change_json(folder / "moe" / "config.json", output_router_logits=True, aux_loss_coef=0.01)
    (folder / "bare" / "chat_template.jinja").rename(folder / "chat.jinja")


def _build(folder: Path, kind: str, **values: Any) -> None:
    """Write a random model of ``kind`` beside the tokenizer of the toy model."""
    import torch
    import transformers

    shutil.copytree(toy(), folder, ignore=shutil.ignore_patterns("digests.json", "*.safetensors"))
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    given = {"vocab_size": size, "max_position_embeddings": 2048, **values}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **given})
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    model.generation_config = transformers.GenerationConfig.from_pretrained(toy())
    model.save_pretrained(folder)


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
