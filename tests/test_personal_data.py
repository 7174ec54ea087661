"""Personal data in rows: where it is found and how it is masked."""

from pathlib import Path

import pytest

from data_findings import findings_of, row
from hydratune.data.quality import pii, row_checks
from hydratune.data.rows import Message, Row
from hydratune.settings.data import QualityConfig


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("pii_email", "write to jo.doe+x@mail.example.co.uk now", "jo.doe+x@mail.example.co.uk"),
        ("pii_email", "user@remote without a domain", None),
        ("pii_email", "npm i pkg@1.2.3 x@1.2.3-rc.1 y@2.x", None),
        ("pii_email", "ssh root@192.168.0.14", "root@192.168.0.14"),
        ("pii_email", "git clone git@github.com:owner/name.git ssh://git@example.org/x", None),
        ("pii_email", "scp x jo@example.com:/tmp and git@example.com", "jo@example.com"),
        ("pii_email", "jörg@exämple.de", "jörg@exämple.de"),
        ("pii_phone", "call (212) 555-0123 today", "(212) 555-0123"),
        ("pii_phone", "ring +49 30 901820", "+49 30 901820"),
        ("pii_phone", "on 2026-11-22 10:30:11, order 20251111 or 2025551234", None),
        ("pii_card", "card 4111 1111 1111 1111 please", "4111 1111 1111 1111"),
        ("pii_card", "card 4111 1111 1111 1112 please", None),
        ("pii_card", "card 4111.1111.1111.1111.", "4111.1111.1111.1111"),
        ("pii_card", "0.4111111111111111 4.111111111111111 4111.1111.1111.1111.2", None),
        ("pii_card", "0000000000000000", None),
        ("pii_iban", "to DE89 3704 0044 0532 0130 00 BITTE", "DE89 3704 0044 0532 0130 00"),
        ("pii_iban", "to DE89 3704 0044 0532 0130 01", None),
        ("pii_iban", "to de89370400440532013000 please, soon", "de89370400440532013000"),
        ("pii_ip", "from 10.20.30.40 and", "10.20.30.40"),
        ("pii_ip", "from fe80::1ff:fe23:4567:890a", "fe80::1ff:fe23:4567:890a"),
        ("pii_ip", "127.0.0.1, 255.255.255.0, version 1.2.3.4.5, 12:30:45, 300.1.1.1", None),
        ("pii_ssn", "her number is 123-45-6789.", "123-45-6789"),
        ("pii_ssn", "SSN: 123 45 6789.", "123 45 6789"),
        ("pii_ssn", "Her social security number is 123456789", "123456789"),
        ("pii_ssn", "part 123 45 6789, ssn 000 45 6789, ssn 1234567890", None),
        ("pii_ssn", "666-45-6789 000-12-3456 1123-45-6789", None),
    ],
)
def test_personal_data_is_found_and_look_alikes_are_not(
    name: str, text: str, expected: str | None
) -> None:
    assert pii.FINDERS[name](text) == expected


def test_personal_data_is_shown_masked() -> None:
    check = row_checks.row_checks(QualityConfig(), None)["pii_email"]
    assert check(row("I am jo.doe@example.com")) == "j•••.•••@•••.•••"
    assert pii.mask("a@b.de") == "a@•••.•••"
    assert pii.mask("4111 1111 1111 1111") == "4••• ••• ••• •••"


def test_personal_data_is_searched_in_every_text_of_a_row() -> None:
    check = row_checks.row_checks(QualityConfig(), None)["pii_email"]
    question, answer = Message("user", "Send it"), Message("assistant", "Done")
    call = {"function": {"name": "send", "arguments": {"to": ["jo@example.com"]}}}
    as_text = {"function": {"name": "send", "arguments": '{"to": "jo@example.com"}'}}
    tool = {"function": {"name": "send", "description": "ask jo@example.com"}}
    rows = [
        Row("system", (Message("system", "You serve jo@example.com"), question, answer)),
        Row("call", (question, Message("assistant", "", tool_calls=(call,)))),
        Row("text", (question, Message("assistant", "", tool_calls=(as_text,)))),
        Row("result", (question, Message("tool", "jo@example.com", name="look"), answer)),
        Row(
            "reasoning", (question, Message("assistant", "Done", reasoning="jo@example.com it is"))
        ),
        Row("tools", (question, answer), tools=(tool,)),
    ]
    assert [each.id for each in rows if check(each) is None] == []
    number = {"function": {"name": "pay", "arguments": {"card": 4111111111111111}}}
    assert row_checks.row_checks(QualityConfig(), None)["pii_card"](
        Row("n", (question, Message("assistant", "", tool_calls=(number,))))
    )
    assert check(Row("none", (question, answer))) is None


def test_every_match_in_an_excerpt_is_masked() -> None:
    text = (
        "jo@example.com, an@b.de, (212) 555-0123, 4111 1111 1111 1111, 10.20.30.40, 123-45-6789,"
        " DE89370400440532013000, jo@example.com"
    )
    masked = pii.mask_all(text)
    assert masked.startswith("j•••@•••.•••, a•••@•••.•••, (•••) •••-•••, 4•••")
    assert [
        name
        for name in ("pii_email", "pii_phone", "pii_card", "pii_iban", "pii_ip", "pii_ssn")
        if pii.FINDERS[name](masked)
    ] == []
    assert pii.mask_all("On 2020-03-04 it cost 1,500.") == "On 2020-03-04 it cost 1,500."


def test_personal_data_is_not_copied_into_the_finding(tmp_path: Path) -> None:
    finding = findings_of(
        tmp_path,
        [
            row("Write to jo.doe@example.com please", id="a"),
            row("Nobody is named in this one", id="b"),
        ],
    )["pii_email"]
    assert finding.rows == ["a"]
    assert "jo.doe@example.com" not in str(finding.plain())
    everything = findings_of(
        tmp_path,
        [
            row(
                "A question about it",
                "I'm sorry, but I can't write to jo.doe@example.com now",
                id="c",
            )
        ],
    )
    assert everything["refusals"].rows == ["c"]
    assert "jo.doe@example.com" not in str([f.plain() for f in everything.values()])
