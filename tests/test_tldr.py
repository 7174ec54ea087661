"""The readers of NL2Bash and of tldr pages."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from case_rows import published_folder, question, rows_of
from hydratune.data.cases.brand_style import BrandStyleData, plain_notes
from hydratune.data.cases.tech_support import TechSupportData
from hydratune.data.cases.tldr import parse_page
from hydratune.errors import ConfigError, DataError
from test_config import compose

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


def page_file(folder: Path, **texts: str) -> str:
    lines = [
        json.dumps({"path": f"pages/common/{name.replace('_', '-')}.md", "text": text})
        for name, text in texts.items()
    ]
    (folder / "pages_common_linux.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def request_files(
    folder: Path,
    requests_text: str = "List files\nlist files.\nStop\n",
    commands_text: str = "ls\nls -1\nkill 1\n",
) -> str:
    (folder / "all.nl").write_text(requests_text)
    (folder / "all.cm").write_text(commands_text)
    return str(folder)


def test_several_commands_for_one_request_are_kept_in_one_group(tmp_path: Path) -> None:
    rows = rows_of(TechSupportData(path=request_files(tmp_path)))
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
        TechSupportData(
            path=request_files(tmp_path), tldr=page_file(tmp_path, git_log=PAGE, gl=ALIAS)
        )
    )[3:]
    assert [(row.id, question(row), row.answer, row.group) for row in rows] == [
        (
            "tldr-common/git-log-1",
            "git log: Show the last `n` commits",
            "git log {{[-n|--max-count]}} {{n}}",
            "tldr/git-log",
        )
    ]


def test_request_and_command_files_that_do_not_match_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"all\.cm: 1 command for the 2 requests"):
        rows_of(TechSupportData(path=request_files(tmp_path, "a\nb\n", "ls\n")))
    with pytest.raises(DataError, match=r"all\.cm:2: an empty line"):
        rows_of(TechSupportData(path=request_files(tmp_path, "a\nb\nc\n", "ls\n\nls\n")))


@pytest.mark.parametrize("where", ["none", "all.nl"])
def test_missing_pages_are_refused_under_their_own_key(tmp_path: Path, where: str) -> None:
    settings = compose(
        "experiment=tech_support",
        f"data.path={request_files(tmp_path)}",
        f"data.tldr={tmp_path / where}",
    )
    with pytest.raises(ConfigError) as caught:
        settings.check()
    assert [p.key for p in caught.value.problems] == ["data.tldr"]
    with pytest.raises(DataError, match=r"data\.tldr = .*: neither"):
        rows_of(TechSupportData(path=str(tmp_path), tldr=str(tmp_path)))


def test_page_is_rewritten_as_plain_prose_without_losing_a_word(tmp_path: Path) -> None:
    (row,) = rows_of(BrandStyleData(path=page_file(tmp_path, git_log=PAGE, gl=ALIAS)))
    assert (row.id, row.group, row.answer) == ("common/git-log", "git", PAGE.strip())
    assert not re.search(r"[`\n]|^[#>-]", question(row))
    assert words_of(row.answer) <= words_of(question(row))


def words_of(text: str) -> set[str]:
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
    (from_clone,), (from_file,) = (
        rows_of(BrandStyleData(path=path))
        for path in (str(tmp_path / "clone"), page_file(tmp_path, git_log=PAGE))
    )
    assert from_clone.messages == from_file.messages and from_clone.id == from_file.id


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
        rows_of(BrandStyleData(path=page_file(tmp_path, good=PAGE, bad=text)))


def test_malformed_page_file_is_refused_with_its_line(tmp_path: Path) -> None:
    for line, reason in (
        ("{", "broken JSON"),
        ('{"path": "a"}', "an object with the texts path, text"),
    ):
        (tmp_path / "pages_common_linux.jsonl").write_text(f"\n{line}\n")
        with pytest.raises(DataError, match=rf"jsonl:2: {reason}"):
            rows_of(BrandStyleData(path=str(tmp_path)))


def test_published_nl2bash_and_pages() -> None:
    rows = rows_of(
        TechSupportData(path=published_folder("tech_support"), tldr=published_folder("brand_style"))
    )
    assert Counter(row.id.split("-")[0] for row in rows) == {"nl2bash": 12_607, "tldr": 29_003}
    styled = rows_of(BrandStyleData(path=published_folder("brand_style")))
    assert len(styled) == 6_223
    assert all(words_of(row.answer.replace("`", "")) <= words_of(question(row)) for row in styled)
