import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import SMALL
from hydratune.composition import CONF
from test_train import history, metrics, only_run

Command = Callable[..., tuple[int, str]]
SHIPPED = sorted(file.stem for file in (CONF / "adapter").glob("*.yaml"))
NEEDED = {
    "loftq": ["model.quantization=nf4"],
    "adalora": ["trainer.max_steps=4", "trainer.max_epochs=2"],
    "freeze": ["adapter.last_layers=1"],
}
# PEFT takes its own file of AdaLoRA's ranks for LoRA's rank_pattern
pytestmark = pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")


def reloaded(folder: Path, base: str, **options: Any) -> Any:
    """The tuned model, as somebody without this package loads it."""
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes would round the scales of 4-bit weights
            module.support_avx512bf16_for_cpu = False
    return PeftModel.from_pretrained(model, str(folder)).eval()


def nf4() -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
        ),
        "dtype": torch.float32,
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_adapter_learns_and_loads_with_plain_peft_on_the_untouched_base(
    hydratune: Command, tmp_path: Path, tiny: Any, name: str
) -> None:
    needed = NEEDED.get(name, [])
    code, text = hydratune("train", *SMALL, f"adapter={name}", "optimizer.lr=0.01", *needed)
    assert code == 0, text
    run = only_run(tmp_path)
    losses = [float(row["train/loss"]) for row in history(run)]
    assert len(set(losses)) == len(losses) > 1
    tokenizer = AutoTokenizer.from_pretrained(run / "adapter")
    options = nf4() if "model.quantization=nf4" in needed else {}
    tuned, base = reloaded(run / "adapter", tiny[1].name, **options), AutoModelForCausalLM.from_pretrained(tiny[1].name, **options).eval()
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    changed = 0.0
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        answer = tokenizer(row["reference"] + "<|im_end|>", add_special_tokens=False).input_ids
        found = []
        for model in (tuned, base):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, -len(answer) - 1 : -1]
            found.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")))
        assert found[0] / len(answer) == pytest.approx(row["nll"] / len(answer), abs=1e-5)
        changed += abs(found[1] - found[0]) / len(answer)
    assert changed > 1e-4  # the adapter did something
    code, text = hydratune("evaluate", f"run={run}")
    assert code == 0 and "are reproduced" in text, text
    assert json.loads((run / "evaluation.json").read_text())["eval/nll"] == pytest.approx(metrics(run)["eval/nll"], abs=1e-6)
