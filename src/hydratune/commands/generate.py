"""hydratune generate: answer the rows of a file with the model of a finished run."""

import shlex
import sys
from pathlib import Path

from rich.markup import escape

from hydratune import __version__, digests
from hydratune.console import console, escape_controls
from hydratune.data.rows import stable_hash
from hydratune.evaluation.terminal import results
from hydratune.experiment.answering.answer_file import AnswerFile
from hydratune.experiment.answering.asking import TOO_LONG, Asking, Questions, read_rows
from hydratune.experiment.answering.model import (
    AnsweringModel,
    SystemPrompt,
    open_model,
    system_prompt,
)
from hydratune.experiment.answering.scoring import require_references, score
from hydratune.experiment.finished_run import open_run
from hydratune.records.files import Json
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import GenerateConfig
from hydratune.wording import counted

_SHOWN_SYSTEM = 80  # characters of the system prompt
_OF_CONFIG = ("base", "temperature", "rows", "metrics", "columns", "roles", "encoding", "delimiter")


def run(config: GenerateConfig, _: RunDirectory) -> None:
    """Answer the rows and write the answers; what is written already is not done again."""
    finished = open_run(config.run)
    model = open_model(finished, config)
    system = system_prompt(finished, config.system)
    limit = config.max_new_tokens or model.max_new_tokens
    file = AnswerFile(Path(config.output), _settings(config, model, system, limit))
    with file.opened():
        if file.finished is not None:
            answers = counted(file.finished, "answer")
            console.print(
                f"{escape(config.output)} is finished: {answers}, with these settings",
                soft_wrap=True,
            )
            return
        statements: list[str] = []
        requests = read_rows(config, finished.settings.data, statements)
        questions = Questions(model, requests, system)
        if config.metrics:
            require_references(questions)
        _say_what_is_asked(questions, statements, limit, len(file.done))
        asking = Asking(questions, config, file, limit)
        try:
            asking.run()
        except KeyboardInterrupt:
            _say_how_to_continue(file, len(requests))
            raise
        _finish(questions, config, file, asking)


def _settings(
    config: GenerateConfig, model: AnsweringModel, system: SystemPrompt, limit: int
) -> dict[str, Json]:
    """Return everything that an answer depends on: it is made again only if one of them differs."""
    weights = sorted(model.run.record.adapter.glob("*.safetensors"))
    schema = model.schema(config.json_schema)
    drawn = {"top_p": config.top_p, "seed": config.seed} if config.temperature else {}
    return {
        "run": str(model.run.record.shown),
        "weights": model.source.identity
        if config.base
        else stable_hash(list(map(digests.of_file, weights))),
        "input": digests.of_file(Path(config.input)),
        "system": system.text,
        "json_schema": None if schema is None else stable_hash(schema),
        "max_new_tokens": limit,
        **{name: getattr(config, name) for name in _OF_CONFIG},
        **drawn,
    }


def _say_what_is_asked(questions: Questions, statements: list[str], limit: int, done: int) -> None:
    for statement in statements:
        console.print(escape(statement), soft_wrap=True, style="dim")
    rows = counted(len(questions.requests), "row")
    console.print(f"system prompt: {escape(_system_sentence(questions))}", soft_wrap=True)
    texts = sum(request.is_text for request in questions.requests)
    if texts:
        how = "continued" if questions.model.of_documents else "asked as a turn of the user"
        console.print(f"{counted(texts, 'text')} without roles: each is {how}")
    refused = questions.too_long(limit)
    if refused:
        first = questions.rows[refused[0]].position
        console.print(
            f"[yellow]{len(refused)} of {rows} too long, and not asked: prompt and"
            f" max_new_tokens={limit} need more than the {questions.model.context} tokens that the"
            f" model reads; the first: {escape(first)}",
            soft_wrap=True,
        )
    if done:
        console.print(f"continued: {done} of {rows} answered before")


def _system_sentence(questions: Questions) -> str:
    """Return which system prompt the rows are asked with."""
    system, given = questions.system, questions.with_system_prompt()
    own = sum(request.row.messages[0].role == "system" for request in questions.requests)
    if own == len(questions.requests):
        return "every row has its own"
    beside = f"; {counted(own, 'row')} with their own" if own else ""
    if not system.text:
        return f"{system.origin}{beside}"
    cut = "..." if len(system.text) > _SHOWN_SYSTEM else ""
    shown = f"{system.text[:_SHOWN_SYSTEM]}{cut}"
    return f"{system.origin}, for {counted(given, 'row')}{beside}: {shown!r}"


def _say_how_to_continue(file: AnswerFile, rows: int) -> None:
    command = shlex.join(["hydratune", *sys.argv[1:]])
    if not file.done:
        console.print("\n[yellow]no row was answered yet; the same command begins again")
        return
    console.print(
        f"\n[yellow]{len(file.done)} of {counted(rows, 'row')} answered and kept in"
        f" {escape(str(file.partial))}; to continue:[/]\n  {escape(escape_controls(command))}",
        soft_wrap=True,
    )


def _finish(questions: Questions, config: GenerateConfig, file: AnswerFile, asking: Asking) -> None:
    """Write the file and its summary, and print what came out."""
    lines = file.done.values()
    reasons = [line["finish_reason"] for line in lines]
    summary: dict[str, Json] = {
        "hydratune": __version__,
        "run": str(questions.model.run.record.path),
        "rows": len(reasons),
        "finish_reasons": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "generated_tokens": sum(line["generated_tokens"] for line in lines),
    }
    system = "base" if config.base else "eval"
    if config.metrics:
        summary["metrics"] = score(questions, file.done, system, asking.max_new_tokens)
        measured = summary["metrics"]
        shown = {**measured, "settings": {"eval": measured["settings"][system]}}
        console.print(results(shown, [system], 0))
    file.finish(summary)
    speed = ""
    if asking.generated:
        speed = f", {asking.generated / max(asking.seconds, 1e-9):,.0f} tokens/s"
    cut, refused = reasons.count("length"), reasons.count(TOO_LONG)
    notes = f"; {cut} cut at max_new_tokens={asking.max_new_tokens}" if cut else ""
    notes += f"; {counted(refused, 'row')} too long to be asked" if refused else ""
    console.print(f"{counted(len(reasons) - refused, 'row')} answered{speed}{notes}")
    console.print(
        f"answers     {escape(str(file.path))}  [dim](and {escape(file.summary.name)})",
        soft_wrap=True,
    )
