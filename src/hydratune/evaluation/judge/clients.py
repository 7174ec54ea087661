"""Who is asked: an OpenAI-compatible server, or a model on this machine."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydratune.checks import mask
from hydratune.config import AskingConfig, HubModel, LocalModel, ModelConfig
from hydratune.console import progress
from hydratune.errors import ConfigError, Problem, RunError
from hydratune.evaluation.judge.questions import Question

_GIVE_UP = 8  # failures in a row after which a server is away


@dataclass(frozen=True)
class Reply:
    """What came back. ``failed`` says why nothing did."""

    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    failed: str = ""


Tell = Callable[[int, Reply], None]


class Client(Protocol):
    """Asks questions; ``tell`` hears of every reply as soon as it is there, from any thread."""

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
        most = self.cost(sum(len(turn["content"].encode()) + 16 for turn in question.turns), self.config.max_tokens)
        with self._lock:
            if self.config.budget is not None and self.spent + self._reserved + most > self.config.budget:
                return None
            self._reserved += most
            return most

    def pay(self, reserved: float, reply: Reply) -> None:
        with self._lock:
            self._reserved -= reserved
            self.tokens_in += reply.tokens_in
            self.tokens_out += reply.tokens_out


class Server:
    """Anything that speaks OpenAI's chat completions. The key is read from the environment and kept nowhere."""

    def __init__(self, config: AskingConfig, purse: Purse) -> None:
        """Raises ``ConfigError``."""
        try:
            import openai
        except ImportError:
            raise ConfigError([Problem("judge", config.judge, "the openai package is missing", "pip install 'hydratune[judge]'")]) from None
        key = os.environ.get(config.key_env) if config.key_env else "none"
        if not key:
            why = "this environment variable is empty or not set"
            raise ConfigError([Problem("key_env", config.key_env, why, "set it to the key, or key_env=null for a server without one")])
        self._api, self.config, self.purse = openai, config, purse
        self._client: Any = openai.OpenAI(base_url=config.base_url, api_key=key, timeout=config.timeout, max_retries=config.retries)
        self.identity = f"{config.base_url} {config.judge}"
        self._structured = True  # until the server refuses it
        self._failures = 0  # in a row
        self._away = threading.Event()

    def ask(self, questions: Sequence[Question], tell: Tell) -> None:
        """Raises ``RunError`` if the server is away, or refuses the key or the model."""
        refused: list[str] = []

        def one(number: int) -> None:
            reserved = None if self._away.is_set() else self.purse.reserve(questions[number])
            if reserved is None:
                tell(number, Reply(failed="not asked: the server is away" if self._away.is_set() else "not asked: the budget is spent"))
                return
            reply = Reply()
            try:
                reply = self._one(questions[number])
                self._failures = 0
            except (self._api.AuthenticationError, self._api.PermissionDeniedError, self._api.NotFoundError) as error:
                refused.append(self._told(error))
                self._away.set()
                reply = Reply(failed=self._told(error))
            except self._api.OpenAIError as error:
                self._failures += 1
                if self._failures >= _GIVE_UP:
                    self._away.set()
                reply = Reply(failed=self._told(error))
            finally:
                self.purse.pay(reserved, reply)
                ticker.advance(1, reply.tokens_out)
            tell(number, reply)

        with progress("judge", len(questions)) as ticker, ThreadPoolExecutor(self.config.concurrency, "judge") as pool:
            try:
                list(pool.map(one, range(len(questions))))
            except BaseException:
                self._away.set()  # after Ctrl-C nothing more is asked
                raise
        if refused:
            raise RunError(f"{self.config.base_url} refuses: {refused[0]}\n  see base_url, judge and key_env")

    def _one(self, question: Question) -> Reply:
        form = {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": question.schema}}
        options: dict[str, Any] = {"model": self.config.judge, "messages": list(question.turns), "temperature": 0}
        options["max_tokens"] = self.config.max_tokens
        try:
            found = self._client.chat.completions.create(**options, **({"response_format": form} if self._structured else {}))
        except self._api.BadRequestError:
            if not self._structured:
                raise
            self._structured = False
            found = self._client.chat.completions.create(**options)
        choices = getattr(found, "choices", None) or []
        text = (choices[0].message.content or "") if choices and choices[0].message is not None else ""
        used = getattr(found, "usage", None)
        return Reply(text, getattr(used, "prompt_tokens", 0) or 0, getattr(used, "completion_tokens", 0) or 0)

    def _told(self, error: Exception) -> str:
        first = mask((str(error).splitlines() or [""])[0])[:200]
        key = os.environ.get(self.config.key_env or "") or None
        return f"{type(error).__name__}: {first.replace(key, '***') if key else first}"


class Local:
    """A chat model loaded here, asked greedily."""

    def __init__(self, chosen: ModelConfig, config: AskingConfig, purse: Purse) -> None:
        from hydratune.data.masking import ChatEncoder
        from hydratune.models import hardware, sources
        from hydratune.models.compute import for_answers

        source = sources.resolve(chosen)
        self.config, self.purse = config, purse
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

        prompts = [self.encoder.prompt([Message(t["role"], t["content"]) for t in q.turns], (), "judge") for q in questions]
        fitting = [n for n, prompt in enumerate(prompts) if len(prompt) + self.config.max_tokens <= self.context]
        for number in sorted(set(range(len(questions))) - set(fitting)):
            tell(number, Reply(failed=f"{len(prompts[number])} tokens: more than the judge reads"))
        step = self.config.batch_size * (os.cpu_count() or 1)
        for start in range(0, len(fitting), step):  # what is answered is kept
            numbers = fitting[start : start + step]
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
                text = self.tokenizer.decode([t for t in one.tokens if t not in self.stop], skip_special_tokens=False)
                reply = Reply(text.strip(), len(prompts[number]), len(one.tokens))
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
