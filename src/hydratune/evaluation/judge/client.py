"""What the clients that ask a judge have in common: replies, the budget and the time limit."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hydratune.console import console
from hydratune.evaluation.judge.questions import Question
from hydratune.settings.judge import AskingConfig
from hydratune.wording import counted

_SILENCE = 10.0  # seconds without a reply after which a line says so
_TURN_BYTES = 16  # of the format around a turn, at most
_MILLION = 1e6  # tokens that a price is for


@dataclass(frozen=True)
class Reply:
    """What a judge replied. ``failed`` says why there is no reply."""

    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    failed: str = ""
    cut: bool = False  # at max_tokens


OnReply = Callable[[int, Reply], None]  # called with the position of a question and its reply


class Client(Protocol):
    """Asks questions of a judge."""

    identity: str  # of the judge, for the cache

    def ask(self, questions: Sequence[Question], on_reply: OnReply) -> None:
        """Ask the questions and call ``on_reply`` for every reply as soon as it arrives."""
        ...


class Budget:
    """The money spent so far. A request is only made if its largest possible cost fits."""

    def __init__(self, config: AskingConfig) -> None:
        self.config = config
        self.tokens_in = self.tokens_out = 0
        self._reserved = 0.0
        self._lock = threading.Lock()

    def _cost(self, tokens_in: float, tokens_out: float) -> float:
        prices = self.config.price_in, self.config.price_out
        return (tokens_in * prices[0] + tokens_out * prices[1]) / _MILLION

    @property
    def spent(self) -> float:
        """The cost of all requests so far."""
        return self._cost(self.tokens_in, self.tokens_out)

    def reserve(self, question: Question) -> float | None:
        """Reserve the most that a question can cost; return None if that exceeds the budget.

        A token has at least one byte.
        """
        tokens_in = sum(len(turn["content"].encode()) + _TURN_BYTES for turn in question.turns)
        most = self._cost(tokens_in, self.config.max_tokens)
        budget = self.config.budget
        with self._lock:
            if budget is not None and self.spent + self._reserved + most > budget:
                return None
            self._reserved += most
            return most

    def pay(self, reserved: float, reply: Reply) -> None:
        """Replace a reserved amount by the cost of the reply."""
        with self._lock:
            self._reserved -= reserved
            self.tokens_in += reply.tokens_in
            self.tokens_out += reply.tokens_out


class TimeLimit:
    """The time that all requests together may take, and the lines about a silent judge."""

    def __init__(self, config: AskingConfig) -> None:
        self.config, self.announced = config, False
        self._start = self._last_reply = self._last_line = time.monotonic()

    @property
    def description(self) -> str:
        """The limits in words."""
        limit = self.config.time_limit
        total = f"all of them at most {limit:g} s (time_limit)" if limit else "no time_limit"
        return f"each at most {self.config.timeout:g} s (timeout); {total}"

    @property
    def exceeded_why(self) -> str:
        """Why a question was not answered after the time was over."""
        return f"time_limit = {self.config.time_limit:g} s for all requests is over"

    @property
    def exceeded(self) -> bool:
        """Whether the time is over."""
        limit = self.config.time_limit
        return limit is not None and time.monotonic() - self._start > limit

    def reply_arrived(self) -> None:
        """Note that the judge is not silent."""
        self._last_reply = self._last_line = time.monotonic()

    def report_silence(self, waiting: int) -> None:
        """Print a line if no reply has arrived for a while."""
        now = time.monotonic()
        if now - self._last_line >= _SILENCE:
            self._last_line = now
            console.print(
                f"judge: no answer for {now - self._last_reply:.0f} s; "
                f"{counted(waiting, 'request is', 'requests are')} waiting ({self.description})",
                soft_wrap=True,
            )
