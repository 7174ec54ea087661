"""The Python API: settings, runs and comparisons as the commands make them."""

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import hydratune
from compared_runs import write_run
from hydratune.api import comparing
from hydratune.config import CONF
from hydratune.errors import ConfigError, InputError, RunError, SweepError

Command = Callable[..., tuple[int, str]]
QUICK = (
    "model=tiny trainer.max_epochs=1 optimizer.lr=1e-2 tracking=disabled evaluation.baselines=[]"
)
TABLE = [{"prompt": f"thing {i}?", "completion": ("red", "blue")[i % 2]} for i in range(40)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests of this file work in one folder, and read the same runs."""
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def run(place: Path) -> hydratune.Run:
    """A finished run on rows in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return hydratune.train(QUICK, data=pandas.DataFrame(TABLE), directory="outputs/first")


def test_the_import_is_instant_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.process_time(); import hydratune\n"
        "print(time.process_time() - start, sorted({m.partition('.')[0] for m in sys.modules}))\n"
        "import hydratune.errors\n"
        "public = {name for name in dir(hydratune) if not name.startswith('__')}\n"
        "assert public == set(hydratune.__all__), public\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, _, modules = done.stdout.partition(" ")
    assert float(seconds) < 0.1
    for heavy in ("torch", "hydra", "omegaconf", "transformers", "pandas", "lightning"):
        assert f"'{heavy}'" not in modules


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in hydratune.__all__:
        assert (getattr(hydratune, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        hydratune.trainer  # noqa: B018


@pytest.mark.parametrize(
    "settings",
    [
        "model=tiny optimizer.lr=0.002 data.system_prompt='Be brief.'",
        ["model=tiny", "optimizer.lr=2e-3", "data.system_prompt='Be brief.'"],
        {"model": "tiny", "optimizer.lr": 0.002, "data.system_prompt": "Be brief."},
    ],
)
def test_settings_are_a_text_a_list_or_a_mapping(settings: Any) -> None:
    config = hydratune.compose(settings)
    assert (config.optimizer.lr, config.data.system_prompt) == (0.002, "Be brief.")
    assert config.name == "contracts"


def test_composed_settings_equal_those_of_the_command(command_line: Command) -> None:
    code, text = command_line("train", "--cfg", "job", "model=tiny", "adapter.r=4")
    assert code == 0
    from omegaconf import OmegaConf

    shown = OmegaConf.create(text[text.index("model:") :])
    composed = OmegaConf.structured(hydratune.compose("model=tiny adapter.r=4"))
    assert composed.adapter.r == 4
    for group in ("model", "data", "adapter", "optimizer", "trainer", "evaluation"):
        assert OmegaConf.to_yaml(shown[group], resolve=True, sort_keys=True) == OmegaConf.to_yaml(
            composed[group], resolve=True, sort_keys=True
        )


def test_a_program_that_uses_hydra_itself_keeps_its_state() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = GlobalHydra.instance().hydra
        hydratune.compose("model=tiny")
        assert GlobalHydra.instance().hydra is own
        assert hydra_compose("train", ["model=tiny"]).model.source == "tiny"


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ("optimizer.lr=abc trainer.max_epochs=0", ConfigError, ["optimizer.lr", "max_epochs"]),
        ("optimzer.lr=1", ConfigError, ["did you mean optimizer.lr?"]),
        ("seed=1,2", ConfigError, ["hydratune.sweep(...) runs a sweep"]),
        ("optimizer.lr=[1e-3,1e-2]", ConfigError, ["hydratune.sweep(...) runs a sweep over"]),
        ("name=don't", InputError, ["No closing quotation", "close the quote"]),
        ("optimizer.lr=range(1,3)", ConfigError, ["hydratune.sweep(...) runs a sweep"]),
        ("-m seed=1,2", InputError, ["hydratune.sweep(...) runs a sweep"]),
    ],
)
def test_wrong_settings_are_refused_with_advice_for_python(
    settings: str, kind: type[Exception], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        hydratune.compose(settings)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the train rows are empty"),
        ("x.jsonl", "data=files data.train=FILE"),
        ([1, 2], "train row 1 is of the type int"),
        ({"valid": TABLE}, "a mapping with valid"),
        ({"train": TABLE, "dev": TABLE}, "a mapping with dev"),
        ([{"prompt": object(), "completion": "x"}], "row 1 holds a value that JSON cannot hold"),
        (5, "give a pandas DataFrame"),
    ],
)
def test_rows_that_are_none_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hydratune.compose((), data=rows)


def test_rows_beside_another_data_set_are_refused() -> None:
    for settings in ("data=contracts", "data.train=x.jsonl"):
        with pytest.raises(InputError, match="names others"):
            hydratune.compose(settings, data=TABLE)
    with pytest.raises(InputError, match=r"compose returned .*compose\(.*, data=rows\)"):
        hydratune.train(hydratune.compose("model=tiny"), data=TABLE)


def test_values_of_a_mapping_are_those_of_python() -> None:
    import numpy

    from hydratune.settings.data import Overlength

    config = hydratune.compose(
        {
            "model": "tiny",
            "optimizer.lr": numpy.float64(2e-3),
            "seed": numpy.int64(3),
            "data.overlength": Overlength.error,
            "adapter.target_modules": ["q_proj", "v_proj"],
            "model.chat_template": None,
        }
    )
    assert (config.optimizer.lr, config.seed) == (2e-3, 3)
    assert config.data.overlength is Overlength.error
    Path("own folder").mkdir()
    file = Path("own folder") / "a, b.jsonl"
    file.write_text(json.dumps(TABLE[0]) + "\n")
    data: Any = hydratune.compose({"data": "files", "data.train": file}).data
    assert data.train == str(file)
    with pytest.raises(InputError, match="optimizer: a set is no value"):
        hydratune.compose({"optimizer": {1}})


@pytest.mark.parametrize(
    "settings",
    [TABLE, pandas.DataFrame(TABLE), 5, None, [1, 2]],
    ids=lambda kind: type(kind).__name__,
)
def test_rows_in_the_place_of_settings_are_refused(settings: Any) -> None:
    with pytest.raises(InputError, match=r"rows are given as data=\.\.\."):
        hydratune.compose(settings)


def test_a_list_in_a_mapping_is_a_sweep_or_the_value_of_a_list() -> None:
    from hydratune.api.composing import words_of

    settings = {
        "optimizer.lr": [1e-3, 1e-2],
        "adapter.r": "4,16",
        "adapter.target_modules": ["q_proj"],
        "seed": 1,
    }
    assert words_of(settings, is_sweep=True) == [
        "optimizer.lr=0.001,0.01",
        "adapter.r=4,16",
        'adapter.target_modules=["q_proj"]',
        "seed=1",
    ]


def test_tables_of_all_kinds_become_the_same_files() -> None:
    import datasets

    kinds = [TABLE, pandas.DataFrame(TABLE), datasets.Dataset.from_list(TABLE), {"train": TABLE}]
    files = {hydratune.compose("model=tiny", data=rows).data.train for rows in kinds}  # type: ignore[attr-defined]
    assert len(files) == 1
    (file,) = files
    assert [json.loads(line) for line in Path(file).read_text().splitlines()] == TABLE
    split = datasets.DatasetDict(
        train=datasets.Dataset.from_list(TABLE[:30]), test=datasets.Dataset.from_list(TABLE[30:])
    )
    data: Any = hydratune.compose("model=tiny", data=split).data
    assert Path(data.test).read_text().count("\n") == 10 and data.validation is None


def test_values_of_pandas_become_json() -> None:
    frame = pandas.DataFrame(
        {
            "prompt": ["a", "b"],
            "completion": ["c", "d"],
            "day": pandas.to_datetime(["2026-1-2"] * 2),
        }
    )
    frame["score"] = [0.5, None]
    frame["count"] = pandas.array([3, None], dtype="Int64")
    from hydratune.api.rows import write_rows

    lines = write_rows(frame)["train"].read_text().splitlines()
    expected = {"prompt": "b", "completion": "d", "day": "2026-01-02T00:00:00"}
    assert json.loads(lines[1]) == {**expected, "score": None, "count": None}
    assert json.loads(lines[0])["count"] == 3


def test_a_run_is_that_of_the_command(run: hydratune.Run, command_line: Command) -> None:
    file = run.config.data.train  # type: ignore[attr-defined]
    words = ["data=files", f"data.train={file}", "hydra.run.dir=outputs/command"]
    code, text = command_line("train", *QUICK.split(), *words)
    assert code == 0, text
    for name in ("history.csv", "adapter/adapter_model.safetensors", "predictions.jsonl"):
        if name == "history.csv":  # without the column of the speed
            columns = ["step", "train/loss", "val/loss", "lr", "tokens", "grad_norm"]
            other = hydratune.Run("outputs/command").history
            pandas.testing.assert_frame_equal(run.history[columns], other[columns])
            continue
        assert (run.path / name).read_bytes() == (Path("outputs/command") / name).read_bytes()


def test_a_run_is_read_as_data_frames(run: hydratune.Run) -> None:
    assert run.state == "finished" and "lr=0.01" in run.name
    measured = run.metrics
    assert measured.loc["val/loss", "value"] == run.value("val/loss") > 0
    assert measured.loc["eval/exact_match", "low"] <= run.value("eval/exact_match")
    assert measured.loc["eval/exact_match", "system"] == "eval"
    assert len(run.history) == run.history["step"].max()
    answers = run.predictions
    assert {"prompt", "prediction", "reference", "exact_match"} <= set(answers.columns)
    assert answers["exact_match"].mean() == run.value("eval/exact_match")
    with pytest.raises(KeyError, match="eval/exact_match"):
        run.value("eval/accuracy_of_nothing")
    with pytest.raises(RunError, match="no answers of base"):
        run.predictions_of("base")
    page = run._repr_html_()
    assert "val/" not in page.partition("<table>")[0] and "eval/exact_match" in page


def test_the_log_goes_into_the_run(run: hydratune.Run) -> None:
    assert (run.path / "run.log").is_file() and (run.path / ".hydra" / "overrides.yaml").is_file()
    assert not [h for h in logging.getLogger().handlers if "first/run.log" in str(vars(h))]


def test_the_loaded_model_generates_what_the_run_measured(run: hydratune.Run) -> None:
    model, tokenizer = run.load_model()
    row = run.predictions.iloc[0]
    inputs = tokenizer.apply_chat_template(
        row["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=int(row["generated_tokens"]), do_sample=False)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == row["prediction"]
    with pytest.raises(InputError, match="device = tpu"):
        run.load_model(device="tpu")


def test_a_given_model_is_trained_like_the_same_model_from_a_folder(
    run: hydratune.Run, tiny: tuple[Any, Any, Any], model: Any
) -> None:
    import torch

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    settings = QUICK.replace("model=tiny ", "")
    given = hydratune.train(settings, data=TABLE, model=model, tokenizer=tiny[2])
    assert given.value("val/loss") == run.value("val/loss")
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    tuned, _ = given.load_model(base=model)
    assert list(model.state_dict()) == list(before) and tuned is not model
    with pytest.raises(InputError, match=r"load_model\(base=MODEL\)"):
        given.load_model()
    model.lm_head.weight.data[0, 0] += 1
    with pytest.raises(RunError, match="not the base model that was trained"):
        given.load_model(base=model)
    with pytest.raises(InputError, match="has an adapter already"):
        hydratune.train(settings, data=TABLE, model=tuned)


def test_models_and_settings_that_do_not_fit_are_refused(
    tiny: tuple[Any, Any, Any], model: Any
) -> None:
    import torch

    def refused(settings: str, match: str, **parts: Any) -> None:
        with pytest.raises(InputError, match=match):
            hydratune.train(settings, data=TABLE, **{"tokenizer": tiny[2], **parts})

    refused("", "give a loaded model of transformers", model="gpt2")
    refused("", "belongs to model=")
    refused("model=tiny", "model=tiny is about another", model=model)
    refused("adapter=none", "would change the weights", model=model)
    refused("preview=2", "a run is made", model=model)
    refused("trainer.devices=2", "starts further processes", model=model)
    half = model.to(torch.bfloat16)
    refused(
        "trainer.precision=32-true tracking=disabled", "needs weights in torch.float32", model=half
    )
    assert not [path for path in Path("outputs/files").glob("*") if (path / "adapter").exists()][1:]


def test_a_callback_sees_every_step_and_is_forgotten_afterwards(run: hydratune.Run) -> None:
    import lightning

    from hydratune.settings import packages

    class Steps(lightning.Callback):
        count = 0

        def on_train_batch_end(self, *_: object) -> None:
            self.count += 1

    first, second, handler = Steps(), Steps(), signal.getsignal(signal.SIGINT)
    config = hydratune.compose(QUICK, data=TABLE)
    trained = hydratune.train(config, callbacks=[first, second])
    assert first.count == second.count == len(trained.history) == len(run.history)
    assert trained.config.trainer.callbacks == ["Steps", "Steps_"]
    assert signal.getsignal(signal.SIGINT) is handler
    assert config.trainer.callbacks is None and not packages.has("callback", "Steps")


def test_a_directory_with_a_finished_run_is_not_overwritten(run: hydratune.Run) -> None:
    with pytest.raises(ConfigError, match="already holds a finished run"):
        hydratune.train(QUICK, data=TABLE, directory=run.path)
    assert run.state == "finished"


def test_an_interrupted_run_is_saved_and_resumed(run: hydratune.Run) -> None:
    import lightning

    epoch = len(run.history)  # its optimizer steps

    class Interrupt(lightning.Callback):
        armed = True

        def on_train_batch_end(self, trainer: Any, *_: object) -> None:
            if self.armed and trainer.global_step == epoch + 2:
                signal.raise_signal(signal.SIGINT)

    place, callback = Path("outputs/interrupted"), Interrupt()
    config = hydratune.compose(f"{QUICK} trainer.max_epochs=2", data=TABLE)
    with pytest.raises(KeyboardInterrupt):
        hydratune.train(config, callbacks=[callback], directory=place)
    assert hydratune.Run(place).state == "stopped"
    with pytest.raises(RunError, match=r"is stopped.* and has no metrics"):
        hydratune.Run(place).metrics  # noqa: B018
    with pytest.raises(InputError, match=r"no run has finished \(1 stopped\)"):
        hydratune.compare(place)
    callback.armed = False
    resumed = hydratune.train(config, callbacks=[callback], directory=place)
    assert resumed.state == "finished" and list(resumed.history["step"]) == list(
        range(1, 2 * epoch + 1)
    )


@pytest.mark.slow
def test_a_sweep_runs_its_jobs_and_is_compared(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = f"{QUICK} seed=0,1"
    swept = hydratune.sweep(settings, data=TABLE)
    assert "pack 1 of 1: 2 jobs" in capsys.readouterr().out
    assert [run.config.seed for run in swept.runs] == [0, 1]
    assert hydratune.sweep(settings, data=TABLE).path == swept.path  # nothing is left to run
    compared = swept.compare()
    assert "best: " in compared.verdict and compared.best is not None
    assert len(compared.table) == 2
    assert compared.table["objective"].min() == compared.best.value("val/loss")
    assert compared.write().is_file() and str(swept.path) in str(compared.write())
    assert repr(swept).endswith("2 jobs)")
    (row,) = compared.summary.to_dict("records")  # two seeds of the same settings
    assert row["place"] == "1" and row["seeds"] == "2" and "±" in row["validation loss"]
    by_answers = hydratune.compare(swept, metric="eval/exact_match")
    assert "exact match" in by_answers.verdict
    with pytest.raises(InputError, match="metric"):
        hydratune.compare(swept.runs, metric="eval/nothing")


def test_a_comparison_shows_a_short_table(tmp_path: Path) -> None:
    write_run(tmp_path / "a", loss=0.5, lr=1e-3)
    write_run(tmp_path / "b", loss=0.4, lr=1e-4, right=[True] * 30 + [False] * 10)
    compared = hydratune.compare(tmp_path)
    assert list(compared.summary["place"]) == ["1", "2"]
    assert list(compared.summary["run"]) == ["b", "a"]
    assert list(compared.summary["lr"]) == ["0.0001", "0.001"]
    assert list(compared.summary["validation loss"]) == ["0.4000", "0.5000"]
    assert "exact match (%)" in compared.summary and len(compared.summary.columns) < 9
    text = repr(compared)
    assert text.startswith("Comparison of 2 runs\nplace run") and compared.verdict in text
    wide = comparing._fitting(compared.summary.assign(**{"a further metric": "x" * 90}))
    assert len(wide.splitlines()) == 4 and max(map(len, wide.splitlines())) <= 110
    assert wide.endswith("\nfurther columns of summary: a further metric")
    shown = compared._repr_html_()
    assert shown.count("<tr") == 3 and "<p>best: " in shown


def test_a_sweep_of_one_job_is_described_in_the_singular(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"jobs": {"0": {"overrides": [], "varying": {}}}}')
    assert repr(hydratune.Sweep(tmp_path)).endswith(", 1 job)")


def test_a_refused_sweep_raises_what_the_command_prints() -> None:
    with pytest.raises(InputError, match=r"did you mean optimizer\.lr"):
        hydratune.sweep(f"{QUICK} optimzer.lr=1e-3,1e-2", data=TABLE)
    with pytest.raises(InputError, match="names another"):
        hydratune.sweep("seed=0,1 hydra.sweep.dir=x", directory="y")


@pytest.mark.slow
def test_a_sweep_whose_jobs_fail_raises(place: Path) -> None:
    settings = f"{QUICK} seed=0,1 trainer.monitor=val/field_f1"  # the rows have no fields
    with pytest.raises(SweepError, match="2 of 2 jobs failed"):
        hydratune.sweep(settings, data=TABLE)


def test_places_without_runs_are_refused(place: Path) -> None:
    with pytest.raises(RunError, match="no such directory"):
        hydratune.Run("nowhere")
    with pytest.raises(RunError, match=r"no run in it \(no status.json\)"):
        hydratune.Run(place)
    with pytest.raises(RunError, match="no sweep in it"):
        hydratune.Sweep(place)
    with pytest.raises(InputError, match="no such directory"):
        hydratune.load_runs("nowhere")
    for wrong in (None, 5):
        with pytest.raises(InputError, match="give a run directory"):
            hydratune.Run(wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="give a folder, a sweep"):
            hydratune.compare(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give one folder"):
        hydratune.load_runs(["outputs"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no run is given"):
        hydratune.compare([])
    with pytest.raises(InputError, match="confidence = 95"):
        hydratune.compare(".", confidence=95)
