"""hydratune judge: scores, comparisons, the cache, settings and its page."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import write_rows
from judge_server import (
    KEY,
    Judge,
    judge_command,
    judge_result,
    judgements,
    score_reply,
    verdict_reply,
)
from page_structure import check_page

Hydratune = Callable[..., tuple[int, str]]


def test_a_judge_that_always_prefers_the_first_gives_half_and_is_inconsistent(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(lambda messages, n: verdict_reply("A"))
    code, out = hydratune(*judge_command(judge, "against=base"))
    assert code == 0, out
    result = judge_result(judged_run)
    assert (
        result["win_rate"],
        result["inconsistent"],
        result["tie"],
        result["first_preferred"],
    ) == (
        0.5,
        1.0,
        12,
        1.0,
    )
    assert "100 % of the verdicts change" in out and "not distinguishable" in out
    assert len(judge.requests) == 24
    assert (
        judge.requests[0]["temperature"] == 0
        and judge.requests[0]["response_format"]["type"] == "json_schema"
    )


def test_a_preference_for_longer_answers_is_reported(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    def prefer_longer(messages: list[dict[str, str]], n: int) -> str:
        text = messages[1]["content"]
        first, second = text.index("<answer A"), text.index("<answer B")
        return verdict_reply("A" if "much longer" in text[first:second] else "B")

    code, out = hydratune(*judge_command(serve(prefer_longer), "against=base"))
    result = judge_result(judged_run)
    assert (
        code == 0
        and result["win_rate"] == 0.0
        and result["inconsistent"] == 0.0
        and result["longer_wins"] == 1.0
    )
    assert "may reward length" in out and "worse" in out


def test_second_run_costs_nothing(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(lambda messages, n: score_reply(4))
    settings = judge_command(judge, "price_in=1000", "price_out=1000")
    assert hydratune(*settings)[0] == 0
    first = judge_result(judged_run)
    assert first["cost"] == {"tokens_in": 1200, "tokens_out": 120, "money": pytest.approx(1.32)}
    assert hydratune(*settings)[0] == 0
    again = judge_result(judged_run)
    assert len(judge.requests) == 12 and again["from_cache"] == 12 and again["cost"]["money"] == 0
    assert again["mean"] == first["mean"] == 4


@pytest.mark.parametrize(
    "answer",
    [
        "5",
        "Score: 5",
        '{"score": 5}',
        "```json\n" + score_reply(5) + "\n```",
        score_reply(5) + " ok",
        score_reply(6),
        "",
        "null",
    ],
)
def test_malformed_replies_are_retried_and_never_scored(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge], answer: str
) -> None:
    judge = serve(lambda messages, n: answer)
    code, out = hydratune(*judge_command(judge, "rows=3"))
    assert code == 1 and "none of 3 rows was judged: unparsed" in out
    assert len(judge.requests) == 6
    assert [row["score"] for row in judgements(judged_run)] == [None] * 3
    assert "mean" not in judge_result(judged_run)


def test_a_valid_reply_to_the_second_attempt_is_scored(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(lambda messages, n: score_reply(3) if len(messages) > 2 else "hm")
    code, _ = hydratune(*judge_command(judge))
    assert code == 0 and judge_result(judged_run)["counts"]["3"] == 12 and len(judge.requests) == 24


def test_rows_without_a_readable_reply_are_dropped_and_counted(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(
        lambda messages, n: "?" if "short 7" in messages[1]["content"] else score_reply(2)
    )
    code, out = hydratune(*judge_command(judge))
    result = judge_result(judged_run)
    assert code == 0 and (result["judged"], result["unjudged"], result["mean"]) == (11, 1, 2.0)
    assert "1 row has no judgement and is not counted" in out


def test_the_budget_is_not_exceeded(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(lambda messages, n: score_reply(4))
    code, out = hydratune(
        *judge_command(judge, "price_in=1000", "price_out=1000", "budget=3", "max_tokens=50")
    )
    assert code == 0, out
    result = judge_result(judged_run)
    assert 0 < result["judged"] < 12 and result["cost"]["money"] <= 3
    assert any("the budget is spent" in row["why"] for row in judgements(judged_run))


def test_the_key_is_written_nowhere(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(lambda messages, n: score_reply(4))
    code, out = hydratune(*judge_command(judge))
    assert code == 0 and judge.requests[0]["key"] == f"Bearer {KEY}" and KEY not in out
    files = [file for file in judged_run.parent.rglob("*") if file.is_file()]
    assert files and not any(KEY.encode() in file.read_bytes() for file in files)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1, 2, 3, 4, 5] * 8, "trust"),
        ([5, 4, 1, 1, 2] * 8, "do not trust"),
        ([1, 2, 3], "too few labels"),
    ],
)
def test_agreement_with_human_labels_decides_the_trust(
    hydratune: Hydratune,
    judged_run: Path,
    serve: Callable[..., Judge],
    scores: list[int],
    expected: str,
) -> None:
    prompt = [{"role": "user", "content": "?"}]
    rows = [
        {"id": n, "prompt": prompt, "prediction": f"answer <{n % 5 + 1}>", "reference": "x"}
        for n in range(40)
    ]
    write_rows(judged_run / "predictions.jsonl", rows)
    write_rows(
        judged_run.parent / "labels.jsonl",
        [{"id": n, "score": score} for n, score in enumerate(scores)],
    )
    judge = serve(
        lambda messages, n: score_reply(int(messages[1]["content"].split("answer <")[1][0]))
    )
    code, out = hydratune(*judge_command(judge, "labels=labels.jsonl"))
    assert code == 0, out
    assert (
        judge_result(judged_run)["agreement"]["verdict"] == expected
        and f"agreement with people: {expected}" in out
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["run=nowhere", "judge=x"], "not a run directory"),
        (["run=run"], "there is no judge to be asked"),
        (["run=run", "judge=x", "against=nowhere"], "neither a folder nor a system"),
        (["run=run", "judge=x", "against=fewshot"], "no predictions_fewshot.jsonl"),
        (["run=run", "judge=x", "system=best"], "no such system"),
        (["run=run", "judge=x", "key_env=NOT_SET_HERE"], "empty or not set"),
        (["run=run", "judge=x", "budget=1"], "set price_in"),
        (["run=run", "judge=x", "labels=nowhere.jsonl"], "no such file"),
        (["run=run", "judge=x", "rubric.3=null", "attempts=0"], "rubric"),
        (["run=run", f"judge={KEY}"], "looks like a secret"),
    ],
)
def test_wrong_settings_of_the_judge_are_refused(
    hydratune: Hydratune, judged_run: Path, settings: list[str], message: str
) -> None:
    code, out = hydratune("judge", *settings)
    assert code == 2 and message in out and KEY not in out, out
    assert not (judged_run / "judge").exists()


def test_answers_to_other_requests_are_not_compared(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    prompt = [{"role": "user", "content": "another request"}]
    write_rows(
        judged_run / "predictions_base.jsonl",
        [{"id": f"r{n}", "prompt": prompt, "prediction": "", "reference": ""} for n in range(12)],
    )
    code, out = hydratune(
        *judge_command(serve(lambda messages, n: verdict_reply("A")), "against=base")
    )
    assert code == 2 and "12 of 12 rows have no answer there to the same request" in out


@pytest.mark.slow
def test_a_local_model_can_be_the_judge(
    hydratune: Hydratune, judged_run: Path, tmp_path: Path
) -> None:
    # its weights are random, so none of its replies is a judgement
    code, out = hydratune(
        "train",
        "debug=smoke",
        "data.max_train_rows=8",
        "data.max_validation_rows=4",
        "data.max_test_rows=2",
        "trainer.max_steps=2",
        "evaluation.baselines=[]",
        "evaluation.max_new_tokens=4",
        "hydra.run.dir=toy",
    )
    assert code == 0, out
    code, out = hydratune("judge", "run=toy", "local=base", "max_tokens=8")
    assert code == 1 and "none of 2 rows was judged: unparsed" in out


def test_the_page_states_what_was_judged_and_escapes_texts(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    lines = [
        json.loads(line) for line in (judged_run / "predictions.jsonl").read_text().splitlines()
    ]
    lines[3]["prediction"] = "<script>alert(1)</script>"
    write_rows(judged_run / "predictions.jsonl", lines)
    reply = json.dumps({"feedback": "<img src=x> fine", "score": 4})
    judge = serve(lambda messages, n: "?" if "short 7" in messages[1]["content"] else reply)
    assert hydratune(*judge_command(judge))[0] == 0
    page = (judged_run / "judge" / "report.html").read_text()
    assert (
        "4.00 of 5 on 11 of 12 rows" in page
        and "1 row has no judgement and is not counted" in page
        and "Nobody has checked this judge" in page
    )
    assert check_page(page).ids == ["result", "judgements", "rubric"]
    assert page.index("row r7 · unparsed") < page.index("row r3 · score 4")
    assert (
        "<script>alert" not in page
        and "&lt;script&gt;alert(1)" in page
        and "<img" not in page
        and "&lt;img src=x&gt; fine" in page
    )
    assert (
        hydratune(*judge_command(serve(lambda messages, n: verdict_reply("A")), "against=base"))[0]
        == 0
    )
    page = (judged_run / "judge" / "report.html").read_text()
    assert (
        "not distinguishable: 50% won on 12 of 12 rows" in page
        and "tie, changed with the order" in page
    )
    assert (
        "a much longer answer 3 with more words" in page and "100 % of the verdicts change" in page
    )


def test_truncated_answers_are_counted_beside_the_score(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    for name, truncated in (("predictions.jsonl", 3), ("predictions_base.jsonl", 12)):
        rows = [json.loads(line) for line in (judged_run / name).read_text().splitlines()]
        write_rows(
            judged_run / name,
            [
                {**row, "finish_reason": "length" if n < truncated else "stop"}
                for n, row in enumerate(rows)
            ],
        )
    judge = serve(lambda messages, n: verdict_reply("A"))
    code, out = hydratune(*judge_command(judge, "against=base"))
    flat, limit = (
        " ".join(out.split()),
        "were cut at the token limit (evaluation.max_new_tokens) and scored as they stand",
    )
    assert (
        code == 0
        and f"3 of 12 answers of the system eval {limit}" in flat
        and f"12 of 12 answers of base {limit}" in flat
    ), out
    page = (judged_run / "judge" / "report.html").read_text()
    assert (
        judge_result(judged_run)["cut"] == {"ours": 3, "theirs": 12}
        and "3 of 12 answers of the system eval" in page
    )
    assert (
        sum(row["cut"] for row in judgements(judged_run)) == 3
        and page.count("answer cut at the token limit") == 3
    )


def test_a_truncated_judgement_is_reported(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    judge = serve(lambda messages, n: '{"feedback": "it goes on and')
    judge.finish_reason = "length"
    for _ in range(2):  # the second from the cache
        code, out = hydratune(*judge_command(judge, "rows=2"))
        assert code == 1 and "the judge's answer was cut at max_tokens" in " ".join(out.split()), (
            out
        )


def test_two_rows_cannot_show_that_a_system_is_better(
    hydratune: Hydratune, judged_run: Path, serve: Callable[..., Judge]
) -> None:
    def prefer_ours(messages: list[dict[str, str]], n: int) -> str:
        text = messages[1]["content"]
        return verdict_reply("A" if text.index("short") < text.index("longer") else "B")

    ours_wins = serve(prefer_ours)
    code, out = hydratune(*judge_command(ours_wins, "against=base", "rows=2"))
    result = judge_result(judged_run)
    assert (
        code == 0
        and result["win_rate"] == 1
        and result["win_rate_interval"] is None
        and result["p"] == 0.5
    )
    assert (
        "too few independent rows for an interval: 2" in " ".join(out.split())
        and "better" not in out
    )
    assert (
        "too few independent rows for an interval: 2"
        in (judged_run / "judge" / "report.html").read_text()
    )
    code, out = hydratune(*judge_command(ours_wins, "against=base"))
    result = judge_result(judged_run)
    assert (
        result["verdict"] == "better"
        and result["p"] == 2.0**-11
        and 0.5 < result["win_rate_interval"][0] < 0.8
    ), result
    assert result["win_rate_interval"][1] == 1
