"""What is said of a data set, as data: its preparation, its tokens and what of some rows is
trained. For report.json and report.html.
"""

from collections.abc import Callable, Iterable
from typing import Any

from hydratune.data.masking import ChatEncoder, Encoded
from hydratune.data.prepared import Prepared
from hydratune.data.preview import pieces
from hydratune.data.reader import Reader
from hydratune.data.reading import SPLIT_NAMES, with_system
from hydratune.data.rows import Row
from hydratune.data.tokens import TokenCheck
from hydratune.settings.data import DataConfig

SHOWN = 5  # rows whose mask is in the report


def count_tokens(
    data: DataConfig,
    prepared: Prepared,
    encoder: ChatEncoder,
    reader: Reader,
    advance: Callable[[int], None] = lambda rows: None,
) -> TokenCheck:
    """Of every row of every split, before any is cut or dropped for its length."""
    check = TokenCheck(encoder, data, reader.context_window, reader.embeddings)
    for name in SPLIT_NAMES:
        check.split(
            name, (with_system(row, data.system_prompt) for row in prepared.rows(name)), advance
        )
    return check


def described(
    name: str,
    model: str,
    prepared: Prepared,
    tokens: TokenCheck,
    masked: Iterable[tuple[Row, Encoded]],
    used: str | None = None,
) -> dict[str, Any]:
    """The content of report.json. ``used``: which of the rows a run took, in words."""
    summary = tokens.summary()
    checks = {check: finding.plain() for check, finding in tokens.findings.items()}
    mask = []
    for row, example in masked:
        shown = [
            [piece.text, piece.trained, piece.special] for piece in pieces(tokens.encoder, example)
        ]
        mask.append(
            {
                "id": row.id,
                "trained": example.supervised,
                "tokens": len(example.ids),
                "pieces": shown,
            }
        )
    return {
        **prepared.report,
        "name": name,
        "checks": checks
        | {
            check: found
            for check, found in prepared.report["checks"].items()
            if check not in checks
        },
        "tokens": {"model": model, **summary},
        "mask": mask,
        "used": used,
    }
