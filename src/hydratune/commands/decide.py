"""hydratune decide: prompt, retrieve or fine-tune?

The base model with several prompts and with retrieval, and a fine-tuned model, are asked the same
test rows and compared.
"""

from pathlib import Path

from rich.markup import escape

from hydratune import extras
from hydratune.console import console, section
from hydratune.evaluation.decision_output import decision_content, print_decision
from hydratune.evaluation.decision_report import render
from hydratune.experiment.decision import (
    Knowledge,
    Systems,
    base_model_prompts,
    choose_settings,
    decide_systems,
    knowledge_line,
    make_guide,
    require_prompts,
)
from hydratune.records.files import write_json, write_text
from hydratune.records.headline import headline_of, subject
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import read_sweep
from hydratune.settings.commands import DecideConfig
from hydratune.settings.paths import as_file_name
from hydratune.settings.registry import flat, plain
from hydratune.settings.secrets import mask


def _folder_name(name: str, model: str, record: RunDirectory | None) -> str:
    """Return the name of the output folder: another one for every run that is decided about, and
    without a run for every base model.

    Jobs of sweeps are all called 0, 1 and so on, so the name of their sweep is in it.
    """
    if record is None:
        return f"{name}-{as_file_name(model)}"
    sweep = record.path.parent
    return f"{sweep.name if read_sweep(sweep) else name}-{record.path.name}"


def run(config: DecideConfig, _: RunDirectory) -> None:
    """Write decision.json, report.html and the predictions of every system into ``output``."""
    extras.require("bm25s", "the search for passages and examples")
    from hydratune.experiment.prepare import prepare

    settings, record = choose_settings(config)
    name = str(settings.name)
    folder = Path(config.output) if config.output else None
    output = folder or Path("outputs/decide") / _folder_name(name, str(settings.model.name), record)
    section("set-up")
    job = prepare(settings)
    require_prompts(job, settings)
    knowledge = Knowledge.gather(job, config)
    console.print(knowledge_line(job, knowledge, config), soft_wrap=True)
    prompts = base_model_prompts(job, knowledge, config)
    guide = make_guide(job, config)
    systems = Systems(job, output)
    section("base model")
    systems.generate_base(prompts, guide)
    if record is not None:
        section("fine-tuned model")
        systems.generate_tuned(record, prompts["base"], knowledge.retrieved, guide)
    result = decide_systems(systems, config, settings, record)
    evaluation = settings.evaluation
    write_json(output / "decision.json", decision_content(result, config, evaluation, job.test_set))
    page = render(
        name,
        result.metric,
        result.decision,
        result.measures,
        result.predictions,
        result.costs,
        evaluation,
        result.constrained,
        mask(subject(flat(plain(settings)))) if record is None else headline_of(record),
    )
    write_text(output / "report.html", page)
    section("decision")
    print_decision(result, evaluation)
    others = "[dim](and decision.json, predictions_*.jsonl)"
    console.print(f"report      {escape(str(output))}/report.html  {others}", soft_wrap=True)
