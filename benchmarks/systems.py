"""Trains one system on the rows of a file, in this process, and writes down what it cost.

    python benchmarks/systems.py ours rows.json result.json

All systems have the same rows in the same order, the same PEFT adapter to begin with, AdamW, the
same clipping, loss divided by the trained tokens of the optimizer batch, and glibc's allocator set
alike. Measured is training alone, from the call that starts it to the end of its last step:
loading, tokens, masks and torch's own lazy imports come before.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import parts
from fresh import Meter, peak_memory, resident_memory
from workloads import Rows, padded, settings


def ours(
    config: Any, rows: Rows, meter: Meter, layers: int | None, part: str | None
) -> torch.nn.Module:
    """What ``hydratune train`` calls, with a logger that reads the clock; one validation row, after
    the last step.
    """
    import lightning
    from lightning.pytorch.loggers.logger import Logger

    from hydratune.adapters import attach
    from hydratune.data.encoding.encoded import Encoded
    from hydratune.models import loading
    from hydratune.models.compute import compute_of
    from hydratune.records.run_directory import RunDirectory
    from hydratune.training.fit import fit
    from hydratune.training.patches import with_lean_layers
    from hydratune.training.task import TrainingTask

    class Steps(Logger):
        name, version = "benchmark", "0"

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if "train/loss" in metrics:
                meter.step(metrics["train/loss"])

    compute = compute_of(config)
    with parts.without(part, config) if part else nullcontext():
        base = loading.load_model(config.model, loading.locate(config.model), compute)
        base = attach.prepare_quantised(truncated(base, layers), config.model.quantization)
        lightning.seed_everything(config.seed, verbose=False)
        model = with_lean_layers(attach.add_adapter(base, config.adapter))
        begin(model, meter)
        train = [
            Encoded(tuple(ids), tuple(loss_mask))
            for ids, loss_mask in zip(rows.ids, rows.loss_mask, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            record = RunDirectory(Path(folder))
            task = TrainingTask(model, train, train[:1], config, record, compute, Steps())
            fit(task)
    return model


def plain(
    config: Any,
    rows: Rows,
    meter: Meter,
    layers: int | None,
    part: str | None,
    exact: bool = False,
    alone: bool = False,
) -> Any:
    """transformers and PEFT in the loop that their documentation shows: padded batch, full logits.

    ``exact``: cross-entropy of the logits in float64. PyTorch's in fp32 is 8e-6 too low per token
    on a CPU with a vocabulary of 49,152, and its softmax 9e-6 off (measured). ``alone``: row by
    row, unpadded.
    """
    from peft import get_peft_model

    from hydratune.models import hardware

    accelerator = hardware.accelerator(config)
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    precision = hardware.precision(config, accelerator)
    base = base_model(config, layers, hardware.weights_dtype(config, precision))
    torch.manual_seed(config.seed)
    model = get_peft_model(base, lora(config)).to(device)
    mixed = (
        torch.autocast(device.type, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()
    )
    optimizer = torch.optim.AdamW(
        trainable(model), lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay
    )
    model.train()
    begin(model, meter)
    for step in rows.steps:
        count = sum(sum(rows.loss_mask[i]) for micro in step for i in micro)
        total = torch.zeros((), device=device)
        for numbers in [[i] for micro in step for i in micro] if alone else step:
            ids, mask, labels = (t.to(device) for t in padded(rows, numbers))
            with mixed:
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            scores, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            scores = scores[targets != -100].double() if exact else scores.float()
            loss = (
                F.cross_entropy(
                    scores, targets[targets != -100] if exact else targets, reduction="sum"
                )
                / count
            )
            loss.backward()
            total += loss.detach()
        if config.trainer.gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(trainable(model), config.trainer.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()
        meter.step(total.item())
    return model


def trl(
    config: Any,
    rows: Rows,
    meter: Meter,
    layers: int | None,
    part: str | None,
    validating: bool = False,
    **options: Any,
) -> Any:
    """TRL's SFTTrainer on the same tokens; everything not named here is its default.

    ``validating``: as often as hydratune does.
    """
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from hydratune.models import loading

    losses: list[torch.Tensor] = []

    class Recorded(SFTTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            losses.append(super().training_step(*args, **kwargs))
            return losses[-1]

    class Steps(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.step(losses[-1].item())

    assert all(len(step) == 1 for step in rows.steps), "one micro-batch per step"
    if validating:
        each = {"eval_strategy": "steps", "eval_steps": max(1, len(rows.steps) // rows.validations)}
        options = {**options, **each, "per_device_eval_batch_size": config.data.batch_size}
    in_order = [i for step in rows.steps for micro in step for i in micro]
    columns = {
        "input_ids": [rows.ids[i] for i in in_order],
        "completion_mask": [list(map(int, rows.loss_mask[i])) for i in in_order],
    }
    base = base_model(config, layers, torch.float32)
    torch.manual_seed(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder,
            use_cpu=True,
            bf16=False,
            max_length=None,
            completion_only_loss=True,
            per_device_train_batch_size=config.data.batch_size,
            num_train_epochs=1,
            learning_rate=config.optimizer.lr,
            lr_scheduler_type="constant",
            max_grad_norm=config.trainer.gradient_clip_val or 0.0,
            train_sampling_strategy="sequential",
            seed=config.seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        tokenizer = loading.load_tokenizer(config.model, loading.locate(config.model))
        data = {"train_dataset": Dataset.from_dict(columns), "processing_class": tokenizer}
        if validating:
            ids, masks = rows.validation
            data["eval_dataset"] = Dataset.from_dict(
                {"input_ids": ids, "completion_mask": [list(map(int, mask)) for mask in masks]}
            )
        trainer = Recorded(base, arguments, **data, peft_config=lora(config), callbacks=[Steps()])
        wanted = [
            [t if m else -100 for t, m in zip(rows.ids[i], rows.loss_mask[i], strict=True)]
            for i in in_order
        ]
        assert (
            list(trainer.train_dataset["labels"]) == wanted
            and list(trainer.train_dataset["input_ids"]) == columns["input_ids"]
        )
        begin(trainer.model, meter)
        trainer.train()
        assert sum("eval_loss" in entry for entry in trainer.state.log_history) == (
            rows.validations if validating else 0
        )
    return trainer.model


System = Callable[[Any, Rows, Meter, int | None, str | None], torch.nn.Module]
SYSTEMS: dict[str, System] = {
    "ours": ours,
    "trl": partial(trl, gradient_checkpointing=False),
    "trl-validating": partial(trl, gradient_checkpointing=False, validating=True),
    "trl-checkpointing": partial(trl, gradient_checkpointing=True),
    "trl-padding-free": partial(trl, gradient_checkpointing=False, padding_free=True),
    "plain": plain,
    "plain-exact": partial(plain, exact=True),
    "plain-alone": partial(plain, exact=True, alone=True),
}


def base_model(config: Any, layers: int | None, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    from hydratune.models import loading

    source = loading.locate(config.model)
    return truncated(
        AutoModelForCausalLM.from_pretrained(source.name, revision=source.revision, dtype=dtype),
        layers,
    )


def truncated(model: Any, layers: int | None) -> Any:
    """The first ``layers`` layers of a Llama, to try things quickly."""
    if layers is not None:
        model.model.layers = model.model.layers[:layers]
        model.config.num_hidden_layers = layers
    return model


def lora(config: Any) -> Any:
    """What hydratune's ``adapter=lora`` is in PEFT's words."""
    from peft import LoraConfig

    return LoraConfig(
        r=config.adapter.r,
        lora_alpha=config.adapter.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def save(model: torch.nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(
        {
            name: p.detach().float().cpu().contiguous()
            for name, p in model.named_parameters()
            if p.requires_grad
        },
        path,
    )


def begin(model: torch.nn.Module, meter: Meter) -> None:
    """Notes which adapter training begins with, does what torch does only once, and starts the
    clock.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            assert "lora_B" not in name or not parameter.any(), f"{name} does not begin at 0"
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
    meter.adapter = digest.hexdigest()[:16]
    if meter.save_start:
        save(model, meter.save_start)
    weight = torch.ones(2, requires_grad=True)
    weight.sum().backward()
    torch.optim.AdamW([weight]).step()  # imports a part of torch
    meter.loaded, meter.weights = (
        resident_memory(),
        sum(p.untyped_storage().nbytes() for p in model.parameters() if not p.requires_grad),
    )
    meter.start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("rows", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--layers", type=int, help="only the first layers of the model")
    parser.add_argument("--without", choices=parts.PARTS, help="ours, with one part switched off")
    parser.add_argument("--save", type=Path, help="where the trained adapter goes, as safetensors")
    parser.add_argument(
        "--save-start", type=Path, help="likewise the adapter that training begins with"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], help="settings of hydratune for this system alone"
    )
    args = parser.parse_args()
    from hydratune.models.hardware import keep_memory

    keep_memory()
    rows, meter = Rows.read(args.rows), Meter()
    meter.save_start = args.save_start
    model = SYSTEMS[args.system](
        settings([*rows.overrides, *args.set]), rows, meter, args.layers, args.without
    )
    if args.save:
        save(model, args.save)
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    memory = {
        "peak_memory": peak_memory(),
        "loaded_memory": meter.loaded,
        "base_weights": meter.weights,
        "gpu_memory": gpu,
    }
    args.result.write_text(json.dumps({**meter.result(), **memory, "adapter": meter.adapter}))


if __name__ == "__main__":
    main()
