"""The checks of gpu.py: a step of hydratune on this device against plain transformers + PEFT.

Errors of gradients are ``norm(a - b) / norm(b)`` of each LoRA matrix, the worst of all. Every check
returns its figures and whether they are within its tolerance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gpu_model import (
    ComputeDevice,
    Shape,
    build,
    deterministic,
    disturb,
    encoded,
    fit,
    objective,
    ours,
    plain_loss,
    random_rows,
    theirs,
)
from workloads import Rows

LOSS = {"fp32": 1e-5, "bf16": 5e-3}  # relative
GRADIENT = {"fp32": 2e-4, "bf16": 5e-2}
NLL = {"fp32": 1e-5, "bf16": 1e-2}
# standard deviations of the logits by which a token we chose may miss the largest logit
LOGIT = {"fp32": 1e-3, "bf16": 0.2}
# of answers; in bf16 one rounding changes all that a random model says after it
AGREEMENT = {"fp32": 0.95, "bf16": 0.0}
CHOSEN = {"fp32": 0.95, "bf16": 0.8}  # of tokens, after the very same tokens
FARTHER = 1.5  # how much farther from fp32 than a plain bf16 step ours may be


@dataclass(frozen=True)
class Setting:
    """What the checks compute on."""

    place: ComputeDevice
    shape: Shape
    shortest: int  # tokens of a row
    longest: int

    def settings(self, *overrides: str) -> Any:
        return self.place.settings("trainer.precision=32-true", "data.batch_size=4", *overrides)

    def rows(self, config: Any, count: int = 8, common: int = 0) -> Rows:
        return random_rows(
            count, self.shape, common + self.shortest, common + self.longest, config, common=common
        )

    def base(self, kind: str, *, nf4: bool = False) -> Any:
        """The same weights, rounded to bf16, in the dtype of ``kind``."""
        if nf4:
            return build(self.shape, self.place, torch.bfloat16, nf4=True)
        base = build(self.shape, self.place, torch.bfloat16)
        return base if kind == "bf16" else base.float()


Gradients = Mapping[str, torch.Tensor]


def our_step(
    model: Any,
    trained: Mapping[str, torch.Tensor],
    rows: Rows,
    setting: Setting,
    kind: str,
    **options: Any,
) -> tuple[float, Gradients]:
    """(summed loss, gradients by name) of a packed step."""
    names = {id(p): name for name, p in trained.items()}
    step = objective(model, options.pop("micro_tokens", 1 << 20), **options)
    with setting.place.mixed(kind == "bf16"):
        loss, gradients = step.gradients(encoded(rows))
    return loss.item(), {names[id(p)]: g for p, g in zip(step.parameters(), gradients, strict=True)}


def plain_step(
    model: Any, trained: Mapping[str, torch.Tensor], rows: Rows, setting: Setting, kind: str
) -> tuple[float, Gradients]:
    """The same by one padded batch and PEFT's own layers."""
    with setting.place.mixed(kind == "bf16"):
        loss = plain_loss(model, rows, range(len(rows.ids)), setting.place, exact=True)
    return loss.item(), dict(
        zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True)
    )


def apart(found: Gradients, wanted: Gradients) -> tuple[float, str]:
    """(relative error of the worst gradient, its name)."""
    assert found.keys() == wanted.keys()
    errors = {name: ((found[name] - g).norm() / g.norm()).item() for name, g in wanted.items()}
    finite = all(bool(g.isfinite().all()) for g in found.values())
    worst = max(errors, key=errors.__getitem__)
    return (errors[worst] if finite else float("inf")), worst


def compared(
    found: tuple[float, Gradients], wanted: tuple[float, Gradients], kind: str
) -> dict[str, Any]:
    loss = abs(found[0] - wanted[0]) / abs(wanted[0])
    gradient, worst = apart(found[1], wanted[1])
    figures = {
        "loss_error": loss,
        "gradient_error": gradient,
        "worst": worst,
        "matrices": len(wanted[1]),
    }
    tolerances = {"loss_tolerance": LOSS[kind], "gradient_tolerance": GRADIENT[kind]}
    return {**figures, **tolerances, "passed": loss <= LOSS[kind] and gradient <= GRADIENT[kind]}


def packed_step(setting: Setting, kind: str, *, nf4: bool = False) -> dict[str, Any]:
    """Rows laid end to end, by our attention and LoRA layers, against the padded step.

    In bf16 also how far both are from fp32.
    """
    config = setting.settings()
    rows = setting.rows(config)
    model, plain = (make(setting.base(kind, nf4=nf4), config) for make in (ours, theirs))
    model.eval(), plain.eval()
    mine, own = disturb(model), disturb(plain)
    assert all(torch.equal(mine[name], own[name]) for name in own) and mine.keys() == own.keys()
    found, wanted = (
        our_step(model, mine, rows, setting, kind),
        plain_step(plain, own, rows, setting, kind),
    )
    figures = compared(found, wanted, kind)
    if kind == "bf16" and not nf4:
        reference = theirs(setting.base("fp32"), config).eval()
        exact = plain_step(reference, disturb(reference), rows, setting, "fp32")
        ours_off, plain_off = apart(found[1], exact[1])[0], apart(wanted[1], exact[1])[0]
        near = ours_off <= FARTHER * plain_off
        figures |= {
            "ours_from_fp32": ours_off,
            "plain_from_fp32": plain_off,
            "passed": figures["passed"] and near,
        }
    return figures


def nf4_step(setting: Setting) -> dict[str, Any]:
    """The same on a 4-bit base: our layers dequantise, PEFT calls bitsandbytes."""
    return packed_step(setting, "bf16", nf4=True)


def shared_prefix(setting: Setting, kind: str) -> dict[str, Any]:
    """Rows that begin alike, whose beginning is computed once, against the same rows each for
    itself; in several micro-packs.
    """
    from hydratune.training.plan import LEAST_SAVED, groups_by_prefix, micro_packs

    config = setting.settings()
    rows = setting.rows(config, common=LEAST_SAVED)
    model = ours(setting.base(kind), config).eval()
    trained = disturb(model)
    (group,) = groups_by_prefix(encoded(rows))
    size = group.prefix + sum(len(row.ids) - group.prefix for row in group.rows) // 3
    packs = len(micro_packs(group.rows, size, 1, group.prefix))
    assert group.prefix and packs > 1, "nothing is shared between micro-packs"
    found, wanted = (
        our_step(model, trained, rows, setting, kind, share=share, micro_tokens=size)
        for share in (True, False)
    )
    return {**compared(found, wanted, kind), "prefix": group.prefix, "micro_packs": packs}


def same_bits(setting: Setting) -> dict[str, Any]:
    """One step twice, and three steps of a whole run twice, with dropout.

    Also whether bits are equal without deterministic algorithms.
    """
    bf16 = setting.place.accelerator == "gpu"
    kind = "bf16" if bf16 else "fp32"
    config = setting.settings()
    rows = setting.rows(config)
    model = ours(setting.base(kind), config).train()
    trained = disturb(model)

    def equal_steps() -> bool:
        (first, a), (second, b) = (our_step(model, trained, rows, setting, kind) for _ in range(2))
        return first == second and all(torch.equal(a[name], b[name]) for name in a)

    with deterministic():
        step = equal_steps()
        runs = [fit(*_run(setting, bf16, steps=3), setting.place) for _ in range(2)]
    with deterministic(False):
        freely = equal_steps()
    whole = _equal(runs[0].trained, runs[1].trained) and runs[0].losses == runs[1].losses
    return {
        "step": step,
        "run": whole,
        "step_without_deterministic_algorithms": freely,
        "precision": kind,
        "passed": step and whole,
    }


def resumed(setting: Setting, steps: int = 4) -> dict[str, Any]:
    """A run in one go against one that is paused half-way and resumed from its checkpoint; with
    dropout.
    """
    bf16 = setting.place.accelerator == "gpu"
    with deterministic():
        straight = fit(*_run(setting, bf16, steps), setting.place)
        half = fit(*_run(setting, bf16, steps), setting.place, pause_at=steps // 2)
        rest = fit(*_run(setting, bf16, steps), setting.place, checkpoint=half.checkpoint)
    weights, losses = _equal(straight.trained, rest.trained), straight.losses == rest.losses
    moved = not _equal(straight.trained, half.trained)
    figures = {
        "steps": steps,
        "paused_after": len(half.losses),
        "weights": weights,
        "losses": losses,
        "moved_after_pause": moved,
    }
    return {**figures, "passed": weights and losses and moved and len(half.losses) == steps // 2}


def _run(setting: Setting, bf16: bool, steps: int) -> tuple[Any, Rows, Any]:
    """(model, rows, settings) of a run that begins anew."""
    kind = "bf16" if bf16 else "fp32"
    config = setting.settings(
        f"trainer.precision={'bf16-mixed' if bf16 else '32-true'}", "adapter.lora_dropout=0.1"
    )
    torch.manual_seed(config.seed)
    return ours(setting.base(kind), config), setting.rows(config, count=4 * steps), config


def _equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@torch.no_grad()
def generation(setting: Setting, kind: str, new_tokens: int = 16) -> dict[str, Any]:
    """Greedy answers against ``generate`` of transformers, and by its own logits; the likelihood of
    references by plain forwards.

    ``agreement``: share of tokens equal to those of ``generate``. ``chosen``: share of our tokens
    that are the largest of transformers' logits after the very same tokens, and ``short``: by how
    many standard deviations the others miss it.
    """
    from hydratune.evaluation.generation import answer

    config, place = setting.settings(), setting.place
    drawn = setting.rows(config, count=6, common=16)
    prompts, references = (
        [ids[: 16 + len(ids) // 2] for ids in drawn.ids],
        [ids[-8:] for ids in drawn.ids],
    )
    model, plain = (make(setting.base(kind), config).eval() for make in (ours, theirs))
    disturb(model), disturb(plain)
    options: dict[str, Any] = {
        "stop": frozenset(),
        "pad": 0,
        "max_new_tokens": new_tokens,
        "batch_size": 4,
    }
    with place.mixed(kind == "bf16"):
        answers = answer(model, prompts, references, **options, title="", quiet=True)
        generated = _generated(plain, prompts, place, new_tokens)
        scored = [
            _logits(plain, prompt, a.tokens, place)
            for prompt, a in zip(prompts, answers, strict=True)
        ]
        likelihoods = [
            _nll(_logits(plain, p, r, place), r) for p, r in zip(prompts, references, strict=True)
        ]
    tokens = [torch.tensor(a.tokens, device=place.device) for a in answers]
    short = torch.cat(
        [
            (s.amax(1) - s.gather(1, t[:, None])[:, 0]) / s.std(1)
            for s, t in zip(scored, tokens, strict=True)
        ]
    )
    same = [
        x == y
        for a, others in zip(answers, generated, strict=True)
        for x, y in zip(a.tokens, others, strict=True)
    ]
    nll = max(abs(a.nll - wanted) / wanted for a, wanted in zip(answers, likelihoods, strict=True))
    agreement, chosen, worst = (
        sum(same) / len(same),
        (short == 0).float().mean().item(),
        short.max().item(),
    )
    figures = {
        "agreement": agreement,
        "chosen": chosen,
        "short": worst,
        "nll_error": nll,
        "tokens": len(same),
    }
    tolerances = {
        "least_agreement": AGREEMENT[kind],
        "least_chosen": CHOSEN[kind],
        "short_tolerance": LOGIT[kind],
        "nll_tolerance": NLL[kind],
    }
    passed = (
        agreement >= AGREEMENT[kind]
        and chosen >= CHOSEN[kind]
        and worst <= LOGIT[kind]
        and nll <= NLL[kind]
    )
    return {**figures, **tolerances, "passed": passed}


def _generated(
    model: Any, prompts: Sequence[Sequence[int]], place: ComputeDevice, new_tokens: int
) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[*[0] * (longest - len(p)), *p] for p in prompts], device=place.device)
    mask = torch.tensor(
        [[*[0] * (longest - len(p)), *[1] * len(p)] for p in prompts], device=place.device
    )
    found = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=new_tokens,
        pad_token_id=0,
    )
    return found[:, longest:].tolist()


def _logits(
    model: Any, prompt: Sequence[int], tokens: Sequence[int], place: ComputeDevice
) -> torch.Tensor:
    """(tokens, vocabulary) in fp32, each row before its token was read."""
    ids = torch.tensor([[*prompt, *tokens[:-1]]], device=place.device)
    return model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].float()


def _nll(logits: torch.Tensor, tokens: Sequence[int]) -> float:
    wanted = torch.tensor(tokens, device=logits.device)
    return -logits.double().log_softmax(1).gather(1, wanted[:, None]).sum().item()
