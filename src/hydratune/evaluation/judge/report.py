"""report.html of a judge: what it found, whether to believe it, and every judgement with its
reasons.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hydratune.evaluation.measures import cut_sentence, user_text
from hydratune.evaluation.pages import bar, page

_SHOWN = 60  # rows on the page
_LONGEST = 2000  # letters of a text


def render(
    name: str,
    content: Mapping[str, Any],
    judgements: Sequence[Mapping[str, Any]],
    ours: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
) -> str:
    """``others``: the answers judged beside ``ours``; empty where a rubric was asked."""
    told: list[tuple[str, Any, str]] = []
    if content["judged"] and content["kind"] == "score":
        told.append(
            (
                "mean score, 1 to 5",
                bar(content["mean"], content["interval"], 5.0),
                _with_interval(content["mean"], content["interval"]),
            )
        )
        most = max(1, *content["counts"].values())
        told += [
            (f"score {number}", bar(count, None, most), str(count))
            for number, count in content["counts"].items()
        ]
    elif content["judged"]:
        interval = content["win_rate_interval"]
        told.append(
            (
                "win rate",
                bar(content["win_rate"], interval, 1.0, best=content["verdict"] == "better"),
                _with_interval(content["win_rate"], interval),
            )
        )
        told += [
            (title, bar(content[key], None, content["judged"]), str(content[key]))
            for key, title in (("ours", "won"), ("tie", "tie"), ("theirs", "lost"))
        ]
        told.append(
            (
                "win rate at equal length",
                bar(content["length_controlled_win_rate"], None, 1.0),
                f"{content['length_controlled_win_rate']:.3f}",
            )
        )
        told.append(
            (
                "changed with the order of the answers",
                bar(content["inconsistent"], None, 1.0),
                f"{content['inconsistent']:.1%}",
            )
        )
    answers = {str(row["id"]): row for row in ours}
    beside = {str(row["id"]): row for row in others}
    order = sorted(judgements, key=lambda row: (not row["why"], _rank(row)))
    return page(
        "judge_report.html.j2",
        name=name,
        content=content,
        told=told,
        verdict=verdict(content),
        cut=cut_lines(content),
        rows=[
            _row(row, answers.get(str(row["id"]), {}), beside.get(str(row["id"])))
            for row in order[:_SHOWN]
        ],
        all_rows=len(judgements),
    )


def cut_lines(content: Mapping[str, Any]) -> list[str]:
    """How many of the answers that were judged had been cut."""
    whose = (("ours", f"the system {content['system']}"), ("theirs", str(content["against"])))
    return list(
        filter(
            None,
            (
                cut_sentence(content["cut"][side] or 0, content["rows"], name)
                for side, name in whose
            ),
        )
    )


def verdict(content: Mapping[str, Any]) -> str:
    """One sentence: what was found, if anything was."""
    if not content["judged"]:
        return "nothing was judged"
    if content["kind"] == "score":
        return f"{content['mean']:.2f} of 5 on {content['judged']} of {content['rows']} rows"
    return (
        f"{content['verdict']}: {content['win_rate']:.0%} won on {content['judged']} of"
        f" {content['rows']} rows, ties as halves"
    )


def _with_interval(value: float, interval: Sequence[float] | None) -> str:
    return (
        f"{value:.3f}"
        if interval is None
        else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
    )


def _rank(row: Mapping[str, Any]) -> float:
    """Low scores and lost rows come first."""
    if row.get("score") is not None:
        return float(row["score"])
    return {"theirs": 0.0, "tie": 1.0, "ours": 2.0}.get(str(row.get("winner")), 3.0)


def _row(
    row: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any] | None
) -> dict[str, Any]:
    feedback = row.get("feedback")
    request = user_text(ours)
    cut = ", answer cut at the token limit" if row.get("cut") else ""
    found = row["why"] or (
        f"score {row['score']}"
        if "score" in row
        else f"{row['winner']}{'' if row.get('consistent') else ', changed with the order'}"
    )
    answers = [
        ("answer", str(ours.get("prediction", ""))),
        *([("the other answer", str(theirs.get("prediction", "")))] if theirs else []),
    ]
    return {
        "id": str(row["id"]),
        "found": f"{found}{cut}",
        "feedback": feedback if isinstance(feedback, list) else [feedback] if feedback else [],
        "parts": [
            ("request", request[:_LONGEST]),
            ("reference", str(ours.get("reference", ""))[:_LONGEST]),
            *((t, x[:_LONGEST]) for t, x in answers),
        ],
    }
