"""The content of a data report as plain values: the preparation, the tokens, and the loss mask of
some rows.

``report.json`` stores it, ``report`` makes it a page, ``report_tables`` prints it.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Protocol

from hydratune.console import progress
from hydratune.data.encoding.encoded import Encoded
from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.encoding.examples import encode_examples
from hydratune.data.prepared import Prepared
from hydratune.data.preview import pieces
from hydratune.data.quality.findings import refusals
from hydratune.data.rows import SPLIT_NAMES, Row, with_system
from hydratune.data.token_cache import check_once
from hydratune.data.tokens import TokenCheck
from hydratune.errors import DataError
from hydratune.records.measured_sizes import read_measured
from hydratune.settings.data import DataConfig

MASKS_SHOWN = 5  # rows whose loss mask is in the report
_SHOW_PROGRESS = 2_000  # rows

Report = Mapping[str, Any]  # or a part of it


class ModelSizes(Protocol):
    """What the token checks need to know of a model."""

    @property
    def context_window(self) -> int:
        """Tokens that the model reads at most."""

    @property
    def embeddings(self) -> int:
        """Rows of the model's input embeddings: token ids are below it."""


def count_tokens(
    data: DataConfig, prepared: Prepared, encoder: ChatEncoder, sizes: ModelSizes
) -> TokenCheck:
    """Count the tokens of every row of every split, before any is cut or dropped for its length.

    Shows progress for a large data set. What was counted once is taken from the cache.
    """

    def count(check: TokenCheck) -> None:
        rows = sum(map(prepared.row_count, SPLIT_NAMES))
        quiet = rows < _SHOW_PROGRESS
        with progress("counting tokens, checking masks", rows, "rows", quiet=quiet) as ticker:
            for name in SPLIT_NAMES:
                split = (with_system(row, data.system_prompt) for row in prepared.rows(name))
                check.split(name, split, lambda n: ticker.advance(n, n))

    check = TokenCheck(encoder, data, sizes.context_window, sizes.embeddings)
    return check_once(check, prepared, count)


def first_encoded(
    data: DataConfig, prepared: Prepared, encoder: ChatEncoder, count: int
) -> list[tuple[Row, Encoded]]:
    """Return the first ``count`` training rows that can be encoded."""
    encoded: list[tuple[Row, Encoded]] = []
    for raw in prepared.rows("train"):
        row = with_system(raw, data.system_prompt)
        try:
            encoded += encode_examples(encoder, [row], data, "train")
        except DataError:
            continue
        if len(encoded) >= count:
            break
    return encoded[:count]


def _with_measured_size(checks: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """Return the checks with what a sweep measured of more rows of this data, if one did."""
    size, measured = checks.get("size"), read_measured(fingerprint)
    if not size or not measured:
        return dict(checks)
    note = "; ".join(filter(None, (size["note"], f"measured: {measured}")))
    fix = "the measurement says whether more rows are worth it; hydratune compare shows it again"
    return {**checks, "size": {**size, "note": note, "fix": fix}}


def report_content(
    name: str,
    model: str,
    prepared: Prepared,
    tokens: TokenCheck,
    encoded: Iterable[tuple[Row, Encoded]],
    used: str | None = None,
) -> dict[str, Any]:
    """Return the content of report.json.

    ``encoded`` are the rows whose loss mask is shown; ``used`` says which of the rows a run used.
    """
    summary = tokens.summary()  # completes the findings
    token_checks = {check: finding.plain() for check, finding in tokens.findings.items()}
    data_checks = prepared.report["checks"]
    others = {check: found for check, found in data_checks.items() if check not in token_checks}
    masks = [_mask(row, example, tokens.encoder) for row, example in islice(encoded, MASKS_SHOWN)]
    return {
        **prepared.report,
        "name": name,
        "checks": token_checks | _with_measured_size(others, str(prepared.report["fingerprint"])),
        "tokens": {"model": model, **summary},
        "mask": masks,
        "used": used,
    }


def _mask(row: Row, example: Encoded, encoder: ChatEncoder) -> dict[str, object]:
    """Return the pieces of a row, each with whether it is trained and whether it is special."""
    shown = [[piece.text, piece.trained, piece.special] for piece in pieces(encoder, example)]
    return {
        "id": row.id,
        "trained": example.supervised,
        "tokens": len(example.ids),
        "pieces": shown,
    }


def refusal(report: Report) -> DataError | None:
    """Return the error that names every check that forbids training, None if there is none."""
    errors = refusals(report["checks"])
    if not errors:
        return None
    listed = "\n".join(f"  {error}" for error in errors.values())
    return DataError(
        f"the data set is not fit for training, so only the report was written.\n{listed}"
    )
