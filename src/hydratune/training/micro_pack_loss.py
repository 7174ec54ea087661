"""The summed loss of one micro-pack: the forward pass of a model, and the loss of its result.

The loss itself is in ``losses.py``; which micro-packs there are, in ``plan.py``; in which threads
they are computed, and their gradients, in ``execution.py``.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from hydratune.data.encoding.encoded import Encoded
from hydratune.models.compute import as_trained, deterministic_if_possible, to_device
from hydratune.models.row_mixers import rows_end_to_end
from hydratune.models.row_packing import Level, row_packing
from hydratune.training.frozen import StoredStates
from hydratune.training.losses import PLAIN, LossOptions, head_loss, logit_loss
from hydratune.training.packing import PackedRows, pack_rows
from hydratune.training.plan import MicroPack
from hydratune.training.prefix import Prefix, View
from hydratune.training.step import StepContext, TrainedLayerReached, computing


class MicroPackLoss:
    """Computes the summed loss of micro-packs with one model."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        loss_positions: int,
        neftune_alpha: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        """``loss_positions``: trained tokens whose logits exist at once."""
        base: PreTrainedModel = (
            model.get_base_model() if hasattr(model, "get_base_model") else model
        )
        # PEFT's own forward puts virtual tokens in front of the rows
        has_prompts = base is not model and model.active_peft_config.is_prompt_learning
        self.model = model if has_prompts else base
        self.base = base
        self.packing = row_packing(base)
        self.padding_reason = self.packing.reason
        if has_prompts:
            self.padding_reason = "the adapter puts virtual tokens before every row"
        elif checkpointing and not self.packing.by_argument:
            self.padding_reason = (
                f"{type(base).__name__} does not hand the lengths of rows on to its layers, which"
                " activation checkpointing computes again"
            )
        self.loss_positions = loss_positions
        self.neftune_alpha, self.checkpointing = neftune_alpha, checkpointing
        self.head = plain_head(base) if self.padding_reason is None else None
        self.stored: StoredStates | None = None  # what the layers below the first trained compute

    def __call__(
        self,
        micro: MicroPack,
        loss_options: LossOptions,
        step: StepContext,
        *,
        holds: Prefix | None = None,
        view: View | None = None,
    ) -> torch.Tensor:
        """Return the summed loss of the trained tokens of ``micro``.

        ``holds``: the prefix that is computed in front of its rows. ``view``: the prefix that it
        reads.
        """
        if self.padding_reason is not None:
            with computing(step):
                return padded_loss(self.model, micro.rows, loss_options)
        packed = pack_rows(micro.rows, self.model.device, micro.prefix, prefix=holds is not None)
        inputs = self._inputs(packed, step.generator)
        if view is not None:
            inputs["shared_prefix"] = view
        if holds is not None:
            inputs["record"] = holds.record
        if self.head is None:
            logits = self._logits(packed, inputs, step)
            return logit_loss(logits, packed.targets, loss_options)
        states = self._last_states(packed, micro, inputs, step)[packed.predicts]
        counts = (len(packed.targets),)
        return head_loss(
            states, self.head, packed.targets, counts, (loss_options,), self.loss_positions
        )[0]

    def _last_states(
        self, packed: PackedRows, micro: MicroPack, inputs: Mapping[str, object], step: StepContext
    ) -> torch.Tensor:
        """Return the last hidden states (tokens, width), right where a token is predicted."""
        # layers that are computed again when the step has ended, or on one row, compute all of it
        whole = self.packing.level is Level.layers or not self.packing.ends_once
        if not self.checkpointing and not whole:
            step = replace(step, needed=packed.predicts)
        if self.stored is not None:
            parts = [(row, micro.prefix, len(row.ids) - 1) for row in micro.rows]
            if "record" in inputs:
                parts.insert(0, (micro.rows[0], 0, micro.prefix))
            step = replace(step, entering=self.stored.states(parts, self.model.device))
        with self._computing(step, packed):
            states: torch.Tensor = self.model.base_model(**inputs).last_hidden_state
        return states[0]

    def _logits(
        self, packed: PackedRows, inputs: Mapping[str, object], step: StepContext
    ) -> torch.Tensor:
        """Return the logits (targets, vocabulary) right where a token is predicted."""
        keeps = "logits_to_keep" in inspect.signature(self.base.forward).parameters
        with self._computing(step, packed):
            if keeps:
                return self.model(**inputs, logits_to_keep=packed.predicts).logits[0]
            return self.model(**inputs).logits[0, packed.predicts]

    @contextmanager
    def _computing(self, step: StepContext, packed: PackedRows) -> Iterator[None]:
        lengths: AbstractContextManager[None] = nullcontext()
        if not self.packing.by_argument:
            lengths = rows_end_to_end(packed.row_lengths)
        with computing(step), lengths:
            yield

    def _inputs(self, packed: PackedRows, generator: torch.Generator | None) -> dict[str, Any]:
        inputs = packed.inputs(self.packing)
        if self.neftune_alpha > 0 and torch.is_grad_enabled():
            ids = inputs.pop("input_ids")
            inputs["inputs_embeds"] = self.noisy_embeddings(ids, packed.row_lengths, generator)
        return inputs

    def noisy_embeddings(
        self,
        ids: torch.Tensor,
        row_lengths: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Return embeddings with uniform noise of at most alpha / sqrt(length of the row * width):
        NEFTune (arXiv:2310.05914).
        """
        embedded: torch.Tensor = self.model.get_input_embeddings()(ids)
        (lengths,) = to_device(
            [[length for length in row_lengths for _ in range(length)]], embedded.device
        )  # of every token's row
        largest = self.neftune_alpha / (lengths * embedded.shape[-1]).sqrt()
        noise = torch.empty_like(embedded).uniform_(-1, 1, generator=generator)
        return embedded + noise * largest[:, None]

    @torch.no_grad()
    def states_below(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Return the hidden states (1, tokens, width) of ``rows``, end to end, that enter the first
        trained layer.
        """
        step = StepContext(stops_at_trained=True)
        try:
            with as_trained(self.model):
                deterministic_if_possible(lambda: self(MicroPack(rows), PLAIN, step))
        except TrainedLayerReached as reached:
            return reached.states
        raise AssertionError("no layer of the model is trained")


def plain_head(model: PreTrainedModel) -> torch.Tensor | None:
    """Return the output weight (vocabulary, width) if logits are nothing but hidden states times
    it, and it is not trained; else None.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None or head.weight.requires_grad:
        return None
    if not torch.is_floating_point(head.weight) or model.base_model is model:
        return None
    ids = torch.arange(3, device=model.device)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    modes = {module: module.training for module in model.modules()}
    model.eval()  # two passes with dropout would differ
    with torch.no_grad():
        logits = model(**inputs).logits
        expected = head(model.base_model(**inputs).last_hidden_state)
    for module, mode in modes.items():
        module.training = mode
    return head.weight if logits.shape == expected.shape and torch.equal(logits, expected) else None


def padded_loss(
    model: PreTrainedModel, rows: Sequence[Encoded], loss_options: LossOptions = PLAIN
) -> torch.Tensor:
    """Return the summed loss of ``rows`` as a right-padded batch with full logits: for models that
    cannot take rows end to end.
    """
    device = next(model.parameters()).device
    longest = max(len(row.ids) for row in rows) - 1
    padding = [longest - len(row.ids) + 1 for row in rows]
    ids = torch.tensor(
        [[*row.ids[:-1], *[0] * pad] for row, pad in zip(rows, padding, strict=True)], device=device
    )
    mask = torch.tensor(
        [[1] * (longest - pad) + [0] * pad for pad in padding],
        device=device,
    )
    # virtual tokens stand before the rows
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -longest:]
    where = [
        (number, i)
        for number, row in enumerate(rows)
        for i in range(len(row.ids) - 1)
        if row.loss_mask[i + 1]
    ]
    targets = torch.tensor([rows[number].ids[i + 1] for number, i in where], device=device)
    number, position = torch.tensor(where, device=device).unbind(1)
    return logit_loss(logits[number, position], targets, loss_options)
