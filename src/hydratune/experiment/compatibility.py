"""Whether settings, model, tokenizer and rows fit together: the checks of ``train``, ``prepare``.

``check_model`` needs no row, ``check_examples`` needs the rows as tokens, ``create_test_set`` the
test rows. None of them needs the weights of the model.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.markup import escape

from hydratune.console import console
from hydratune.data.answers import json_schema
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.examples import EncodingReport, encode_split
from hydratune.data.encoding.tokenizing import adds_begin
from hydratune.data.mask_check import check_masks
from hydratune.data.prepared import Prepared
from hydratune.data.reader import Reader
from hydratune.data.rows import Message, Row
from hydratune.data.sets import RowSets, load_sets, test_rows
from hydratune.data.tokens import TokenCheck, with_special_tokens
from hydratune.errors import ConfigError, DataError, InputError, Problem
from hydratune.evaluation import metrics
from hydratune.metric_table import VALIDATION, lower_is_better
from hydratune.records.run_directory import is_main_process
from hydratune.settings.commands import TrainConfig
from hydratune.settings.data import Control, Level, Overlength
from hydratune.settings.monitor import LOSS, Monitor, measuring_families
from hydratune.training import schedules

if TYPE_CHECKING:
    from hydratune.evaluation.assess import TestSet

_MIN_TOKENS = 8  # of a row
_FEW_TOKENS = 32  # that can be named one by one in a command


@dataclass(frozen=True)
class SplitTokens:
    """What the checks need to know of the encoded rows of one split."""

    kept: int  # rows
    longest: int  # tokens of the longest row
    highest: tuple[int, str] = (0, "")  # the largest token id, and the row that has it

    @staticmethod
    def of(rows: Sequence[Row], encoded: Sequence[Encoded]) -> "SplitTokens":
        """Return the facts of ``rows`` and their tokens, which are in the same order."""
        longest = max((len(example.ids) for example in encoded), default=0)
        highest = max(
            ((max(e.ids), r.where or r.id) for r, e in zip(rows, encoded, strict=True)),
            key=lambda pair: pair[0],
            default=(0, ""),
        )
        return SplitTokens(len(encoded), longest, highest)


# --------------------------------------------------------------------------------------- the checks
def check_model(config: TrainConfig, reader: Reader) -> None:
    """Check the settings against the model's sizes. Raises ``ConfigError``."""
    window = reader.context_window
    if config.data.max_length > window:
        why, fix = (
            f"{config.model.name} reads at most {window} tokens",
            f"set data.max_length={window} or less",
        )
        raise ConfigError([Problem("data.max_length", config.data.max_length, why, fix)])
    taken = _virtual_tokens(config)
    if taken and window - taken < _MIN_TOKENS:
        why = f"the model reads {window} tokens, so nothing is left for the rows"
        raise ConfigError([Problem("adapter.num_virtual_tokens", taken, why, "usual: 20")])


def notices(encoder: ChatEncoder) -> list[str]:
    """Return what is unusual about the model and its chat template, but no error."""
    tokenizer = encoder.tokenizer
    try:
        text = encoder.render([Message("user", "a")], generation_prompt=True)
    except InputError:  # a template that needs more than this; the rows will show it
        return []
    unusual = []
    if adds_begin(tokenizer) and encoder.tokenize(text)[:1] != [tokenizer.bos_token_id]:
        unusual.append(
            f"the tokenizer begins every text with {tokenizer.bos_token}, and the chat template"
            " begins none with it; if the model was pre-trained with it, begin the file of"
            " model.chat_template with {{ bos_token }}"
        )
    if text[-1:] in (" ", "\t"):
        unusual.append(
            "the generation prompt of the chat template ends in a space, after which answers are"
            " written in other tokens than in running text; prefer a template whose generation"
            " prompt ends without it"
        )
    return unusual


def check_examples(config: TrainConfig, reader: Reader, splits: Mapping[str, SplitTokens]) -> None:
    """Check the encoded rows against the model's sizes and the length of the run.

    Raises ``ConfigError``.
    """
    for split in splits.values():
        if split.highest[0] >= reader.embeddings:
            raise ConfigError([_no_such_embedding(config, reader, *split.highest)])
    taken, longest = _virtual_tokens(config), max(split.longest for split in splits.values())
    context = reader.context_window - taken
    if taken and longest > context:
        why = (
            f"they leave {max(context, 0)} tokens of the model's context, and the longest row has"
            f" {longest}"
        )
        most = reader.context_window - longest
        fix = "lower data.max_length, which leaves room for them"
        if most > 0:
            fix = f"set adapter.num_virtual_tokens={most} or less"
        raise ConfigError([Problem("adapter.num_virtual_tokens", taken, why, fix)])
    steps = schedules.total_steps(config, splits["train"].kept)
    schedules.check(config.optimizer, steps)
    config.adapter.check_steps(steps)
    if splits["validation"].kept < config.trainer.devices:
        why = (
            f"there are only {splits['validation'].kept} validation rows, and every device"
            " needs one"
        )
        fix = (
            f"set trainer.devices={splits['validation'].kept} or less, or give more validation rows"
        )
        raise ConfigError([Problem("trainer.devices", config.trainer.devices, why, fix)])


def create_test_set(
    config: TrainConfig,
    reader: Reader,
    encoder: ChatEncoder,
    rows: Sequence[Row],
    schema: Mapping[str, object] | None,
    leaky: frozenset[str],
) -> "TestSet":
    """Return the test rows as the model will answer them. Raises ``InputError`` if it cannot."""
    from hydratune.evaluation.assess import TestSet  # imports PEFT, which takes a second

    references = [encoder.reference_answer(row) for row in rows]
    task = metrics.choose_task(config.evaluation.task, references, config.evaluation.metrics)
    context = reader.context_window - _virtual_tokens(config)
    test_set = TestSet(rows, encoder, config.evaluation, task, schema, context, leaky=leaky)
    test_set.check(test_set.zero_shot())
    return test_set


def encode(
    config: TrainConfig, encoder: ChatEncoder, sets: RowSets
) -> tuple[RowSets, dict[str, list[Encoded]], dict[str, EncodingReport]]:
    """Return the rows of each split that fit, their tokens, and a report of how they were encoded.

    Raises ``DataError`` for a wrong loss mask.
    """
    kept: dict[str, list[Row]] = {}
    tokens: dict[str, list[Encoded]] = {}
    reports: dict[str, EncodingReport] = {}
    for name, rows in sets.items():
        _look_for_special_tokens(config, encoder, name, rows)
        kept[name], tokens[name], reports[name] = encode_split(encoder, rows, config.data, name)
        check_masks(encoder, kept[name], tokens[name])
    return RowSets(kept["train"], kept["validation"], kept["test"]), tokens, reports


def _look_for_special_tokens(
    config: TrainConfig, encoder: ChatEncoder, name: str, rows: list[Row]
) -> None:
    """Check the texts for special tokens of the model: the one check of texts that depends on it.

    Raises ``DataError`` or prints, as ``data.quality.template_tokens`` says.
    """
    level = config.data.quality.template_tokens
    if level is Level.off:
        return
    suspicious = with_special_tokens(encoder.tokenizer, rows)
    if not suspicious:
        return
    row, token = suspicious[0]
    first = f"the first: {row.where or row.id}, {token!r}"
    what = (
        f"{len(suspicious)} of {len(rows)} {name} rows hold special tokens of the model in their"
        f" texts ({first})"
    )
    if level is Level.error:
        raise DataError(
            f"{what}: they would open or close turns; remove them from the texts, or set"
            " data.quality.template_tokens=warn"
        )
    if is_main_process():
        console.print(f"[yellow]{escape(what)}", soft_wrap=True)


def _virtual_tokens(config: TrainConfig) -> int:
    return config.adapter.virtual_tokens()


def _no_such_embedding(config: TrainConfig, reader: Reader, token: int, where: str) -> Problem:
    """Return the problem of a tokenizer with more tokens than the model has embeddings.

    Its fix is the command that enlarges the model.
    """
    key, name = config.model.own_name()
    size, rows = len(reader.tokenizer), reader.embeddings
    word = reader.tokenizer.convert_ids_to_tokens(token)
    why = (
        f"{where}: the tokenizer writes {word} as {token}, and the model's embeddings end at"
        f" {rows - 1} (the tokenizer has {size} tokens)"
    )
    code = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; t, m ="
        f" T.from_pretrained({name!r}), M.from_pretrained({name!r});"
        " m.resize_token_embeddings(len(t)); m.save_pretrained('resized');"
        " t.save_pretrained('resized')"
    )
    new = ",".join(map(str, range(rows, size)))
    rows_trained = (
        f"adapter.extra.trainable_token_indices=[{new}]"
        if size - rows <= _FEW_TOKENS
        else "adapter.modules_to_save=[embed_tokens]"
    )
    fix = (
        "give the model the tokenizer that belongs to its weights; or enlarge it once and train the"
        " new rows:\n"
        f"      python -c {shlex.quote(code)}\n      model=local model.path=resized {rows_trained}"
    )
    return Problem(key, name, why, fix)


def check_monitor(monitor: Monitor, validation: "TestSet") -> None:
    """Raise ``ConfigError`` if the validation answers lack the monitored metric.

    Those are measured that perfect answers have; ``code`` is not executed for this.
    """
    families = measuring_families(monitor.metric)
    scored = () if validation.documents else validation.families
    is_scored = not families or bool(set(families) & set(scored))
    if monitor.is_loss or (is_scored and "code" in scored):
        return
    measured = [] if "code" in scored else _measured(validation)
    if monitor.metric in measured:
        return
    if validation.documents:
        why = "the rows are texts without answers"
    elif is_scored:
        why = "the reference answers of the validation rows have nothing that it counts"
    else:
        why = f"the answers are scored by {', '.join(scored)} here, which do not measure it"
    offered = [name for name in measured if lower_is_better(name) is not None]
    fix = f"one of: {', '.join([LOSS, *offered])}"
    if not is_scored and scored and "json" not in families:
        fix += f"; or add the family: evaluation.metrics=[{','.join([*scored, families[0]])}]"
    raise ConfigError([Problem("trainer.monitor", monitor.metric, why, fix)])


def _measured(validation: "TestSet") -> list[str]:
    """Return the metrics of perfect answers."""
    predictions = validation.perfect()
    names = metrics.measures(
        predictions, validation.families, has_schema=validation.schema is not None
    )
    return [f"{VALIDATION}/{name}" for name in names]


# ------------------------------------------------------------------------ for data that is prepared
def check_prepared(
    config: TrainConfig,
    reader: Reader,
    encoder: ChatEncoder,
    prepared: Prepared,
    tokens: TokenCheck,
) -> None:
    """Check a prepared data set as ``train`` would check the rows that it takes from it.

    Raises what ``train`` would raise. Usually the numbers in ``tokens`` are enough; otherwise the
    rows are encoded as a run encodes them.
    """
    splits = _fewest_rows(config, tokens)
    try:
        if splits is None:
            raise InputError
        check_examples(config, reader, splits)
        rows = test_rows(config.data, prepared)
    except InputError:
        sets, encoded, _ = encode(config, encoder, load_sets(config.data, config.seed, prepared))
        splits = {name: SplitTokens.of(rows, encoded[name]) for name, rows in sets.items()}
        check_examples(config, reader, splits)
        rows = sets.test
    if _certainly_fit(config, reader, rows, tokens):
        references = [encoder.reference_answer(row) for row in rows]
        metrics.choose_task(config.evaluation.task, references, config.evaluation.metrics)
    else:
        create_test_set(config, reader, encoder, rows, json_schema(config.data), prepared.leaks)


def _certainly_fit(
    config: TrainConfig, reader: Reader, rows: Sequence[Row], tokens: TokenCheck
) -> bool:
    """Return whether the model can certainly read the longest test prompt and write its answer.

    That is so if twice the longest row fits; the exact check then needs no rendered prompt.
    """
    split = "test" if config.data.overfit_rows is None else "train"
    lengths = tokens.lengths.get(split) or [reader.context_window]
    longest = min(max(lengths), config.data.max_length)
    answer = max(config.evaluation.max_new_tokens or 0, -(-21 * longest // 20))
    one_kind = len({row.is_text for row in rows}) == 1  # documents or conversations
    return one_kind and longest + answer <= reader.context_window - _virtual_tokens(config)


def _fewest_rows(config: TrainConfig, tokens: TokenCheck) -> dict[str, SplitTokens] | None:
    """Return the fewest rows that a run takes of what was counted, and their greatest length.

    None if the counts are not enough to say.
    """
    data = config.data
    if data.control is not Control.none:
        return None
    limits = {
        "train": data.max_train_rows,
        "validation": data.max_validation_rows,
        "test": data.max_test_rows,
    }
    splits = {}
    for name in limits:
        part = name if data.overfit_rows is None else "train"
        lengths = tokens.lengths.get(part, ())
        fitting = [length for length in lengths if length <= data.max_length]
        given = [limit for limit in (limits[part], data.overfit_rows) if limit is not None]
        share = data.train_share if name == "train" else 1.0
        kept = round(share * min([len(lengths), *given])) - tokens.too_long[part]
        if kept < 1 or not fitting:
            return None
        truncated = data.overlength is Overlength.truncate_prompt and tokens.too_long[part]
        longest = data.max_length if truncated else max(fitting)
        splits[name] = SplitTokens(kept, longest, tokens.highest(part))
    return splits
