"""``hydratune.compare``: rank runs, and say which differences are statistically significant."""

import html
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.api.pages import show_page
from hydratune.api.run import Run
from hydratune.comparison.collect import collect_runs
from hydratune.comparison.comparison import Comparison as Compared
from hydratune.comparison.comparison import compare as compare_runs
from hydratune.comparison.criterion import parse_criterion
from hydratune.comparison.fronts import measured_metrics
from hydratune.comparison.verdict import verdict
from hydratune.errors import InputError
from hydratune.wording import counted

if TYPE_CHECKING:
    import pandas

    from hydratune.api.sweeping import Sweep

_PAGE_HEIGHT = 900  # pixels
_MOST_SETTINGS = 4  # that vary, in the summary
_WIDTH = 110  # letters of a line of the summary


class Comparison:
    """The result of ``compare``."""

    def __init__(self, compared: Compared, folder: Path) -> None:
        """``folder``: where the page is written when it is shown."""
        self._compared, self._folder = compared, folder

    @property
    def table(self) -> "pandas.DataFrame":
        """A row for every run, the best first, with all that is known: columns to compute with.

        Some hundreds: ``place``, ``name``, ``run`` (its folder), ``state``, settings that vary such
        as ``setting/optimizer.lr``, and every metric by its name (``objective`` is what ranks),
        with the ends of its interval behind it: ``eval/nll``, ``eval/nll/low``,
        ``eval/nll/high``. ``less_the_best/nll`` is a difference to the best run on the same rows,
        with its corrected ``.../p``. To read, take ``summary``.
        """
        import pandas

        from hydratune.comparison.exports import records

        return pandas.DataFrame(records(self._compared))

    @property
    def summary(self) -> "pandas.DataFrame":
        """A short table to read, the best first: place, run, settings that vary, and main metrics.

        Runs that differ in their seeds alone are one row. Values are texts with their intervals.
        """
        import pandas

        from hydratune.comparison.exports import ranking

        headings, rows = ranking(self._compared, settings=_MOST_SETTINGS)
        return pandas.DataFrame(rows, columns=["place", *headings[1:]])

    @property
    def verdict(self) -> str:
        """The best run and what is statistically indistinguishable from it, in sentences."""
        sentences = "\n".join([*verdict(self._compared), *self._compared.notes])
        return sentences.replace(f"{Path.cwd()}/", "")

    @property
    def data_size(self) -> "pandas.DataFrame":
        """What more data brought: a row for each metric and number of training rows.

        ``mean`` over seeds, ``change_per_doubling`` from the next smaller size with the ends of its
        interval and its corrected p; the row that is ``extrapolated`` is one doubling beyond the
        largest. Empty unless runs differ in ``data.train_share`` or ``data.max_train_rows``.
        """
        import pandas

        from hydratune.comparison.exports import data_size_records

        return pandas.DataFrame(data_size_records(self._compared))

    @property
    def best(self) -> Run | None:
        """The best run; None if the runs cannot be ranked."""
        best = self._compared.best
        return Run(best.runs[0].path) if best is not None else None

    def write(self, folder: str | Path | None = None) -> Path:
        """Write the page, in one file, and return it; by default into ``outputs/comparison``."""
        from hydratune.comparison import page

        folder = Path(folder) if folder is not None else self._folder
        folder.mkdir(parents=True, exist_ok=True)
        page.write(self._compared, folder / "report.html", folder.parent.name)
        return folder / "report.html"

    def show(self, height: int = _PAGE_HEIGHT) -> None:
        """Show the page in a notebook; elsewhere, print where it is."""
        show_page(self.write(), height)

    def __repr__(self) -> str:
        return f"{self._title}\n{_fitting(self.summary)}\n{self.verdict}"

    def _repr_html_(self) -> str:
        sentences = "<br>".join(html.escape(line) for line in self.verdict.splitlines())
        table = self.summary.to_html(index=False, border=0)
        return f"<b>{html.escape(self._title)}</b>{table}<p>{sentences}</p>"

    @property
    def _title(self) -> str:
        return f"Comparison of {counted(len(self._compared.runs), 'run')}"


def _fitting(table: "pandas.DataFrame") -> str:
    """Return the first columns of a table that fit into a line, as text, and the other names."""
    names = [str(name) for name in table.columns]
    for count in range(len(names), 0, -1):
        text = str(table.iloc[:, :count].to_string(index=False))
        if max(map(len, text.splitlines())) <= _WIDTH or count == 1:
            break
    left_out = ", ".join(names[count:])
    return f"{text}\nfurther columns of summary: {left_out}" if left_out else text


def compare(
    runs: "str | Path | Run | Sweep | Iterable[str | Path | Run]",
    *,
    metric: str | None = None,
    mode: str | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Rank runs, and test which are statistically indistinguishable from the best.

    Args:
        runs: a folder with runs, a sweep, or several runs or folders.
        metric: by which to rank; by default what the runs monitored, usually ``val/loss``.
        mode: ``min`` or ``max``, for a metric whose direction is not known.
        confidence: of intervals and tests.

    Raises ``InputError`` if there are no runs, or none has the metric.
    """
    if not isinstance(runs, str | Path | Iterable) and not hasattr(runs, "path"):
        raise InputError(f"runs = {runs!r}: give a folder, a sweep, or a list of runs or folders")
    single = isinstance(runs, str | Path) or hasattr(runs, "path")
    every = [runs] if single else list(runs)  # type: ignore[arg-type]  # not a single one
    folders = [Path(getattr(own, "path", own)).expanduser() for own in every]  # type: ignore[arg-type]
    if not folders:
        raise InputError("compare: no run is given")
    if not 0 < confidence < 1:
        raise InputError(f"confidence = {confidence}: give a number between 0 and 1, such as 0.95")
    collected = collect_runs(folders)
    has_finished = any(run.objective is not None for run in collected)
    if not has_finished:
        states = ", ".join(
            f"{count} {state}" for state, count in Counter(r.state for r in collected).items()
        )
        raise InputError(f"compare: no run has finished ({states})")
    by = parse_criterion(metric, mode, measured_metrics(collected))
    compared = compare_runs(collected, by, confidence=confidence)
    place = folders[0] if len(folders) == 1 else Path("outputs")
    return Comparison(compared, place.absolute() / "comparison")
