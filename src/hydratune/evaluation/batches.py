"""Which prompts are answered together, and what happens where memory runs out."""

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import torch

from hydratune.console import console
from hydratune.cores import cpu_count
from hydratune.evaluation.prompt_reader import Tokens, common_prefix
from hydratune.models.compute import is_out_of_memory
from hydratune.models.memory_plan import release_memory


def even_batches(count: int, at_most: int) -> list[range]:
    """Split ``count`` rows into as few batches of at most ``at_most`` as possible.

    All of them have about the same size.
    """
    batches = -(-count // at_most)
    edges = [count * i // batches for i in range(batches + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def batches_of(
    prompts: Sequence[Tokens],
    references: Sequence[Tokens],
    max_new_tokens: int,
    at_most: int,
    tokens: int,
    copied: float = 0.0,
) -> list[list[int]]:
    """Return the numbers of the prompts of each batch, the shortest prompts first.

    A batch has at most ``at_most`` rows, and holds its longest prompt and answer for each of them;
    where that is more than ``tokens``, it is divided evenly, down to one row. What all prompts
    begin with is held once, but the part ``copied`` of it counts for each row: a GPU copies it
    while it reads the prompts, one layer at a time.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    shared = len(common_prefix(prompts))
    result: list[list[int]] = []
    for batch in even_batches(len(order), at_most):
        numbers = [order[i] for i in batch]
        longest_prompt = max(len(prompts[i]) for i in numbers) - shared
        longest_answer = max(max_new_tokens, *(len(references[i]) for i in numbers))
        fitting = max(1, int(tokens / (longest_prompt + longest_answer + copied * shared)))
        result += [[numbers[i] for i in part] for part in even_batches(len(numbers), fitting)]
    return result


class HalvingBatches:
    """A function of a batch that is called on halves once memory has run out.

    From then on every batch is halved; a half that does not fit raises the error of the device.
    """

    def __init__(self, work: Callable[[Sequence[int]], None], device: torch.device) -> None:
        self.work, self.device = work, device
        self.halved = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> None:
        if not self.halved.is_set():
            try:
                self.work(numbers)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(numbers) == 1:
                    raise
            # after the except clause, the error and the tensors of its frames are freed
            self.halved.set()
            release_memory(self.device)
            console.print(
                f"[yellow]out of memory with {len(numbers)} answers at once: batches are halved"
                " from here on"
            )
        for half in even_batches(len(numbers), -(-len(numbers) // 2)):
            self.work([numbers[i] for i in half])


def run_batches(
    work: Callable[[Sequence[int]], None],
    batches: Sequence[Sequence[int]],
    device: torch.device,
    pool: Executor | None,
    before_exit: Callable[[], None] = lambda: None,
) -> None:
    """Call ``work`` on every batch: by the threads of ``pool``, which then compute everything.

    Without a pool, on a CPU several batches run side by side, each on one thread of their own:
    matrices this small do not keep two threads busy. ``before_exit`` is called before the threads
    are waited for, also after Ctrl-C.
    """
    if pool is not None:
        list(pool.map(work, batches))
        return
    workers = min(len(batches), cpu_count()) if device.type == "cpu" else 1
    if workers < 2:
        for batch in batches:
            work(batch)
        return
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(
        workers, "batches", initializer=torch.set_num_threads, initargs=(1,)
    ) as own_pool:
        try:
            list(own_pool.map(work, batches))
        finally:
            before_exit()
            own_pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
