"""report.html of a judge: the result, whether to believe it, and judgements with their reasons."""

from collections.abc import Mapping, Sequence

from hydratune.evaluation.answer_differences import Piece, differing
from hydratune.evaluation.judge.summary import JudgedRow, Summary
from hydratune.evaluation.measures import cut_sentence, user_text
from hydratune.evaluation.pages import bar, page
from hydratune.records.predictions import EMPTY, Prediction
from hydratune.wording import counted

_MOST_ROWS = 60  # on the page
_LONGEST = 2000  # letters of a text
_LOOKS = {"better": "fit", "worse": "error"}  # of the verdict
_WINNER_ORDER = {"theirs": 0.0, "tie": 1.0, "ours": 2.0}


def render(
    name: str,
    content: Summary,
    judgements: Sequence[JudgedRow],
    ours: Sequence[Prediction],
    others: Sequence[Prediction],
    subject: str = "",
) -> str:
    """Return the page.

    ``others``: the answers judged beside ``ours``; empty for a rubric. ``subject``: the headline of
    the run.
    """
    our_answers = {str(row["id"]): row for row in ours}
    other_answers = {str(row["id"]): row for row in others}
    order = sorted(judgements, key=lambda row: (not row["why"], _order(row)))
    rows = [
        _row(row, our_answers.get(str(row["id"]), EMPTY), other_answers.get(str(row["id"])))
        for row in order[:_MOST_ROWS]
    ]
    results = _results(content)
    sections = [("result", "Result")] if results else []
    sections += [("agreement", "Agreement with people")] if "agreement" in content else []
    return page(
        "judge_report.html.j2",
        name=name,
        subject=subject,
        look=_LOOKS.get(
            str(content.get("verdict")), "plain" if content["kind"] == "score" else "warn"
        ),
        sections=[*sections, ("judgements", "Judgements"), ("rubric", "Rubric and criteria")],
        content=content,
        results=results,
        verdict=verdict(content),
        cut=cut_lines(content),
        rows=rows,
        all_rows=len(judgements),
    )


def _results(content: Summary) -> list[tuple[str, object, str]]:
    """Return (title, bar, number) for each result."""
    if not content["judged"]:
        return []
    return _score_results(content) if content["kind"] == "score" else _pair_results(content)


def _score_results(content: Summary) -> list[tuple[str, object, str]]:
    average, interval = content["mean"], content["interval"]
    most = max(1, *content["counts"].values())
    mean = "mean score, 1 to 5", bar(average, interval, 5.0), _score(average, interval)
    counts = [
        (f"score {number}", bar(count, None, most), str(count))
        for number, count in content["counts"].items()
    ]
    return [mean, *counts]


def _pair_results(content: Summary) -> list[tuple[str, object, str]]:
    rate, interval = content["win_rate"], content["win_rate_interval"]
    is_best = content["verdict"] == "better"
    at_equal_length, inconsistent = content["length_controlled_win_rate"], content["inconsistent"]
    outcomes = [
        (title, bar(content[key], None, content["judged"]), str(content[key]))
        for key, title in (("ours", "won"), ("tie", "tie"), ("theirs", "lost"))
    ]
    return [
        ("win rate", bar(rate, interval, 1.0, best=is_best), _rate(rate, interval)),
        *outcomes,
        ("win rate at equal length", bar(at_equal_length, None, 1.0), _rate(at_equal_length)),
        (
            "changed with the order of the answers",
            bar(inconsistent, None, 1.0),
            _rate(inconsistent),
        ),
    ]


def cut_lines(content: Summary) -> list[str]:
    """Return a warning for each system whose answers had been cut at the token limit."""
    names = {"ours": f"the system {content['system']}", "theirs": str(content["against"])}
    lines = [
        cut_sentence(content["cut"][side] or 0, content["rows"], name)
        for side, name in names.items()
    ]
    return [line for line in lines if line]


def verdict(content: Summary) -> str:
    """Return the result in a sentence."""
    if not content["judged"]:
        return "nothing was judged"
    if content["kind"] == "score":
        return (
            f"{content['mean']:.2f} of 5 on {content['judged']} of"
            f" {counted(content['rows'], 'row')}"
        )
    return (
        f"{content['verdict']}: {content['win_rate']:.0%} won on {content['judged']} of"
        f" {counted(content['rows'], 'row')}, ties as halves"
    )


def _score(value: float, interval: Sequence[float] | None) -> str:
    edges = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
    return f"{value:.2f}{edges}"


def _rate(value: float, interval: Sequence[float] | None = None) -> str:
    """Return a rate in per cent, as on the terminal."""
    edges = "" if interval is None else f" [{interval[0]:.1%}, {interval[1]:.1%}]"
    return f"{value:.1%}{edges}"


def _order(row: JudgedRow) -> float:
    """Return a sort key by which low scores and lost rows come first."""
    if row.get("score") is not None:
        return float(row["score"])
    return _WINNER_ORDER.get(str(row.get("winner")), 3.0)


def _row(row: JudgedRow, ours: Prediction, theirs: Prediction | None) -> Mapping[str, object]:
    feedback = row.get("feedback") or []
    reference = str(ours.get("reference", ""))
    answers = {"answer": str(ours.get("prediction", ""))}
    if theirs:
        answers["the other answer"] = str(theirs.get("prediction", ""))
    texts = [
        ("request", [Piece(user_text(ours)[:_LONGEST])]),
        ("reference", [Piece(reference[:_LONGEST])]),
        *((title, differing(reference, text, _LONGEST)) for title, text in answers.items()),
    ]
    cut = ", answer cut at the token limit" if row.get("cut") else ""
    return {
        "id": str(row["id"]),
        "judgement": f"{row['why'] or _judgement(row)}{cut}",
        "feedback": feedback if isinstance(feedback, list) else [feedback],
        "texts": texts,
    }


def _judgement(row: JudgedRow) -> str:
    if "score" in row:
        return f"score {row['score']}"
    changed = "" if row.get("consistent") else ", changed with the order"
    return f"{row['winner']}{changed}"
