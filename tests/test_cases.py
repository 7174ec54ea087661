"""The readers of the case studies, on files written here and, where they lie beside this
repository, on the published ones.
"""

import ast
import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SHARED_DATA, SMALL
from hydratune.data.answers import is_valid_answer, json_schema
from hydratune.data.cases import cuad_answers, mts_dialog
from hydratune.data.cases.base import CaseData
from hydratune.data.cases.brand_style import BrandStyleData, plain_notes
from hydratune.data.cases.cuad import CuadData
from hydratune.data.cases.mts_dialog import MtsDialogData
from hydratune.data.cases.repository import CodeTask, RepositoryData
from hydratune.data.cases.snips import SnipsData
from hydratune.data.cases.tech_support import TechSupportData
from hydratune.data.cases.tldr import parse_page
from hydratune.data.rows import Row
from hydratune.data.sets import RowSets, load_sets
from hydratune.errors import ConfigError, DataError
from hydratune.settings.data import DataConfig
from hydratune.settings.registry import variants
from test_config import compose

FOLDERS = {
    "snips": "snips",
    "cuad": "cuad",
    "mts_dialog": "mts-dialog",
    "tech_support": "nl2bash",
    "brand_style": "tldr",
}
SOURCE = Path(__file__).parents[1] / "src"

CASES = [name for name, kind in variants("data").items() if issubclass(kind, CaseData)]


def published(case: str) -> str:
    """The folder of the published files, or a skipped test."""
    folder = SHARED_DATA / FOLDERS[case]
    if not folder.is_dir():
        pytest.skip(f"the published files of {case} are not beside this repository")
    return str(folder)


def rows_of(data: CaseData) -> list[Row]:
    return [row for rows in data.read() for row in rows or ()]


def question(row: Row) -> str:
    return row.messages[0].content


# -------------------------------------------------------------------------------- all cases at once
@pytest.fixture(scope="module", params=[*FOLDERS, "repository"])
def case(request: pytest.FixtureRequest) -> tuple[DataConfig, RowSets]:
    """(settings of the shipped experiment, all its rows) of every case."""
    name = request.param
    folder = str(SOURCE) if name == "repository" else published(name)
    extra = (
        [f"data.tldr={SHARED_DATA / 'tldr'}"]
        if name == "tech_support" and (SHARED_DATA / "tldr").is_dir()
        else []
    )
    everything = [f"data.max_{split}_rows=null" for split in ("train", "validation", "test")]
    data = compose(f"experiment={name}", f"data.path={folder}", *extra, *everything).data
    return data, load_sets(data, 0)


def test_ids_are_unique(case: tuple[DataConfig, RowSets]) -> None:
    assert max(Counter(row.id for _, rows in case[1].items() for row in rows).values()) == 1


def test_no_group_is_on_two_sides(case: tuple[DataConfig, RowSets]) -> None:
    groups = [{row.group for row in rows} - {None} for _, rows in case[1].items()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_rows_have_the_cases_system_prompt_and_texts(case: tuple[DataConfig, RowSets]) -> None:
    data, sets = case
    for rows in (sets.train, sets.validation, sets.test):
        assert all(
            [m.role for m in row.messages] == ["system", "user", "assistant"] for row in rows
        )
        assert {row.messages[0].content for row in rows} == {data.system_prompt}
        assert all(
            m.content.strip() and "\r" not in m.content for row in rows for m in row.messages
        )


def test_answers_are_valid_under_the_cases_schema(case: tuple[DataConfig, RowSets]) -> None:
    schema = json_schema(case[0])
    if schema is None:
        return
    assert [
        row.id
        for _, rows in case[1].items()
        for row in rows
        if not is_valid_answer(row.answer, schema)
    ] == []


@pytest.mark.parametrize("name", CASES)
def test_missing_folder_is_refused_before_anything_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no such folder") as caught:
        compose(f"experiment={name}", f"data.path={tmp_path}/none").check()
    assert [p.key for p in caught.value.problems] == ["data.path"]


@pytest.mark.parametrize("name", CASES)
def test_empty_folder_is_refused_with_what_to_give(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"data\.path = {re.escape(str(tmp_path))}: ") as caught:
        load_sets(compose(f"experiment={name}", f"data.path={tmp_path}").data, 0)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "option",
    [f"{group}={name}" for group in ("data", "experiment") for name in [*CASES, "earnings_call"]],
)
def test_every_case_says_how_to_run_it_and_whose_the_data_is(option: str) -> None:
    from hydratune.composition import CONF

    group, name = option.split("=")
    head = (CONF / group / f"{name}.yaml").read_text().partition("defaults:")[0]
    assert f"{option} data." in head
    assert group == "experiment" or re.search(r"[Ll]icence|CC0", head)


# -------------------------------------------------------------------------------------------- snips
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


def test_snips_file_in_another_encoding_is_read_and_its_rows_say_so(tmp_path: Path) -> None:
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
    rows = rows_of(SnipsData(path=published("snips")))
    assert len(rows) == 13_784 + 700
    assert {row.id.rpartition("-")[0] for row in rows if "encoding" in row.meta} == {
        "train_PlayMusic_full"
    }
    assert len({row.meta["intent"] for row in rows}) == 7


# --------------------------------------------------------------------------------------------- cuad
CONTRACT = {
    "Filename": "ACMECORP,INC_01_02_2003-EX-10-SUPPLY AGREEMENT.PDF",
    "Document Name": "['SUPPLY AGREEMENT']",
    "Document Name-Answer": "SUPPLY AGREEMENT",
    "Parties": "['Buyer', 'Acme Corp, Inc.', 'Bolt (UK)  Ltd']",
    "Parties-Answer": 'Bolt (UK) Ltd ("Seller"); Acme Corp., Inc. ("Buyer"); (each a "Party")',
    "Agreement Date": "['2nd day of January, 2003']",
    "Agreement Date-Answer": "1/2/2003",
    "Effective Date": "['2nd day of January, 2003']",
    "Effective Date-Answer": "1/2/2003",
    "Expiration Date": "['This Agreement runs for five (5) years.']",
    "Expiration Date-Answer": "1/2/2008",
    "Renewal Term": "[]",
    "Renewal Term-Answer": "",
    "Notice Period to Terminate Renewal": "[]",
    "Notice Period to Terminate Renewal-Answer": "",
    "Governing Law": "['under English law<omitted>as amended']",
    "Governing Law-Answer": "England",
}


def contracts(folder: Path, *changes: dict[str, str]) -> CuadData:
    with (folder / "master_clauses.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(CONTRACT))
        writer.writeheader()
        writer.writerows(CONTRACT | change for change in changes)
    return CuadData(path=str(folder))


def test_marked_passages_become_one_prompt_without_their_categories(tmp_path: Path) -> None:
    (row,) = rows_of(contracts(tmp_path, {}))
    assert question(row).split("\n") == [
        "SUPPLY AGREEMENT",
        "Buyer",
        "Acme Corp, Inc.",
        "Bolt (UK) Ltd",
        "2nd day of January, 2003",
        "This Agreement runs for five (5) years.",
        "under English law ... as amended",
    ]
    assert json.loads(row.answer) == {
        "document_name": "SUPPLY AGREEMENT",
        "parties": ["Acme Corp, Inc.", "Bolt (UK) Ltd"],
        "agreement_date": "2003-01-02",
        "effective_date": "2003-01-02",
        "expiration_date": "2008-01-02",
        "renewal_term": None,
        "notice_to_terminate_renewal": None,
        "governing_law": "England and Wales",
    }
    assert row.group == "acmecorpinc"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Agreement Date-Answer": "1/3/2003"}, "1 with a date that no passage names"),
        (
            {"Expiration Date-Answer": "1/2/2009"},
            "1 with an expiration date that the passages do not lead to",
        ),
        ({"Parties": "['Somebody else']"}, "1 without a party that the passages name"),
        (
            {"Renewal Term": "['again']", "Renewal Term-Answer": "10 1 years"},
            "1 whose renewal has no single length",
        ),
        ({"Governing Law-Answer": "Texas"}, "1 with a law that no passage names"),
    ],
)
def test_answer_that_the_passages_contradict_leaves_the_contract_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, str], reason: str
) -> None:
    with caplog.at_level("INFO"):
        assert len(rows_of(contracts(tmp_path, {}, changes))) == 1
    assert f"1 of 2 contracts used; dropped: {reason}" in caplog.text


def test_answer_without_a_passage_or_left_open_is_null_and_said(tmp_path: Path) -> None:
    changes = {
        "Governing Law": "[]",
        "Effective Date": "['the ___ day of May, 2004']",
        "Effective Date-Answer": "5/[]/2004",
    }
    (row,) = rows_of(contracts(tmp_path, changes))
    answer = json.loads(row.answer)
    assert answer["governing_law"] is answer["effective_date"] is None
    assert row.meta["nulled"] == ["effective_date", "governing_law"]


def test_contract_that_runs_on_is_perpetual(tmp_path: Path) -> None:
    (row,) = rows_of(contracts(tmp_path, {"Expiration Date-Answer": "Perpetual"}))
    assert json.loads(row.answer)["expiration_date"] == "perpetual"


@pytest.mark.parametrize(
    "text",
    [
        "January 2, 2003",
        "2 Jan. 2003",
        "2nd day of January, 2003",
        "1/2/03",
        "01-02-2003",
        "2003-01-02",
        "the second day of January 2003",
    ],
)
def test_usual_ways_to_write_a_day_are_understood(text: str) -> None:
    assert "2003-01-02" in {day.isoformat() for day in cuad_answers.dates_in(f"made on {text}.")}


@pytest.mark.parametrize(
    ("published_renewal", "expected"),
    [
        ("Successive 1 year", "successive 1 year"),
        ("succesive 12 Months", "successive 12 months"),
        ("2 successive 5 years", "2 successive 5 years"),
        ("three (3) years", "3 years"),
        ("perpetual", "perpetual"),
        ("", None),
    ],
)
def test_renewals_are_spelled_one_way(published_renewal: str, expected: str | None) -> None:
    assert cuad_answers.renewal(published_renewal) == expected


def test_malformed_cuad_file_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"master_clauses\.csv:3: Parties: a Python list"):
        rows_of(contracts(tmp_path, {}, {"Parties": "__import__('os')"}))
    (tmp_path / "master_clauses.csv").write_text("Filename,Parties\na,[]\n")
    with pytest.raises(DataError, match=r"master_clauses\.csv:1: no column Document Name"):
        rows_of(CuadData(path=str(tmp_path)))
    (tmp_path / "master_clauses.csv").write_bytes(b"Filename\n\xff\n")
    with pytest.raises(DataError, match=r"master_clauses\.csv:2: not UTF-8 \(byte 0xff\)"):
        rows_of(CuadData(path=str(tmp_path)))


def test_published_cuad() -> None:
    rows = rows_of(CuadData(path=published("cuad")))
    assert len(rows) == 456
    assert len({row.group for row in rows}) == 421
    for row in rows:
        answer = json.loads(row.answer)
        assert {answer["document_name"], *answer["parties"]} <= set(question(row).split("\n"))


# --------------------------------------------------------------------------------------- mts_dialog
DIALOGUE = (
    'ID,section_header,section_text,dialogue\n0,GENHX,Well.,"Doctor:  Hi. \r\n\r\nPatient: Hi."\n'
)


def dialogues(folder: Path, text: str = DIALOGUE) -> MtsDialogData:
    for file in mts_dialog.FILES.values():
        (folder / file).write_bytes(text.encode())
    return MtsDialogData(path=str(folder))


def test_dialogue_is_asked_for_its_section_in_words(tmp_path: Path) -> None:
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
    splits = MtsDialogData(path=published("mts_dialog")).read()
    assert [len(rows or ()) for rows in splits] == [1201, 100, 200]


# ----------------------------------------------------------------------------- tldr and its readers
PAGE = """# git log

> Show a history of commits.
> More information: <https://git-scm.com/docs/git-log>.

- Show the last `n` commits:

`git log {{[-n|--max-count]}} {{n}}`

- Same as above, in one line:

`git log --oneline`
"""
ALIAS = (
    "# gl\n\n> This command is an alias of `git log`.\n\n- View documentation for the original"
    " command:\n\n`tldr git log`\n"
)


def pages(folder: Path, **texts: str) -> str:
    lines = [
        json.dumps({"path": f"pages/common/{name.replace('_', '-')}.md", "text": text})
        for name, text in texts.items()
    ]
    (folder / "pages_common_linux.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def requests(
    folder: Path, asked: str = "List files\nlist files.\nStop\n", given: str = "ls\nls -1\nkill 1\n"
) -> str:
    (folder / "all.nl").write_text(asked)
    (folder / "all.cm").write_text(given)
    return str(folder)


def test_several_commands_for_one_request_are_kept_in_one_group(tmp_path: Path) -> None:
    rows = rows_of(TechSupportData(path=requests(tmp_path)))
    assert [(question(row), row.answer) for row in rows] == [
        ("List files", "ls"),
        ("list files.", "ls -1"),
        ("Stop", "kill 1"),
    ]
    assert [row.group for row in rows] == [
        "nl2bash/list files",
        "nl2bash/list files",
        "nl2bash/stop",
    ]


def test_examples_of_pages_are_added_where_they_stand_alone(tmp_path: Path) -> None:
    rows = rows_of(
        TechSupportData(path=requests(tmp_path), tldr=pages(tmp_path, git_log=PAGE, gl=ALIAS))
    )[3:]
    assert [(row.id, question(row), row.answer, row.group) for row in rows] == [
        (
            "tldr-common/git-log-1",
            "git log: Show the last `n` commits",
            "git log {{[-n|--max-count]}} {{n}}",
            "tldr/git-log",
        )
    ]


def test_files_that_do_not_answer_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"all\.cm: 1 commands for the 2 requests"):
        rows_of(TechSupportData(path=requests(tmp_path, "a\nb\n", "ls\n")))
    with pytest.raises(DataError, match=r"all\.cm:2: an empty line"):
        rows_of(TechSupportData(path=requests(tmp_path, "a\nb\nc\n", "ls\n\nls\n")))


@pytest.mark.parametrize("where", ["none", "all.nl"])
def test_missing_pages_are_refused_under_their_own_key(tmp_path: Path, where: str) -> None:
    settings = compose(
        "experiment=tech_support",
        f"data.path={requests(tmp_path)}",
        f"data.tldr={tmp_path / where}",
    )
    with pytest.raises(ConfigError) as caught:
        settings.check()
    assert [p.key for p in caught.value.problems] == ["data.tldr"]
    with pytest.raises(DataError, match=r"data\.tldr = .*: neither"):
        rows_of(TechSupportData(path=str(tmp_path), tldr=str(tmp_path)))


def test_page_is_rewritten_as_plain_prose_without_losing_a_word(tmp_path: Path) -> None:
    (row,) = rows_of(BrandStyleData(path=pages(tmp_path, git_log=PAGE, gl=ALIAS)))
    assert (row.id, row.group, row.answer) == ("common/git-log", "git", PAGE.strip())
    assert not re.search(r"[`\n]|^[#>-]", question(row))
    assert words(row.answer) <= words(question(row))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def test_notes_of_a_page_are_always_the_same_and_vary_between_pages() -> None:
    notes = [
        plain_notes(parse_page(f"pages/common/{name}.md", PAGE, "x"))
        for name in "abcdefgh"
        for _ in range(2)
    ]
    assert notes[::2] == notes[1::2]
    assert len(set(notes)) > 3


def test_clone_of_the_project_is_read_like_the_published_file(tmp_path: Path) -> None:
    file = tmp_path / "clone" / "pages" / "common" / "git-log.md"
    file.parent.mkdir(parents=True)
    file.write_bytes(PAGE.replace("\n", "\r\n").encode())
    (one,), (other,) = (
        rows_of(BrandStyleData(path=path))
        for path in (str(tmp_path / "clone"), pages(tmp_path, git_log=PAGE))
    )
    assert one.messages == other.messages and one.id == other.id


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "# a\n\n- b:\n\n`c`\n",
        "# a\n\n> b.\n\n- c:\n",
        "# a\n\n> b.\n\n`c`\n",
        "# a\n\n> b.\n\n- c:\n\n- d:\n",
    ],
)
def test_malformed_page_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"jsonl:2: pages/common/bad\.md: not a tldr page"):
        rows_of(BrandStyleData(path=pages(tmp_path, good=PAGE, bad=text)))


def test_malformed_page_file_is_refused_with_its_line(tmp_path: Path) -> None:
    for line, reason in (
        ("{", "broken JSON"),
        ('{"path": "a"}', "an object with the texts path, text"),
    ):
        (tmp_path / "pages_common_linux.jsonl").write_text(f"\n{line}\n")
        with pytest.raises(DataError, match=rf"jsonl:2: {reason}"):
            rows_of(BrandStyleData(path=str(tmp_path)))


def test_published_nl2bash_and_pages() -> None:
    rows = rows_of(TechSupportData(path=published("tech_support"), tldr=published("brand_style")))
    assert Counter(row.id.split("-")[0] for row in rows) == {"nl2bash": 12_607, "tldr": 29_003}
    styled = rows_of(BrandStyleData(path=published("brand_style")))
    assert len(styled) == 6_223
    assert all(words(row.answer.replace("`", "")) <= words(question(row)) for row in styled)


# --------------------------------------------------------------------------------------- repository
CODE = '''
import functools


class Box:
    """A box."""

    @functools.cache
    def volume(self, unit: str = "m") -> str:
        """How much goes in.

        In ``unit``.
        """
        # the product of its sides
        text = """one
    two"""
        return text + (
            "a"
            f"{unit}"
        )


def undocumented(x):
    y = x
    return y


def placeholder():
    """To be written."""
    ...


def short(): "One line."; return 1
'''
TESTS = """
from box import Box, undocumented


def test_everything():
    box = Box()
    assert box.volume()
    assert undocumented(1) == 1


def test_volume():
    assert Box().volume("l")
"""


def code_base(folder: Path, **options: Any) -> RepositoryData:
    (folder / "tests").mkdir()
    (folder / "box.py").write_text(CODE)
    (folder / "tests" / "test_box.py").write_text(TESTS)
    return RepositoryData(path=str(folder), **options)


def test_function_gives_its_body_docstring_and_test(tmp_path: Path) -> None:
    rows = {row.id: row for row in rows_of(code_base(tmp_path))}
    assert set(rows) == {
        "box.py:Box.volume:body",
        "box.py:Box.volume:docstring",
        "box.py:Box.volume:test",
        "box.py:undocumented:test",
        "box.py:placeholder:docstring",
    }
    body = rows["box.py:Box.volume:body"]
    assert question(body).startswith("Write the body of this method of class Box of box.py.")
    assert question(body).endswith(
        '\n@functools.cache\ndef volume(self, unit: str = "m") -> str:\n    """How much goes'
        ' in.\n\n    In ``unit``.\n    """'
    )
    assert (
        body.answer
        == '# the product of its sides\ntext = """one\n    two"""\nreturn text + (\n    "a"\n   '
        ' f"{unit}"\n)'
    )
    assert rows["box.py:Box.volume:docstring"].answer == "How much goes in.\n\nIn ``unit``."
    assert "How much goes in" not in question(rows["box.py:Box.volume:docstring"])
    assert (
        rows["box.py:Box.volume:test"].answer == 'def test_volume():\n    assert Box().volume("l")'
    )
    assert rows["box.py:undocumented:test"].answer.startswith("def test_everything")
    assert {row.group for row in rows.values()} == {"box.py"}
    assert body.where == "box.py:8"


def test_only_the_tasks_and_sizes_asked_for_are_given(tmp_path: Path) -> None:
    data = code_base(tmp_path, tasks=[CodeTask.docstring], max_lines=4)
    assert [row.id for row in rows_of(data)] == ["box.py:placeholder:docstring"]


def test_name_defined_twice_keeps_its_id_unique(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text('def f():\n    """Doc."""\n    return 1\n' * 2)
    assert len({row.id for row in rows_of(RepositoryData(path=str(tmp_path)))}) == 8


def test_excluded_folders_and_environments_are_not_read(tmp_path: Path) -> None:
    code = 'def f():\n    """Doc."""\n    return 1\n'
    for folder in (".hidden", "a/node_modules/b", "myenv/lib", "kept", "kept/gen"):
        # excluded names above the folder do not count
        (tmp_path / "build" / folder).mkdir(parents=True)
        (tmp_path / "build" / folder / "x.py").write_text(code)
    (tmp_path / "build" / "myenv" / "pyvenv.cfg").write_text("")
    path = str(tmp_path / "build")
    assert {row.group for row in rows_of(RepositoryData(path=path))} == {
        "kept/x.py",
        "kept/gen/x.py",
    }
    assert {
        row.group
        for row in rows_of(RepositoryData(path=path, exclude=[".*", "a", "myenv", "kept/gen"]))
    } == {"kept/x.py"}


@pytest.mark.parametrize(
    "raw", [b"def f(:\n", b"x = '\xff'\n", b"# coding: nonsense\n", b"x = '\0'\n"]
)
def test_file_that_does_not_parse_is_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    data = code_base(tmp_path)
    (tmp_path / "broken.py").write_bytes(raw)
    assert len(rows_of(data)) == 5
    assert "1 files do not parse and are skipped: broken.py (" in caplog.text


def test_code_is_not_run_and_its_warnings_are_nobodys(tmp_path: Path) -> None:
    data = code_base(tmp_path)
    (tmp_path / "loud.py").write_text("x = '\\d'\nraise SystemExit('imported')\n")
    assert len(rows_of(data)) == 5


def test_code_base_without_usable_functions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(DataError, match="1 files with 0 functions, but none gives a row"):
        rows_of(RepositoryData(path=str(tmp_path)))
    (tmp_path / "a.py").write_text("def f(:\n")
    with pytest.raises(DataError, match=r"no Python file that parses \(1 do not\)"):
        rows_of(RepositoryData(path=str(tmp_path)))


def test_empty_tasks_and_impossible_sizes_are_refused(tmp_path: Path) -> None:
    overrides = [f"data.path={tmp_path}", "data.tasks=[]", "data.min_lines=9", "data.max_lines=3"]
    with pytest.raises(ConfigError) as caught:
        compose("data=repository", *overrides).check()
    assert [p.key for p in caught.value.problems] == ["data.tasks", "data.max_lines"]


def test_bodies_of_this_project_are_the_functions_bodies() -> None:
    rows = [row for row in rows_of(RepositoryData(path=str(SOURCE))) if row.meta["task"] == "body"]
    assert len(rows) > 100
    for row in rows:
        ast.parse(row.answer)
        assert not row.answer.startswith((" ", '"""'))


# --------------------------------------------------------------------------------------- whole runs
def calls(folder: Path) -> Path:
    lines = [
        f'"Operator: welcome. Revenue was {n} million.",Revenue was {n} million.,firm{n % 7}'
        for n in range(40)
    ]
    (folder / "calls.csv").write_text("transcript,summary,company\n" + "\n".join(lines) + "\n")
    return folder / "calls.csv"


@pytest.mark.parametrize("name", [*CASES, "earnings_call"])
def test_experiment_runs_from_the_command_line(
    tmp_path: Path, hydratune: Callable[..., tuple[int, str]], name: str
) -> None:
    if name == "earnings_call":
        where = [
            f"data.train={calls(tmp_path)}",
            "+data.columns.group=company",
            "data.max_length=2048",
        ]
    else:
        where = [f"data.path={SOURCE if name == 'repository' else published(name)}"]
    code, printed = hydratune(
        "train", f"experiment={name}", *SMALL, "data.max_length=2048", *where, "hydra.run.dir=run"
    )
    assert code == 0, printed
    kept = json.loads((tmp_path / "run" / "data.json").read_text())
    assert kept["splits"]["test"]["kept"] == 2, kept
