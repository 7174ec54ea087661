"""Replaced forwards and the step context: applied, nested, and reverted whatever happens."""

import threading
from collections.abc import Iterator
from typing import Any

import peft
import pytest
import torch

from hydratune.models.attention import NAME
from hydratune.training import patches
from hydratune.training.arithmetic import Arithmetic
from hydratune.training.lean_linears import is_lean
from hydratune.training.patches import ModelPatches, with_lean_layers
from hydratune.training.randomness import RandomState, draws_outside_lora, drops_attention
from hydratune.training.step import StepContext, computing, current_step
from small_models import build, with_lora


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def replaced(model: torch.nn.Module) -> dict[str, Any]:
    return {name: vars(m)["forward"] for name, m in model.named_modules() if "forward" in vars(m)}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(12)[None]).logits  # type: ignore[no-any-return]


def test_reverted_patches_restore_the_model(one_thread: None) -> None:
    model = with_lora(build("Llama"))
    ModelPatches(model)  # does nothing by itself
    before, lean = logits(model), replaced(model)
    assert lean and any(map(is_lean, model.modules()))
    with ModelPatches(model) as more:
        more.use_stored_states(model.get_base_model().model.layers, 1)
        more.use_fast_linears()
        assert set(replaced(model)) > set(lean)
        assert torch.equal(logits(model), before) or patches.ONEDNN
    assert replaced(model) == lean  # those of another set of patches stay
    assert torch.equal(logits(model), before)


def test_patches_are_reverted_in_reverse_order_and_after_an_error() -> None:
    model = build("Llama")
    layers = model.model.layers
    with pytest.raises(ArithmeticError), ModelPatches(model) as outer:
        outer.use_stored_states(layers, 1)
        first = replaced(model)
        with pytest.raises(KeyError), ModelPatches(model) as inner:
            inner.use_fast_linears()
            raise KeyError
        assert replaced(model) == first
        raise ArithmeticError
    assert replaced(model) == {}
    outer.revert()  # nothing is left to revert
    assert replaced(model) == {}


def test_lean_layers_are_replaced_once_and_only_beside_an_adapter() -> None:
    full = build("Llama")
    assert replaced(with_lean_layers(full)) == {}  # it is trained without an adapter
    model = with_lora(build("Llama"))
    lean = replaced(model)
    assert replaced(with_lean_layers(model)) == lean


def test_a_step_context_belongs_to_its_thread_and_ends_with_its_block() -> None:
    outer, inner = StepContext(arithmetic=Arithmetic(fast=True)), StepContext(stops_at_trained=True)
    elsewhere: list[StepContext] = []
    with computing(outer):
        with pytest.raises(ArithmeticError), computing(inner):
            assert current_step() is inner
            raise ArithmeticError
        assert current_step() is outer
        thread = threading.Thread(target=lambda: elsewhere.append(current_step()))
        thread.start()
        thread.join()
    assert current_step() == StepContext() == elsewhere[0]


def test_layers_follow_the_step_context() -> None:
    """Dropout draws from its generator, the last MLP is computed where it is needed, and stored
    states replace the layers below.
    """
    model = with_lora(build("Llama"), lora_dropout=0.5).train()
    model.get_base_model().set_attn_implementation(NAME)
    ids = torch.arange(12)[None]

    def states(**options: Any) -> torch.Tensor:
        with computing(StepContext(torch.Generator().manual_seed(1), **options)):
            hidden: torch.Tensor = model.get_base_model().model(input_ids=ids).last_hidden_state
            return hidden

    assert torch.equal(states(), states())
    dropped = states()
    model.eval()
    everywhere = states()
    assert not torch.allclose(dropped, everywhere)
    needed = states(needed=torch.tensor([3, 7]))
    torch.testing.assert_close(needed[:, [3, 7]], everywhere[:, [3, 7]])
    assert not torch.allclose(needed[:, 5], everywhere[:, 5])
    entering = torch.zeros(1, 12, model.config.hidden_size)
    with ModelPatches(model) as stored:
        stored.use_stored_states(model.get_base_model().model.layers, 1)
        assert not torch.allclose(states(entering=entering), states())
    assert torch.equal(states(entering=entering), states())


def test_a_random_state_is_restored() -> None:
    generator = torch.Generator().manual_seed(3)
    state = RandomState(generator, torch.device("cpu"), of_process=True)
    first = torch.rand(2, generator=generator), torch.rand(2)
    state.restore()
    assert torch.equal(torch.rand(2, generator=generator), first[0])
    assert torch.equal(torch.rand(2), first[1])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_in_the_forward_of_another_peft_method_is_seen(dropout: float) -> None:
    settings = peft.LoKrConfig(r=4, target_modules=["q_proj"], rank_dropout=dropout)
    model = peft.get_peft_model(build("Llama"), settings)
    assert draws_outside_lora(model) is (dropout > 0)


def test_models_that_draw_random_numbers() -> None:
    assert not draws_outside_lora(with_lora(build("Llama"), lora_dropout=0.5))
    assert draws_outside_lora(with_lora(build("Llama"), lora_dropout=0.5, use_dora=True))
    assert draws_outside_lora(build("Llama", attention_dropout=0.1))
    assert drops_attention(build("Llama", attention_dropout=0.1))
    assert not drops_attention(torch.nn.Linear(2, 2))
