"""Who is asked: an OpenAI-compatible server, or a model on this machine."""

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydratune.console import console, progress
from hydratune.errors import ConfigError, Problem, RunError
from hydratune.evaluation.judge.questions import Question
from hydratune.settings.commands import AskingConfig
from hydratune.settings.model import HubModel, LocalModel, ModelConfig
from hydratune.settings.secrets import mask

_GIVE_UP = 8  # failures in a row after which a server is away
_LOOK, _GRACE = (
    0.2,
    1.0,
)  # seconds: between two looks at who has answered; beyond the timeout, until a request is given up
_SILENCE = 10.0  # seconds without an answer, after which that is said
_BUSY = (408, 409, 429, *range(500, 600))
_PAUSE, _LONGEST_PAUSE = 0.5, 60.0  # seconds


@dataclass(frozen=True)
class Reply:
    """What came back. ``failed`` says why nothing did."""

    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    failed: str = ""
    cut: bool = False  # at max_tokens


AWAY = "not asked: the server is away"
Tell = Callable[[int, Reply], None]


class Client(Protocol):
    """Asks questions; ``tell`` hears of every reply as soon as it is there."""

    identity: str  # whose answers these are, for the cache

    def ask(self, questions: Sequence[Question], tell: Tell) -> None: ...


class Purse:
    """What may still be spent. A request is only made if its largest cost fits in."""

    def __init__(self, config: AskingConfig) -> None:
        self.config = config
        self.tokens_in = self.tokens_out = 0
        self._reserved = 0.0
        self._lock = threading.Lock()

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.config.price_in + tokens_out * self.config.price_out) / 1e6

    @property
    def spent(self) -> float:
        return self.cost(self.tokens_in, self.tokens_out)

    def reserve(self, question: Question) -> float | None:
        """The most a question can cost (a token has at least a byte); None: that is too much."""
        most = self.cost(
            sum(len(turn["content"].encode()) + 16 for turn in question.turns),
            self.config.max_tokens,
        )
        with self._lock:
            if (
                self.config.budget is not None
                and self.spent + self._reserved + most > self.config.budget
            ):
                return None
            self._reserved += most
            return most

    def pay(self, reserved: float, reply: Reply) -> None:
        with self._lock:
            self._reserved -= reserved
            self.tokens_in += reply.tokens_in
            self.tokens_out += reply.tokens_out


class Clock:
    """How long all requests together may take, and what is said while nothing comes."""

    def __init__(self, config: AskingConfig) -> None:
        self.config, self.told = config, False
        self._begun = self._last = self._said = time.monotonic()

    @property
    def limits(self) -> str:
        every = (
            f"all of them at most {self.config.time_limit:g} s (time_limit)"
            if self.config.time_limit
            else "no time_limit"
        )
        return f"each at most {self.config.timeout:g} s (timeout); {every}"

    @property
    def over_why(self) -> str:
        return f"time_limit = {self.config.time_limit:g} s for all requests is over"

    @property
    def over(self) -> bool:
        return (
            self.config.time_limit is not None
            and time.monotonic() - self._begun > self.config.time_limit
        )

    def heard(self) -> None:
        self._last = self._said = time.monotonic()

    def quiet(self, waiting: int) -> None:
        """Says so every now and then."""
        now = time.monotonic()
        if now - self._said >= _SILENCE:
            self._said = now
            console.print(
                f"judge: no answer for {now - self._last:.0f} s; {waiting} requests are waiting"
                f" ({self.limits})",
                soft_wrap=True,
            )


class _Waiting:
    """Questions that are not answered yet."""

    def __init__(self, count: int) -> None:
        self.open = set(range(count))
        self.since: dict[int, float] = {}  # number -> when the request that is under way was sent
        self.done: queue.SimpleQueue[tuple[int, Reply]] = queue.SimpleQueue()
        self.stopped = threading.Event()
        self._next = iter(range(count))
        self._lock = threading.Lock()

    def take(self) -> int | None:
        with self._lock:
            return None if self.stopped.is_set() else next(self._next, None)

    def late(self, seconds: float) -> list[int]:
        now = time.monotonic()
        return [
            number
            for number, since in list(self.since.items())
            if now - since > seconds and number in self.open
        ]


def _pause(error: Any, attempt: int) -> float:
    """Seconds until a busy server is asked again: what it says itself, else twice as long each
    time.
    """
    try:
        return min(_LONGEST_PAUSE, max(0.0, float(error.response.headers["retry-after"])))
    except (AttributeError, KeyError, ValueError):
        return float(min(_LONGEST_PAUSE, _PAUSE * 2**attempt))


class Server:
    """Anything that speaks OpenAI's chat completions.

    The key is read from the environment and kept nowhere.
    """

    def __init__(self, config: AskingConfig, purse: Purse) -> None:
        """Raises ``ConfigError``."""
        try:
            import openai
        except ImportError:
            raise ConfigError(
                [
                    Problem(
                        "judge",
                        config.judge,
                        "the openai package is missing",
                        "pip install 'hydratune[judge]'",
                    )
                ]
            ) from None
        key = os.environ.get(config.key_env) if config.key_env else "none"
        if not key:
            why = "this environment variable is empty or not set"
            raise ConfigError(
                [
                    Problem(
                        "key_env",
                        config.key_env,
                        why,
                        "set it to the key, or key_env=null for a server without one",
                    )
                ]
            )
        self._api, self.config, self.purse = openai, config, purse
        self._client: Any = openai.OpenAI(
            base_url=config.base_url, api_key=key, timeout=config.timeout, max_retries=0
        )
        self.identity = f"{config.base_url} {config.judge}"
        self._structured = True  # until the server refuses it
        self._failures = 0  # in a row
        self._answered = False
        self._refused = ""
        self._away = threading.Event()
        self._clock = Clock(config)

    def ask(self, questions: Sequence[Question], tell: Tell) -> None:
        """Raises ``RunError`` if the server is away, or refuses the key or the model.

        Threads that wait for a server cannot be stopped, so they are daemons: who takes longer than
        ``timeout`` is given up, whatever comes later, and another thread takes its place.
        """
        waiting = _Waiting(len(questions))
        with progress("judge", len(questions)) as ticker:
            if not self._clock.told:
                self._clock.told = True
                many = (
                    f"{len(questions)} requests, {self.config.concurrency} at a time, to"
                    f" {mask(self.config.base_url)}"
                )
                console.print(f"judge: {many}; {self._clock.limits}", soft_wrap=True)
            try:
                for _ in range(min(self.config.concurrency, len(questions))):
                    self._begin(questions, waiting)
                while waiting.open:
                    for number, reply in self._arrived(questions, waiting):
                        ticker.advance(1, reply.tokens_out)
                        tell(number, reply)
            finally:
                waiting.stopped.set()  # after Ctrl-C nothing more is asked
        if self._refused:
            raise RunError(
                f"{self.config.base_url} refuses: {self._refused}\n  see base_url, judge and"
                " key_env"
            )

    def _begin(self, questions: Sequence[Question], waiting: "_Waiting") -> None:
        threading.Thread(
            target=self._work, args=(questions, waiting), name="judge", daemon=True
        ).start()

    def _work(self, questions: Sequence[Question], waiting: "_Waiting") -> None:
        """Asks one question after another, until none is left."""
        while (number := waiting.take()) is not None:
            reserved = None if self._away.is_set() else self.purse.reserve(questions[number])
            if reserved is None:
                why = AWAY if self._away.is_set() else "not asked: the budget is spent"
                waiting.done.put((number, Reply(failed=why)))
                continue
            reply = Reply(failed="not asked")
            try:
                reply = self._tried(questions[number], number, waiting)
            except Exception as error:  # of this thread alone: the row says it
                reply = Reply(failed=self._told(error))
            finally:
                self.purse.pay(reserved, reply)
                waiting.done.put((number, reply))

    def _arrived(
        self, questions: Sequence[Question], waiting: "_Waiting"
    ) -> list[tuple[int, Reply]]:
        """Replies that came, or are given up, since the last look."""
        found = []
        try:
            number, reply = waiting.done.get(timeout=_LOOK)
            if number in waiting.open:
                waiting.open.discard(number)
                self._clock.heard()
                found.append((number, reply))
        except queue.Empty:
            pass
        if self._clock.over:
            self._away.set()
            late = [
                (number, f"not answered: {self._clock.over_why}") for number in sorted(waiting.open)
            ]
        else:
            late = [
                (n, f"no answer within {self.config.timeout:g} s (timeout)")
                for n in waiting.late(self.config.timeout + _GRACE)
            ]
        for number, why in late:
            waiting.open.discard(number)
            waiting.since.pop(number, None)
            found.append((number, Reply(failed=why)))
            if not self._clock.over:
                self._failed(hung=True)
                self._begin(questions, waiting)
        if not found and waiting.open:
            self._clock.quiet(len(waiting.since))
        return found

    def _failed(self, *, hung: bool) -> None:
        """One more in a row; a server that has never answered, and hangs on as many as are asked at
        a time, is away.
        """
        self._failures += 1
        if self._failures >= (
            _GIVE_UP if self._answered or not hung else min(_GIVE_UP, self.config.concurrency)
        ):
            self._away.set()

    def _tried(self, question: Question, number: int, waiting: "_Waiting") -> Reply:
        """Again after 429, 5xx and lost connections, with growing pauses; who hangs once is not
        waited for again.
        """
        for attempt in range(self.config.retries + 1):
            waiting.since[number] = time.monotonic()
            try:
                reply = self._one(question)
                self._failures, self._answered = 0, True
                return reply
            except (
                self._api.AuthenticationError,
                self._api.PermissionDeniedError,
                self._api.NotFoundError,
            ) as error:
                self._refused = self._refused or self._told(error)
                self._away.set()
                return Reply(failed=self._told(error))
            except self._api.OpenAIError as error:
                hung = isinstance(error, self._api.APITimeoutError)
                again = (
                    isinstance(error, self._api.APIConnectionError)
                    or getattr(error, "status_code", 0) in _BUSY
                )
                if hung or not again or attempt == self.config.retries or self._away.is_set():
                    self._failed(hung=hung)
                    return Reply(failed=self._told(error))
                waiting.since.pop(number, None)
                if waiting.stopped.wait(_pause(error, attempt)):
                    return Reply(failed="not asked: stopped")
            finally:
                waiting.since.pop(number, None)
        raise AssertionError("the last attempt returns")

    def _one(self, question: Question) -> Reply:
        form = {
            "type": "json_schema",
            "json_schema": {"name": "judgement", "strict": True, "schema": question.schema},
        }
        options: dict[str, Any] = {
            "model": self.config.judge,
            "messages": list(question.turns),
            "temperature": 0,
        }
        options["max_tokens"] = self.config.max_tokens
        try:
            found = self._client.chat.completions.create(
                **options, **({"response_format": form} if self._structured else {})
            )
        except self._api.BadRequestError:
            if not self._structured:
                raise
            self._structured = False
            found = self._client.chat.completions.create(**options)
        choices = getattr(found, "choices", None) or []
        text = (
            (choices[0].message.content or "") if choices and choices[0].message is not None else ""
        )
        cut = bool(choices) and getattr(choices[0], "finish_reason", None) == "length"
        used = getattr(found, "usage", None)
        return Reply(
            text,
            getattr(used, "prompt_tokens", 0) or 0,
            getattr(used, "completion_tokens", 0) or 0,
            cut=cut,
        )

    def _told(self, error: Exception) -> str:
        first = mask((str(error).splitlines() or [""])[0])[:200]
        key = os.environ.get(self.config.key_env or "") or None
        return f"{type(error).__name__}: {first.replace(key, '***') if key else first}"


class Local:
    """A chat model loaded here, asked greedily."""

    def __init__(self, chosen: ModelConfig, config: AskingConfig, purse: Purse) -> None:
        from hydratune.data.encoding.encoder import ChatEncoder
        from hydratune.models import hardware, sources
        from hydratune.models.compute import for_answers

        source = sources.resolve(chosen)
        self.config, self.purse, self._clock = config, purse, Clock(config)
        self.tokenizer = sources.load_tokenizer(chosen, source)
        hardware.keep_memory()
        self.model = sources.load_model(chosen, source, for_answers())
        self.stop = sources.turn_end_ids(self.tokenizer, self.model)
        self.encoder = ChatEncoder(self.tokenizer, self.stop)
        self.context = sources.context_window(chosen, self.model)
        self.identity = f"local {sources.identified(source, chosen, self.model).identity}"

    def ask(self, questions: Sequence[Question], tell: Tell) -> None:
        from hydratune.data.rows import Message
        from hydratune.evaluation.generation import answer

        prompts = [
            self.encoder.prompt_tokens(
                [Message(t["role"], t["content"]) for t in q.turns], (), "judge"
            )
            for q in questions
        ]
        fitting = [
            n
            for n, prompt in enumerate(prompts)
            if len(prompt) + self.config.max_tokens <= self.context
        ]
        for number in sorted(set(range(len(questions))) - set(fitting)):
            tell(number, Reply(failed=f"{len(prompts[number])} tokens: more than the judge reads"))
        step = self.config.batch_size * (os.cpu_count() or 1)
        for start in range(0, len(fitting), step):  # what is answered is kept
            numbers = fitting[start : start + step]
            if self._clock.over:
                for number in numbers:
                    tell(number, Reply(failed=f"not answered: {self._clock.over_why}"))
                continue
            found = answer(
                self.model,
                [prompts[n] for n in numbers],
                [[0]] * len(numbers),
                stop=frozenset(self.stop),
                pad=self.tokenizer.pad_token_id,
                max_new_tokens=self.config.max_tokens,
                batch_size=self.config.batch_size,
                title="judge",
            )
            for number, one in zip(numbers, found, strict=True):
                text = self.tokenizer.decode(
                    [t for t in one.tokens if t not in self.stop], skip_special_tokens=False
                )
                reply = Reply(
                    text.strip(),
                    len(prompts[number]),
                    len(one.tokens),
                    cut=one.finish_reason == "length",
                )
                self.purse.pay(0.0, reply)
                tell(number, reply)


def client_for(config: AskingConfig, base: Callable[[], ModelConfig], purse: Purse) -> Client:
    """``base``: the model that ``local=base`` means. Raises ``ConfigError``."""
    if config.local is None:
        return Server(config, purse)
    if config.local == "base":
        return Local(base(), config, purse)
    if Path(config.local).expanduser().is_dir():
        path = Path(config.local).expanduser()
        return Local(LocalModel(name=path.name, path=str(path)), config, purse)
    return Local(HubModel(name=config.local, id=config.local), config, purse)
