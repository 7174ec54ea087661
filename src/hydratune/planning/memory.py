"""The memory of a run by part: on this machine's CPU, and on a GPU of given memory.

How much is computed at once follows from the same rules as in a run: ``models.memory_plan`` and
``training.plan``. A process reaches its peak in a training step or while answers are generated, so
the larger of the two counts.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydratune.cores import cpu_count
from hydratune.models import memory_plan
from hydratune.models.memory_plan import CPU_LOSS_POSITIONS, CPU_MICRO_TOKENS
from hydratune.planning.row_lengths import RowLengths
from hydratune.planning.step_cost import StepCost
from hydratune.planning.structure import Structure, Trained
from hydratune.settings.commands import TrainConfig
from hydratune.settings.evaluation import Baseline
from hydratune.settings.model import Quantization
from hydratune.settings.optimizer import OptimizerConfig
from hydratune.training.plan import MicroPack, PlanOptions, plan

if TYPE_CHECKING:
    from hydratune.data.encoding.encoded import Encoded

# Python, PyTorch and the other libraries, with the rows of a small data set: measured
CPU_FRAMEWORK = 615 * 10**6
GPU_FRAMEWORK = 10**9  # the CUDA context and workspaces: an assumption, as in benchmarks/memory.py
# what the allocator holds of what a step or a batch of answers takes on a CPU: measured,
# docs/howto/plan.md
CPU_ALLOCATOR = 1.3
# bytes of a weight: 4 bits, and the scales of blocks, quantised once more (arXiv:2305.14314)
_NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
# bytes that an optimizer keeps for each trained parameter; tests/test_plan.py asks the optimizers
STATE_BYTES = {
    "adamw": 8.0,
    "paged_adamw": 8.0,
    "adamw_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
    "lion": 4.0,
    "lion_8bit": 1.0,
    "muon": 4.0,
    "sgd": 4.0,
    "adafactor": 0.1,
}
_RESTING = ("framework", "weights", "adapter")  # parts that are held while answers are generated
_BATCHES = 100  # whose micro-packs are looked at
PARTS = {  # part -> what it is
    "framework": "Python, PyTorch and the other libraries",
    "weights": "weights of the base model",
    "adapter": "weights that are added",
    "gradients": "gradients of what is trained",
    "optimizer": "what the optimizer remembers",
    "activations": "what a step keeps for its backward pass",
    "logits": "logits of the tokens whose loss is computed at once",
    "stored states": "outputs of the layers below the first trained one",
}


@dataclass(frozen=True)
class Place:
    """Where a run is computed."""

    name: str
    memory: int | None  # bytes; None: unknown
    is_gpu: bool
    workers: int  # threads that compute micro-packs at the same time
    weight_bytes: int  # of a number of the frozen base
    activation_bytes: int


@dataclass(frozen=True)
class Memory:
    """The memory of a run at one place, in bytes."""

    place: Place
    parts: Mapping[str, int]  # of a training step
    generation: int  # caches, activations and logits while answers are generated and scored
    micro_tokens: int
    per_token: float  # of a step
    longest_row: int  # tokens of the longest row that fits, or of the model's context

    @property
    def total(self) -> int:
        """The most that the process holds."""
        resting = sum(self.parts[name] for name in _RESTING)
        return max(sum(self.parts.values()), resting + self.generation)

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None: the memory of the place is unknown."""
        return None if self.place.memory is None else self.total <= self.place.memory


@dataclass(frozen=True)
class Needs:
    """What the memory of a run follows from."""

    config: TrainConfig
    structure: Structure
    trained: Trained
    rows: RowLengths
    cost: StepCost

    def at(self, place: Place) -> Memory:
        """Return the memory of the run at a place."""
        parts = self._fixed(place)
        micro = self._micro_tokens(place, sum(parts.values()))
        per_token = self.cost.per_token * place.activation_bytes / 4
        passes = Passes.of(self, place, micro)
        factor = 1.0 if place.is_gpu else CPU_ALLOCATOR
        of_gradients = passes.results * 4 * self.trained.parameters
        activations = max(factor * passes.live_tokens * per_token, of_gradients)
        parts["activations"] = round(activations + self._dequantised(place))
        parts["logits"] = round(self._logits(place, passes))
        parts["stored states"] = self._stored(place)
        resting = sum(parts[name] for name in _RESTING)
        generation = self._generation(place, resting)
        fixed = sum(parts.values()) - parts["activations"]
        longest = self._longest(place, fixed, factor * per_token * place.workers)
        return Memory(place, parts, generation, micro, per_token, longest)

    # --------------------------------------------------------------------- what does not change
    def _fixed(self, place: Place) -> dict[str, int]:
        trained = self.trained.parameters
        of_state = STATE_BYTES.get(optimizer_kind(self.config.optimizer), 8.0)
        return {
            "framework": GPU_FRAMEWORK if place.is_gpu else CPU_FRAMEWORK,
            "weights": round(self._weights(place)),
            "adapter": 4 * self.trained.added,
            "gradients": 4 * trained,
            "optimizer": round(of_state * trained),
        }

    def _weights(self, place: Place) -> float:
        own, total = self.structure, self.structure.parameters
        each = 4 if self.config.adapter.trains_base else place.weight_bytes
        if self.config.model.quantization is Quantization.none:
            return each * total
        code = _NF4 if self.config.model.quantization is Quantization.nf4 else 1.0
        return code * own.in_linears + each * (total - own.in_linears)

    def _dequantised(self, place: Place) -> float:
        """Return the bytes of the weight that is de-quantised while it is used."""
        if self.config.model.quantization is Quantization.none:
            return 0.0
        text = self.structure.config.get_text_config()
        width, inner = text.hidden_size, getattr(text, "intermediate_size", 0) or 0
        return float(place.workers * place.weight_bytes * width * max(width, inner))

    def _micro_tokens(self, place: Place, fixed: int) -> int:
        if self.config.trainer.micro_tokens:
            return self.config.trainer.micro_tokens
        if not place.is_gpu:
            return CPU_MICRO_TOKENS
        per_token = self.cost.per_token * place.activation_bytes / 4
        free = (place.memory or 0) - fixed
        return memory_plan.fitting_micro_tokens(max(0, free), 0, per_token)

    # -------------------------------------------------------------------------- what a step needs
    def _logits(self, place: Place, passes: "Passes") -> float:
        vocabulary = self.structure.config.get_text_config().vocab_size
        if self.trained.trains_head:  # all logits of a pass, and their gradient
            return 8.0 * passes.live_targets * vocabulary
        each = 4 if place.activation_bytes == 4 else 10  # as models.memory_plan.loss_positions
        positions = CPU_LOSS_POSITIONS
        if place.is_gpu:
            positions = max(
                positions, min(4096, memory_plan.power_of_two_below(2**29 / (10 * vocabulary)))
            )
        return float(min(positions, passes.most_targets) * vocabulary * each * place.workers)

    def _stored(self, place: Place) -> int:
        """Return the bytes of stored states, which are mapped from a file on a CPU."""
        count, limit = self.trained.frozen_layers, self.config.trainer.frozen_cache_gb * 1e9
        if (
            not count
            or self.config.trainer.gradient_checkpointing
            or self.config.trainer.neftune_alpha
        ):
            return 0
        width = self.structure.config.get_text_config().hidden_size
        rows = self.rows
        validation = rows.tokens / max(1, rows.train_rows) * rows.validation_rows
        size = round((rows.tokens + validation) * width * place.weight_bytes)
        return size if size <= limit else 0

    def _generation(self, place: Place, resting: int) -> int:
        """Return the bytes while answers to the test rows are generated, and their references
        scored. ``resting``: what is held beside; batches are as small as they have to be.
        """
        text = self.structure.config.get_text_config()
        evaluation, rows = self.config.evaluation, self.rows
        count = min(rows.test_rows, evaluation.max_rows or rows.test_rows)
        answer = evaluation.max_new_tokens or round(1.05 * rows.longest_answer)
        row, size = rows.longest_prompt + answer, place.activation_bytes
        at_once = min(evaluation.batch_size, -(-count // place.workers))
        each = memory_plan.bytes_per_generated_token(text, size)
        tokens = at_once * row
        if evaluation.batch_tokens is not None:
            tokens = min(tokens, evaluation.batch_tokens)
        if place.memory is not None:  # the rule of models.memory_plan.generation_tokens
            free = place.memory - resting if place.is_gpu else place.memory // 2
            tokens = max(row, min(tokens, int(0.8 * free / place.workers / each)))
        # keys and values of a batch, and of the rows that are scored, with their logits twice
        cached = memory_plan.bytes_of_keys_and_values(text, size)
        together = min(at_once, memory_plan.SCORED_TOGETHER)
        scored = min(together * rows.longest_answer, memory_plan.SCORED_TOKENS)
        scoring = (tokens + together * row) * cached + 2 * scored * text.vocab_size * size
        factor = 1.0 if place.is_gpu else CPU_ALLOCATOR
        return round(factor * (place.workers * max(tokens * each, scoring) + self._examples(each)))

    def _examples(self, each: int) -> int:
        """Return the bytes of the examples in few-shot prompts, which all rows share."""
        evaluation = self.config.evaluation
        if Baseline.fewshot not in evaluation.baselines:
            return 0
        return round(evaluation.shots * self.rows.tokens / max(1, self.rows.train_rows) * each)

    def _longest(self, place: Place, fixed: int, per_token: float) -> int:
        """Return the tokens of the longest row that can be trained, in every thread one."""
        text = self.structure.config.get_text_config()
        own = getattr(text, "max_position_embeddings", None)
        window = int(self.config.model.context_window or own or 2**31)
        if place.memory is None:
            return window
        return max(0, min(window, int((place.memory - fixed) / max(1.0, per_token))))


@dataclass(frozen=True)
class Passes:
    """The passes of the optimizer step that holds most tokens at the same time."""

    live_tokens: int  # of micro-packs that are computed at the same time
    live_targets: int  # trained tokens of them
    most_targets: int  # of one micro-pack
    results: int  # micro-packs whose gradients exist at the same time
    tokens: float  # computed in an average step, shared prefixes once

    @staticmethod
    def of(needs: Needs, place: Place, micro_tokens: int) -> "Passes":
        """Return the passes of the first batches in the order of the rows."""
        config, rows = needs.config, needs.rows.train
        size = config.data.batch_size
        draws = config.adapter.draws_random() or config.trainer.neftune_alpha > 0
        share = config.trainer.share_prefix and not draws
        share = share and not config.trainer.gradient_checkpointing
        padded = config.adapter.virtual_tokens() > 0
        options = PlanOptions(micro_tokens, place.workers, padded)
        steps = [
            _Step.of(plan(batch, options, share=share), place.workers)
            for batch in _batches(rows, size)
        ]
        most = max(steps, key=lambda step: step.live_tokens)
        return Passes(
            most.live_tokens,
            most.live_targets,
            max(step.most_targets for step in steps),
            max(step.results for step in steps),
            statistics.mean(step.tokens for step in steps),
        )


@dataclass(frozen=True)
class _Step:
    live_tokens: int
    live_targets: int
    most_targets: int
    results: int
    tokens: int

    @staticmethod
    def of(packs: Sequence[MicroPack], workers: int) -> "_Step":
        """Return what is held at the same time while ``packs`` are computed.

        A micro-pack that holds a prefix is kept until all that read it are done.
        """
        sizes = [_tokens(pack) for pack in packs]
        holders = [n for n, pack in zip(sizes, packs, strict=True) if pack.holds_prefix]
        others = sorted(
            (n for n, pack in zip(sizes, packs, strict=True) if not pack.holds_prefix),
            reverse=True,
        )
        live = sum(holders) + sum(others[:workers])
        targets = sorted((sum(row.supervised for row in pack.rows) for pack in packs), reverse=True)
        running = len(holders) + workers
        return _Step(
            live,
            sum(targets[:running]),
            max(targets, default=0),
            min(len(packs), workers) + (len(packs) > workers),
            sum(sizes),
        )


def _tokens(pack: MicroPack) -> int:
    """Return the tokens that a micro-pack computes."""
    own = sum(len(row.ids) - 1 - pack.prefix for row in pack.rows)
    return own + (pack.prefix if pack.holds_prefix else 0)


def _batches(rows: "Sequence[Encoded]", size: int) -> "list[Sequence[Encoded]]":
    starts = range(0, max(1, len(rows) - size + 1), size)
    return [rows[start : start + size] for start in starts][:_BATCHES]


def optimizer_kind(optimizer: OptimizerConfig) -> str:
    """Return the name of an optimizer, as its option is called."""
    return str(getattr(optimizer, "kind", ""))


def workers_of(config: TrainConfig) -> int:
    """Return how many threads compute micro-packs on this machine."""
    draws = config.adapter.draws_random() or config.trainer.neftune_alpha > 0
    if draws and config.trainer.gradient_checkpointing:
        return 1
    return config.trainer.cpu_workers or max(1, cpu_count() // config.trainer.devices)
