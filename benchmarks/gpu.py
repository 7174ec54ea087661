"""hydratune beside the plain loop on a GPU: a random-weight model of the shape of Llama 3.2 1B, r=16 all-linear.

    python benchmarks/gpu.py                             needs CUDA; says so and ends where there is none
    python benchmarks/gpu.py --tiny                      the same way on a CPU with a toy, to see that this script works

The base is bf16, the adapter fp32 under autocast: bf16-mixed, which is what hydratune chooses there. Rows are random tokens
of 128 to 1,024, a quarter of each trained. Model FLOPs utilisation is the work of ``floor.py`` (padding not counted) per
second, over the rate of an 8,192 x 8,192 product of bf16 matrices measured on the same device.
"""

import argparse
import json
import random
import time
from pathlib import Path

import fresh
from floor import linear_weights, work
from training import difference
from workloads import Rows, order, settings


def build(folder: Path, *, tiny: bool) -> None:
    """The model folder; equal weights for both systems."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
    if tiny:
        shape = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(**shape, **heads, max_position_embeddings=2048, tie_word_embeddings=True)
    LlamaForCausalLM(config).to(torch.float32 if tiny else torch.bfloat16).save_pretrained(folder)


def random_rows(count: int, vocabulary: int, longest: int, overrides: list[str]) -> Rows:
    draw = random.Random(0)
    lengths = [draw.randint(longest // 8, longest) for _ in range(count)]
    ids = [[draw.randrange(vocabulary) for _ in range(length)] for length in lengths]
    trained = [[i >= length - length // 4 for i in range(length)] for length in lengths]
    return Rows("random tokens", ids, trained, order(trained, settings(overrides)), overrides)


def device_rate() -> float:
    """FLOP/s of a large bf16 product on the GPU."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for repeats in (5, 50):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            a @ a
        torch.cuda.synchronize()
    return 50 * 2 * 8192**3 / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    import torch

    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: not run on a GPU")
    folder = fresh.named_now("gpu")
    build(folder / "model", tiny=args.tiny)
    where = ["trainer=cpu" if args.tiny else "trainer=gpu", "trainer.precision=bf16-mixed"]
    micro = "trainer.micro_tokens=8192"  # a GPU wants large products
    overrides = ["model=local", f"model.path={(folder / 'model').resolve()}", "data.batch_size=8", *where, micro]
    rows = random_rows(args.rows if not args.tiny else 16, 512 if args.tiny else 128_256, 64 if args.tiny else 1024, overrides)
    rows.write(folder / "rows.json")
    flops = work(rows, linear_weights(settings(overrides), None), shared=False)["flops"]
    rate = None if args.tiny else device_rate()
    runs: dict[str, list[dict]] = {"ours": [], "plain": []}
    for repeat in range(args.repeats):
        for system, done in runs.items():
            result = fresh.run("systems.py", system, folder / "rows.json", log=folder / f"{system}-{repeat}.log")
            if result is None:
                raise SystemExit(1)
            done.append(result)
    table = []
    for system, done in runs.items():  # the first step compiles and allocates: it is left out
        run = min(done, key=lambda run: run["stamps"][-1][1] - run["stamps"][0][1])
        wall, share = run["stamps"][-1][1] - run["stamps"][0][1], 1 - tokens(rows, 0) / rows.tokens
        used = f"{100 * flops * share / wall / rate:.1f} %" if rate else ""
        memory = f"{(run['gpu_memory'] or run['peak_memory']) / 2**30:.2f}"
        apart = f"{difference(run['losses'], runs['plain'][0]['losses']):.1e}"
        table.append(["hydratune" if system == "ours" else "plain loop", f"{rows.tokens * share / wall:,.0f}", used, memory, apart])
    name = "the CPU" if args.tiny else torch.cuda.get_device_name()
    fresh.store("gpu", {"device": name, "flops": flops, "rate": rate, "runs": runs}, folder)
    print(json.dumps({"device": name, "bf16 TFLOP/s": rate and round(rate / 1e12)}))
    print(fresh.markdown(["", "tokens/s", "MFU", "peak GiB", "loss difference"], table))


def tokens(rows: Rows, step: int) -> int:
    return sum(len(rows.ids[i]) for micro in rows.steps[step] for i in micro)


if __name__ == "__main__":
    main()
