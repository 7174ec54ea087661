"""hydratune prepare: read, clean, check and split a data set; write it with a report for people and
for machines.
"""

from typing import Any

from rich.markup import escape

from hydratune.console import console, section
from hydratune.data.encoding.call_arguments import TEXT_ARGUMENTS
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.output_folder import (
    choose_folder,
    print_data_files,
    print_report_file,
    write_result,
)
from hydratune.data.preparation import prepare, rare_garbage_collection
from hydratune.data.prepared import Prepared
from hydratune.data.preview import show
from hydratune.data.reader import Reader
from hydratune.data.report_content import (
    MASKS_SHOWN,
    count_tokens,
    first_encoded,
    refusal,
    report_content,
)
from hydratune.data.report_tables import print_report
from hydratune.data.rows import with_system
from hydratune.data.tokens import TokenCheck
from hydratune.errors import InputError, RunError
from hydratune.evaluation.judge import facts
from hydratune.evaluation.judge.client import Budget, Client
from hydratune.evaluation.judge.clients import make_client
from hydratune.experiment import compatibility
from hydratune.models import loading
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import PrepareConfig
from hydratune.tracking.typed_command import typed_settings

# settings of data that training on the prepared set needs again; the others are in its files
_DATA_OF_TRAINING = (
    "batch_size",
    "max_length",
    "overlength",
    "split_overlap",
    "train_on",
    "control",
    "overfit_rows",
    "quality.template_tokens",
)
_OF_PREPARE_ALONE = ("output", "preview", "facts", "data", "hydra", "resume")


@rare_garbage_collection()
def run(config: PrepareConfig, record: RunDirectory) -> None:
    """Prepare the data of ``config``.

    Raises ``DataError`` after everything is written, if a check forbids training on the data.
    """
    folder = choose_folder(config)
    judge = _judge(config)
    section("data")
    reader = loading.load_reader(config.model)
    compatibility.check_model(config, reader)
    prepared = prepare(config.data)
    for statement in prepared.report["source"]:
        console.print(escape(statement), soft_wrap=True)
    encoder = ChatEncoder(reader.tokenizer, reader.turn_end_ids)
    for notice in compatibility.notices(encoder):
        console.print(f"[yellow]{escape(notice)}", soft_wrap=True)
    tokens = count_tokens(config.data, prepared, encoder, reader)
    if encoder.text_arguments:
        console.print(f"{escape(str(config.model.name))}: {TEXT_ARGUMENTS}", soft_wrap=True)
    encoded = first_encoded(config.data, prepared, encoder, max(MASKS_SHOWN, config.preview))
    report = report_content(str(config.name), config.model.name, prepared, tokens, encoded)
    unjudged = _check_facts(config, prepared, report, judge) if judge is not None else ""
    print_report(console, report)
    if config.preview:
        section("mask")
        shown = encoded[: config.preview]
        rows, examples = [row for row, _ in shown], [example for _, example in shown]
        show(console, encoder, rows, examples, config.preview)
    section("written")
    refused = refusal(report) or _unfit(config, reader, encoder, prepared, tokens)
    write_result(folder, report, None if refused else prepared, config)
    print_report_file(console, folder)
    if refused is not None:
        raise refused
    if unjudged:
        raise RunError(
            f"everything was written, but no answer was judged: {unjudged}; so none is called"
            " supported or unsupported"
        )
    print_data_files(console, folder, typed_settings(_is_of_training))


def _is_of_training(key: str) -> bool:
    """Return whether training on the prepared data set needs a setting again."""
    group, _, name = key.partition(".")
    if group == "data":
        return name in _DATA_OF_TRAINING
    return group.partition("/")[0] not in _OF_PREPARE_ALONE


def _judge(config: PrepareConfig) -> Client | None:
    """Return the judge of answers, if the settings name one."""
    if not facts.is_enabled(config.facts):
        return None
    return make_client(config.facts, lambda: config.model, Budget(config.facts))


def _check_facts(
    config: PrepareConfig, prepared: Prepared, report: dict[str, Any], judge: Client
) -> str:
    """Let a judge read training answers, and add what it found to ``report``.

    Returns why no answer was judged; empty if some were.
    """
    section("facts")
    rows = (with_system(row, config.data.system_prompt) for row in prepared.rows("train"))
    checked = facts.check_facts(rows, config.facts, judge)
    report["checks"]["unsupported"] = checked.finding.plain()
    console.print(escape(checked.finding.note), soft_wrap=True)
    return "" if checked.judged else checked.why or "no training row has an answer"


def _unfit(
    config: PrepareConfig,
    reader: Reader,
    encoder: ChatEncoder,
    prepared: Prepared,
    tokens: TokenCheck,
) -> InputError | None:
    """Return why ``train`` would refuse these rows with this model."""
    try:
        compatibility.check_prepared(config, reader, encoder, prepared, tokens)
    except InputError as error:
        return error
    return None
