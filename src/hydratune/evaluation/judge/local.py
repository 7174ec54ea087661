"""Ask a judge that is a chat model loaded on this machine."""

import os
from collections.abc import Sequence

from hydratune.data.encoding.encoder import ChatEncoder
from hydratune.data.rows import Message
from hydratune.evaluation.generation import Answer, answer
from hydratune.evaluation.judge.client import Budget, OnReply, Reply, TimeLimit
from hydratune.evaluation.judge.questions import Question
from hydratune.models import hardware, loading
from hydratune.models.compute import for_answers
from hydratune.settings.judge import AskingConfig
from hydratune.settings.model import ModelConfig


class Local:
    """Asks a model, which answers greedily."""

    def __init__(self, model: ModelConfig, config: AskingConfig, budget: Budget) -> None:
        source = loading.locate(model)
        self.config, self.budget, self._time = config, budget, TimeLimit(config)
        self.tokenizer = loading.load_tokenizer(model, source)
        hardware.keep_memory()
        self.model = loading.load_model(model, source, for_answers())
        self.stop = frozenset(loading.turn_end_ids(self.tokenizer, self.model))
        self.encoder = ChatEncoder(self.tokenizer, self.stop)
        self.context = loading.context_window(model, self.model)
        self.identity = f"local {loading.identified(source, model, self.model).identity}"

    def ask(self, questions: Sequence[Question], on_reply: OnReply) -> None:
        """Ask the questions in groups, so that replies can be kept while others are generated."""
        prompts = [self._encode(question) for question in questions]
        fitting = []
        for number, prompt in enumerate(prompts):
            if len(prompt) + self.config.max_tokens <= self.context:
                fitting.append(number)
            else:
                why = f"{len(prompt)} tokens: more than the judge reads"
                on_reply(number, Reply(failed=why))
        size = self.config.batch_size * (os.cpu_count() or 1)
        for start in range(0, len(fitting), size):
            numbers = fitting[start : start + size]
            if self._time.exceeded:
                for number in numbers:
                    on_reply(number, Reply(failed=f"not answered: {self._time.exceeded_why}"))
                continue
            answers = self._generate([prompts[number] for number in numbers])
            for number, own in zip(numbers, answers, strict=True):
                reply = self._reply_of(own, len(prompts[number]))
                self.budget.pay(0.0, reply)
                on_reply(number, reply)

    def _encode(self, question: Question) -> list[int]:
        turns = [Message(turn["role"], turn["content"]) for turn in question.turns]
        return self.encoder.prompt_tokens(turns, (), "judge")

    def _generate(self, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        no_references = [[0]] * len(prompts)
        return answer(
            self.model,
            prompts,
            no_references,
            stop=self.stop,
            pad=self.tokenizer.pad_token_id,
            max_new_tokens=self.config.max_tokens,
            batch_size=self.config.batch_size,
            title="judge",
        )

    def _reply_of(self, own: Answer, prompt_tokens: int) -> Reply:
        tokens = [token for token in own.tokens if token not in self.stop]
        text = self.tokenizer.decode(tokens, skip_special_tokens=False).strip()
        cut = own.finish_reason == "length"
        return Reply(text, prompt_tokens, len(own.tokens), cut=cut)
