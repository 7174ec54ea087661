"""The words of ``hydratune compare``: directories and ``option=value``."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydratune.errors import InputError
from hydratune.settings.paths import expanded

OPTIONS = (
    *("metric", "mode", "pareto", "confidence", "baseline", "candidate", "fail_if", "certain"),
    *("output", "html", "export", "to_wandb"),
)
_CHECK_OPTIONS = ("baseline", "candidate", "fail_if", "certain", "confidence")


@dataclass(frozen=True)
class Options:
    """What the user typed. Reading a value checks it, which may raise ``InputError``."""

    folders: tuple[Path, ...]
    texts: Mapping[str, str]  # option -> value

    @property
    def is_check(self) -> bool:
        """Whether a candidate is to be checked against a baseline."""
        return "baseline" in self.texts or "candidate" in self.texts

    @property
    def name(self) -> str:
        """The names of the directories."""
        return ", ".join(folder.absolute().name for folder in self.folders)

    @property
    def output(self) -> Path:
        """The folder for pages and tables."""
        if (output := self.texts.get("output")) is not None:
            return expanded(output)
        if len(self.folders) > 1:
            return Path("outputs/comparison")
        (folder,) = self.folders
        return (folder if folder.is_dir() else folder.parent) / "comparison"

    @property
    def pareto(self) -> tuple[str, str] | None:
        """The two metrics to weigh against each other."""
        if (text := self.texts.get("pareto")) is None:
            return None
        names = [name.strip() for name in text.strip("[]").split(",") if name.strip()]
        if len(names) != 2:
            fix = "give two metrics of metrics.json, pareto=[val/loss,cost/cpu_seconds]"
            raise InputError(f"pareto = {text}: {fix}")
        return names[0], names[1]

    @property
    def confidence(self) -> float:
        """The confidence level of intervals and tests."""
        text = self.texts.get("confidence", "0.95")
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0.5 <= value < 1:
            fix = "give a number from 0.5 to below 1, usual 0.95"
            raise InputError(f"confidence = {text}: {fix}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Return an option that is true or false."""
        text = self.texts.get(name, str(default))
        if text.lower() not in ("true", "false"):
            raise InputError(f"{name} = {text}: give true or false")
        return text.lower() == "true"

    def require_comparison(self) -> None:
        """Raise ``InputError`` unless the options are those of a comparison."""
        if not self.folders:
            raise InputError("nothing to compare: give a sweep or run directory from outputs/")
        for name in ("fail_if", "certain"):
            if name in self.texts:
                raise InputError(f"{name}: belongs to baseline=DIR candidate=DIR")

    def require_check(self) -> None:
        """Raise ``InputError`` unless the options are those of a check."""
        if not {"baseline", "candidate"} <= self.texts.keys() or self.folders:
            raise InputError(
                "a check needs baseline=DIR and candidate=DIR, and nothing else to compare"
            )
        for name in self.texts:
            if name not in _CHECK_OPTIONS:
                accepted = ", ".join(_CHECK_OPTIONS)
                raise InputError(
                    f"{name}: a check of two runs has no such option; it has {accepted}"
                )


def parse_options(args: Sequence[str]) -> Options:
    """Split the words of the command. The name of a directory may contain "=".

    Raises ``InputError`` for an unknown option.
    """
    folders: list[Path] = []
    texts: dict[str, str] = {}
    for arg in ("to_wandb=true" if arg == "--to-wandb" else arg for arg in args):
        key, sign, value = arg.partition("=")
        is_option = bool(sign) and not expanded(arg).exists()
        if is_option and key in OPTIONS:
            texts[key] = value
        elif is_option:
            similar = difflib.get_close_matches(key, OPTIONS, n=1)
            hint = f"did you mean {similar[0]}=?" if similar else f"options: {', '.join(OPTIONS)}"
            raise InputError(f"{arg}: no such option or directory; {hint}")
        elif arg.startswith("-"):
            raise InputError(f"{arg}: no such option; hydratune compare --help lists them")
        else:
            folders.append(expanded(arg))
    return Options(tuple(folders), texts)
