"""Train every adapter on the real base for a few steps, and show its loss, size and reloading.

    python benchmarks/methods.py                   all of conf/adapter, and QLoRA; a process each
    python benchmarks/methods.py --only lora,dora  some of them
    python benchmarks/methods.py --steps 40 --set data.max_length=512

Rows are the built-in contracts, shortened. Loss before: of the untouched base. Reload: the largest
difference of any logit of four validation rows (they reach 40) between the trained model and what
plain PEFT loads from disk on the untouched base; up to 5e-4 is fp32 rounding, because plain LoRA
and converted starts are computed in another order after loading.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONF = Path(__file__).parents[1] / "conf"
RATES = {  # what each method takes; elsewhere LoRA's
    "lora_plus": 2e-4,
    "adalora": 1e-2,
    "ia3": 1e-2,
    "vera": 1e-2,
    "oft": 1e-3,
    "prompt_tuning": 3e-2,
    "prefix_tuning": 1e-2,
    "freeze": 1e-4,
    "none": 2e-5,
}
VARIANTS = {
    "lora_plus": ["adapter=lora", "optimizer.loraplus_lr_ratio=16"],
    "loftq": ["adapter=loftq", "model.quantization=nf4"],
    "qlora_nf4": ["adapter=lora", "model.quantization=nf4"],
    "qlora_int8": ["adapter=lora", "model.quantization=int8"],
}
ROWS = [
    "data=contracts",
    "data.max_length=160",
    "data.overlength=truncate_prompt",
    "data.batch_size=4",
    "data.max_train_rows=80",
    "data.max_validation_rows=16",
    "data.max_test_rows=2",
    "data.quality.template_tokens=off",
    "evaluation.baselines=[]",
    "tracking=disabled",
    "trainer.validations_per_epoch=1",
    "trainer.max_epochs=100",
]


def measure(name: str, steps: int, overrides: list[str]) -> dict[str, Any]:
    """One method, in this process."""
    import hydra
    import torch

    from hydratune.adapters import attach
    from hydratune.composition import register
    from hydratune.experiment.prepare import prepare
    from hydratune.models import hardware, loading
    from hydratune.records.run_directory import RunDirectory
    from hydratune.settings.commands import TrainConfig
    from hydratune.settings.registry import typed
    from hydratune.training.fit import fit
    from hydratune.training.objective import Objective
    from hydratune.training.patches import with_lean_layers
    from hydratune.training.schedules import total_steps
    from hydratune.training.task import TrainingTask

    register()
    settings = [
        *ROWS,
        *VARIANTS.get(name, [f"adapter={name}"]),
        f"optimizer.lr={RATES.get(name, 1e-3)}",
        f"trainer.max_steps={steps}",
    ]
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        config = typed(
            hydra.compose("train", [f"name={name}", *settings, *overrides]),
            TrainConfig,
        )
    job = prepare(config)
    trained_tokens = sum(row.supervised for row in job.validation)
    with Objective(job.model, micro_tokens=1024, workers=1) as objective:
        before = float(objective.loss(job.validation)) / trained_tokens
    torch.manual_seed(0)
    model = with_lean_layers(
        attach.add_adapter(job.model, config.adapter, total_steps(config, len(job.train)))
    )
    trainable, total = attach.count_parameters(model)
    with tempfile.TemporaryDirectory() as folder:
        record = RunDirectory(Path(folder))
        started = time.perf_counter()
        fitted = fit(TrainingTask(model, job.train, job.validation, config, record, job.compute))
        seconds = time.perf_counter() - started
        if fitted.interrupted:
            raise SystemExit("interrupted")
        model.to(job.compute.device)
        attach.save(model, job.tokenizer, record.adapter)
        saved = sum(file.stat().st_size for file in record.adapter.glob("*.safetensors"))
        expected = logits(model, job.validation)
        del model, job.model
        again = attach.load_tuned(
            config.model, config.adapter, loading.locate(config.model), record.adapter, job.compute
        )
        difference = max(
            float((a - b).abs().max())
            for a, b in zip(expected, logits(again, job.validation), strict=True)
        )
    return {
        "name": name,
        "trainable": trainable,
        "parameters": total,
        "before": before,
        "after": fitted.best_loss,
        "saved": saved,
        "difference": difference,
        "seconds": seconds,
        "memory": hardware.peak_memory(),
    }


def logits(model: Any, rows: Any) -> list[Any]:
    """Of each row's tokens, without an adapter's virtual tokens, by the model's own forward."""
    import torch

    model.eval()
    found = []
    with torch.inference_mode():
        for row in rows[:4]:
            ids = torch.tensor([row.ids], device=next(model.parameters()).device)
            found.append(model(input_ids=ids).logits[0, -len(row.ids) :].float().cpu())
    return found


def line(found: dict[str, Any]) -> str:
    share = 100 * found["trainable"] / found["parameters"]
    return (
        f"| {found['name']} | {found['trainable']:,} ({share:.3f} %) | {found['before']:.4f} |"
        f" {found['after']:.4f} | {found['saved'] / 1e6:.2f} MB | {found['difference']:.1e} |"
        f" {found['seconds']:.0f} s | {found['memory'] / 2**30:.2f} GiB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shipped = sorted(file.stem for file in (CONF / "adapter").glob("*.yaml"))
    everything = [*shipped, *(name for name in VARIANTS if name not in shipped)]
    parser.add_argument("--only", default=",".join(everything), help="names with commas between")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--set", nargs="*", default=[], help="further settings, such as data.max_length=512"
    )
    # one method, in this process; the result as JSON in the last line
    parser.add_argument("--here", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.here, args.steps, args.set)))
        return
    print(
        f"| adapter | trainable parameters | val loss before | after {args.steps} steps | saved |"
        " reload | training | peak memory |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    failed = []
    for name in args.only.split(","):
        command = [
            sys.executable,
            __file__,
            "--here",
            name,
            "--steps",
            str(args.steps),
            "--set",
            *args.set,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(name)
            print(
                f"| {name} | failed: {(done.stderr.strip().splitlines() or ['?'])[-1]} |",
                flush=True,
            )
        else:
            print(line(json.loads(done.stdout.strip().splitlines()[-1])), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
