"""hydratune generate and hydratune chat: rows and conversations answered by the model of a run."""

import io
import json
import os
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import SMALL, write_rows
from hydratune.data.formats.columns import Naming
from hydratune.data.formats.reader import read_file
from hydratune.data.formats.requests import read_requests, without_answers
from hydratune.errors import DataError, InputError
from hydratune.evaluation.generation import answer
from hydratune.evaluation.sampling import Sampling
from hydratune.evaluation.streaming import AnswerStream
from hydratune.experiment.answering import terminal
from hydratune.experiment.answering.answer_file import AnswerFile
from hydratune.experiment.answering.chat import Chat
from hydratune.experiment.answering.conversation import Conversation
from hydratune.experiment.answering.model import AnsweringModel, open_model, system_prompt
from hydratune.experiment.finished_run import open_run
from hydratune.settings.commands import ChatConfig

Command = Callable[..., tuple[int, str]]
SYSTEM = "Extract the terms of the contract as one JSON object. Use null for a term that is absent."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with six test rows, and answers of the base model."""
    from hydratune.cli import main

    folder = tmp_path_factory.mktemp("answering")
    settings = [s for s in SMALL if not s.startswith(("data.max_test_rows", "evaluation."))]
    more = ("data.max_test_rows=6", "evaluation.max_new_tokens=6", "evaluation.baselines=[base]")
    with chdir(folder):
        assert main(["train", *settings, *more, "optimizer.lr=1e-2", "hydra.run.dir=run"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> AnsweringModel:
    return open_model(open_run(str(run)), ChatConfig(run=str(run)))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return the run's own test rows, as a user would have them in a file."""
    return [
        {
            "id": row["id"],
            "messages": [*row["prompt"], {"role": "assistant", "content": row["reference"]}],
        }
        for row in lines(run / "predictions.jsonl")
    ]


def generate(hydratune: Command, run: Path, *words: str) -> tuple[int, str]:
    if not any(word.startswith("input=") for word in words):
        write_rows(Path("rows.jsonl"), rows_of(run))
        words = ("input=rows.jsonl", *words)
    if not any(word.startswith("output=") for word in words):
        words = ("output=answers.jsonl", *words)
    return hydratune("generate", f"run={run}", *words)


# -------------------------------------------------------------------------------------- generate
def test_the_test_rows_of_a_run_are_answered_as_in_its_evaluation(
    hydratune: Command, run: Path, tmp_path: Path
) -> None:
    code, text = generate(hydratune, run, "metrics=true")
    assert code == 0, text
    assert "every row has its own" in text and "6 rows answered" in text
    answers, predictions = lines(tmp_path / "answers.jsonl"), lines(run / "predictions.jsonl")
    assert [a["id"] for a in answers] == [p["id"] for p in predictions]
    for key, own in (("answer", "prediction"), ("nll", "nll"), ("reference", "reference")):
        assert [a[key] for a in answers] == [p[own] for p in predictions]
    keys = ("finish_reason", "generated_tokens", "prompt_tokens", "scores")
    assert all(a[key] == p[key] for a, p in zip(answers, predictions, strict=True) for key in keys)
    summary = json.loads((tmp_path / "answers.jsonl.summary.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    assert summary["metrics"]["eval/nll"] == metrics["eval/nll"]
    assert summary["metrics"]["intervals"]["eval/nll"] == metrics["intervals"]["eval/nll"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "answers.jsonl",
        "answers.jsonl.summary.json",
        "rows.jsonl",
    ]


def test_the_base_model_answers_as_in_the_evaluation(
    hydratune: Command, run: Path, tmp_path: Path
) -> None:
    assert generate(hydratune, run, "base=true")[0] == 0
    base = [row["prediction"] for row in lines(run / "predictions_base.jsonl")]
    assert [row["answer"] for row in lines(tmp_path / "answers.jsonl")] == base
    assert base != [row["prediction"] for row in lines(run / "predictions.jsonl")]


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.json", "rows.jsonl", "a.txt"])
def test_rows_without_references_get_the_system_prompt_of_the_training_data(
    hydratune: Command, run: Path, tmp_path: Path, name: str
) -> None:
    contract = rows_of(run)[0]["messages"][1]["content"]
    file = tmp_path / name
    if file.suffix == ".txt":
        file.write_text(contract)
    else:
        write_rows(file, [{"prompt": f"  {contract}  "}])
    code, text = generate(hydratune, run, f"input={name}")
    assert code == 0, text
    assert f"that of the training data, for 1 row: '{SYSTEM[:80]}" in text
    (row,) = lines(tmp_path / "answers.jsonl")
    assert row["messages"] == rows_of(run)[0]["messages"][:2]  # white space as in training
    assert row["answer"] == lines(run / "predictions.jsonl")[0]["prediction"]
    assert "reference" not in row and "id" not in row and row["row"] == 1


def test_an_interrupted_call_is_continued(
    hydratune: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generate(hydratune, run, "output=whole.jsonl")[0] == 0
    append, written, one_thread = AnswerFile.append, list[int](), threading.Lock()

    def interrupted(file: AnswerFile, new: Sequence[dict[str, Any]]) -> None:
        with one_thread:
            if len(written) >= 2:
                raise KeyboardInterrupt
            append(file, new[:1])
            written.extend(line["row"] for line in new[:1])

    with monkeypatch.context() as patch:
        patch.setattr(AnswerFile, "append", interrupted)
        code, text = generate(hydratune, run, "batch_size=1")
    assert code == 130
    assert "2 of 6 rows answered and kept" in text and "hydratune generate run=" in text
    partial = tmp_path / "answers.jsonl.partial"
    partial.write_bytes(partial.read_bytes() + b'{"row": 3, "answ')  # killed while it wrote
    added: list[int] = []

    def counted(file: AnswerFile, new: Sequence[dict[str, Any]]) -> None:
        added.extend(line["row"] for line in new)
        append(file, new)

    monkeypatch.setattr(AnswerFile, "append", counted)
    code, text = generate(hydratune, run)
    assert code == 0 and "continued: 2 of 6 rows" in text, text
    assert sorted([*written, *added]) == [1, 2, 3, 4, 5, 6]
    answers = [
        [row["answer"] for row in lines(tmp_path / f"{n}.jsonl")] for n in ("whole", "answers")
    ]
    assert answers[0] == answers[1] and not partial.exists()
    added.clear()
    code, text = generate(hydratune, run)
    assert code == 0 and "is finished: 6 answers" in text and not added


def test_answers_of_other_settings_are_not_mixed_and_no_file_is_overwritten(
    hydratune: Command, run: Path, tmp_path: Path
) -> None:
    assert generate(hydratune, run, "rows=1")[0] == 0
    before = (tmp_path / "answers.jsonl").read_bytes()
    code, text = generate(hydratune, run, "rows=1", "max_new_tokens=2")
    assert code == 2 and "max_new_tokens = 6 then, 2 now" in text and "answers-2.jsonl" in text
    assert (tmp_path / "answers.jsonl").read_bytes() == before
    (tmp_path / "mine.jsonl").write_text("{}\n")
    code, text = generate(hydratune, run, "output=mine.jsonl")
    assert code == 2 and "hydratune generate did not write it" in text
    assert (tmp_path / "mine.jsonl").read_text() == "{}\n"
    write_rows(tmp_path / "others.jsonl", rows_of(run)[1:2])
    code, text = generate(hydratune, run, "input=others.jsonl", "rows=1")
    assert code == 2 and "input has changed" in text


def test_drawn_answers_depend_on_the_seed_and_not_on_the_batch(
    hydratune: Command, run: Path, tmp_path: Path
) -> None:
    def drawn(name: str, *words: str) -> list[str]:
        code, text = generate(hydratune, run, "temperature=1.5", f"output={name}.jsonl", *words)
        assert code == 0, text
        return [row["answer"] for row in lines(tmp_path / f"{name}.jsonl")]

    first = drawn("a", "rows=3")
    assert first == drawn("b", "rows=3", "batch_size=1")
    assert first != drawn("c", "rows=3", "seed=1")
    assert first != [row["prediction"] for row in lines(run / "predictions.jsonl")[:3]]


def test_nucleus_sampling_leaves_out_the_unlikely_tokens() -> None:
    import torch

    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    sampling = Sampling(1.0, top_p=0.7)
    generator = sampling.generator(0)
    assert {sampling.draw(logits, generator) for _ in range(200)} == {0, 1}
    cold = Sampling(0.01)
    assert {cold.draw(logits, cold.generator(n)) for n in range(50)} == {0}
    warm = Sampling(1.0)
    shares = [warm.draw(logits, warm.generator(n)) for n in range(2000)].count(1) / 2000
    assert abs(shares - 0.3) < 0.05


def test_rows_that_are_too_long_are_said_and_not_asked(
    hydratune: Command, run: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": "lease " * 4000}, {"prompt": "A lease."}, {"prompt": " "}]
    write_rows(tmp_path / "long.jsonl", rows)
    code, text = generate(hydratune, run, "input=long.jsonl", "metrics=true")
    assert code == 2 and "no row has a reference answer" in text
    code, text = generate(hydratune, run, "input=long.jsonl")
    assert code == 0 and "1 of 3 rows too long, and not asked" in text, text
    assert "long.jsonl: 1 row without a question, asked nevertheless: 3" in text
    long, short, _ = lines(tmp_path / "answers.jsonl")
    assert long["answer"] is None and long["finish_reason"] == "too long"
    assert short["answer"] and short["finish_reason"] == "length"


def test_settings_of_draws_without_draws_are_said_to_have_no_effect(
    hydratune: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/quit\n"))
    code, text = generate(hydratune, run, "top_p=0.5", "rows=1", "max_new_tokens=2")
    assert code == 0 and "top_p=0.5 has no effect: at temperature=0" in text, text
    code, text = hydratune("chat", f"run={run}", "top_p=0.5", "temperature=0.7")
    assert code == 0 and "no effect" not in text, text


def test_answers_are_held_to_a_schema(hydratune: Command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"enum": ["lease", "sale"]}')
    code, text = generate(hydratune, run, "json_schema=schema.json", "rows=2", "max_new_tokens=20")
    assert code == 0, text
    assert {row["answer"] for row in lines(tmp_path / "answers.jsonl")} <= {'"lease"', '"sale"'}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=nowhere"], "this is not a run directory"),
        (["input=nothing.jsonl"], "no such file"),
        (["input=."], "this is a folder"),
        (["input=empty.jsonl"], "the file is empty"),
        (["input=broken.jsonl"], "broken.jsonl:1"),
        (["input=labels.csv"], "columns.prompt=text columns.completion=label"),
        (["output=answers.csv"], "JSON lines"),
        (["output=rows.jsonl"], "this is the file with the rows"),
        (["output=empty.jsonl/a.jsonl"], "cannot write"),
        (["temperature=-1"], "must be in [0, 10]"),
        (["temprature=1"], "did you mean temperature?"),
        (["top_p=0"], "must be above 0"),
        (["json_schema=nothing.json"], "no such file"),
        (["json_schema=empty.jsonl"], "json_schema = empty.jsonl: not readable JSON"),
        (["delimiter=ab"], "this separates no columns"),
        (["base=perhaps"], "base"),
    ],
)
def test_a_wrong_call_is_one_clear_message(
    hydratune: Command, run: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text("{\n")
    (tmp_path / "labels.csv").write_text("text,label\na,b\n")
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    given = {"run": f"run={run}", "input": "input=rows.jsonl", "output": "output=a.jsonl"}
    given |= {word.partition("=")[0]: word for word in words}
    code, text = hydratune("generate", *given.values())
    assert code == 2 and message in text and "Traceback" not in text, text
    assert not (tmp_path / "a.jsonl").exists()


def test_a_run_without_weights_is_refused(hydratune: Command, run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "bare" / "digests.json").unlink()
    code, text = generate(hydratune, tmp_path / "bare")
    assert code == 1 and "holds no weights" in text


def read(path: Path, text: str, **columns: str) -> list[tuple[list[str], bool]]:
    path.write_text(text)
    requests = read_requests(
        path, Naming(columns), Naming({"prompt": "text", "completion": "label"})
    )
    return [([m.content for m in r.row.messages], r.has_reference) for r in requests]


def test_rows_are_read_with_and_without_answers(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", '{"prompt": "a"}\n{"prompt": "b", "completion": "c"}\n') == [
        (["a", ""], False),
        (["b", "c"], True),
    ]
    chat = '{"conversations": [{"from": "human", "value": "a"}]}\n'
    assert read(tmp_path / "b.jsonl", chat) == [(["a", ""], False)]
    turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"))]
    answered, open_ = json.dumps({"messages": turns}), json.dumps({"messages": [*turns, turns[0]]})
    assert read(tmp_path / "c.jsonl", f"{answered}\n{open_}\n") == [
        (["a", "b"], True),
        (["a", "b", "a", ""], False),
    ]
    assert read(tmp_path / "d.csv", "frage,note\na,1\n", prompt="frage") == [(["a", ""], False)]
    # columns of the run, and a mark of a bad answer, which says nothing about the request
    assert read(tmp_path / "e.csv", "text,good\na,false\n") == [(["a", ""], False)]
    stated = "a.csv: read as prompt/completion from id, prompt, completion; ignored: x"
    assert (
        without_answers(stated)
        == "a.csv: read as prompt without completion from id, prompt; ignored: x"
    )
    with pytest.raises(DataError, match="no column 'prompt'"):
        read(tmp_path / "f.jsonl", '{"prompt": "a"}\n{"question": "b"}\n')


# ------------------------------------------------------------------------------------------ chat
class Typed:
    """A screen that keeps what is shown; ``stop_after`` tokens, Ctrl-C is pressed."""

    is_interactive = True
    how_to_write_lines = "one by one"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[tuple[str, str]] = []
        self.stop_after = 0

    def read(self) -> str | None:
        return None

    def say(self, text: str) -> None:
        self.said.append(text)

    say_after = say

    @contextmanager
    def answering(self, systems: Sequence[str]) -> Iterator[Callable[[str, str], None]]:
        def show(system: str, text: str) -> None:
            self.shown.append((system, text))
            if self.stop_after and len(self.shown) == self.stop_after:
                raise KeyboardInterrupt

        yield show


def new_chat(model: AnsweringModel, **settings: Any) -> Chat:
    config = ChatConfig(run=str(model.run.record.path), **settings)
    return Chat(model, config, system_prompt(model.run, config.system).text, Typed())


def said(chat: Chat) -> str:
    assert isinstance(chat.screen, Typed)
    return "\n".join(chat.screen.said)


def test_a_chat_answers_as_the_evaluation(model: AnsweringModel, run: Path) -> None:
    for base, name in ((False, "predictions"), (True, "predictions_base")):
        chat = new_chat(model, base=base)
        assert chat.conversation.system == SYSTEM
        expected = lines(run / f"{name}.jsonl")[0]
        assert chat.handle(expected["prompt"][1]["content"])
        assert chat.conversation.turns[-1].content == expected["prediction"]
        assert "".join(text for _, text in chat.screen.shown) == expected["prediction"]  # type: ignore[attr-defined]
        assert "6 tokens" in said(chat) and "cut at max_new_tokens=6" in said(chat)


def test_what_was_read_before_is_not_read_again(model: AnsweringModel) -> None:
    stream = AnswerStream(model.tuned, model.encoder.turn_end_ids, model.pad)
    conversation = Conversation(SYSTEM)
    options: dict[str, Any] = {"stop": model.encoder.turn_end_ids, "pad": model.pad}
    for text in ("A lease for 12 months.", "And now?", "Is it signed?"):
        conversation.ask(text)
        prompt = model.encoder.prompt_tokens(conversation.messages)
        known = stream._known
        assert known is None or list(known.ids) == prompt[: len(known.ids)]
        streamed = stream.answer(prompt, lambda _: None, max_new_tokens=8)
        (whole,) = answer(
            model.tuned,
            [prompt],
            [[]],
            max_new_tokens=8,
            batch_size=1,
            title="",
            quiet=True,
            **options,
        )
        assert streamed == whole
        conversation.answer(model.answer_text(conversation.as_row(), streamed.tokens), whole=True)
    assert known is not None and len(known.ids) > 40
    conversation.turns[0] = conversation.turns[2]  # another beginning
    prompt = model.encoder.prompt_tokens(conversation.messages[:4])
    (whole,) = answer(
        model.tuned, [prompt], [[]], max_new_tokens=8, batch_size=1, title="", quiet=True, **options
    )
    assert stream.answer(prompt, lambda _: None, max_new_tokens=8) == whole


def test_both_models_answer_and_the_fine_tuned_answer_is_kept(model: AnsweringModel) -> None:
    chat = new_chat(model)
    chat.handle("A lease.")
    tuned = chat.conversation.turns[-1].content
    chat.handle("/undo")
    chat.handle("/base")
    chat.handle("A lease.")
    base = chat.conversation.turns[-1].content
    assert base != tuned
    chat.handle("/undo")
    chat.handle("/compare")
    chat.screen.shown.clear()  # type: ignore[attr-defined]
    chat.handle("A lease.")
    shown = chat.screen.shown  # type: ignore[attr-defined]
    for system, text in (("fine-tuned", tuned), ("base", base)):
        assert "".join(part for name, part in shown if name == system) == text
    assert [turn.content for turn in chat.conversation.turns] == ["A lease.", tuned]


def test_ctrl_c_stops_the_answer_and_not_the_chat(model: AnsweringModel) -> None:
    chat = new_chat(model)
    chat.screen.stop_after = 3  # type: ignore[attr-defined]
    assert chat.handle("A lease.")
    kept = chat.conversation.turns[-1]
    assert kept.role == "assistant" and kept.content and not kept.train
    assert "3 tokens" in said(chat) and "stopped" in said(chat)
    chat.screen.stop_after = 0  # type: ignore[attr-defined]
    chat.handle("/retry")
    assert "6 tokens" in said(chat)
    assert [turn.role for turn in chat.conversation.turns] == ["user", "assistant"]


def test_a_saved_conversation_is_a_training_row_and_is_continued(
    model: AnsweringModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chat = new_chat(model)
    chat.handle("/save chat.json")
    assert "no answer yet" in said(chat)
    chat.handle("A lease.")
    chat.conversation.turns[-1] = chat.conversation.turns[-1].__class__("assistant", "{}")
    for _ in range(2):
        chat.handle("/save chat.json")  # its own file is written again
        chat.handle("/save chats.jsonl")
    assert "added to chats.jsonl as row 2" in said(chat)
    (row,) = read_file(tmp_path / "chat.json", {})
    assert [m.role for m in row.messages] == ["system", "user", "assistant"]
    assert len(list(read_file(tmp_path / "chats.jsonl", {}))) == 2
    other = new_chat(model, system="Another one.")
    other.handle("Hello.")
    other.handle("/save chat.json")
    assert "exists already" in said(other)
    other.handle("/load chat.json")
    assert other.conversation.messages == chat.conversation.messages
    other.handle("And now?")  # its answer is cut, so it is context
    other.handle("/save")
    again = new_chat(model)
    again.handle("/load chat.json")
    assert [turn.train for turn in again.conversation.turns] == [True, True, True, False]
    for wrong in ("/load nothing.json", "/save a.txt", "/save chat.json/a.json", "/load"):
        again.handle(wrong)
    text = said(again)
    assert "no such file" in text and ".json or .jsonl" in text and "cannot write" in text


@pytest.mark.parametrize("command", ["chat", "generate", "export", "serve", "evaluate"])
def test_a_run_that_did_not_end_says_how_it_is_continued(
    command: str, hydratune: Command, tmp_path: Path
) -> None:
    stopped = tmp_path / "runs/stopped"
    (stopped / "adapter").mkdir(parents=True)
    (stopped / "config.yaml").touch()
    (stopped / "status.json").write_text('{"state": "stopped"}')
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "A lease."}])
    words = ("input=rows.jsonl", "output=a.jsonl") if command == "generate" else ()
    code, text = hydratune(command, f"run={stopped}", *words)
    assert code == 1 and "has no model yet: its state is stopped" in text, text
    assert "hydratune doctor outputs=runs has the command" in text
    if command == "chat":  # doctor reads the versions of packages in a process of its own
        assert "hydra.run.dir=runs/stopped" in hydratune("doctor", "outputs=runs")[1]


def test_every_saved_conversation_can_be_loaded_and_other_files_say_why_not(
    model: AnsweringModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for blank in ("", "\n\n"):
        spoken = Conversation("Be brief.")
        spoken.ask("A lease.")
        spoken.answer(blank, whole=True)
        spoken.save(Path("blank.json"))
        again = Conversation(None)
        again.load(Path("blank.json"))
        assert again.messages == spoken.messages
        Path("blank.json").unlink()
    Path("asked.jsonl").write_text('{"prompt": "A lease."}\n')
    Path("wide.json").write_bytes('{"messages": []}'.encode("utf-16"))
    chat = new_chat(model)
    chat.handle("/load asked.jsonl")
    chat.handle("/load wide.json")
    text = said(chat)
    assert "asked.jsonl: no question with an answer in it" in text
    assert "wide.json: this is not UTF-8 text" in text and "data.encoding" not in text


def test_a_chat_begins_with_what_the_run_trained(
    run: Path, command_line: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/quit\n"))
    code, text = command_line("chat", f"run={run}")
    assert code == 0 and "lr=0.01" in text.splitlines()[0], text


def test_commands_that_change_the_conversation(model: AnsweringModel) -> None:
    chat = new_chat(model)
    chat.handle("A lease.")
    chat.handle("//etc is a folder")
    assert chat.conversation.turns[2].content == "/etc is a folder"
    chat.handle("/undo")
    assert len(chat.conversation.turns) == 2
    chat.handle("/system Be brief.")
    assert chat.conversation.messages[0].content == "Be brief." and not chat.conversation.turns
    for line in ("/undo", "/retry", "/hlep", "/system", "/help", "/reset", "  "):
        assert chat.handle(line)
    text = said(chat)
    assert "nothing to take back" in text and "did you mean /help?" in text
    assert "Be brief." in text and "/load FILE" in text
    assert not chat.handle("/quit")


def test_the_oldest_turns_are_left_out_where_the_context_ends(model: AnsweringModel) -> None:
    chat = new_chat(model)
    chat.handle("lease " * 400)
    chat.handle("sale " * 400)
    assert "the 2 oldest turns are left out" in said(chat)
    assert len(chat.conversation.turns) == 4  # they are still in the conversation
    chat.handle("sale " * 3000)
    assert "too long, and not asked" in said(chat) and len(chat.conversation.turns) == 4


def test_without_a_terminal_every_answer_is_one_line(
    hydratune: Command,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from hydratune.cli import main

    monkeypatch.setattr(sys, "stdin", io.StringIO("A lease.\n/foo\nA sale.\n"))
    capfd.readouterr()
    assert main(["chat", f"run={run}", "compare=true", "max_new_tokens=4"]) == 0
    printed = capfd.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert all(len(line.split("\t")) == 2 for line in printed.out.splitlines())
    assert "no such command" in printed.err and "that of the training data" in printed.err


def test_control_characters_are_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.Pipe().answering(["base"]) as show:
        show("base", "a\x1b[2J\n")
        show("base", "b\tc")
    assert capsys.readouterr().out == "a\\x1b[2J\\nb\\tc\n"


def test_a_terminal_without_prompt_toolkit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["one \\", "two", '"""', "a", "", 'b"""'])

    def typed_line(_: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(terminal.extras, "is_installed", lambda _: False)
    monkeypatch.setattr("builtins.input", typed_line)
    screen = terminal.Terminal([])
    assert [screen.read() for _ in range(3)] == ["one \ntwo", "a\n\nb", None]
    for systems in (["base"], ["fine-tuned", "base"]):
        with screen.answering(systems) as show:
            show(systems[0], "a\x1b[2Jb\n")
            show(systems[-1], "[bold]c")
    text = capsys.readouterr().out
    assert "\x1b[2J" not in text and text.count("a\\x1b[2Jb") == 2 and text.count("[bold]c") == 2


def test_what_is_typed_while_an_answer_is_written_does_not_disturb_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    above, below = os.openpty()

    def shows_keys() -> bool:
        return bool(termios.tcgetattr(below)[3] & termios.ECHO)

    with open(below) as keyboard, open(above, "rb", buffering=0):  # noqa: PTH123  # descriptors
        monkeypatch.setattr("sys.stdin", keyboard)
        screen = terminal.Terminal([])
        for systems in (["base"], ["fine-tuned", "base"]):
            assert shows_keys()
            with pytest.raises(KeyboardInterrupt), screen.answering(systems):
                assert not shows_keys()
                raise KeyboardInterrupt
        assert shows_keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=nowhere"], "this is not a run directory"),
        (["load=nothing.json"], "no such file"),
        (["compare=true", "base=true"], "asks the base model alone"),
        (["sytem=a"], "did you mean system?"),
    ],
)
def test_a_wrong_chat_is_one_clear_message(
    hydratune: Command, run: Path, words: list[str], message: str
) -> None:
    given = [f"run={run}", *words] if words[0] != "run=nowhere" else words
    code, text = hydratune("chat", *given)
    assert code == 2 and message in text and "Traceback" not in text, text


def test_conversations_are_refused_as_files(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a text")
    with pytest.raises(InputError, match="not a conversation"):
        Conversation(None).load(tmp_path / "text.txt")
