"""How much is computed at once, derived from the free memory of a device.

These sizes change results by rounding only. trainer.micro_tokens and evaluation.batch_tokens set
them by hand; the size of a loss chunk follows from the vocabulary.
"""

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from hydratune.cores import cpu_count
from hydratune.models.compute import is_out_of_memory
from hydratune.models.hardware import memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

CPU_MICRO_TOKENS = 1024  # measured on two cores: 512 and 2,048 cost 2 % and 6 % more CPU-seconds
CPU_LOSS_POSITIONS = 128  # the logits of a chunk stay in the last-level cache
# rows whose references are scored at once; the logits of more would not fit small machines
SCORED_TOGETHER = 8
SCORED_TOKENS = 4096  # tokens of those rows, at most: documents are long
_MOST_MICRO_TOKENS = 16384  # beyond this, larger products are no faster on a GPU
LEAST_MICRO_TOKENS = 256
_LOSS_BYTES = 2**29  # of the logits of a chunk on a GPU, with what is computed from them
# share of the free memory that is left for fragments, longer rows than those measured, and the
# state of the optimizer
_KEPT_FREE = 0.2


@dataclass(frozen=True)
class MemoryPlan:
    """The sizes of one run; ``free`` and ``bytes_per_token`` are None if nothing was measured."""

    micro_tokens: int  # tokens of one forward and backward pass
    loss_positions: int  # trained tokens whose logits exist at once
    generation_tokens: int  # tokens of prompts and answers held at once during generation
    free: int | None = None  # bytes, with weights and adapter loaded
    bytes_per_token: int | None = None  # of a training step, beyond the weights

    def stored(self) -> dict[str, object]:
        """Return what environment.json says of it."""
        return asdict(self)

    def describe(self) -> str:
        """Return one line for the terminal."""
        measured = ""
        if self.free is not None and self.bytes_per_token is not None:
            measured = (
                f" ({self.free / 2**30:.1f} GiB free, {self.bytes_per_token / 2**20:.2f} MiB per"
                " token)"
            )
        sizes = (
            f"loss chunks of {self.loss_positions:,} positions, {self.generation_tokens:,} tokens"
            " in generation"
        )
        return f"micro-packs of {self.micro_tokens:,} tokens{measured}, {sizes}"


def free_memory(device: torch.device) -> int:
    """Return the bytes that new tensors on ``device`` may take.

    On a GPU, the driver's free memory and what PyTorch holds unused; on a CPU, half of the
    machine's memory.
    """
    if device.type != "cuda":
        return memory() // 2
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + held)


def training_plan(
    device: torch.device,
    vocabulary: int,
    trained_parameters: int,
    generation: int,
    micro_tokens: int | None,
    measure: Callable[[int], int],
) -> MemoryPlan:
    """Return the sizes of a training run that generates with ``generation`` tokens at once.

    ``measure(tokens)`` runs a training step of that many tokens on ``device`` and returns the most
    bytes that it took. The bytes of a token follow from two steps, or from smaller ones if those do
    not fit; if the smallest do not fit either, the least size is chosen. ``micro_tokens`` is the
    user's setting, or None. On a CPU nothing is measured.
    """
    if device.type == "cpu":
        return MemoryPlan(micro_tokens or CPU_MICRO_TOKENS, CPU_LOSS_POSITIONS, generation)
    positions = loss_positions(device, vocabulary)
    if micro_tokens is not None:
        return MemoryPlan(micro_tokens, positions, generation)
    for few, more in ((512, 2048), (256, 1024), (128, 512)):
        try:
            measure(few)  # libraries allocate their workspaces at the first call
            first, second = measure(few), measure(more)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release_memory(device)  # after the except block, the error no longer keeps tensors alive
    else:
        return MemoryPlan(LEAST_MICRO_TOKENS, positions, generation, free_memory(device))
    per_token = max(1, (second - first) // (more - few))
    # a gradient and Adam's two moments in fp32
    fixed = max(0, first - few * per_token) + 12 * trained_parameters
    free = free_memory(device)
    tokens = fitting_micro_tokens(free, fixed, per_token)
    return MemoryPlan(tokens, positions, generation, free, int(per_token))


def fitting_micro_tokens(free: float, fixed: float, per_token: float) -> int:
    """Return the size of micro-packs on a GPU with ``free`` bytes beside the weights.

    A training step takes ``fixed`` bytes and ``per_token`` bytes for each token.
    """
    fitting = (free * (1 - _KEPT_FREE) - fixed) / per_token
    return max(LEAST_MICRO_TOKENS, min(_MOST_MICRO_TOKENS, power_of_two_below(fitting)))


def loss_positions(device: torch.device, vocabulary: int) -> int:
    """Return the number of trained tokens whose logits exist at once.

    On a CPU they stay in its cache; on a GPU they take half a GiB.
    """
    if device.type == "cpu":
        return CPU_LOSS_POSITIONS
    # bf16 logits, fp32 logits, and their gradient in bf16
    fitting = power_of_two_below(_LOSS_BYTES / (10 * vocabulary))
    return max(CPU_LOSS_POSITIONS, min(fitting, 4096))


def power_of_two_below(number: float) -> int:
    """Return the largest power of two that is at most ``number``; 1 if there is none."""
    return 1 << max(0, int(number).bit_length() - 1) if number >= 1 else 1


def generation_tokens(model: "PreTrainedModel") -> int:
    """Return how many tokens of prompts and answers fit while ``model`` generates.

    Their keys and values are held, and activations while prompts are read. On a CPU, several
    batches run at the same time and share its memory.
    """
    parameter = next(model.parameters())
    config = model.config.get_text_config()
    itemsize = max(2, getattr(model, "dtype", parameter.dtype).itemsize)
    at_once = cpu_count() if parameter.device.type == "cpu" else 1
    free = free_memory(parameter.device) * (1 - _KEPT_FREE) / at_once
    # logits of references, and a copy while they are joined
    scoring = 2 * SCORED_TOKENS * config.vocab_size * itemsize
    per_token = bytes_per_generated_token(config, itemsize)
    return max(1, int((free - min(scoring, free / 2)) / per_token))


def bytes_per_generated_token(config: "PretrainedConfig", itemsize: int) -> int:
    """Return the bytes that one token takes during generation.

    They hold the keys and values of all layers, twice while a prompt is read, and the widest
    activations of one layer.
    """
    width: int = config.hidden_size
    inner = _size(config, "intermediate_size") or 4 * width
    return 2 * bytes_of_keys_and_values(config, itemsize) + itemsize * (6 * width + 3 * inner)


def bytes_of_keys_and_values(config: "PretrainedConfig", itemsize: int) -> int:
    """Return the bytes of the keys and values of one token in all layers."""
    width: int = config.hidden_size
    heads: int = getattr(config, "num_attention_heads", None) or max(1, width // 64)
    key_heads = _size(config, "num_key_value_heads") or heads
    head = _size(config, "head_dim") or width // heads
    return itemsize * 2 * int(config.num_hidden_layers) * key_heads * head


def _size(config: "PretrainedConfig", name: str) -> int | None:
    """Return a size in ``config``; of one that differs between layers, that of most of them."""
    try:
        value = getattr(config, name, None)
    except RuntimeError:
        value = config.to_dict().get(name)
    return value if isinstance(value, int) else None


def prefix_share(config: "PretrainedConfig") -> float:
    """Return the memory of a token of a shared prefix for each row that follows it.

    It is given as a share of what a token takes in a training step. PyTorch's kernel for rows of
    uneven length needs a copy of the prefix's keys and values before every row; a training step
    keeps them, beside two activations of the inner width and about eight of the width.
    """
    width: int = config.hidden_size
    heads: int = getattr(config, "num_attention_heads", None) or max(1, width // 64)
    key_heads = _size(config, "num_key_value_heads") or heads
    head = _size(config, "head_dim") or width // heads
    inner = _size(config, "intermediate_size") or 4 * width
    return 2 * key_heads * head / (2 * inner + 8 * width)


def release_memory(device: torch.device) -> None:
    """Free the memory of tensors that are no longer used on ``device``, after it ran out."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
