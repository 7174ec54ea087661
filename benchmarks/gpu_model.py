"""Random-weight Llamas of published shapes, and the two ways of training them that gpu.py compares.

Everything gpu.py knows of hydratune's own interfaces is here. Layers are made, and quantised, one
after the other on the device, so a 4-bit model never exists in bf16 as a whole, and nothing is read
from a disk.
"""

import gc
import io
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from systems import lora, trainable
from workloads import Rows, order, padded, settings


@dataclass(frozen=True)
class Shape:
    """Of a Llama."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool = True

    def config(self) -> Any:
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=8192,
            tie_word_embeddings=self.tied,
            bos_token_id=None,
            eos_token_id=None,  # generation goes on to its last token
        )


LLAMA_1B = Shape("Llama-3.2-1B", 2048, 8192, 16, 32, 8, 128_256)
LLAMA_8B = Shape("Llama-3.1-8B", 4096, 14_336, 32, 32, 8, 128_256, tied=False)
# small enough for fp32, heads as wide as those of the 1B
CHECKED = Shape("4 layers of 512", 512, 1536, 4, 8, 2, 8192)
TOY_1B = Shape("toy, tied", 64, 128, 2, 4, 2, 512)
TOY_8B = Shape("toy, untied", 64, 128, 3, 4, 2, 512, tied=False)
TOY_CHECKED = Shape("toy", 64, 128, 2, 4, 2, 512)


@dataclass(frozen=True)
class ComputeDevice:
    """Where everything is computed."""

    device: torch.device

    @property
    def accelerator(self) -> str:
        return "gpu" if self.device.type == "cuda" else "cpu"

    def settings(self, *overrides: str) -> Any:
        """hydratune's typed settings for this device."""
        workers = ["trainer.cpu_workers=1"] if self.accelerator == "cpu" else []
        return settings([f"trainer={self.accelerator}", *workers, *overrides])

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def release(self) -> None:
        """Frees what nobody holds any more, and begins to count the peak of memory anew."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """Bytes allocated at most since ``release``; None on a CPU, where PyTorch does not count
        them.
        """
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None

    def mixed(self, bf16: bool) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()


def build(
    shape: Shape, place: ComputeDevice, dtype: torch.dtype, *, nf4: bool = False, seed: int = 0
) -> Any:
    """The frozen base in evaluation mode; equal arguments give equal weights."""
    from transformers import AutoModelForCausalLM
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    from hydratune.adapters import attach
    from hydratune.settings.model import Quantization

    torch.manual_seed(seed)
    config = shape.config()
    config.num_hidden_layers = 0
    with torch.device(place.device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
        for number in range(shape.layers):
            layer = LlamaDecoderLayer(model.config, number).to(dtype)
            for parameter in layer.parameters():
                if parameter.ndim == 2:
                    parameter.data.normal_(std=0.02)
            model.model.layers.append(_in_4_bits(layer, dtype) if nf4 else layer)
    model.config.num_hidden_layers = shape.layers
    model.is_loaded_in_4bit = nf4  # what PEFT asks
    return attach.prepare_quantised(model.eval(), Quantization.nf4 if nf4 else Quantization.none)


def _in_4_bits(layer: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """``layer`` with nf4 linears, double quantisation, products in ``dtype``: what
    ``model.quantization=nf4`` loads.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not torch.nn.Linear:
                continue
            weight = child.weight.data
            with torch.device("meta"):
                small = Linear4bit(
                    child.in_features,
                    child.out_features,
                    False,
                    dtype,
                    compress_statistics=True,
                    quant_type="nf4",
                )
            small.weight = Params4bit(
                weight, requires_grad=False, compress_statistics=True, quant_type="nf4"
            ).to(weight.device)
            setattr(parent, name, small)
    return layer


def ours(base: Any, config: Any) -> Any:
    """``base`` as hydratune trains it: its attention and its lean LoRA layers; in bf16 it is asked
    in bf16 as well.
    """
    from hydratune.adapters import attach
    from hydratune.models.attention import NAME
    from hydratune.models.compute import remember_autocast
    from hydratune.training.patches import with_lean_layers

    base.set_attn_implementation(NAME)
    remember_autocast(base, torch.bfloat16 if base.dtype == torch.bfloat16 else None)
    torch.manual_seed(config.seed)
    return with_lean_layers(attach.add_adapter(base, config.adapter))


def theirs(base: Any, config: Any) -> Any:
    """``base`` with the same adapter by PEFT alone."""
    from peft import get_peft_model

    torch.manual_seed(config.seed)
    return get_peft_model(base, lora(config))


def disturb(model: Any) -> dict[str, torch.Tensor]:
    """Moves every B of ``model`` away from 0, where the gradient of A would be 0; returns all
    trained parameters by name.
    """
    generator = torch.Generator().manual_seed(1)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return trained


def random_rows(
    count: int,
    shape: Shape,
    shortest: int,
    longest: int,
    config: Any,
    *,
    common: int = 0,
    seed: int = 0,
) -> Rows:
    """Random tokens, the last quarter of each row trained, in hydratune's order.

    The first ``common`` tokens are the same in all.
    """
    draw = random.Random(seed)
    start = [draw.randrange(1, shape.vocabulary) for _ in range(common)]
    lengths = [draw.randint(shortest, longest) for _ in range(count)]
    ids = [
        start + [draw.randrange(1, shape.vocabulary) for _ in range(n - common)] for n in lengths
    ]
    masks = [[i >= n - n // 4 for i in range(n)] for n in lengths]
    return Rows("random tokens", ids, masks, order(masks, config), [])


def encoded(rows: Rows) -> list[Any]:
    from hydratune.data.encoding.encoded import Encoded

    return [
        Encoded(tuple(ids), tuple(loss_mask))
        for ids, loss_mask in zip(rows.ids, rows.loss_mask, strict=True)
    ]


@dataclass(frozen=True)
class Fit:
    """What one call of ``fit`` left behind."""

    losses: list[float]
    checkpoint: dict[str, Any]  # the last one
    trained: dict[str, torch.Tensor]  # its parameters, on the CPU
    plan: dict[str, Any]  # how much was computed at once


def fit(
    model: Any,
    rows: Rows,
    config: Any,
    place: ComputeDevice,
    *,
    pause_at: int | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    pool: Executor | None = None,
) -> Fit:
    """hydratune's whole training run, one validation row at its end.

    ``pause_at``: as a sweep pauses it, after so many steps.
    """
    from hydratune.console import redirect_output
    from hydratune.models.compute import compute_of
    from hydratune.records.run_directory import RunDirectory
    from hydratune.training import resume
    from hydratune.training.fit import fit
    from hydratune.training.task import Resumption, TrainingServices, TrainingTask

    every = encoded(rows)
    plans: list[dict[str, Any]] = []

    class Pausing:
        """Pauses the run after ``pause_at`` steps."""

        def rungs(self, total: int) -> list[int]:
            return [pause_at] if pause_at is not None else []

        def judged(self, step: int) -> bool:
            return True

        def may_continue(self, step: int, score: object) -> bool:
            return False

    discarded = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_output(discarded, lambda stage: None):
        record = RunDirectory(Path(folder))
        fitted = fit(
            TrainingTask(model, every, every[:1], config, record, compute_of(config)),
            Resumption(checkpoint),
            TrainingServices(
                pool,
                decisions=Pausing(),
                on_plan=lambda plan: plans.append(plan.stored()),
            ),
        )
        last = resume.load(record.checkpoints)
    if fitted.interrupted:
        raise KeyboardInterrupt
    if last is None:
        raise RuntimeError("training left no checkpoint")
    place.synchronize()
    checkpoint = last[1]
    return Fit(
        [row["train/loss"] for row in fitted.history],
        checkpoint,
        dict(checkpoint["state_dict"]),
        {**plans[0], **fitted.plan.stored()},
    )


def objective(model: Any, micro_tokens: int, **options: Any) -> Any:
    from hydratune.models.memory_plan import loss_positions
    from hydratune.training.objective import Objective

    base = model.get_base_model()
    positions = loss_positions(base.device, base.config.vocab_size)
    return Objective(
        model, micro_tokens=micro_tokens, workers=1, loss_positions=positions, **options
    )


def plain_loss(
    model: Any, rows: Rows, numbers: Sequence[int], place: ComputeDevice, *, exact: bool = False
) -> torch.Tensor:
    """Summed loss of a padded batch by full logits.

    ``exact``: the cross-entropy in float64 (``systems.plain`` says why).
    """
    ids, mask, labels = (t.to(place.device) for t in padded(rows, list(numbers)))
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].flatten()
    if exact:
        return F.cross_entropy(
            logits[targets != -100].double(), targets[targets != -100], reduction="sum"
        )
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def plain_training(
    model: Any, rows: Rows, config: Any, place: ComputeDevice, at_once: int
) -> list[float]:
    """The loop of PEFT's documentation, ``at_once`` rows padded together, gradients added up over a
    step; losses.
    """
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(
        parameters, lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay
    )
    mixed = config.trainer.precision == "bf16-mixed"
    losses = []
    model.train()
    for step in rows.steps:
        numbers = [i for micro in step for i in micro]
        count = sum(sum(rows.loss_mask[i]) for i in numbers)
        total = torch.zeros((), device=place.device)
        for start in range(0, len(numbers), at_once):
            with place.mixed(mixed):
                loss = plain_loss(model, rows, numbers[start : start + at_once], place) / count
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(parameters, config.trainer.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Whether PyTorch is to add up in the same order every time, as with ``trainer.deterministic``;
    as it was before, afterwards.
    """
    from hydratune.models.compute import be_deterministic

    before = torch.are_deterministic_algorithms_enabled()
    be_deterministic() if wanted else torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class OutOfMemory(MemoryError):
    """Even the smallest batch did not fit."""


def halving(
    run: Callable[[int], dict[str, Any]], size: int, least: int, place: ComputeDevice
) -> dict[str, Any]:
    """``run(size)``, with half the size each time memory runs out; the result says so.

    Raises ``OutOfMemory`` below ``least``.
    """
    from hydratune.models.compute import is_out_of_memory

    tried: list[str] = []
    while True:
        try:
            return {**run(size), "batch": size, "out_of_memory": tried}
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # here the error is gone, and with it what it kept alive
        tried.append(f"{size}: out of memory")
        place.release()
        if size <= least:
            raise OutOfMemory("; ".join(tried))
        size //= 2
