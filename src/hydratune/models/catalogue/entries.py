"""The rows of the catalogue: models with licence, size and context, and accelerators."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
UNKNOWN = "unknown"
# shorter names of options, which settings of users may have; they are not listed
SHORT_NAMES = {"llama3_1b": "llama3_2_1b", "llama3_8b": "llama3_1_8b"}


class CommercialUse(StrEnum):
    """Whether a licence allows commercial use."""

    yes = "yes"  # without conditions beyond the licence text
    conditional = "conditional"  # under the conditions that the row names
    no = "no"  # not allowed
    unknown = UNKNOWN  # no source says it


@dataclass(frozen=True)
class ModelFacts:
    """What is known of one model; None: unknown."""

    name: str  # of the option: model=NAME
    hub_id: str
    parameters: int
    architecture: str  # the class of transformers
    context_window: int | None  # tokens
    licence: str | None
    commercial_use: CommercialUse
    conditions: str | None  # of the licence
    gated: bool | None  # whether the hub asks for an account that accepted the licence
    chat_template: str | None  # what is special about it
    lora_targets: str | None  # layers that are usually adapted
    source: str  # where these facts are from
    checked: str  # date

    @property
    def short_name(self) -> str:
        """The name on the hub without its organisation."""
        return self.hub_id.partition("/")[2]

    def describe(self) -> str:
        """Return what an option of ``model=`` is, in one line."""
        size = f"{self.parameters / 1e9:.3g}B parameters"
        return f"{self.hub_id}, {size}; licence: {self.licence or UNKNOWN}"


@dataclass(frozen=True)
class Device:
    """One kind of accelerator; None: unknown."""

    name: str
    memory: int  # bytes: the nominal GB of the table
    flops: float | None  # per second, dense, in bf16
    bandwidth: float | None  # bytes per second of its memory
    source: str
    checked: str  # date


@cache
def models() -> Mapping[str, ModelFacts]:
    """Return the models by the name of their option, in the order of the table."""
    return {row["name"]: _model(row) for row in read_table("models.csv")}


def model_of(hub_id: str) -> ModelFacts | None:
    """Return the row of a model of the hub, or None if the catalogue lacks it."""
    same = (facts for facts in models().values() if facts.hub_id.lower() == hub_id.lower())
    return next(same, None)


@cache
def devices() -> Mapping[str, Device]:
    """Return the accelerators by name, in the order of the table."""
    return {row["device"]: _device(row) for row in read_table("devices.csv")}


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of a table of this package."""
    with (FOLDER / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _model(row: Mapping[str, str]) -> ModelFacts:
    context, gated = _known(row["context_window_tokens"]), _known(row["gated"])
    return ModelFacts(
        row["name"],
        row["hub_id"],
        round(float(row["parameters_billion"]) * 1e9),
        row["architecture"],
        int(context) if context is not None else None,
        _known(row["licence"]),
        CommercialUse(row["commercial_use"]),
        _known(row["conditions"]),
        gated == "yes" if gated is not None else None,
        _known(row["chat_template_notes"]),
        _known(row["suggested_lora_targets"]),
        row["source"],
        row["checked"],
    )


def _device(row: Mapping[str, str]) -> Device:
    compute = _known(row["bf16_tflops_dense"])
    bandwidth = _known(row["memory_bandwidth_gb_s"])
    return Device(
        row["device"],
        # vendors give decimal or binary gigabytes; the smaller reading promises nothing false
        round(float(row["memory_gib"]) * 1e9),
        float(compute) * 1e12 if compute is not None else None,
        float(bandwidth) * 1e9 if bandwidth is not None else None,
        row["source"],
        row["checked"],
    )


def _known(value: str) -> str | None:
    return None if value == UNKNOWN else value
