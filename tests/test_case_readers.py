"""The readers of SNIPS and MTS-Dialog."""

import json
from pathlib import Path

import pytest

from case_rows import published_folder, question, rows_of
from hydratune.data.cases import mts_dialog
from hydratune.data.cases.mts_dialog import MtsDialogData
from hydratune.data.cases.snips import SnipsData
from hydratune.errors import DataError


# -------------------------------------------------------------------------------------------- SNIPS
def test_snips_request_becomes_intent_and_slots(tmp_path: Path) -> None:
    parts = [
        {"text": "play "},
        {"text": "Blue", "entity": "track"},
        {"text": " and "},
        {"text": "Red", "entity": "track"},
    ]
    for name in ("train_Play_full", "validate_Play"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"Play": [{"data": parts}]}))
    row, _ = rows_of(SnipsData(path=str(tmp_path)))
    assert question(row) == "play Blue and Red"
    assert json.loads(row.answer) == {"intent": "Play", "slots": {"track": "Blue and Red"}}
    assert (row.id, row.meta) == ("train_Play_full-0", {"intent": "Play"})


def test_snips_file_in_another_encoding_is_read_and_its_rows_name_the_encoding(
    tmp_path: Path,
) -> None:
    (tmp_path / "train_Play_full.json").write_bytes(
        '{"Play": [{"data": [{"text": "café"}]}]}'.encode("latin-1")
    )
    (tmp_path / "validate_Play.json").write_text(
        '{"Play": [{"data": [{"text": "café"}]}]}', "utf-8"
    )
    latin, utf8 = rows_of(SnipsData(path=str(tmp_path)))
    assert question(latin) == question(utf8) == "café"
    assert latin.meta["encoding"] == "latin-1"
    assert "encoding" not in utf8.meta


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"Play": [{"data": [{"entity": "x"}]}]}', '{"Play": [{}]}', '{"A": [], "B": []}'],
)
def test_malformed_snips_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "train_Play_full.json").write_text(text)
    with pytest.raises(DataError, match=r"train_Play_full\.json.*not a SNIPS file"):
        rows_of(SnipsData(path=str(tmp_path)))


def test_published_snips() -> None:
    rows = rows_of(SnipsData(path=published_folder("snips")))
    assert len(rows) == 13_784 + 700
    assert {row.id.rpartition("-")[0] for row in rows if "encoding" in row.meta} == {
        "train_PlayMusic_full"
    }
    assert len({row.meta["intent"] for row in rows}) == 7


# --------------------------------------------------------------------------------------- MTS-Dialog
DIALOGUE = (
    'ID,section_header,section_text,dialogue\n0,GENHX,Well.,"Doctor:  Hi. \r\n\r\nPatient: Hi."\n'
)


def dialogues(folder: Path, text: str = DIALOGUE) -> MtsDialogData:
    for file in mts_dialog.FILES.values():
        (folder / file).write_bytes(text.encode())
    return MtsDialogData(path=str(folder))


def test_the_prompt_of_a_dialogue_names_its_section_in_words(tmp_path: Path) -> None:
    train, validation, test = dialogues(tmp_path).read()
    assert [row.id for rows in (train, validation, test) for row in rows or ()] == [
        "train-0",
        "validation-0",
        "test-0",
    ]
    assert question(train[0]) == "Section: history of present illness\n\nDoctor: Hi.\nPatient: Hi."
    assert (train[0].answer, train[0].meta) == ("Well.", {"section": "GENHX"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ID,section_header,dialogue\n0,GENHX,Hi\n", ":1: no column section_text"),
        (
            "ID,section_header,section_text,dialogue\n0,XYZ,Well.,Hi\n",
            ":2: unknown section header 'XYZ'",
        ),
        (
            "ID,section_header,section_text,dialogue\n0,GENHX,,Hi\n",
            ":2: the dialogue or the section text is empty",
        ),
        ("ID,section_header,section_text,dialogue\n0,GENHX,Well.\n", ":2: not as many cells"),
        ('ID,section_header,section_text,dialogue\n0,GENHX,Well.,"Hi\n', ":2: broken CSV"),
        ("ID,section_header,section_text,dialogue\n", "no dialogue in it"),
    ],
)
def test_malformed_mts_file_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=f"MTS-Dialog-TrainingSet.csv.*{words}"):
        rows_of(dialogues(tmp_path, text))


def test_published_mts_dialog() -> None:
    splits = MtsDialogData(path=published_folder("mts_dialog")).read()
    assert [len(rows or ()) for rows in splits] == [1201, 100, 200]
