"""Likelihood of running text: every token given those before it, in windows that a model can read.

A text begins after the token that opens texts for its tokenizer, so its first token is predicted as
well. One that is longer than the window is read in several, which predict every token once. So far
this is lm-eval's rolling log-likelihood (there, ``stride`` is the window). Logits are handed on and
forgotten, batch by batch: those of a whole corpus would fit nowhere.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from hydratune.console import progress
from hydratune.models.attention import NAME, supports_packing
from hydratune.models.compute import as_trained, deterministic_if_possible
from hydratune.models.hardware import cpu_count

_TOGETHER = (
    1024  # tokens of one forward, unless a single passage has more: their logits have to fit
)
Visit = Callable[
    [int, torch.Tensor], None
]  # number of a passage, fp32 logits (targets, vocabulary) of what it predicts


@dataclass(frozen=True)
class Passage:
    """``target`` is predicted; ``context``, at least one token, is only read."""

    context: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        return (*self.context, *self.target[:-1])


@dataclass(frozen=True)
class TextScore:
    """How likely a model finds a text."""

    log_likelihood: float  # summed over tokens, natural logarithm
    tokens: int
    bytes: int  # of its UTF-8

    @property
    def nll(self) -> float:
        return -self.log_likelihood / self.tokens if self.tokens else 0.0

    @property
    def perplexity(self) -> float:
        """Per token: comparable only between models with the same tokenizer."""
        return math.exp(min(self.nll, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return -self.log_likelihood / math.log(2) / self.bytes if self.bytes else 0.0

    def __add__(self, other: "TextScore") -> "TextScore":
        return TextScore(
            self.log_likelihood + other.log_likelihood,
            self.tokens + other.tokens,
            self.bytes + other.bytes,
        )


def opening_token(tokenizer: Any) -> int:
    """What stands before a text: begin-of-text, or where a tokenizer has none, the end of the text
    before.
    """
    return int(
        tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    )


def windows(
    tokens: Sequence[int], opening: int, window: int, stride: int | None = None
) -> list[Passage]:
    """Passages of at most ``window`` input tokens that predict every one of ``tokens`` once.

    All but the first predict ``stride`` tokens each (the last fewer) after as much context as fits;
    None: ``window``. Smaller strides give every token more context and take longer.
    """
    sequence, done, result = (opening, *tokens), 0, []
    while done < len(tokens):
        end = min(len(tokens), done + (window if done == 0 or stride is None else stride))
        start = max(0, end - window) if done else 0
        result.append(Passage(sequence[start : done + 1], sequence[done + 1 : end + 1]))
        done = end
    return result


def read(
    model: Any,
    passages: Sequence[Passage],
    visit: Visit,
    *,
    pad: int,
    batch_size: int = 8,
    padding_side: str = "left",
    title: str = "",
    quiet: bool = False,
    pool: Executor | None = None,
) -> None:
    """Calls ``visit`` once for every passage, in any order and from several threads.

    Passages of a batch are laid end to end where the model can do that, else padded; a model with
    virtual tokens before every row reads them one by one. On a CPU batches run side by side, on
    threads of their own or those of ``pool``.
    """
    model.eval()
    passages = list(passages)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = getattr(model, "active_peft_config", None)
    alone = settings is not None and settings.is_prompt_learning
    packs = (
        not alone and base.config._attn_implementation == NAME and supports_packing(base) is None
    )
    device = next(model.parameters()).device
    batches = _batches(passages, 1 if alone else batch_size)

    @torch.inference_mode()
    def work(numbers: Sequence[int]) -> None:
        with as_trained(model):
            deterministic_if_possible(lambda: read_batch(numbers))

    def read_batch(numbers: Sequence[int]) -> None:
        part = [passages[number] for number in numbers]
        if packs:
            logits = _packed(base, part, device)
        elif alone:
            ids = torch.tensor([part[0].inputs], device=device)
            logits = [
                model(input_ids=ids, use_cache=False, logits_to_keep=len(part[0].target)).logits[0]
            ]
        else:
            logits = _padded(base, part, device, pad, padding_side)
        for number, own in zip(numbers, logits, strict=True):
            visit(number, own.float())
        ticker.advance(len(part), sum(len(passage.inputs) for passage in part))

    workers = min(len(batches), cpu_count()) if device.type == "cpu" else 1
    with progress(title, len(passages), quiet=quiet) as ticker:
        if pool is not None:
            list(pool.map(work, batches))
            return
        threads = torch.get_num_threads()
        if workers < 2:
            for batch in batches:
                work(batch)
            return
        with ThreadPoolExecutor(
            workers, "read", initializer=torch.set_num_threads, initargs=(1,)
        ) as own_pool:
            try:
                list(own_pool.map(work, batches))
            finally:
                own_pool.shutdown(cancel_futures=True)
                torch.set_num_threads(threads)


def _batches(passages: Sequence[Passage], at_most: int) -> list[list[int]]:
    """Numbers of passages of about the same length, at most ``at_most`` of them and ``_TOGETHER``
    tokens in one.
    """
    batches: list[list[int]] = []
    # the longest first: threads end together
    for number in sorted(range(len(passages)), key=lambda i: -len(passages[i].inputs)):
        longest = len(passages[batches[-1][0]].inputs) if batches else 0
        if (
            not batches
            or len(batches[-1]) == at_most
            or (len(batches[-1]) + 1) * longest > _TOGETHER
        ):
            batches.append([])
        batches[-1].append(number)
    return batches


def _packed(base: Any, passages: Sequence[Passage], device: torch.device) -> Sequence[torch.Tensor]:
    lengths = tuple(len(passage.inputs) for passage in passages)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    wanted = [
        torch.arange(end - len(passage.target), end)
        for end, passage in zip(ends, passages, strict=True)
    ]
    logits: torch.Tensor = base(
        input_ids=torch.tensor(
            [[token for passage in passages for token in passage.inputs]], device=device
        ),
        attention_mask=torch.zeros(
            1, 1, 1, 1, dtype=torch.bool, device=device
        ),  # 4-D: handed through, and ignored
        position_ids=torch.cat([torch.arange(length, device=device) for length in lengths])[None],
        use_cache=False,
        logits_to_keep=torch.cat(wanted).to(device),
        row_lengths=lengths,
    ).logits[0]
    return logits.split([len(passage.target) for passage in passages])


def _padded(
    base: Any, passages: Sequence[Passage], device: torch.device, pad: int, side: str
) -> list[torch.Tensor]:
    longest = max(len(passage.inputs) for passage in passages)
    left = side == "left"

    def filled(values: Sequence[int], filler: int) -> list[int]:
        rest = [filler] * (longest - len(values))
        return [*rest, *values] if left else [*values, *rest]

    mask = torch.tensor(
        [filled([1] * len(passage.inputs), 0) for passage in passages], device=device
    )
    logits: torch.Tensor = base(
        input_ids=torch.tensor(
            [filled(passage.inputs, pad) for passage in passages], device=device
        ),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=max(len(passage.target) for passage in passages) if left else 0,
    ).logits
    if left:
        return [
            row[len(row) - len(passage.target) :]
            for row, passage in zip(logits, passages, strict=True)
        ]
    ends = [len(passage.inputs) for passage in passages]
    return [
        row[end - len(passage.target) : end]
        for row, end, passage in zip(logits, ends, passages, strict=True)
    ]


def token_log_likelihoods(
    model: Any, passages: Sequence[Passage], **options: Any
) -> list[torch.Tensor]:
    """Natural logarithm of every target's probability, passage by passage; for ``options`` see
    ``read``.
    """
    found: dict[int, torch.Tensor] = {}

    def keep(number: int, logits: torch.Tensor) -> None:
        target = torch.tensor(passages[number].target, device=logits.device)[:, None]
        found[number] = torch.log_softmax(logits, dim=-1).gather(1, target)[:, 0].cpu()

    read(model, passages, keep, **options)
    return [found[number] for number in range(len(passages))]


def score_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    window: int,
    stride: int | None = None,
    **options: Any,
) -> list[TextScore]:
    """One score for every text; for ``options`` see ``read``."""
    encoded = (
        tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids if texts else []
    )
    opening = opening_token(tokenizer)
    parts = [windows(tokens, opening, window, stride) for tokens in encoded]
    found = iter(
        token_log_likelihoods(model, [passage for part in parts for passage in part], **options)
    )
    return [
        TextScore(
            sum(float(next(found).double().sum()) for _ in part), len(tokens), len(text.encode())
        )
        for text, tokens, part in zip(texts, encoded, parts, strict=True)
    ]
