"""All forwards of a model's modules that training and generation replace.

===========================  ==============================================  =====================
method                       what is replaced                                by
===========================  ==============================================  =====================
``use_lean_layers``          plain LoRA and frozen linear layers beside it   ``lean_linears``
                             frozen RMS norms, gated MLPs                    ``lean_blocks``
``use_stored_states``        decoder layers that are not trained             ``_StoredEntry``
``use_fast_linears``         plain linear layers, without gradients          ``_FastLinear``
``use_merged_passes``        linear layers and MLPs of a base model that     ``merged_layers``
                             serves several trials
===========================  ==============================================  =====================
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from hydratune.training.lean_blocks import LeanMlp, gated_activation, last_mlps, lean_norm
from hydratune.training.lean_linears import LeanLinear, Siblings, is_lean
from hydratune.training.lora_layers import is_frozen_dense, is_plain_lora, sibling_groups
from hydratune.training.merged_layers import MergedLinears, MergedMlp
from hydratune.training.products import ONEDNN, frozen_forward
from hydratune.training.step import TrainedLayerReached, current_step

Model = TypeVar("Model", bound=torch.nn.Module)


class ModelPatches:
    """The replaced forwards of one model, and what was there before.

    As a context manager it reverts them at the end of the block, whatever happens in it. Otherwise
    they stay until ``revert`` is called. Several of them on one model are reverted in reverse
    order.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._before: list[tuple[torch.nn.Module, object]] = []

    def __enter__(self) -> "ModelPatches":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.revert()

    def _replace(self, module: torch.nn.Module, forward: Callable[..., object]) -> None:
        self._before.append((module, vars(module).get("forward")))
        vars(module)["forward"] = forward

    def revert(self) -> None:
        """Give every module the forward that it had before."""
        while self._before:
            module, forward = self._before.pop()
            if forward is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = forward

    # ---------------------------------------------------------------------------- training a model
    def use_lean_layers(self) -> None:
        """Replace the forwards of LoRA layers, norms and MLPs of a model with an adapter.

        A model that is trained without an adapter keeps its own, and so does one whose forwards are
        replaced already.
        """
        if isinstance(self.model, PeftModel) and not any(map(is_lean, self.model.modules())):
            self.use_lean_linears()
            self.use_lean_blocks()

    def use_lean_linears(self) -> int:
        """Replace the forward of every plain LoRA layer, and of frozen linear layers beside them;
        return how many have LoRA.
        """
        model: PreTrainedModel | PeftModel = self.model
        if not any(map(is_plain_lora, model.modules())):
            return 0
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        # the modules inside a PEFT layer are not called as they are
        for parent in [m for m in model.modules() if not isinstance(m, BaseTunerLayer)]:
            children = {
                name: child
                for name, child in parent.named_children()
                if is_plain_lora(child) or (is_frozen_dense(child) and child is not head)
            }
            for group in sibling_groups(children):
                siblings = Siblings(group)
                for layer in group:
                    self._replace(layer, LeanLinear(layer, siblings).forward)
        return sum(map(is_plain_lora, model.modules()))

    def use_lean_blocks(self) -> int:
        """Replace the forward of every frozen RMS norm, and of every gated MLP whose linear layers
        are replaced; return how many.
        """
        count, last = 0, last_mlps(self.model)
        for module in self.model.modules():
            norm = lean_norm(module)
            if norm is not None:
                self._replace(module, norm.forward)
                count += 1
            elif (
                hasattr(module, "gate_proj")
                and (activation := gated_activation(module, is_lean)) is not None
            ):
                self._replace(module, LeanMlp(module, activation, id(module) in last).forward)
                count += 1
        return count

    def use_stored_states(self, layers: torch.nn.ModuleList, count: int) -> None:
        """Let the lowest ``count`` decoder layers be skipped, and the next one begin with stored
        hidden states, or end the pass; see ``StepContext``.
        """
        for number, layer in enumerate(layers[: count + 1]):
            if isinstance(getattr(layer.forward, "__self__", None), _StoredEntry):
                continue  # by an earlier objective on the same model
            self._replace(layer, _StoredEntry(layer.forward, number == count).forward)

    # --------------------------------------------------------------------------------- generation
    def use_fast_linears(self) -> None:
        """Have plain linear layers compute by the faster library. Without gradients only."""
        if not ONEDNN:
            return
        for module in self.model.modules():
            if type(module) is torch.nn.Linear and "forward" not in vars(module):
                self._replace(module, _FastLinear(module).forward)

    # ------------------------------------------------------------- a base model of several trials
    def use_merged_passes(self) -> dict[str, torch.nn.Linear]:
        """Have a base model compute what the trials of a merged pass add; return its linear layers
        by name.
        """
        model: PreTrainedModel = self.model
        names = {id(module): name for name, module in model.named_modules()}
        head = model.get_output_embeddings()
        linears = {
            name: m for name, m in model.named_modules() if is_frozen_dense(m) and m is not head
        }
        self.use_lean_blocks()
        last, remaining = last_mlps(model), dict(linears)
        for module in model.modules():
            mlp = self._merged_mlp(module, names, is_last=id(module) in last)
            if mlp is not None:
                self._replace(module, mlp.forward)
                for name in mlp.names:
                    remaining.pop(name, None)
                continue
            children = {
                name: child
                for name, child in module.named_children()
                if names[id(child)] in remaining
            }
            for group in sibling_groups(children):
                merged = MergedLinears([names[id(m)] for m in group], group)
                for place, layer in enumerate(group):
                    self._replace(layer, merged.forward_of(place))
        return linears

    def _merged_mlp(
        self, module: torch.nn.Module, names: dict[int, str], *, is_last: bool
    ) -> MergedMlp | None:
        if not hasattr(module, "gate_proj"):
            return None
        activation = gated_activation(module, is_frozen_dense)
        if activation is None:
            return None
        gate, up, down = (
            names[id(getattr(module, part))] for part in ("gate_proj", "up_proj", "down_proj")
        )
        return MergedMlp(module, (gate, up, down), activation, is_last)


def with_lean_layers(model: Model) -> Model:
    """Return ``model`` after ``ModelPatches.use_lean_layers``: what is done with every model to
    which an adapter was just attached.
    """
    ModelPatches(model).use_lean_layers()
    return model


@dataclass(eq=False)
class _StoredEntry:
    """Holds the forward of a decoder layer at or below the first trained one."""

    own: Callable[..., object]  # the forward that the layer had before
    is_first_trained: bool

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> object:
        """Return what the layer does, or ``hidden_states`` where it is skipped."""
        step = current_step()
        if self.is_first_trained:
            if step.stops_at_trained:
                raise TrainedLayerReached(hidden_states)
            states = hidden_states if step.entering is None else step.entering
            return self.own(states, *args, **kwargs)
        if step.entering is not None:
            return hidden_states
        return self.own(hidden_states, *args, **kwargs)


@dataclass(eq=False)
class _FastLinear:
    """Holds the forward of a plain linear layer in generation."""

    layer: torch.nn.Linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x W' + b."""
        layer = self.layer
        if torch.is_autocast_enabled(x.device.type):  # which does not know oneDNN's own operations
            return F.linear(x, layer.weight, layer.bias)
        return frozen_forward(x, layer.weight, layer.bias)
