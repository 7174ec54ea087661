import collections
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SMALL, edited, write_rows
from hydratune import digests

Command = Callable[..., tuple[int, str]]
# for tests that use one file three times
SAME_ROWS = (
    "data.quality.exact_leaks=warn",
    "data.quality.group_leaks=warn",
)


def only_run(root: Path, name: str = "smoke") -> Path:
    (run,) = (root / "outputs" / name).iterdir()
    return run


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open() as stream:
        return [
            {k: v for k, v in row.items() if k != "tokens_per_second"}
            for row in csv.DictReader(stream)
        ]


def metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def test_smoke_run_leaves_a_whole_record(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune("train", "debug=smoke")
    assert code == 0, text
    run = only_run(tmp_path)
    names = {p.name for p in run.iterdir()}
    assert {
        "config.yaml",
        "status.json",
        "environment.json",
        "data.json",
        "metrics.json",
        "history.csv",
        "predictions.jsonl",
        "predictions_base.jsonl",
        "predictions_fewshot.jsonl",
        "adapter",
        "checkpoints",
        "run.log",
        ".hydra",
    } <= names
    assert "wandb" not in names  # WANDB_MODE=disabled wins over tracking.mode
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    values = metrics(run)
    wanted = [
        "train/loss",
        "val/loss",
        "objective",
        "eval/field_f1",
        "base/schema_valid",
        "fewshot/nll",
        "cost/cpu_seconds",
    ]
    assert all(isinstance(values[key], float) for key in wanted)
    assert (
        values["objective"]
        == values["val/loss"]
        == min(float(r["val/loss"]) for r in history(run) if r["val/loss"])
    )
    assert values["settings"]["eval"]["decoding"] == "greedy"
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert (
        len(rows) == 4
        and {
            "id",
            "item_hash",
            "prompt_hash",
            "prompt",
            "prediction",
            "reference",
            "finish_reason",
            "scores",
        }
        <= rows[0].keys()
    )
    assert "fine-tuned" in text and "field F1" in text and "hydratune evaluate run=" in text


def test_checkpoint_holds_the_trained_parameters_only(hydratune: Command, tmp_path: Path) -> None:
    assert hydratune("train", *SMALL)[0] == 0
    for name in ("best", "last"):
        state = torch.load(only_run(tmp_path) / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert state["state_dict"] and all("lora_" in key for key in state["state_dict"])
        assert (
            state["optimizer_states"]
            and state["lr_schedulers"]
            and set(state["ranks"][0]["rng"]) == {"python", "torch", "cuda", "objective"}
        )


def test_best_checkpoint_may_lie_inside_an_epoch(hydratune: Command, tmp_path: Path) -> None:
    """At this rate a toy's losses go up and down, and where they are lowest depends on the
    processor: some seed has it inside.
    """
    for seed in range(6):
        run = tmp_path / str(seed)
        code, text = hydratune(
            "train",
            *SMALL,
            "data.batch_size=1",
            "trainer.max_steps=null",
            "trainer.validations_per_epoch=8",
            "optimizer=sgd",
            "optimizer.lr=30",
            "optimizer.schedule=constant",
            "optimizer.warmup_ratio=0.9",
            f"seed={seed}",
            f"hydra.run.dir={run}",
        )
        assert code == 0, text
        losses = {int(row["step"]): float(row["val/loss"]) for row in history(run)}
        assert len(losses) == 8
        best = min(losses, key=lambda step: losses[step])
        steps = {
            name: torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["global_step"]
            for name in ("best", "last")
        }
        assert steps == {"best": best, "last": 8}
        assert metrics(run)["val/loss"] == losses[best]
        if best < 8:
            return
    pytest.fail("the last validation was the best with every seed: this test has said nothing")


def test_same_seed_same_history_and_another_seed_another(
    hydratune: Command, tmp_path: Path
) -> None:
    runs = [tmp_path / name for name in "abc"]
    for run, seed in zip(runs, (1, 1, 2), strict=True):
        assert hydratune("train", *SMALL, f"seed={seed}", f"hydra.run.dir={run}")[0] == 0
    assert history(runs[0]) == history(runs[1])
    assert history(runs[0]) != history(runs[2])


def test_accumulation_equals_one_large_batch(hydratune: Command, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in "ab"]
    assert hydratune("train", *SMALL, "data.batch_size=4", f"hydra.run.dir={runs[0]}")[0] == 0
    assert (
        hydratune(
            "train",
            *SMALL,
            "data.batch_size=1",
            "trainer.accumulate_grad_batches=4",
            f"hydra.run.dir={runs[1]}",
        )[0]
        == 0
    )
    whole, parts = history(runs[0]), history(runs[1])
    assert len(whole) == len(parts) == 2
    for a, b in zip(whole, parts, strict=True):
        for key in ("train/loss", "grad_norm", "lr"):
            assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-4)


def test_first_step_equals_plain_transformers_and_peft(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    """Padded batch, full logits, -100 labels, transformers' own loss; the rows of the run's first
    step.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from hydratune.data.datamodule import OptimizerBatches
    from hydratune.data.encoding.encoder import ChatEncoder
    from hydratune.data.sets import load_sets
    from hydratune.data.sources.contracts import ContractsData
    from hydratune.settings.commands import load

    assert hydratune("train", *SMALL)[0] == 0
    config = load(only_run(tmp_path) / "config.yaml")
    assert isinstance(config.data, ContractsData)
    encoder = ChatEncoder(tiny[2], frozenset([tiny[2].eos_token_id]))
    encoded = [encoder.encode(row) for row in load_sets(config.data, config.seed).train]
    numbers, _ = next(
        iter(
            OptimizerBatches(
                [e.supervised for e in encoded], config.data.batch_size, 1, config.seed
            )
        )
    )
    batch = [encoded[i] for i in numbers]
    longest = max(len(e.ids) for e in batch)
    ids = torch.tensor([[*e.ids, *[0] * (longest - len(e.ids))] for e in batch])
    labels = torch.tensor(
        [
            [t if m else -100 for t, m in zip(e.ids, e.loss_mask, strict=True)]
            + [-100] * (longest - len(e.ids))
            for e in batch
        ]
    )
    mask = torch.tensor([[1] * len(e.ids) + [0] * (longest - len(e.ids)) for e in batch])
    plain = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny[1].name),
        LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    expected = plain(input_ids=ids, attention_mask=mask, labels=labels).loss.item()
    assert float(history(only_run(tmp_path))[0]["train/loss"]) == pytest.approx(expected, rel=1e-5)


def test_adapter_loads_with_plain_peft_and_gives_the_same_likelihood(
    hydratune: Command, tmp_path: Path, tiny: Any
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert hydratune("train", *SMALL, "optimizer.lr=0.01")[0] == 0
    run = only_run(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(run / "adapter")
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny[1].name), str(run / "adapter")
    ).eval()
    base_nll = tuned_nll = tokens = 0.0
    for line in (run / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_dict=False
        )
        answer = tokenizer(row["reference"] + "<|im_end|>", add_special_tokens=False).input_ids
        with torch.no_grad():
            for total in ("tuned", "base"):
                with model.disable_adapter() if total == "base" else torch.no_grad():
                    logits = model(input_ids=torch.tensor([prompt + answer])).logits[
                        0, len(prompt) - 1 : -1
                    ]
                nll = float(
                    torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
                )
                if total == "tuned":
                    tuned_nll += nll
                else:
                    base_nll += nll
        tokens += len(answer)
    assert tuned_nll / tokens == pytest.approx(metrics(run)["eval/nll"], abs=1e-4)
    assert abs(base_nll - tuned_nll) / tokens > 1e-3  # the adapter did something


@pytest.mark.parametrize("source", ["adapter", "predictions"])
def test_evaluate_reproduces_the_metrics(hydratune: Command, tmp_path: Path, source: str) -> None:
    assert hydratune("train", *SMALL)[0] == 0
    run = only_run(tmp_path)
    code, text = hydratune("evaluate", f"run={run}", f"source={source}")
    assert code == 0, text
    assert "are reproduced" in text
    again = json.loads((run / "evaluation.json").read_text())
    assert again["eval/nll"] == pytest.approx(metrics(run)["eval/nll"], abs=1e-6)
    assert (tmp_path / "outputs" / "smoke").is_dir() and len(
        list((tmp_path / "outputs").glob("*/*"))
    ) == 1  # no run of its own


def test_evaluate_from_elsewhere_says_where_the_run_was_started(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    files = [f"data.{split}=a.jsonl" for split in ("train", "validation", "test")]
    run = tmp_path / "run"
    assert (
        hydratune("train", *SMALL, "data=files", *files, *SAME_ROWS, f"hydra.run.dir={run}")[0] == 0
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, text = hydratune("evaluate", f"run={run}")
    assert code == 1 and "data.train = a.jsonl" in text and f"started in {tmp_path}" in text
    assert hydratune("evaluate", f"run={run}", "source=predictions")[0] == 0
    monkeypatch.chdir(tmp_path)
    assert hydratune("evaluate", f"run={run}", "accelerator=cpu")[0] == 0
    environment = json.loads((run / "environment.json").read_text())
    edited(run / "environment.json", json.dumps({**environment, "base": "tiny:another"}))
    code, text = hydratune("evaluate", f"run={run}")
    assert code == 1 and "the base model has changed" in text


def test_two_processes_never_share_a_run_directory(hydratune: Command, tmp_path: Path) -> None:
    from hydratune.records.run_directory import alone

    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run"):
        code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")
    assert code == 2 and "another process is working in" in text
    assert hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")[0] == 0


def test_evaluate_notices_changed_predictions(hydratune: Command, tmp_path: Path) -> None:
    assert hydratune("train", *SMALL)[0] == 0
    file = only_run(tmp_path) / "predictions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(
        "".join(json.dumps({**row, "prediction": row["reference"]}) + "\n" for row in rows)
    )
    code, text = hydratune("evaluate", f"run={only_run(tmp_path)}", "source=predictions")
    assert code == 1 and f"{file} is not as it was written" in text
    (file.parent / "digests.json").unlink()
    code, text = hydratune("evaluate", f"run={only_run(tmp_path)}", "source=predictions")
    assert code == 1
    assert "differ from metrics.json" in text and "eval/exact_match" in text


def test_full_fine_tuning_runs_and_is_evaluated_again(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune("train", *SMALL, "adapter=none", "optimizer.lr=1e-3")
    assert code == 0, text
    assert (only_run(tmp_path) / "adapter" / "model.safetensors").is_file()
    assert hydratune("evaluate", f"run={only_run(tmp_path)}")[0] == 0


def test_overfit_brings_the_loss_down(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune(
        "train",
        "debug=overfit",
        "model=tiny",
        "adapter=none",
        "optimizer.lr=0.01",
        "data.overfit_rows=2",
        "data.difficulty=easy",
        "trainer.max_epochs=40",
        "evaluation.max_new_tokens=4",
    )
    assert code == 0, text
    losses = [float(r["train/loss"]) for r in history(only_run(tmp_path, "overfit"))]
    assert losses[-1] < 0.5 * losses[0]


def test_early_stopping_stops(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune(
        "train",
        *SMALL,
        "data.batch_size=1",
        "trainer.max_steps=null",
        "trainer.early_stopping_patience=1",
        "trainer.validations_per_epoch=8",
        "optimizer.lr=0.1",
        "optimizer.schedule=constant",
    )
    assert code == 0, text
    run = only_run(tmp_path)
    steps = len(history(run))
    assert steps < 8 and f"stopped early after step {steps} of 8" in text  # within the only epoch
    assert metrics(run)["val/loss"] == min(
        float(r["val/loss"]) for r in history(run) if r["val/loss"]
    )


def test_mixed_precision_and_dropout_run(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune(
        "train", *SMALL, "trainer.precision=bf16-mixed", "adapter.lora_dropout=0.1"
    )
    assert code == 0, text
    assert math.isfinite(metrics(only_run(tmp_path))["val/loss"])


def test_preview_shows_the_mask_and_leaves_no_run(hydratune: Command, tmp_path: Path) -> None:
    code, text = hydratune("train", "model=tiny", "preview=2")
    assert code == 0, text
    assert "tokens trained" in text and '\u27e6{"parties"' in text
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").glob("*/*"))


def test_refused_settings_leave_no_run(hydratune: Command, tmp_path: Path) -> None:
    assert hydratune("train", *SMALL, "optimizer.lr=0")[0] == 2
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").glob("*/*"))


@pytest.mark.parametrize("name", ["../../escape", "/tmp/escape", "a/b", "..", ""])
def test_run_name_cannot_leave_outputs(hydratune: Command, tmp_path: Path, name: str) -> None:
    code, text = hydratune("train", *SMALL, f"name='{name}'")
    assert code == 2, text
    assert "must stay there" in text
    assert not list(tmp_path.parent.glob("escape*"))


def test_folder_with_other_files_is_left_as_it_was(hydratune: Command, tmp_path: Path) -> None:
    for folder in (tmp_path / "mine", tmp_path / "outputs" / "mine"):
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "keep.yaml").write_text("a: 1")
        assert hydratune("train", *SMALL, "optimizer.lr=0", f"hydra.run.dir={folder}")[0] == 2
        assert hydratune("train", "model=tiny", "preview=1", f"hydra.run.dir={folder}")[0] == 0
        assert (folder / ".hydra" / "keep.yaml").is_file()


def test_folder_whose_files_a_run_would_overwrite_is_refused(
    hydratune: Command, tmp_path: Path
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.yaml").write_text("mine: 1")
    code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/project")
    assert code == 2 and "would overwrite what is in it: config.yaml" in text
    assert [p.name for p in (tmp_path / "project").iterdir() if p.name != "run.log"] == [
        "config.yaml"
    ]
    assert (tmp_path / "project" / "config.yaml").read_text() == "mine: 1"


def test_refused_secret_is_written_nowhere(hydratune: Command, tmp_path: Path) -> None:
    secret = "hf_" + "abcdefghij" * 3
    for override in (f"tracking.entity={secret}", f"+hydra.job.env_set.HF_TOKEN={secret}"):
        code, text = hydratune("train", *SMALL, override)
        assert code == 2 and "secret" in text and secret not in text
    assert not [
        p for p in tmp_path.rglob("*") if p.is_file() and secret in p.read_text(errors="ignore")
    ]


def test_prepared_sweep_without_m_is_refused(hydratune: Command) -> None:
    code, text = hydratune("train", "sweep=learning_rate")
    assert code == 2 and "hydratune train -m sweep=learning_rate" in text


def test_finished_run_is_not_overwritten(hydratune: Command, tmp_path: Path) -> None:
    assert hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")[0] == 0
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")
    assert code == 2 and "already holds a finished run" in text
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before
    assert (tmp_path / "run" / ".hydra").is_dir()


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["adapter.target_modules=[nope]"], 2, "its linear layers: down_proj"),
        (["adapter.r=500"], 2, "no target layer is wider than"),
        (["+adapter.extra.nonsense=1"], 2, "adapter.extra.nonsense"),
        (["trainer=gpu"], 2, "no CUDA device"),
        (["data.max_length=20"], 2, "every train row was dropped"),
        (
            ["data.max_length=20", "data.overlength=error"],
            2,
            "rows are longer than data.max_length",
        ),
        (["evaluation.max_new_tokens=5000"], 2, "the model reads 2048"),
        (["optimizer.lr=1e30", "trainer.gradient_clip_val=null"], 1, "the validation loss is nan"),
    ],
)
def test_what_only_the_model_or_data_can_tell_is_refused_clearly(
    hydratune: Command, tmp_path: Path, overrides: list[str], code: int, message: str
) -> None:
    if overrides == ["trainer=gpu"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    found, text = hydratune("train", *SMALL, *overrides)
    assert (found, message in text) == (code, True), text
    status = json.loads((only_run(tmp_path) / "status.json").read_text())
    assert status["state"] == "failed" and status["error"]


def test_outputs_that_cannot_be_written(hydratune: Command, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file, not a folder")
    code, text = hydratune("train", *SMALL)
    assert code == 2, text
    assert "outputs" in text and "hydra.run.dir" in text


def test_full_disk_at_save_is_one_clear_message(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(source: Path, target: Path) -> Path:
        if str(target).endswith(".ckpt"):
            raise OSError(28, "No space left on device")
        return real(source, target)

    real = Path.replace
    monkeypatch.setattr(Path, "replace", no_space)
    code, text = hydratune("train", *SMALL)
    assert code == 1, text
    assert "No space left on device" in text and "free some space" in text
    run = only_run(tmp_path)
    assert not list(run.glob("checkpoints/*")) and not list(run.glob("checkpoints/.*"))
    assert (run / "adapter" / "adapter_model.safetensors").is_file()  # what was learnt is kept
    assert json.loads((run / "status.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", "{}", "metrics.json"),
        ("metrics.json", '{"cut', "not readable JSON"),
        ("predictions.jsonl", "", "predictions.jsonl"),
        ("config.yaml", "model: {source: nonsense}", "config.yaml"),
        ("config.yaml", "", "config.yaml"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_broken_run_directory_is_one_clear_message(
    hydratune: Command, tmp_path: Path, name: str, content: str, message: str, command: str
) -> None:
    assert hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/run")[0] == 0
    edited(tmp_path / "run" / name, content)
    words = (
        ("evaluate", f"run={tmp_path}/run", "source=predictions")
        if command == "evaluate"
        else ("compare", f"{tmp_path}/run")
    )
    code, text = hydratune(*words)
    assert "Traceback" not in text
    if command == "evaluate":
        assert code in (1, 2) and message in text
    elif message == "not readable JSON":  # nothing is left to compare
        assert code == 2 and "nothing here can be read" in text and message in text
    else:
        assert code == 0 and "run" in text


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_strangers_rows_train_with_no_other_setting(
    hydratune: Command, tmp_path: Path, kind: str
) -> None:
    def write(name: str, numbers: range) -> Path:
        turns = [
            [
                {"role": "user", "content": f"{i} plus one?"},
                {"role": "assistant", "content": str(i + 1)},
            ]
            for i in numbers
        ]
        return write_rows(tmp_path / f"{name}.{kind}", [{"messages": row} for row in turns])

    train, validation = write("train", range(40)), write("val", range(100, 106))
    code, text = hydratune(
        "train",
        "model=tiny",
        "data=files",
        f"data.train={train}",
        f"data.validation={validation}",
        "evaluation.max_new_tokens=4",
        "evaluation.bootstrap_samples=100",
    )
    assert code == 0, text
    values = metrics(only_run(tmp_path, "files"))
    assert values["settings"]["eval"]["task"] == "text" and "eval/normalised_match" in values
    rows = [
        json.loads(line)
        for line in (only_run(tmp_path, "files") / "predictions.jsonl").read_text().splitlines()
    ]
    assert rows and all(
        row["reference"] == str(int(row["prompt"][-1]["content"].split()[0]) + 1) for row in rows
    )


def test_data_error_names_file_and_line(hydratune: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n')
    code, text = hydratune("train", "model=tiny", "data=files", f"data.train={tmp_path}/bad.jsonl")
    assert code == 2
    assert "bad.jsonl:2: broken JSON" in text and "Traceback" not in text


@pytest.mark.parametrize(
    ("precision", "adapter"),
    [
        ("bf16-true", "none"),
        ("bf16-true", "freeze"),
        ("bf16-mixed", "lora"),
        ("bf16-mixed", "none"),
        ("bf16-mixed", "freeze"),
    ],
)
def test_half_precision(hydratune: Command, tmp_path: Path, precision: str, adapter: str) -> None:
    code, text = hydratune(
        "train",
        *SMALL,
        f"trainer.precision={precision}",
        f"adapter={adapter}",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert code == 0, text
    assert all(math.isfinite(float(row["train/loss"])) for row in history(tmp_path / "run"))


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "WANDB_MODE": "offline", **more}


def test_ctrl_c_keeps_the_adapter_and_says_stopped(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "hydratune",
        "train",
        *SMALL,
        "trainer.max_steps=null",
        "trainer.max_epochs=5000",
        f"hydra.run.dir={tmp_path}/run",
    ]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        history_file, deadline = tmp_path / "run" / "history.csv", time.monotonic() + 90
        while not history_file.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 130, text
    run = tmp_path / "run"
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert history(run)
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "delay",
    [
        0.15,
        *(
            pytest.param(seconds, marks=pytest.mark.slow)
            for seconds in (0.0, 0.02, 0.05, 0.1, 0.3, 0.5, 1.0)
        ),
    ],
)
def test_signals_after_the_first_do_not_cost_the_adapter(tmp_path: Path, delay: float) -> None:
    with start(tmp_path, "trainer.max_steps=null", "trainer.max_epochs=5000") as process:
        deadline = time.monotonic() + 90
        while (
            not (tmp_path / "run" / "history.csv").exists()
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            time.sleep(0.05)
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            time.sleep(delay)
        text = process.communicate(timeout=60)[0]
    late = (-signal.SIGINT, -signal.SIGTERM)  # when Python itself was ending
    assert process.returncode in (130, *late), text
    assert "Traceback" not in text and "the adapter so far is in" in text
    run = tmp_path / "run"
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert (run / "adapter" / "adapter_model.safetensors").is_file() and digests.damaged(
        run / "adapter"
    ) is None


def test_a_signal_while_the_adapter_of_a_whole_training_is_saved_waits_for_it(
    hydratune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydratune.adapters import attach
    from hydratune.training import fit

    save, load = attach.save, fit.best_weights

    def saving(*args: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        save(*args)

    def loading(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return load(*args)

    for module, name, arriving in ((attach, "save", saving), (fit, "best_weights", loading)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, arriving)
            code, text = hydratune("train", *SMALL, f"hydra.run.dir={tmp_path}/{name}")
        assert code == 130, text
        assert (tmp_path / name / "adapter" / "adapter_model.safetensors").is_file()
        assert json.loads((tmp_path / name / "status.json").read_text())["state"] == "stopped"


def test_a_signal_that_nobody_noticed_is_not_the_last_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hydratune.experiment import interrupts

    monkeypatch.setattr(interrupts, "_ending", interrupts._Ending())
    with pytest.raises(KeyboardInterrupt):
        interrupts.interrupt(signal.SIGINT, None)
    interrupts.interrupt(signal.SIGINT, None)
    assert interrupts._ending.asked_at is not None
    interrupts._ending.asked_at -= 31  # dropped by Python, in a destructor say
    with pytest.raises(KeyboardInterrupt):
        interrupts.interrupt(signal.SIGTERM, None)
    interrupts._ending.saving = True
    interrupts._ending.asked_at -= 1000
    interrupts.interrupt(signal.SIGINT, None)  # however long it takes to save


def test_secret_of_the_environment_is_in_no_file(tmp_path: Path) -> None:
    canary = "canary-7f3a9b1c5d"
    command = [
        sys.executable,
        "-m",
        "hydratune",
        "train",
        *SMALL,
        "tracking.log_predictions=true",
        "tracking.log_adapter=true",
        f"hydra.run.dir={tmp_path}/run",
    ]
    done = subprocess.run(
        command,
        env=environment(HF_TOKEN=canary, MY_API_KEY=canary),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file() and not p.is_symlink()]
    assert any(p.suffix == ".wandb" for p in files)
    assert not [p for p in files if canary.encode() in p.read_bytes()]
    assert canary not in done.stdout + done.stderr


def test_ctrl_c_during_a_checkpoint_waits_for_it(tmp_path: Path) -> None:
    """Interrupted in its midst, torch's zip writer raises what a full disk raises."""
    from hydratune.training.checkpoints import AtomicCheckpointIO

    class Interrupting:
        def __reduce__(self) -> tuple[type, tuple[()]]:
            signal.raise_signal(signal.SIGINT)  # while it is pickled
            return (collections.OrderedDict, ())

    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint(
            {"x": Interrupting(), "y": torch.ones(3)}, tmp_path / "last.ckpt"
        )
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["y"].tolist() == [1, 1, 1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def start(tmp_path: Path, *overrides: str) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-m",
        "hydratune",
        "train",
        *SMALL,
        *overrides,
        f"hydra.run.dir={tmp_path}/run",
    ]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_closed_pipe_does_not_end_the_run(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(90) == 0
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"


def test_closed_terminal_keeps_the_adapter(tmp_path: Path) -> None:
    with start(tmp_path, "trainer.max_steps=null", "trainer.max_epochs=5000") as process:
        deadline = time.monotonic() + 90
        while not (tmp_path / "run" / "history.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "stopped"
    assert list((tmp_path / "run" / "adapter").glob("*.safetensors"))


def test_run_in_the_folder_of_a_failed_one_keeps_none_of_its_files(
    hydratune: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert hydratune("train", *SMALL, f"hydra.run.dir={run}")[0] == 0
    status = json.loads((run / "status.json").read_text())
    edited(run / "status.json", json.dumps({**status, "state": "stopped"}))
    assert hydratune("train", *SMALL, "adapter.r=9999", f"hydra.run.dir={run}")[0] == 2
    assert (
        not (run / "adapter").exists()
        and not (run / "metrics.json").exists()
        and not (run / "history.csv").exists()
    )
    assert (
        list((run / "previous" / "adapter").glob("*.safetensors"))
        and (run / "previous" / "metrics.json").exists()
    )


def test_few_shot_prompt_takes_as_many_examples_as_fit(hydratune: Command, tmp_path: Path) -> None:
    files = [f"data.{split}={tmp_path}/{split}.jsonl" for split in ("train", "validation", "test")]
    for length, shown in (("word " * 140, "instead of 3 examples"), ("word " * 300, "is skipped")):
        rows = [{"prompt": f"{i} {length}", "completion": "yes"} for i in range(9)]
        for split in ("train", "validation", "test"):
            write_rows(tmp_path / f"{split}.jsonl", rows)
        code, text = hydratune(
            "train",
            *SMALL,
            "data=files",
            *files,
            *SAME_ROWS,
            "evaluation.baselines=[fewshot]",
            "evaluation.shots=3",
            "model.context_window=1500",
            "data.max_length=1400",
            f"hydra.run.dir={tmp_path}/{len(length)}",
        )
        assert code == 0, text
        assert shown in text
        found = (
            "fewshot"
            in json.loads((tmp_path / str(len(length)) / "metrics.json").read_text())["settings"]
        )
        assert found == ("instead" in shown)


def test_cached_baseline_has_the_groups_of_this_run(hydratune: Command, tmp_path: Path) -> None:
    pairs = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(9)]
    for name, more in (("plain", {}), ("grouped", {"group": "g"})):
        rows = [{**pair, **more} for pair in pairs]
        files = [
            f"data.{split}={write_rows(tmp_path / name / f'{split}.jsonl', rows)}"
            for split in ("train", "validation", "test")
        ]
        run = f"hydra.run.dir={tmp_path}/{name}/run"
        code, text = hydratune(
            "train", *SMALL, "data=files", *files, *SAME_ROWS, "evaluation.baselines=[base]", run
        )
        assert code == 0, text
    assert "taken from the cache" in text
    stored = [
        json.loads(line)
        for line in (
            (tmp_path / "grouped" / "run" / "predictions_base.jsonl").read_text().splitlines()
        )
    ]
    assert {row["group"] for row in stored} == {"g"}


def test_losses_over_different_tokens_name_no_best_run(hydratune: Command, tmp_path: Path) -> None:
    turns = [
        {"role": role, "content": f"{role} {i}"} for i in range(2) for role in ("user", "assistant")
    ]
    file = write_rows(tmp_path / "rows.jsonl", [{"messages": turns}] * 4)
    files = [f"data.{split}={file}" for split in ("train", "validation", "test")]
    for train_on in ("all", "last"):
        run = f"hydra.run.dir={tmp_path}/runs/{train_on}"
        assert (
            hydratune(
                "train", *SMALL, "data=files", *files, *SAME_ROWS, f"data.train_on={train_on}", run
            )[0]
            == 0
        )
    code, text = hydratune("compare", str(tmp_path / "runs"))
    assert code == 0 and "no best run" in text
