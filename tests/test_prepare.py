"""hydratune prepare: its files, previews, masks, lengths and settings."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SMALL, write_rows
from hydratune.data.preparation import prepare
from hydratune.data.sources.files import FilesData
from hydratune.errors import DataError
from prepared_sets import records, report_of

Run = Callable[..., tuple[int, str]]


def test_prepared_set_is_written_reported_and_trained_on(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", records(60))
    code, printed = hydratune(
        "prepare", "model=tiny", "data=files", "data.train=rows.jsonl", "output=out"
    )
    assert code == 0
    assert "read as prompt/completion" in printed
    report = report_of(tmp_path / "out")
    assert sum(s["rows"] for s in report["splits"].values()) == 60
    assert report["tokens"]["splits"]["train"]["rows"] == report["splits"]["train"]["rows"]
    assert [piece[0] for piece in report["mask"][0]["pieces"] if piece[1]][-1] == "<|im_end|>"
    assert (tmp_path / "out" / "report.html").is_file()
    import datasets

    data = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "train.parquet"), split="train"
    )
    assert data[0]["messages"][1] == {"role": "assistant", "content": "It is amber."}
    code, printed = hydratune(
        "train", *SMALL, "data=prepared", "data.path=out", "hydra.run.dir=run"
    )
    assert code == 0, printed
    assert (
        json.loads((tmp_path / "run" / "data.json").read_text())["prepared"]
        == report["fingerprint"]
    )


def test_prepared_set_keeps_its_system_prompt_and_schema(hydratune: Run, tmp_path: Path) -> None:
    write_rows(
        tmp_path / "rows.jsonl",
        [{**r, "completion": json.dumps({"n": i})} for i, r in enumerate(records(40))],
    )
    (tmp_path / "schema.json").write_text('{"type": "object", "required": ["n"]}')
    settings = (
        "prepare",
        "model=tiny",
        "data=files",
        "data.train=rows.jsonl",
        "data.schema_file=schema.json",
    )
    code, printed = hydratune(*settings, "data.system_prompt=Count.")
    assert (code, "outputs/prepared/rows/train.parquet" in printed) == (0, True)
    code, printed = hydratune(
        "train", *SMALL, "data=prepared", "data.path=outputs/prepared/rows", "hydra.run.dir=run"
    )
    assert code == 0, printed
    assert json.loads((tmp_path / "run" / "schema.json").read_text()) == {
        "type": "object",
        "required": ["n"],
    }
    prediction = json.loads((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[0])
    assert "Count." in json.dumps(prediction["prompt"])


def test_folder_of_another_data_set_is_not_replaced(hydratune: Run, tmp_path: Path) -> None:
    for name, rows in (("rows.jsonl", 30), ("other/rows.jsonl", 40)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_rows(tmp_path / name, records(rows))
    prepared = tmp_path / "outputs" / "prepared"
    settings = ("prepare", "model=tiny", "data=files")
    assert hydratune(*settings, "data.train=rows.jsonl")[0] == 0
    code, printed = hydratune(*settings, "data.train=other/rows.jsonl")
    assert code == 2
    assert "prepared from data.train=rows.jsonl" in printed
    assert "output=outputs/prepared/rows-2;" in printed
    assert _row_count(prepared / "rows") == 30

    same = str(tmp_path / "rows.jsonl")  # typed in another way
    code, printed = hydratune(*settings, f"data.train={same}", "data.max_test_rows=2")
    assert code == 0, printed
    code, printed = hydratune(
        *settings, "data.train=other/rows.jsonl", "output=outputs/prepared/rows"
    )
    assert code == 0, printed
    assert _row_count(prepared / "rows") == 40


def test_folder_of_other_parts_is_not_replaced(hydratune: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / f"{name}.jsonl", records(30))
    settings = ("prepare", "model=tiny", "data=mixed", "data.parts.own.source=files")
    assert hydratune(*settings, "data.parts.own.train=a.jsonl")[0] == 0
    code, printed = hydratune(*settings, "data.parts.own.train=b.jsonl")
    assert (code, "prepared from other data.parts" in printed) == (2, True)


def test_printed_command_trains_with_the_typed_settings(
    hydratune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hydratune"])
    write_rows(tmp_path / "rows.jsonl", records(40))
    code, printed = hydratune(
        "prepare", *SMALL, "data=files", "data.train=rows.jsonl", "data.max_length=64", "preview=1"
    )
    assert code == 0, printed
    line = next(line for line in printed.splitlines() if line.startswith("train  "))
    words = shlex.split(line)[3:]
    typed = [word for word in SMALL if not word.startswith("data.max_")]
    assert words == [
        *typed,
        "data.max_length=64",
        "data=prepared",
        "data.path=outputs/prepared/smoke",
    ]
    code, printed = hydratune("train", *words)
    assert code == 0, printed
    sweep = next(line for line in printed.splitlines() if line.startswith("sweep  "))
    assert shlex.split(sweep)[2:] == ["train", "-m", *words, "sweep=learning_rate"]


def _row_count(folder: Path) -> int:
    return sum(int(split["rows"]) for split in report_of(folder)["splits"].values())


def test_an_output_folder_that_cannot_be_written_is_one_message(
    hydratune: Run, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", records(30))
    (tmp_path / "file").write_text("x")
    code, printed = hydratune(
        "prepare", "model=tiny", "data=files", "data.train=rows.jsonl", "output=file/below"
    )
    assert (code, "cannot write into file/below" in printed) == (2, True)


def test_folders_of_the_datasets_library_are_read(hydratune: Run, tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(records(40))
    datasets.DatasetDict(
        {"train": rows.select(range(30)), "test": rows.select(range(30, 40))}
    ).save_to_disk(tmp_path / "saved")
    settings = ("prepare", "model=tiny", "data=hub", "data.id=saved", "output=out")
    assert hydratune(*settings, "data.test=test")[0] == 0
    assert report_of(tmp_path / "out")["splits"]["test"]["rows"] == 10
    code, printed = hydratune(*settings, "data.test=exam")
    assert (code, "cannot load split 'exam'" in printed) == (2, True)


def test_unknown_strata_are_refused_and_known_ones_are_balanced(tmp_path: Path) -> None:
    file = str(
        write_rows(
            tmp_path / "rows.jsonl",
            [{**r, "completion": json.dumps({"kind": i % 2})} for i, r in enumerate(records(60))],
        )
    )
    with pytest.raises(DataError, match="no row has such a field"):
        prepare(FilesData(train=file, stratify="colour"))
    prepared = prepare(FilesData(train=file, stratify="kind", test_fraction=0.2))
    kinds = [json.loads(row.answer)["kind"] for row in prepared.rows("test")]
    assert abs(kinds.count(0) - kinds.count(1)) <= 1


def test_preview_shows_the_mask(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", records(30))
    _, printed = hydratune(
        "prepare", "model=tiny", "data=files", "data.train=rows.jsonl", "preview=2", "output=out"
    )
    assert printed.count("tokens trained") == 2
    assert "It is amber." in printed


def test_special_tokens_in_a_text_are_an_error(hydratune: Run, tmp_path: Path) -> None:
    write_rows(
        tmp_path / "rows.jsonl",
        [*records(30), {"id": "bad", "prompt": "hello <|im_end|> there", "completion": "Yes."}],
    )
    settings = ("model=tiny", "data=files", "data.train=rows.jsonl")
    code, printed = hydratune("prepare", *settings, "output=out")
    assert (code, report_of(tmp_path / "out")["checks"]["template_tokens"]["rows"]) == (2, ["bad"])
    code, printed = hydratune(
        "train", *SMALL, *settings, "data.max_train_rows=null", "data.max_validation_rows=null"
    )
    assert (code, "'<|im_end|>'" in printed) == (2, True)
    code, printed = hydratune(
        "train", *SMALL, *settings, "data.max_train_rows=null", "data.quality.template_tokens=warn"
    )
    assert code == 0, printed


def test_wrong_mask_is_reported_by_its_defect(hydratune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", records(30))
    (tmp_path / "bad.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    )
    code, printed = hydratune(
        "prepare",
        "model=tiny",
        "model.chat_template=bad.jinja",
        "data=files",
        "data.train=rows.jsonl",
        "output=out",
    )
    mask = report_of(tmp_path / "out")["checks"]["mask"]
    assert (
        "the first: r" in printed
        and "rows.jsonl:" in printed
        and mask["examples"][0]["note"] in " ".join(printed.split("\n    "))
    )
    assert (code, mask["level"], mask["count"]) == (2, "error", 30)
    assert mask["note"].split()[0] in ("prompt_differs", "turn_end_missing")


def test_overlength_is_counted_by_split(hydratune: Run, tmp_path: Path) -> None:
    rows = [
        {**r, "prompt": r["prompt"] + " far too long" * 40} if i < 4 else r
        for i, r in enumerate(records(40))
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    settings = (
        "prepare",
        "model=tiny",
        "data=files",
        "data.train=rows.jsonl",
        "output=out",
        "data.max_length=100",
    )
    assert hydratune(*settings)[0] == 0
    check = report_of(tmp_path / "out")["checks"]["overlength"]
    assert (check["count"], check["level"]) == (4, "warn")
    assert "dropped in training" in check["note"]
    assert (
        sum(split["too_long"] for split in report_of(tmp_path / "out")["tokens"]["splits"].values())
        == 4
    )
    assert hydratune(*settings, "data.overlength=error")[0] == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["output=full"], "contains other files: mine.txt"),
        (["output=rows.jsonl"], "this is a file"),
        (["data.quality.exact_leaks=never"], "expected one of"),
        (["data.quality.exact_leak=warn"], "exact_leaks"),
        (["data.clean.htm=true"], "html"),
        (["data.quality.similarity=0.1"], "must be in"),
        (["data.quality.pii_names=warn"], "python -m spacy download en_core_web_lg, or set it to"),
        (["data.columns=x"], "data.columns"),
    ],
)
def test_wrong_settings_are_one_message(
    hydratune: Run, tmp_path: Path, settings: list[str], words: str
) -> None:
    write_rows(tmp_path / "rows.jsonl", records(30))
    write_rows(tmp_path / "full" / "x.jsonl", records(3)).with_name("mine.txt").write_text(
        "precious"
    )
    (tmp_path / "full" / "x.jsonl").unlink()
    code, printed = hydratune(
        "prepare", "model=tiny", "data=files", "data.train=rows.jsonl", *settings
    )
    assert (code, "Traceback" in printed) == (2, False)
    assert words in printed


def test_unquoted_off_is_explained(hydratune: Run, tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndata:\n  quality:\n    size: off\n"
    )
    code, printed = hydratune("prepare", "--config-dir", "own", "experiment=mine")
    assert (code, 'write it in quotes: "off"' in printed) == (2, True)
