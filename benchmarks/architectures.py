"""Which architectures hydratune trains, and how it computes several rows: the table of the docs.

    python benchmarks/architectures.py                       all architectures, as a table
    python benchmarks/architectures.py qwen3_5 gpt_oss       some of them
    python benchmarks/architectures.py --write               writes docs/reference/architectures.md

Of every model type that the installed transformers maps to a causal language model, a tiny random
model is built (``tiny_architectures.py``) and gets LoRA on all its linear layers. The loss and the
gradients of hydratune's training step are compared with the cross-entropy of every row alone, with
full logits, computed by transformers and PyTorch only. Each model has a process of its own, with
limits of time and memory.
"""

import argparse
import multiprocessing
import resource
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers

import tiny_architectures
from hydratune.adapters import attach
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.data.encoding.encoded import Encoded
from hydratune.models import packing_trial
from hydratune.models.attention import shares_prefix_by_config, supports_packing
from hydratune.models.row_packing import Level
from hydratune.settings.model import Quantization
from hydratune.training.micro_pack_loss import padded_loss
from hydratune.training.objective import Objective
from hydratune.training.patches import with_lean_layers

DOCS = Path(__file__).parents[1] / "docs" / "reference" / "architectures.md"
BEGIN = "<!-- written by benchmarks/architectures.py: do not edit below -->"
SECONDS, MEMORY = 300, 6 << 30  # of one architecture
LARGEST_DIFFERENCE = 2e-3  # of a loss or a gradient, relative to its size
STATUS = {
    "shared": "packed, shared prefix",
    "packed": "packed",
    "mixers": "packed, attention row by row",
    "layers": "packed, layers row by row",
    "padded": "padded",
    "refused": "not supported",
    "wrong": "wrong",
    "untried": "not tried",
}


@dataclass(frozen=True)
class Outcome:
    """How one architecture is trained."""

    kind: str  # ``model_type``
    status: str  # a key of ``STATUS``
    reason: str = ""
    loss_error: float = 0.0  # relative
    gradient_error: float = 0.0  # relative, of the worst parameter

    @property
    def row(self) -> str:
        """A row of the table."""
        name = tiny_architectures.ARCHITECTURES[self.kind]
        reason = self.reason.replace("|", "\\|")
        return f"| `{self.kind}` | {name} | {STATUS[self.status]} | {reason} |"


def rows() -> list[Encoded]:
    """Return rows of uneven length; the first five begin with the same tokens, and these save
    enough to be shared.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(10, 100, (length,), generator=generator).tolist())

    common = draw(36)
    shared = [(*common, *draw(9 + 6 * i)) for i in range(5)]
    alone = [draw(7 + 4 * i) for i in range(3)]
    trained_from = [len(common) + 3] * 5 + [3] * 3
    return [
        Encoded(ids, tuple(place >= first for place in range(len(ids))))
        for ids, first in zip([*shared, *alone], trained_from, strict=True)
    ]


def with_lora(model: torch.nn.Module) -> Any:
    """Return ``model`` with LoRA whose B is not zero, so that the gradient of A is not either."""
    adapted = attach.add_adapter(
        attach.prepare_quantised(model, Quantization.none), LoraAdapter(r=2, lora_alpha=4)
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return adapted


def expected(kind: str, examples: Sequence[Encoded]) -> tuple[torch.Tensor, dict[str, Any], Any]:
    """Return the loss and the gradients by name of transformers' model, computed row by row."""
    model = with_lora(tiny_architectures.build(kind))
    total = torch.zeros(())
    for row in examples:
        ids = torch.tensor([row.ids[:-1]])
        logits = model.get_base_model()(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
        ).logits[0]
        targets = torch.where(torch.tensor(row.loss_mask[1:]), torch.tensor(row.ids[1:]), -100)
        total = total + F.cross_entropy(logits, targets, reduction="sum")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    filled = [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(trained.values(), gradients, strict=True)
    ]
    return total.detach(), dict(zip(trained, filled, strict=True)), model


def compare(kind: str) -> Outcome:
    """Return how the architecture ``kind`` is trained."""
    if kind in tiny_architectures.UNTRIED:
        return Outcome(kind, "untried", tiny_architectures.UNTRIED[kind])
    try:
        base = tiny_architectures.build(kind)
    except Exception as error:  # whatever the code of a model raises
        return Outcome(kind, "untried", f"no tiny model can be built: {_one_line(error)}")
    try:
        packing = packing_trial.choose(base)
    except packing_trial.UnsupportedModelError as error:
        return Outcome(kind, "refused", str(error))
    examples = rows()
    loss, gradients, reference = expected(kind, examples)
    torch.manual_seed(0)
    model = with_lean_layers(with_lora(base)).train()
    objective = Objective(model, micro_tokens=150, workers=1)
    our_loss, ours = objective.gradients(examples)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    errors = [
        float((ours_ - gradients[name]).norm()) / (float(gradients[name].norm()) + 1e-6 * len(ours))
        for name, ours_ in zip(names, ours, strict=True)
    ]
    loss_error = abs(our_loss.item() - loss.item()) / loss.item()
    status = {
        Level.attention: "shared" if objective.share else "packed",
        Level.hybrid: "mixers",
        Level.mixers: "mixers",
        Level.layers: "layers",
        Level.padded: "padded",
    }[packing.level]
    reason = packing.reason or _why_not_faster(base, status)
    if loss_error > LARGEST_DIFFERENCE or max(errors) > LARGEST_DIFFERENCE:
        padded = padded_loss(reference.get_base_model(), examples).item()
        of_padding = abs(padded - loss.item()) / loss.item()
        status = "wrong"
        reason += f" the loss of a padded batch itself is {of_padding:.1e} off"
    return Outcome(kind, status, reason, loss_error, max(errors))


def _why_not_faster(base: Any, status: str) -> str:
    """Return why rows are not laid end to end in a faster way."""
    if status == "shared":
        return ""
    if status == "packed":
        return (
            "its layers do not each call attention once"
            if shares_prefix_by_config(base)
            else "a window, or the kind of its layers, would cut a shared prefix"
        )
    return supports_packing(base) or "its attention does more than ours does"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _compare_within_limits(kind: str, results: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.alarm(SECONDS)  # ends the process
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    try:
        outcome = compare(kind)
    except Exception as error:  # is the finding about this architecture
        outcome = Outcome(kind, "wrong", f"the training step fails: {_one_line(error)}")
    results.send(asdict(outcome))


def outcome_of(kind: str) -> Outcome:
    """Return what a process of its own finds out about ``kind``."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_compare_within_limits, args=(kind, sender))
    process.start()
    sender.close()
    try:
        outcome = Outcome(**receiver.recv())
    except EOFError:
        process.join()
        limits = f"{SECONDS} seconds and {MEMORY >> 30} GiB"
        outcome = Outcome(kind, "untried", f"no result within {limits}")
    process.join()
    return outcome


def document(outcomes: Sequence[Outcome]) -> str:
    """Return docs/reference/architectures.md: its own beginning, and the table."""
    counts = ", ".join(
        f"{sum(o.status == status for o in outcomes)} {label}" for status, label in STATUS.items()
    )
    head = DOCS.read_text("utf-8").partition(BEGIN)[0] if DOCS.exists() else ""
    lines = [
        f"{head}{BEGIN}",
        "",
        f"transformers {transformers.__version__}, {len(outcomes)} model types: {counts}.",
        "",
        "| model type | class | rows are | reason |",
        "|---|---|---|---|",
        *(outcome.row for outcome in outcomes),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", help="model types; all without any")
    parser.add_argument("--write", action="store_true", help=f"write {DOCS.name}")
    options = parser.parse_args(arguments)
    outcomes = []
    for kind in options.kinds or sorted(tiny_architectures.ARCHITECTURES):
        outcome = outcome_of(kind)
        outcomes.append(outcome)
        error = f"{outcome.loss_error:.0e} {outcome.gradient_error:.0e}"
        print(f"{kind:28} {STATUS[outcome.status]:30} {error:12} {outcome.reason}", flush=True)
    if options.write:
        DOCS.write_text(document(outcomes), "utf-8")
    return 1 if any(outcome.status == "wrong" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
