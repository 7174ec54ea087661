"""Everything that is planned of one run, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from hydratune.errors import InputError
from hydratune.models import hardware
from hydratune.models.catalogue.entries import devices
from hydratune.planning import advice, licence
from hydratune.planning.advice import FirstSweep, Warn
from hydratune.planning.duration import Duration, chosen_device, duration
from hydratune.planning.licence import Licence
from hydratune.planning.memory import Memory, Needs, Place, workers_of
from hydratune.planning.probe import Probe
from hydratune.planning.row_lengths import row_lengths
from hydratune.planning.step_cost import step_cost
from hydratune.planning.structure import find_structure, trained_part
from hydratune.settings.commands import PlanConfig
from hydratune.settings.model import Quantization
from hydratune.training.schedules import total_steps

THIS_MACHINE = "this machine"


@dataclass(frozen=True)
class Plan:
    """What a run needs and costs."""

    needs: Needs
    here: Memory
    elsewhere: tuple[Memory, ...]  # accelerators of the catalogue
    duration: Duration
    licence: Licence
    window: int | None  # tokens that the model reads
    warnings: tuple[Warn, ...]
    first_sweep: FirstSweep
    probe: Probe | None

    def content(self) -> dict[str, object]:
        """Return the content of plan.json."""
        needs, rows = self.needs, self.needs.rows
        own = needs.structure
        return {
            "model": {
                "name": needs.config.model.name,
                "parameters": own.parameters,
                "outside_language_model": own.outside,
                "sizes_from": own.source,
                "estimated_from": own.stand_in,
                "trained": needs.trained.parameters,
                "trained_share": needs.trained.parameters / max(1, _all_parameters(needs)),
                "context_window": self.window,
            },
            "licence": asdict(self.licence),
            "rows": {
                "train": rows.train_rows,
                "validation": rows.validation_rows,
                "test": rows.test_rows,
                "tokens": rows.tokens,
                "trained_share": rows.trained_share,
                "lengths": rows.quantiles(),
                "too_long": rows.too_long,
                "counted_by_tokenizer": rows.is_counted,
            },
            "memory": [_memory_content(memory) for memory in (self.here, *self.elsewhere)],
            "duration": asdict(self.duration),
            "probe": asdict(self.probe) if self.probe is not None else None,
            "warnings": [{"text": w.text, "source": w.source} for w in self.warnings],
            "first_sweep": asdict(self.first_sweep),
        }


def _memory_content(memory: Memory) -> dict[str, object]:
    return {
        "place": memory.place.name,
        "memory": memory.place.memory,
        "needed": memory.total,
        "fits": memory.fits,
        "parts": dict(memory.parts),
        "generation": memory.generation,
        "micro_tokens": memory.micro_tokens,
        "bytes_per_token": round(memory.per_token),
        "longest_row": memory.longest_row,
    }


def _all_parameters(needs: Needs) -> int:
    return needs.structure.parameters + needs.trained.added


def make_plan(config: PlanConfig, overrides: Sequence[str], probe: Probe | None) -> Plan:
    """Plan a run. ``overrides``: what the user typed of the settings of train.

    Raises ``InputError`` for what ``train`` would refuse after it has loaded the model.
    """
    needs = needs_of(config)
    here = this_machine(config)
    places = list(accelerators(config))
    timed = _timed_place(config)
    taken = duration(needs, config, timed, probe)
    return Plan(
        needs,
        needs.at(here),
        tuple(needs.at(place) for place in places),
        taken,
        licence.licence_of(config.model, needs.structure.facts, config.intended_use),
        _window(needs),
        (*advice.memory_warnings(needs, timed), *advice.warnings(needs, taken.steps)),
        advice.first_sweep(needs, overrides),
        probe,
    )


def with_probe(plan: Plan, config: PlanConfig, probe: Probe) -> Plan:
    """Return a plan of the settings ``config`` with the time that a probe measured."""
    taken = duration(plan.needs, config, _timed_place(config), probe)
    return replace(plan, duration=taken, probe=probe)


def _timed_place(config: PlanConfig) -> Place:
    """Return where training is timed: on ``config.device``, or on this machine."""
    device = chosen_device(config.device)
    named = (p for p in accelerators(config) if device is not None and p.name == device.name)
    return next(named, None) or this_machine(config)


def needs_of(config: PlanConfig) -> Needs:
    """Return what the memory and the time of a run follow from."""
    structure = find_structure(config.model)
    rows = row_lengths(config, structure)
    if not rows.train:
        raise InputError(
            f"no training row fits data.max_length={config.data.max_length}; set it higher"
        )
    trained = trained_part(structure, config.adapter, total_steps(config, rows.train_rows))
    cost = step_cost(config, structure.config, trained)
    return Needs(config, structure, trained, rows, cost)


def _window(needs: Needs) -> int | None:
    own = getattr(needs.structure.config.get_text_config(), "max_position_embeddings", None)
    known = [own if needs.structure.folder is not None else None, needs.config.model.context_window]
    return min((n for n in known if n is not None), default=None)


def this_machine(config: PlanConfig) -> Place:
    """Return where ``train`` would compute here: the GPU if PyTorch sees one, else the CPU."""
    kind = hardware.accelerator(config) if config.trainer.accelerator != "gpu" else "cpu"
    if torch.cuda.is_available() and config.trainer.accelerator != "cpu":
        memory = torch.cuda.get_device_properties(0).total_memory
        precision = hardware.precision(config, "gpu")
        return _gpu(torch.cuda.get_device_name(0), memory, precision)
    precision = hardware.precision(config, kind)
    size = hardware.weights_dtype(config, precision).itemsize
    computed = 2 if precision.startswith("bf16") else 4
    return Place(THIS_MACHINE, hardware.memory(), False, workers_of(config), size, computed)


def accelerators(config: PlanConfig) -> Sequence[Place]:
    """Return the accelerators of the catalogue as places; ``auto`` precision is bf16 there."""
    chosen = config.trainer.precision
    precision = "bf16-mixed" if chosen == "auto" else chosen
    return [_gpu(device.name, device.memory, precision) for device in devices().values()]


def _gpu(name: str, memory: int, precision: str) -> Place:
    size = 2 if precision.startswith("bf16") else 4
    return Place(name, memory, True, 1, size, size)


def is_quantised(plan: Plan) -> bool:
    """Return whether the frozen base is stored as codes."""
    return plan.needs.config.model.quantization is not Quantization.none


def memory_rows(plan: Plan) -> Mapping[str, int]:
    """Return the parts on this machine, largest first, without those that take nothing."""
    parts = sorted(plan.here.parts.items(), key=lambda pair: -pair[1])
    return {name: size for name, size in parts if size}
