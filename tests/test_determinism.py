"""Deterministic algorithms: operations that lack one are reported, and the run continues."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hydratune.evaluation import corpus
from hydratune.evaluation.generation import answer
from hydratune.models import compute
from hydratune.models.attention import NAME
from hydratune.sweeps.planning import shared_by
from hydratune.training import packing
from hydratune.training.adalora import RankAllocation
from hydratune.training.objective import Objective
from reference_answers import OPTIONS, reference_nlls
from small_models import build, rows, with_lora
from test_config import compose


def test_a_nondeterministic_operation_in_training_is_reported_once_and_training_continues(
    determinism_reset: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = with_lora(build("Llama"))
    model.get_base_model().set_attn_implementation(NAME)
    expected, expected_gradients = Objective(model, micro_tokens=1000, workers=1).gradients(rows())
    real = packing.pack_rows

    def strict(*args: Any, **options: Any) -> Any:
        if (
            torch.are_deterministic_algorithms_enabled()
            and not torch.is_deterministic_algorithms_warn_only_enabled()
        ):
            raise RuntimeError(
                "histc_cuda does not have a deterministic implementation, but you set"
                " 'torch.use_deterministic_algorithms(True)'"
            )
        return real(*args, **options)

    monkeypatch.setattr("hydratune.training.micro_pack_loss.pack_rows", strict)
    compute.be_deterministic()
    objective = Objective(model, micro_tokens=1000, workers=1)
    objective.peak_of_a_step(64)  # as in a run, which plans its memory first
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    compute.be_deterministic()
    loss, gradients = objective.gradients(rows())
    assert torch.equal(loss, expected) and all(map(torch.equal, gradients, expected_gradients))
    assert (
        "histc_cuda has no deterministic implementation on this device" in capsys.readouterr().out
    )


def nlls_without_shared_prefix(model: Any) -> list[float]:
    """Return the likelihoods of answers to prompts without a common prefix, which is otherwise
    computed before the batches.
    """
    return [one.nll for one in answer(model, [[1, 2, 3], [4, 5]], [[6], [7]], **OPTIONS)]


def passage_likelihoods(model: Any) -> list[list[float]]:
    both = [corpus.ScoredSpan((1, 2), (3, 4)), corpus.ScoredSpan((1,), (5,))]
    return [
        values.tolist() for values in corpus.token_log_likelihoods(model, both, pad=0, quiet=True)
    ]


@pytest.mark.parametrize(
    "evaluated",
    [lambda model: reference_nlls(model), nlls_without_shared_prefix, passage_likelihoods],
    ids=["shared beginning", "answers", "passages"],
)
def test_a_nondeterministic_operation_in_evaluation_is_reported_and_evaluation_continues(
    model: Any,
    determinism_reset: None,
    capsys: pytest.CaptureFixture[str],
    evaluated: Callable[[Any], Any],
) -> None:
    expected = evaluated(model)

    def strict(*args: Any) -> None:
        if (
            torch.are_deterministic_algorithms_enabled()
            and not torch.is_deterministic_algorithms_warn_only_enabled()
        ):
            raise RuntimeError(
                "cumsum_cuda_kernel does not have a deterministic implementation, but you set"
                " 'torch.use_...'"
            )

    model.register_forward_pre_hook(strict)
    compute.be_deterministic()
    assert evaluated(model) == expected
    assert "cumsum_cuda_kernel has no deterministic implementation" in capsys.readouterr().out


def test_warning_instead_of_refusing_is_temporary(determinism_reset: None) -> None:
    compute.be_deterministic()
    with compute.nothing_refused():
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert (
        torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    torch.use_deterministic_algorithms(False)
    with compute.nothing_refused():
        assert not torch.are_deterministic_algorithms_enabled()


def test_adalora_ranks_are_allocated_while_nothing_is_refused(determinism_reset: None) -> None:
    """AdaLoRA's threshold is a k-th smallest value, which CUDA refuses in deterministic mode.
    Computed on each rank separately, it could differ.
    """
    refusing: list[bool] = []
    callback = object.__new__(RankAllocation)
    allocate = lambda step: refusing.append(  # noqa: E731
        not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    base_model = SimpleNamespace(update_and_allocate=allocate)
    callback.model = SimpleNamespace(base_model=base_model)  # type: ignore[assignment]
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: False))
    trainer: Any = SimpleNamespace(global_step=1, fit_loop=loop)
    compute.be_deterministic()
    callback.on_train_batch_end(trainer)
    assert refusing == [False] and not torch.is_deterministic_algorithms_warn_only_enabled()


def test_jobs_that_are_deterministic_share_no_process_with_others() -> None:
    assert shared_by(compose()) == shared_by(compose("optimizer.lr=0.5"))
    assert shared_by(compose()) != shared_by(compose("trainer.deterministic=false"))


def test_only_deterministic_cublas_workspaces_are_kept(
    determinism_reset: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, used in ((":16:8", ":16:8"), (":0:0", ":4096:8"), ("", ":4096:8")):
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
        compute.be_deterministic()
        assert compute.os.environ["CUBLAS_WORKSPACE_CONFIG"] == used
