"""AdaLoRA (arXiv:2303.10512): LoRA whose ranks are reduced during training by importance."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hydratune.adapters.base import LayerAdapter, dropout_problems
from hydratune.errors import ConfigError, Problem
from hydratune.settings.adapter import AdapterContext
from hydratune.settings.ranges import at_least
from hydratune.settings.registry import variant
from hydratune.wording import counted

if TYPE_CHECKING:
    import torch
    from lightning import Callback
    from peft import PeftModel
    from transformers import PreTrainedModel


@variant("adapter", "adalora")
@dataclass
class AdaLoraAdapter(LayerAdapter):
    """LoRA that gives more rank to important layers while it trains (arXiv:2303.10512)."""

    peft_type: ClassVar[str] = "ADALORA"
    title: ClassVar[str] = "AdaLoRA"
    supports_quantized_base: ClassVar[bool] = True
    saves_tied_embeddings: ClassVar[bool] = True
    resume_obstacle: ClassVar[str] = "AdaLoRA plans its ranks for the steps of one run"

    method: str = "adalora"
    init_r: int = 12  # rank of every layer at the start
    target_r: int = 8  # mean rank at the end
    lora_alpha: float = 32  # the change is multiplied by lora_alpha / r
    lora_dropout: float = 0.0  # share of the inputs of LoRA that is dropped in training
    tinit: int | None = None  # optimizer steps before ranks begin to fall; null: a tenth of the run
    # optimizer steps at the end with ranks fixed; null: a fifth of the run
    tfinal: int | None = None
    deltaT: int = 1  # optimizer steps between two allocations
    beta1: float = 0.85  # smoothing of a weight's importance
    beta2: float = 0.85  # smoothing of its uncertainty
    # weight of the orthogonal regularisation, which is added to the loss
    orth_reg_weight: float = 0.5

    def problems(self, context: AdapterContext) -> Iterator[Problem]:
        yield from super().problems(context)
        yield from dropout_problems("adapter.lora_dropout", self.lora_dropout)
        if not self.lora_alpha > 0:
            fix = "usual: 2 * adapter.init_r"
            yield Problem("adapter.lora_alpha", self.lora_alpha, "must be above 0", fix)
        yield from at_least("adapter.target_r", self.target_r, 1)
        if self.init_r <= self.target_r:
            why = f"ranks fall from init_r to target_r={self.target_r}"
            fix = f"set adapter.init_r={3 * self.target_r // 2 + 1}"
            yield Problem("adapter.init_r", self.init_r, why, fix)
        for name in ("tinit", "tfinal"):
            yield from at_least(f"adapter.{name}", getattr(self, name), 0, " steps")
        yield from at_least("adapter.deltaT", self.deltaT, 1, " step")
        yield from at_least("adapter.orth_reg_weight", self.orth_reg_weight, 0)
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if not 0 < value < 1:
                yield Problem(f"adapter.{name}", value, "must be in (0, 1)", "usual: 0.85")

    def model_problems(self, model: "PreTrainedModel", steps: int | None) -> Iterator[Problem]:
        from hydratune.adapters.peft_rules import rank_problems
        from hydratune.adapters.targets import targets

        yield from super().model_problems(model, steps)
        yield from rank_problems("adapter.init_r", self.init_r, targets(model, self))
        if steps is not None:
            self.phases(steps)

    def check_steps(self, steps: int) -> None:
        self.phases(steps)

    def phases(self, steps: int) -> tuple[int, int]:
        """Return how many of ``steps`` optimizer steps have full rank, and how many fixed ranks.

        The first ones train at full rank, the last ones with the ranks that are left. Raises
        ``ConfigError`` if there are none between them.
        """
        begin = self.tinit if self.tinit is not None else steps // 10
        end = self.tfinal if self.tfinal is not None else steps // 5
        if begin + end >= steps:
            name = "tinit" if self.tinit else "tfinal"
            why = (
                f"the run has {counted(steps, 'optimizer step')}: tinit={begin} and tfinal={end}"
                " leave none to"
                " reduce the ranks"
            )
            fix = "lower adapter.tinit and adapter.tfinal, or train longer"
            raise ConfigError([Problem(f"adapter.{name}", getattr(self, name), why, fix)])
        return begin, end

    def callbacks(self, model: "PeftModel | PreTrainedModel") -> list["Callback"]:
        from peft import PeftModel

        from hydratune.training.adalora import RankAllocation

        return [RankAllocation(model)] if isinstance(model, PeftModel) else []

    @classmethod
    def before_saving(cls, model: "PeftModel") -> None:
        """Write down the ranks of the weights.

        PEFT remembers the last allocation, and the weights may be those of an earlier checkpoint.
        """
        model.peft_config[model.active_adapter].rank_pattern = {
            name: _kept_values(parameter)
            for name, parameter in model.base_model.model.named_parameters()
            if ".lora_E." in name
        }

    def peft_values(self, model: "PreTrainedModel", steps: int) -> dict[str, object]:
        begin, end = self.phases(steps)
        times = {"tinit": begin, "tfinal": end, "total_step": steps}
        return super().peft_values(model, steps) | times


def _kept_values(values: "torch.Tensor") -> list[bool]:
    """Return which singular values AdaLoRA kept: at least one, as PEFT cannot load a rank of 0."""
    kept: list[bool] = (values != 0).view(-1).tolist()
    return kept if any(kept) else [True, *kept[1:]]
