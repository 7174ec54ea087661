"""The published data sets have the faults and the splits that are known of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SHARED_DATA
from hydratune.data.preparation import prepare
from prepared_sets import report_of

Run = Callable[..., tuple[int, str]]


def sides_of(prepared: Any) -> dict[str, str]:
    return {row.id: name for name in ("train", "validation", "test") for row in prepared.rows(name)}


real = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="the published data sets are not beside the project"
)


@real
@pytest.mark.slow
def test_snips_has_the_known_faults(hydratune: Run, tmp_path: Path) -> None:
    code, _ = hydratune(
        "prepare",
        "model=tiny",
        "data=snips",
        f"data.path={SHARED_DATA / 'snips'}",
        "data.clean.drop_leaks=false",
        "output=out",
    )
    checks = report_of(tmp_path / "out")["checks"]
    assert code == 2  # it leaks
    assert abs(checks["exact_duplicates"]["count"] - 251) <= 5
    assert checks["label_conflicts"]["count"] == 5
    assert checks["exact_leaks"]["count"] == len(checks["exact_leaks"]["rows"]) == 18
    assert checks["near_leaks"]["count"] >= 32
    assert checks["encoding"]["rows"][0].startswith("train_PlayMusic_full")


@real
@pytest.mark.slow
def test_gsm8k_is_clean(hydratune: Run, tmp_path: Path) -> None:
    files = (
        f"data.train={SHARED_DATA / 'gsm8k' / 'train.jsonl'}",
        f"data.test={SHARED_DATA / 'gsm8k' / 'test.jsonl'}",
    )
    code, printed = hydratune(
        "prepare", "model=tiny", "data=files", *files, "output=out", "data.quality.ungrounded=off"
    )
    checks = report_of(tmp_path / "out")["checks"]
    assert code == 0, printed
    assert [
        checks[n]["count"]
        for n in ("exact_duplicates", "exact_leaks", "near_leaks", "label_conflicts")
    ] == [0, 0, 0, 0]


@real
@pytest.mark.slow
def test_nl2bash_keeps_several_answers_and_shows_addresses() -> None:
    from hydratune.data.cases.tech_support import TechSupportData

    report = prepare(TechSupportData(path=str(SHARED_DATA / "nl2bash"))).report
    # 892 with ".JPG" and ".jpg", "Unix_" and "unix_" as one request
    assert abs(report["checks"]["multi_answer"]["count"] - 881) <= 2
    assert abs(report["checks"]["pii_email"]["count"] - 52) <= 5
    assert report["checks"]["label_conflicts"]["count"] == 0
    assert (
        sum(s["rows"] for s in report["splits"].values()) + report["left_out"]["straddles"]["rows"]
        == 12_607
    )


@pytest.mark.slow
@real
def test_cuad_split_keeps_companies_and_near_duplicates_together_and_is_stable(
    tmp_path: Path,
) -> None:
    from hydratune.data.cases.cuad import CuadData
    from hydratune.data.quality.duplicates import grams, jaccard
    from hydratune.data.quality.equality import normalised
    from hydratune.data.quality.row_checks import request

    full = prepare(CuadData(path=str(SHARED_DATA / "cuad")))
    rows = {name: list(full.rows(name)) for name in ("train", "validation", "test")}
    groups = [{row.group for row in split_rows} for split_rows in rows.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    texts = [
        (name, grams(normalised(request(row))))
        for name, split_rows in rows.items()
        for row in split_rows
    ]
    assert all(
        jaccard(first_grams, second_grams) < 0.8
        for i, (first_split, first_grams) in enumerate(texts)
        for second_split, second_grams in texts[:i]
        if first_split != second_split
    )
    lines = (SHARED_DATA / "cuad" / "master_clauses.csv").read_text("utf-8-sig")
    import csv
    import io

    table = list(csv.reader(io.StringIO(lines, newline="")))
    with (tmp_path / "master_clauses.csv").open("w", newline="", encoding="utf-8") as stream:
        # the table before the last 50 contracts were added
        csv.writer(stream).writerows(table[:-50])
    sides_before, sides_after = sides_of(prepare(CuadData(path=str(tmp_path)))), sides_of(full)
    assert len(sides_after) - len(sides_before) > 40
    assert {row: side for row, side in sides_after.items() if row in sides_before} == sides_before
