"""The result of a judge on the terminal."""

from rich.markup import escape
from rich.table import Table

from hydratune.console import console
from hydratune.evaluation.judge.report import cut_lines
from hydratune.evaluation.judge.summary import Summary
from hydratune.wording import counted, noun_for


def print_result(content: Summary, confidence: float) -> None:
    """Print the content of judge.json: a table, warnings, and the agreement with people."""
    console.print(_table(content, 100 * confidence))
    for line in [*content.get("warnings", []), *cut_lines(content)]:
        console.print(f"[yellow]{escape(line)}", soft_wrap=True)
    if content["unjudged"]:
        why = f"{content['why']}; see judgements.jsonl"
        console.print(
            f"[yellow]{counted(content['unjudged'], 'row has', 'rows have')} no judgement and"
            f" {noun_for(content['unjudged'], 'is', 'are')} not counted: {escape(why)}. The"
            " answers so far are kept: the same command asks only for the"
            " others",
            soft_wrap=True,
        )
    if "agreement" not in content:
        console.print(
            "[dim]nobody has checked this judge: labels=FILE compares it with people",
            soft_wrap=True,
        )
        return
    agreement = content["agreement"]
    why = escape(str(agreement["why"]))
    console.print(f"agreement with people: [bold]{agreement['verdict']}[/]: {why}", soft_wrap=True)


def _table(content: Summary, percent: float) -> Table:
    table = Table(header_style="bold")
    table.add_column("judged by")
    table.add_column(escape(content["judge"]), justify="right")
    table.add_row("rows judged", f"{content['judged']} of {content['rows']}")
    if content["judged"] and content["kind"] == "score":
        _add_scores(table, content, percent)
    elif content["judged"]:
        _add_pairs(table, content)
    cost = content["cost"]
    tokens = f"{cost['tokens_in']:,} / {cost['tokens_out']:,}"
    table.add_row("tokens in / out, cost", f"{tokens}, {cost['money']:.4f}")
    table.add_row("taken from the cache", f"{content['from_cache']}")
    return table


def _add_scores(table: Table, content: Summary, percent: float) -> None:
    edges = content["interval"]
    interval = f"  \\[{edges[0]:.2f}, {edges[1]:.2f}] {percent:g} %" if edges else ""
    table.add_row("mean score, 1 to 5", f"{content['mean']:.2f}{interval}")
    table.add_row("scores 1 / 2 / 3 / 4 / 5", " / ".join(map(str, content["counts"].values())))


def _add_pairs(table: Table, content: Summary) -> None:
    edges = content["win_rate_interval"]
    interval = f"\\[{edges[0]:.1%}, {edges[1]:.1%}], p = {content['p']:.2g}: " if edges else ""
    result = f"{content['win_rate']:.1%}  {interval}{content['verdict']}"
    table.add_row(f"win rate against {escape(str(content['against']))}", result)
    outcomes = f"{content['ours']} / {content['tie']} / {content['theirs']}"
    table.add_row("won / tie / lost", outcomes)
    table.add_row("win rate at equal length", f"{content['length_controlled_win_rate']:.1%}")
    table.add_row("changed with the order", f"{content['inconsistent']:.1%}")
    if content["first_preferred"] is not None:
        table.add_row("the first answer preferred", f"{content['first_preferred']:.1%}")
