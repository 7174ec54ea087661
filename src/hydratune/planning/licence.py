"""The licence of the base model against what the fine-tuned model is meant for."""

from dataclasses import dataclass
from enum import StrEnum

from hydratune.models.catalogue.entries import UNKNOWN, CommercialUse, ModelFacts
from hydratune.settings.commands import IntendedUse
from hydratune.settings.model import ModelConfig


class Verdict(StrEnum):
    """Whether a licence allows the intended use."""

    yes = "yes"
    conditional = "conditional"
    no = "no"
    unknown = UNKNOWN
    not_asked = "not asked"


@dataclass(frozen=True)
class Licence:
    """What is known of a licence."""

    name: str
    commercial_use: str
    conditions: str  # also for derivatives, which a fine-tuned model is
    gated: str
    source: str
    verdict: Verdict
    sentence: str  # the verdict in words


def licence_of(model: ModelConfig, facts: ModelFacts | None, use: IntendedUse) -> Licence:
    """Return the licence of a model and whether it allows ``use``; unknown stays unknown."""
    if facts is None:
        name, commercial, source = model.licence, CommercialUse.unknown, "model.licence"
        conditions = gated = UNKNOWN
    else:
        name, commercial = facts.licence or UNKNOWN, facts.commercial_use
        conditions = facts.conditions or UNKNOWN
        gated = UNKNOWN if facts.gated is None else "yes" if facts.gated else "no"
        source = f"{facts.source}; checked {facts.checked}"
    verdict, sentence = _verdict(name, commercial, use)
    return Licence(name, commercial.value, conditions, gated, source, verdict, sentence)


def _verdict(name: str, commercial: CommercialUse, use: IntendedUse) -> tuple[Verdict, str]:
    if use is IntendedUse.unstated:
        return Verdict.not_asked, "intended_use=commercial or research says whether it allows that"
    if name == UNKNOWN:
        return Verdict.unknown, "the licence is unknown: read the model's page before you use it"
    if use is IntendedUse.research:
        said = "licences of open models allow research; read the text for what you publish"
        known = commercial in (CommercialUse.yes, CommercialUse.conditional)
        return (Verdict.yes, said) if known else (Verdict.unknown, f"{said}; no source says more")
    sentences = {
        CommercialUse.yes: "commercial use is allowed",
        CommercialUse.conditional: "commercial use is allowed under these conditions",
        CommercialUse.no: "commercial use is not allowed: choose another model"
        " (hydratune configs model licence=commercial)",
        CommercialUse.unknown: "no source says whether commercial use is allowed: read the licence",
    }
    return Verdict(commercial.value), sentences[commercial]
