"""Ask a judge on a server that speaks OpenAI's chat completions."""

import os
import queue
import threading
import time
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from hydratune import extras
from hydratune.console import console, progress
from hydratune.errors import ConfigError, Problem, RunError, refuse
from hydratune.evaluation.judge.client import Budget, OnReply, Reply, TimeLimit
from hydratune.evaluation.judge.questions import Question
from hydratune.settings.judge import AskingConfig
from hydratune.settings.secrets import mask
from hydratune.wording import counted

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_MOST_FAILURES = 8  # in a row, after which the server counts as unreachable
_CHECK_INTERVAL = 0.2  # seconds between two checks of which replies have arrived
_GRACE = 1.0  # seconds beyond the timeout until a request is abandoned
_BUSY = (408, 409, 429, *range(500, 600))  # HTTP states after which a request is repeated
_PAUSE, _LONGEST_PAUSE = 0.5, 60.0  # seconds before a request is repeated
_LONGEST_ERROR = 200  # letters
UNREACHABLE = "not asked: the server is away"


class _Requests:
    """The questions of one call that are not answered yet; shared by the threads that ask."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self.open = set(range(len(questions)))
        self.sent: dict[int, float] = {}  # number -> when its present request was sent
        self.replies: queue.SimpleQueue[tuple[int, Reply]] = queue.SimpleQueue()
        self.stopped = threading.Event()
        self._numbers = iter(range(len(questions)))
        self._lock = threading.Lock()

    def next_number(self) -> int | None:
        """Return the next question to ask; None if there is none, or asking was stopped."""
        with self._lock:
            return None if self.stopped.is_set() else next(self._numbers, None)

    def overdue(self, seconds: float) -> list[int]:
        """Return the open questions whose request was sent more than ``seconds`` ago."""
        now = time.monotonic()
        sent = list(self.sent.items())
        return [number for number, at in sent if now - at > seconds and number in self.open]

    def close(self, number: int) -> None:
        """Expect no reply to a question any more."""
        self.open.discard(number)
        self.sent.pop(number, None)


def _pause(error: Exception, attempt: int) -> float:
    """Return the seconds until a busy server is asked again.

    That is what the server asks for, or else twice as long after each attempt.
    """
    response = getattr(error, "response", None)
    try:
        # None or a response without the header raises one of the errors below
        seconds = float(response.headers["retry-after"])  # type: ignore[union-attr]
        return min(_LONGEST_PAUSE, max(0.0, seconds))
    except (AttributeError, KeyError, ValueError):
        return float(min(_LONGEST_PAUSE, _PAUSE * 2**attempt))


class Server:
    """Asks a server. The key is read from the environment and not kept anywhere."""

    def __init__(self, config: AskingConfig, budget: Budget) -> None:
        """Create the client. Raises ``ConfigError`` if the package or the key is missing."""
        self._api, key = _import_client(config), _read_key(config)
        self.config, self.budget = config, budget
        self._client = self._api.OpenAI(
            base_url=config.base_url, api_key=key, timeout=config.timeout, max_retries=0
        )
        self.identity = f"{config.base_url} {config.judge}"
        self._has_schemas = True  # until the server refuses a response format
        self._failures = 0  # in a row
        self._has_answered = False
        self._refusal = ""
        self._unreachable = threading.Event()
        self._time = TimeLimit(config)

    def ask(self, questions: Sequence[Question], on_reply: OnReply) -> None:
        """Ask the questions in several threads.

        Raises ``RunError`` if the server refuses the key or the model. A thread that waits for a
        server cannot be stopped, so the threads are daemons: a request that takes longer than
        ``timeout`` is abandoned with its thread, and another thread takes its place.
        """
        requests = _Requests(questions)
        with progress("judge", len(questions)) as ticker:
            self._announce(len(questions))
            try:
                for _ in range(min(self.config.concurrency, len(questions))):
                    self._start_thread(requests)
                while requests.open:
                    for number, reply in self._collect(requests):
                        ticker.advance(1, reply.tokens_out)
                        on_reply(number, reply)
            finally:
                requests.stopped.set()  # after Ctrl-C nothing more is asked
        if self._refusal:
            raise RunError(
                f"{self.config.base_url} refuses: {self._refusal}\n  see base_url, judge and"
                " key_env"
            )

    def _announce(self, count: int) -> None:
        if self._time.announced:
            return
        self._time.announced = True
        what = f"{counted(count, 'request')}, {self.config.concurrency} at a time"
        address = mask(self.config.base_url)
        console.print(f"judge: {what}, to {address}; {self._time.description}", soft_wrap=True)

    def _start_thread(self, requests: _Requests) -> None:
        threading.Thread(target=self._work, args=(requests,), name="judge", daemon=True).start()

    def _work(self, requests: _Requests) -> None:
        """Ask one question after another until there are no more."""
        while (number := requests.next_number()) is not None:
            question, unreachable = requests.questions[number], self._unreachable.is_set()
            reserved = None if unreachable else self.budget.reserve(question)
            if reserved is None:
                why = UNREACHABLE if unreachable else "not asked: the budget is spent"
                requests.replies.put((number, Reply(failed=why)))
                continue
            reply = Reply(failed="not asked")
            try:
                reply = self._ask_patiently(number, requests)
            except Exception as error:  # it concerns this question alone
                reply = Reply(failed=self._describe(error))
            finally:
                self.budget.pay(reserved, reply)
                requests.replies.put((number, reply))

    def _collect(self, requests: _Requests) -> list[tuple[int, Reply]]:
        """Return the replies that arrived, and those of abandoned requests."""
        replies = []
        try:
            number, reply = requests.replies.get(timeout=_CHECK_INTERVAL)
            if number in requests.open:
                requests.open.discard(number)
                self._time.reply_arrived()
                replies.append((number, reply))
        except queue.Empty:
            pass
        if self._time.exceeded:
            self._unreachable.set()
            abandoned, why = sorted(requests.open), f"not answered: {self._time.exceeded_why}"
        else:
            abandoned = requests.overdue(self.config.timeout + _GRACE)
            why = f"no answer within {self.config.timeout:g} s (timeout)"
        for number in abandoned:
            requests.close(number)
            replies.append((number, Reply(failed=why)))
            if not self._time.exceeded:
                self._count_failure(timed_out=True)
                self._start_thread(requests)
        if not replies and requests.open:
            self._time.report_silence(len(requests.sent))
        return replies

    def _count_failure(self, *, timed_out: bool) -> None:
        """Count a failure, and decide whether the server is unreachable.

        A server that has never answered is unreachable once as many requests have timed out as are
        made at a time.
        """
        self._failures += 1
        most = _MOST_FAILURES
        if timed_out and not self._has_answered:
            most = min(most, self.config.concurrency)
        if self._failures >= most:
            self._unreachable.set()

    def _ask_patiently(self, number: int, requests: _Requests) -> Reply:
        """Ask a question, and again after 429, 5xx and lost connections, with growing pauses.

        A request that timed out is not repeated.
        """
        api = self._api
        refusals = (api.AuthenticationError, api.PermissionDeniedError, api.NotFoundError)
        for attempt in range(self.config.retries + 1):
            requests.sent[number] = time.monotonic()
            try:
                reply = self._ask_once(requests.questions[number])
                self._failures, self._has_answered = 0, True
                return reply
            except refusals as error:
                self._refusal = self._refusal or self._describe(error)
                self._unreachable.set()
                return Reply(failed=self._describe(error))
            except api.OpenAIError as error:
                if attempt == self.config.retries or not self._is_temporary(error):
                    self._count_failure(timed_out=isinstance(error, api.APITimeoutError))
                    return Reply(failed=self._describe(error))
                requests.sent.pop(number, None)
                if requests.stopped.wait(_pause(error, attempt)):
                    return Reply(failed="not asked: stopped")
            finally:
                requests.sent.pop(number, None)
        raise AssertionError("the last attempt returns")

    def _is_temporary(self, error: Exception) -> bool:
        """Return whether a request may succeed if it is repeated."""
        if isinstance(error, self._api.APITimeoutError) or self._unreachable.is_set():
            return False
        is_lost = isinstance(error, self._api.APIConnectionError)
        return is_lost or getattr(error, "status_code", 0) in _BUSY

    def _ask_once(self, question: Question) -> Reply:
        schema = {"name": "judgement", "strict": True, "schema": question.schema}
        response_format = {"type": "json_schema", "json_schema": schema}
        options = {
            "model": self.config.judge,
            "messages": list(question.turns),
            "temperature": 0,
            "max_tokens": self.config.max_tokens,
        }
        create = self._client.chat.completions.create
        if not self._has_schemas:
            return _reply_of(create(**options))
        try:
            return _reply_of(create(**options, response_format=response_format))
        except self._api.BadRequestError:
            self._has_schemas = False
            return _reply_of(create(**options))

    def _describe(self, error: Exception) -> str:
        """Return an error in one line, without the key."""
        line = mask((str(error).splitlines() or [""])[0])[:_LONGEST_ERROR]
        key = os.environ.get(self.config.key_env or "") or None
        return f"{type(error).__name__}: {line.replace(key, '***') if key else line}"


def _import_client(config: AskingConfig) -> ModuleType:
    refuse(extras.missing("openai", "judge", config.judge))
    import openai

    return openai


def _read_key(config: AskingConfig) -> str:
    key = os.environ.get(config.key_env) if config.key_env else "none"
    if not key:
        why = "this environment variable is empty or not set"
        fix = "set it to the key, or key_env=null for a server without one"
        raise ConfigError([Problem("key_env", config.key_env, why, fix)])
    return key


def _reply_of(completion: "ChatCompletion") -> Reply:
    """Return the reply of a completion; servers may leave out what OpenAI's types promise."""
    choices = getattr(completion, "choices", None) or []
    text = ""
    if choices and choices[0].message is not None:
        text = choices[0].message.content or ""
    cut = bool(choices) and getattr(choices[0], "finish_reason", None) == "length"
    usage = getattr(completion, "usage", None)
    tokens_in = getattr(usage, "prompt_tokens", 0) or 0
    return Reply(text, tokens_in, getattr(usage, "completion_tokens", 0) or 0, cut=cut)
