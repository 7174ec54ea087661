"""Settings of Weights & Biases and TensorBoard."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from hydratune import extras
from hydratune.errors import Problem
from hydratune.settings.registry import variant

# settings that are texts for a model: log_text=false keeps them on this machine
TEXT_SETTINGS = ("system_prompt", "prompt_tuning_init_text", "user_prompt")
# W&B's rules for names
_NOT_IN_PROJECTS = "/\\#?%:"
_LONGEST_PROJECT, LONGEST_TAG = 128, 64  # characters


class TrackingMode(StrEnum):
    """Where Weights & Biases runs go, or TensorBoard's event files instead."""

    offline = "offline"  # into the run directory; wandb sync sends it later
    online = "online"  # to the server, while the run trains
    disabled = "disabled"  # nowhere
    tensorboard = "tensorboard"  # into event files in the run directory


@variant("tracking", "tracking")
@dataclass
class TrackingConfig:
    """Settings of Weights & Biases.

    Secrets never belong here: the key is read from WANDB_API_KEY. WANDB_MODE takes precedence over
    ``mode``.
    """

    mode: TrackingMode = TrackingMode.offline  # where the run is mirrored
    project: str = "hydratune"  # of W&B
    entity: str | None = None  # user or team of W&B; null: the default of the account
    tags: list[str] = field(default_factory=list)  # of the W&B run
    # false: no text of prompts or answers leaves the machine, not even the system prompt among
    # the settings
    log_text: bool = True
    # what the run prints, for the Logs tab of its page; not sent with log_text=false
    log_console: bool = True
    # a table with the test prompts and answers: these texts leave the machine
    log_predictions: bool = False
    # the data report as an artifact: data.json, and data.html, which shows some rows, unless
    # log_text=false
    log_data: bool = False
    log_adapter: bool = False  # the adapter as an artifact with the alias best

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings."""
        if self.log_predictions and not self.log_text:
            why = "tracking.log_text=false keeps all texts on this machine"
            fix = "leave out tracking.log_predictions, or tracking.log_text"
            yield Problem("tracking.log_predictions", True, why, fix)
        if self.mode in (TrackingMode.online, TrackingMode.offline):
            yield from self._name_problems()
        # Lightning takes either of the two packages
        if self.mode is TrackingMode.tensorboard and not extras.is_installed("tensorboard"):
            yield from extras.missing("tensorboardX", "tracking.mode", self.mode.value)

    def _name_problems(self) -> Iterator[Problem]:
        """Yield what W&B would refuse of names when the run begins."""
        project = self.project
        wrong = sorted(set(project) & set(_NOT_IN_PROJECTS))
        if wrong:
            why = f"W&B's project names cannot contain {' '.join(wrong)}"
            yield Problem("tracking.project", project, why, "use letters, digits, - and _")
        if not 0 < len(project) <= _LONGEST_PROJECT:
            why = f"W&B's project names have 1 to {_LONGEST_PROJECT} characters, not {len(project)}"
            yield Problem(
                "tracking.project", project, why, "for example tracking.project=hydratune"
            )
        for tag in self.tags:
            if not 0 < len(tag) <= LONGEST_TAG:
                why = f"a tag of W&B has 1 to {LONGEST_TAG} characters, not {len(tag)}"
                yield Problem("tracking.tags", tag, why, "shorten it, or leave it out")
