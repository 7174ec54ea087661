"""A chat with the model of a run: what is typed, commands included, and what is done for it."""

import difflib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydratune.errors import HydratuneError, InputError
from hydratune.evaluation.sampling import sampling_of
from hydratune.evaluation.streaming import AnswerStream
from hydratune.experiment.answering.conversation import Conversation
from hydratune.experiment.answering.model import AnsweringModel
from hydratune.experiment.answering.terminal import Screen
from hydratune.settings.answering import ChattingConfig
from hydratune.settings.paths import expanded
from hydratune.wording import counted

if TYPE_CHECKING:
    from hydratune.evaluation.constrained import Guide

TUNED, BASE = "fine-tuned", "base"
COMMANDS = {
    "/help": "these commands",
    "/base": "answer with the base model from now on, or with the fine-tuned one again",
    "/compare": "both models answer, or one again; the fine-tuned answer is what is kept",
    "/system TEXT": "another system prompt, and the conversation anew; without a text: show it",
    "/undo": "take the last question and its answer back",
    "/retry": "answer the last question again",
    "/reset": "begin the conversation anew",
    "/save FILE": "save the conversation: FILE.json, or as a further row of FILE.jsonl",
    "/load FILE": "continue a saved conversation",
    "/quit": "end (also Ctrl-D)",
}


@dataclass
class _Given:
    """One answer: as it was written, and how it ended."""

    text: str
    finish_reason: str  # stop, length, or interrupted
    tokens: int
    seconds: float


class Chat:
    """A conversation with the models of a run, on a screen."""

    def __init__(
        self, model: AnsweringModel, config: ChattingConfig, system: str | None, screen: Screen
    ) -> None:
        self.model, self.config, self.screen = model, config, screen
        self.conversation = Conversation(system)
        self.system = BASE if config.base else TUNED  # which model answers
        self.compares = config.compare
        self.max_new_tokens = config.max_new_tokens or model.max_new_tokens
        self.sampling = sampling_of(config.temperature, config.top_p, config.seed)
        self._streams: dict[str, AnswerStream] = {}
        self._guides: dict[str, Guide | None] = {}
        self._answers = 0  # so far: each draws from a generator of its own

    def handle(self, line: str) -> bool:
        """Do what was typed. Returns whether the chat continues."""
        text = line.strip()
        if not text:
            return True
        if text.startswith("/") and not text.startswith("//"):
            return self._command(text)
        self._ask(text[1:] if text.startswith("//") else line.strip("\n"))
        return True

    def _command(self, text: str) -> bool:
        name, _, value = text.partition(" ")
        done: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/base": self._toggle_base,
            "/compare": self._toggle_compare,
            "/system": self._change_system,
            "/undo": self._undo,
            "/retry": self._retry,
            "/reset": self._reset,
            "/save": self._save,
            "/load": self.load,
        }
        if name in ("/quit", "/exit"):
            return False
        if name not in done:
            near = difflib.get_close_matches(name, [*done, "/quit"], n=1)
            hint = f"did you mean {near[0]}?" if near else "/help lists them"
            self.screen.say(
                f"{name}: no such command; {hint}. A message that begins with / begins with // here"
            )
            return True
        try:
            done[name](value.strip())
        except HydratuneError as error:  # also a file that cannot be written
            self.screen.say(str(error))
        return True

    def _help(self, _: str) -> None:
        for name, meaning in COMMANDS.items():
            self.screen.say(f"{name:13} {meaning}")
        self.screen.say(self.screen.how_to_write_lines)
        self.screen.say("Ctrl-C stops an answer; what is written so far stays")

    def _toggle_base(self, _: str) -> None:
        self.system, self.compares = (BASE if self.system == TUNED else TUNED), False
        self.screen.say(f"the {self.system} model answers from now on")

    def _toggle_compare(self, _: str) -> None:
        self.compares = not self.compares
        self.system = TUNED if self.compares else self.system
        which = "both models answer" if self.compares else f"the {self.system} model answers"
        self.screen.say(f"{which} from now on")

    def _change_system(self, text: str) -> None:
        if not text:
            self.screen.say(f"system prompt: {self.conversation.system or '(none)'}")
            return
        self.conversation.reset()
        self.conversation.system = text
        self.screen.say("system prompt changed; the conversation begins anew")

    def _undo(self, _: str) -> None:
        done = self.conversation.undo()
        left = counted(sum(turn.role == "user" for turn in self.conversation.turns), "question")
        self.screen.say(f"taken back; {left} left" if done else "nothing to take back")

    def _retry(self, _: str) -> None:
        asked = [turn.content for turn in self.conversation.turns if turn.role == "user"]
        if not asked:
            raise InputError("nothing was asked yet")
        self.conversation.undo()
        self._ask(asked[-1])

    def _reset(self, _: str) -> None:
        self.conversation.reset()
        self.screen.say("the conversation begins anew")

    def _save(self, name: str) -> None:
        if not name and self.conversation.file is None:
            raise InputError("give a file: /save chat.json")
        path = expanded(name) if name else self.conversation.file
        assert path is not None
        self.screen.say(self.conversation.save(Path(path)))

    def load(self, name: str) -> None:
        """Continue the conversation in a file. Raises ``InputError``."""
        if not name:
            raise InputError("give a file: /load chat.json")
        self.conversation.load(expanded(name))
        turns = self.conversation.turns
        self.screen.say(f"{name}: {counted(len(turns), 'turn')}, the last ones:")
        for turn in turns[-2:]:
            self.screen.say(f"{turn.role}: {turn.content}")

    def _ask(self, text: str) -> None:
        self.conversation.ask(text)
        try:
            prompt = self._prompt()
        except InputError as error:  # the chat template refuses the conversation
            self.conversation.undo()
            self.screen.say(str(error))
            return
        if not prompt:
            self.conversation.undo()
            return
        self._answers += 1
        systems = (TUNED, BASE) if self.compares else (self.system,)
        given: dict[str, _Given] = {}
        with self.screen.answering(systems) as show:
            for system in systems:
                given[system] = self._answer(system, prompt, show)
                if given[system].finish_reason == "interrupted":
                    break
        kept = given[systems[0]]
        if not kept.tokens:  # stopped before the first one
            self.conversation.undo()
            self.screen.say("stopped before the answer began; the question is taken back")
            return
        self.conversation.answer(kept.text, whole=kept.finish_reason == "stop")
        self.screen.say_after(_notes(given, self.max_new_tokens))

    def _prompt(self) -> list[int]:
        """Return the tokens of the newest turns that fit; empty if the last one alone does not."""
        encoder, most = self.model.encoder, self.model.context - self.max_new_tokens
        tokens, left_out = self.conversation.fitting(
            lambda messages: encoder.prompt_tokens(messages, where="the conversation"), most
        )
        context, answer = self.model.context, self.max_new_tokens
        room = f"the model reads {context} tokens, and {answer} of them are for the answer"
        if not tokens:
            self.screen.say(f"too long, and not asked: {room}; shorten it, or lower max_new_tokens")
        elif left_out:
            self.screen.say(f"the {left_out} oldest turns are left out: {room}")
        return tokens

    def _answer(self, system: str, prompt: list[int], show: Callable[[str, str], None]) -> _Given:
        """Return the answer of a model; it is shown while it is written."""
        encoder, tokens = self.model.encoder, list[int]()
        shown, started = "", time.perf_counter()

        def on_token(token: int) -> None:
            nonlocal shown
            tokens.append(token)
            text = encoder.decode([t for t in tokens if t not in encoder.turn_end_ids])
            complete = text.rstrip("\ufffd")  # the beginning of a character
            if complete.startswith(shown) and len(complete) > len(shown):
                show(system, complete[len(shown) :])
                shown = complete

        reason = "interrupted"
        try:
            reason = (
                self._stream(system)
                .answer(
                    prompt,
                    on_token,
                    max_new_tokens=self.max_new_tokens,
                    sampling=self.sampling,
                    key=self._answers,
                    guide=self._guides[system],
                )
                .finish_reason
            )
        except KeyboardInterrupt:
            if not self.screen.is_interactive:
                raise
        text = self.model.answer_text(self.conversation.as_row(), tuple(tokens))
        return _Given(text, reason, len(tokens), time.perf_counter() - started)

    def _stream(self, system: str) -> AnswerStream:
        """Return what answers for a model, which is loaded when it is first asked."""
        if system not in self._streams:
            model = self.model.base if system == BASE else self.model.tuned
            self._guides[system] = self.model.guide(self.config.json_schema, model)
            encoder = self.model.encoder
            self._streams[system] = AnswerStream(model, encoder.turn_end_ids, self.model.pad)
        return self._streams[system]


def _notes(given: dict[str, _Given], max_new_tokens: int) -> str:
    """Return how long the answers are, how fast they were written, and what cut them."""
    notes = []
    for system, one in given.items():
        note = f"{counted(one.tokens, 'token')}, {one.tokens / max(one.seconds, 1e-9):.0f}/s"
        if one.finish_reason == "length":
            note += f", cut at max_new_tokens={max_new_tokens}"
        elif one.finish_reason == "interrupted":
            note += ", stopped"
        notes.append(f"{system}: {note}" if len(given) > 1 else note)
    return "; ".join(notes)
