"""The least work that training on some rows can be, and how fast this machine multiplies matrices.

    python benchmarks/floor.py rows.json result.json

Counted are the multiplications that cannot be left out; everything else (norms, softmax, copies,
optimizer) is taken to cost nothing. Per computed token: 4 FLOPs per weight of a frozen linear layer
(forward, and gradient of its input) and 6 per adapter weight (the gradient of the weight as well);
per trained token 4 per weight of the output head; per pair of a token and one it attends to 12 x
hidden size per layer (two products forward, four backward).
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from workloads import Rows, settings


def work(rows: Rows, linears: dict[str, int], *, shared: bool) -> dict[str, float]:
    """Computed tokens and FLOPs.

    ``shared``: what the rows of an optimizer batch begin with in common is computed once.
    """
    tokens = pairs = 0
    for step in rows.steps:
        # the last token of a row is never an input
        batch = sorted(rows.ids[i][:-1] for micro in step for i in micro)
        for number, ids in enumerate(batch):
            start = common(batch[number - 1], ids) if shared and number else 0
            tokens += len(ids) - start
            pairs += (len(ids) * (len(ids) + 1) - start * (start + 1)) // 2
    flops = tokens * (4 * linears["frozen"] + 6 * linears["adapter"])
    flops += 4 * linears["head"] * rows.supervised + 12 * linears["attention"] * pairs
    return {"tokens": tokens, "flops": float(flops)}


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two rows begin with in common."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


def linear_weights(config: Any, layers: int | None) -> dict[str, int]:
    """Weights of the frozen linear layers, of the adapters on them, of the head; and heads x width
    x layers.
    """
    from transformers import AutoConfig

    from hydratune.models import loading

    described = AutoConfig.from_pretrained(loading.locate(config.model).name).get_text_config()
    described.num_hidden_layers = layers or described.num_hidden_layers
    return weights_of(described, config.adapter.r)


def weights_of(described: Any, rank: int) -> dict[str, int]:
    """The same for transformers' description of a model, and LoRA of this rank on all its linear
    layers.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(described)
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    width = (
        getattr(described, "head_dim", None)
        or described.hidden_size // described.num_attention_heads
    )
    return {
        "frozen": sum(m.weight.numel() for m in linears),
        "adapter": sum(rank * (m.in_features + m.out_features) for m in linears),
        "head": head.weight.numel(),
        "attention": described.num_attention_heads * width * described.num_hidden_layers,
    }


def cpu_rate(seconds: float = 4.0) -> dict[str, float]:
    """FLOP/s with one thread per core, each on its own (1024, 576) @ (576, 1536) in fp32: the
    shapes of the default model.
    """
    from hydratune.cores import cpu_count

    def multiply(until: float) -> int:
        torch.set_num_threads(1)
        x, weight, count = torch.randn(1024, 576), torch.randn(1536, 576), 0
        while time.perf_counter() < until:
            for _ in range(10):
                F.linear(x, weight)
            count += 10
        return count

    cores = cpu_count()
    with ThreadPoolExecutor(cores) as pool:
        # threads and caches are warm from here on
        list(pool.map(multiply, [time.perf_counter() + 0.5] * cores))
        cpu, wall = used(), time.perf_counter()
        count = sum(pool.map(multiply, [wall + seconds] * cores))
        cpu, wall = used() - cpu, time.perf_counter() - wall
    flops = 2.0 * count * 1024 * 576 * 1536
    return {"flops_per_second": flops / wall, "flops_per_cpu_second": flops / cpu}


def used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--layers", type=int)
    args = parser.parse_args()
    from hydratune.models.hardware import keep_memory

    keep_memory()
    rows = Rows.read(args.rows)
    linears = linear_weights(settings(rows.overrides), args.layers)
    floors = {
        name: work(rows, linears, shared=shared)
        for name, shared in (("apart", False), ("shared", True))
    }
    args.result.write_text(json.dumps({**floors, **linears, **cpu_rate()}))


if __name__ == "__main__":
    main()
