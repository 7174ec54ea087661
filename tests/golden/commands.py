"""The commands of the golden comparison: what is run, and which folders are compared.

A command is run in an empty folder of its own, so all paths are relative to that folder. The toy
model (``debug=smoke``) makes a command a matter of seconds; ``--real`` runs the training commands
on the default model instead.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

TOY = (
    "debug=smoke",
    "tracking=disabled",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "data.batch_size=4",
    "data.max_train_rows=9",  # an uneven last batch, shares of an epoch that are rounded
    "data.max_validation_rows=4",
    "data.max_test_rows=3",
    "trainer.max_steps=3",
    "evaluation.baselines=[]",
    "evaluation.max_new_tokens=6",
)
REAL = ("model=smollm2_135m", "data.max_length=512")
TWO_EPOCHS = ("trainer.max_steps=null", "trainer.max_epochs=2", "trainer.validations_per_epoch=1")


@dataclass(frozen=True)
class Step:
    """One call of ``hydratune``."""

    arguments: tuple[str, ...]
    exit_code: int = 0  # that the base must have
    kill_when: str | None = None  # SIGKILL as soon as this file exists; the exit code is then -9


@dataclass(frozen=True)
class Command:
    """Calls of ``hydratune`` in one folder, and what of it is compared."""

    name: str
    title: str
    steps: tuple[Step, ...]
    folders: tuple[str, ...]  # compared with everything in them
    files: Mapping[str, str] = field(default_factory=dict)  # input file -> its content
    uses: tuple[str, ...] = ()  # commands whose folder "run" is copied to NAME/run at first
    ignored: tuple[str, ...] = ()  # further folders that are not compared, see ``reason``
    reason: str = ""  # why ``ignored`` is not compared
    toy_only: bool = False  # is left out by --real: it needs no model, or takes too long


def train(*settings: str, run: str = "run") -> Step:
    """Return a training run of the toy model into the folder ``run``."""
    return Step(("train", *TOY, *settings, f"hydra.run.dir={run}"))


def sweep(*settings: str) -> Step:
    """Return a sweep of the toy model in one process, into the folder ``sweep``."""
    return Step(("train", "-m", *TOY, *settings, "hydra/launcher=pack", "hydra.sweep.dir=sweep"))


def one_run(name: str, title: str, *settings: str) -> Command:
    """Return a command that is one training run."""
    return Command(name, title, (train(*settings),), ("run",))


def jsonl(rows: Sequence[Mapping[str, object]]) -> str:
    """Return ``rows`` as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def conversation(prompt: str, answer: str) -> dict[str, object]:
    """Return a row with one request and its answer."""
    return {"prompt": prompt, "completion": answer}


def labelled_rows() -> str:
    """Return rows with JSON answers, among them a conflict, near duplicates and a repeated id."""
    dishes = ("soup", "bread", "salad", "curry", "cake", "stew", "pasta", "fish")
    good, bad = json.dumps({"label": "good"}), json.dumps({"label": "bad"})
    ways = (("was wonderful from first to last", good), ("was cold and far too salty", bad))
    rows = [
        {"id": f"{dish}-{number}", **conversation(f"The {dish} {words}, we all said.", label)}
        for dish in dishes
        for number, (words, label) in enumerate(ways)
    ]
    conflict = {"id": "conflict", **conversation(str(rows[2]["prompt"]), bad)}
    near = {"id": "near", **conversation(f"{rows[4]['prompt']} Really", good)}
    return jsonl([*rows, conflict, near, {"id": "near", **conversation("The tea was fine.", good)}])


def rows_with_findings() -> dict[str, str]:
    """Return three files with duplicates, leaks, conflicts, personal data and over-long rows."""
    topics = ("tides", "bees", "rail gauges", "bread", "glaciers", "violins", "kelp", "maps")
    asks = ("What should I know about", "Give me one sentence on", "Why do people study")
    plain = [
        conversation(f"{ask} {topic}?", f"{topic.capitalize()}: fact {len(ask) * 7 + i} is known.")
        for i, topic in enumerate(topics)
        for ask in asks
    ]
    personal = [
        conversation("Whom do I write to?", "Write to jo.doe@example.co.uk or ring +49 30 901820."),
        conversation("Which card is on file?", "Card 4111 1111 1111 1111, from 10.20.30.40."),
        conversation("What is the account?", "It is DE89 3704 0044 0532 0130 00."),
    ]
    odd = [
        conversation("Is the store open on Sunday?", "Yes."),
        conversation("Is the store open on Sunday?", "No."),
        conversation("Where is the cafÃ©?", "The cafÃ© is in Main Street.\u200b"),
        conversation("Summarise: " + "water and salt, " * 300, "Brine. " * 20),
        conversation("Write a poem.", "I'm sorry, but I can't help with that."),
        conversation("<b>Bold</b> request &amp; more", "An answer.  I hope this helps!"),
    ]
    repeated = [
        plain[0],
        plain[0],
        conversation("What should I know about tides ?", "Tides: many."),
    ]
    return {
        "train.jsonl": jsonl([*plain, *personal, *odd, *repeated]),
        "validation.jsonl": jsonl([plain[3], conversation("Name a large lake.", "Lake Baikal.")]),
        "test.jsonl": jsonl([plain[5], conversation("Name a high peak.", "K2, 8611 m.")]),
    }


FILES = (
    "data=files",
    "data.train=train.jsonl",
    "data.validation=validation.jsonl",
    "data.test=test.jsonl",
    "data.max_length=512",
    "model=tiny",
)
CLEANED = ("data.clean.drop_duplicates=true", "data.clean.drop_leaks=true", "data.clean.html=true")
PREPARE = Command(
    "prepare",
    "prepare on files with findings: refused, cleaned, with labels",
    (
        Step(("prepare", *FILES, "output=refused"), exit_code=2),
        Step(("prepare", *FILES, *CLEANED, "data.quality.exact_leaks=warn", "output=cleaned")),
        Step(("prepare", "data=files", "data.train=labels.jsonl", "model=tiny", "output=labels")),
    ),
    ("refused", "cleaned", "labels"),
    files={**rows_with_findings(), "labels.jsonl": labelled_rows()},
    toy_only=True,
)
THINGS = ("apple", "brick", "cloud", "drum", "eel", "fern", "glove", "hat")
COLOURS = ("red", "green", "blue")
LEARNT = Command(
    "learnt",
    "rows that the toy model learns: scores above 0, answers that differ",
    (
        train(
            *("data=files", "data.train=things.jsonl", "data.overfit_rows=6"),
            *("adapter=none", "optimizer.lr=5e-3"),
            *("trainer.max_steps=70", "trainer.max_epochs=70", "evaluation.max_new_tokens=40"),
        ),
    ),
    ("run",),
    files={
        "things.jsonl": jsonl(
            [
                conversation(thing, json.dumps({"colour": COLOURS[i % 3], "size": i}))
                for i, thing in enumerate(THINGS)
            ]
        )
    },
    toy_only=True,
)
KILLED = (*TWO_EPOCHS, "data.max_train_rows=48", "data.batch_size=1", "adapter.lora_dropout=0.1")
KILL = (*KILLED, "trainer.checkpoint_minutes=1e-9", "trainer.accumulate_grad_batches=2")
COMMANDS: tuple[Command, ...] = (
    one_run(
        "lora",
        "LoRA, with both baselines",
        "evaluation.baselines=[base,fewshot]",
    ),
    one_run(
        "lora_dropout",
        "LoRA with dropout and accumulation",
        *TWO_EPOCHS,
        "adapter.lora_dropout=0.2",
        "data.batch_size=2",
        "trainer.accumulate_grad_batches=2",
        "trainer.gradient_clip_val=0.1",
        "optimizer.schedule=wsd",
    ),
    one_run("dora", "DoRA", "adapter=dora", "adapter.r=4"),
    one_run("full", "full fine-tuning", "adapter=none", "optimizer.lr=1e-4"),
    LEARNT,
    one_run("frozen", "LoRA on the top layer", *TWO_EPOCHS, "adapter.layers_to_transform=[1]"),
    one_run("prompt_tuning", "prompt tuning", "adapter=prompt_tuning", "optimizer.lr=3e-2"),
    one_run(
        "objective",
        "label smoothing, z-loss and embedding noise",
        "trainer.label_smoothing=0.1",
        "trainer.z_loss=1e-4",
        "trainer.neftune_alpha=5",
    ),
    one_run("bf16", "LoRA in bf16-mixed", "trainer.precision=bf16-mixed"),
    one_run("nf4", "LoRA on a base of 4 bits", "model.quantization=nf4"),
    Command(
        "pack",
        "a pack of four",
        (
            sweep("optimizer.lr=1e-3,3e-3", "adapter.r=4,8"),
            Step(("compare", "sweep", "html=false", "export=csv,markdown", "output=ranking")),
        ),
        ("sweep", "ranking"),
    ),
    Command(
        "halving",
        "a pack with halving",
        (
            sweep(
                "optimizer.lr=1e-5,3e-4,1e-3,1e-2",
                "data.batch_size=1",
                "trainer.max_steps=8",
                "hydra.launcher.halving={min_steps: 2, eta: 2}",
                "hydra.launcher.together=1",  # in which order jobs are paused varies otherwise
            ),
        ),
        ("sweep",),
    ),
    Command(
        "search",
        "a search of four trials, two together",
        (
            sweep(
                "optimizer.lr=tag(log, interval(1e-4,1e-2))",
                "adapter.r=4,8",
                "hydra/sweeper=optuna",
                "hydra.sweeper.n_trials=4",
                "hydra.sweeper.batch=2",
                "+hydra.sweeper.options.n_startup_trials=2",
            ),
        ),
        ("sweep",),
    ),
    Command(
        "killed",
        "a run that was killed and resumed",
        (replace(train(*KILL), exit_code=-9, kill_when="run/checkpoints/last.ckpt"), train(*KILL)),
        ("run",),
        ignored=("run/previous",),
        reason="what had been written at the moment of the kill varies",
    ),
    Command(
        "evaluate",
        "evaluate run=DIR, again and from stored predictions",
        (
            Step(("evaluate", "run=lora/run")),
            Step(("evaluate", "run=lora/run", "source=predictions")),
        ),
        ("lora/run",),
        uses=("lora",),
    ),
    Command(
        "compare",
        "compare over three runs, and a check of two",
        (
            Step(
                (
                    *("compare", "lora/run", "lora_dropout/run", "dora/run"),
                    *("html=false", "export=csv,parquet,markdown,latex", "output=by_loss"),
                )
            ),
            Step(
                (
                    *("compare", "lora/run", "lora_dropout/run", "dora/run", "metric=eval/nll"),
                    *("html=false", "export=csv,parquet,markdown,latex", "output=by_nll"),
                )
            ),
            Step(
                ("compare", "baseline=lora/run", "candidate=dora/run", "fail_if=eval/nll>1e-9"), 1
            ),
        ),
        ("by_loss", "by_nll"),
        uses=("lora", "lora_dropout", "dora"),
    ),
    PREPARE,
    one_run(
        "measured",
        "forgetting, memorisation and canaries in one run",
        "evaluation.memorisation=3",
        "evaluation.canaries=3",
        "evaluation.forgetting.measure=true",
        "evaluation.forgetting.items=4",
        "evaluation.forgetting.answer_tokens=6",
    ),
    Command(
        "decide",
        "prompts and retrieval beside a finished run",
        (Step(("decide", "run=learnt/run", "output=decision")),),
        ("decision",),
        files=LEARNT.files,
        uses=("learnt",),
        toy_only=True,
    ),
    Command(
        "ddp",
        "two processes on a CPU",
        (
            train(
                "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=2"
            ),
        ),
        ("run",),
        toy_only=True,
    ),
)
