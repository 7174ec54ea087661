"""What is typed after a command: flags anywhere, settings with hyphens, groups, texts and None."""

import shlex
from collections.abc import Callable, Sequence

import pytest

from hydratune.composition.arguments import check_settings, read_arguments, repeated_settings
from hydratune.errors import ConfigError, InputError
from test_config import problems

Command = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("typed", "flags", "settings"),
    [
        (["a=1", "--cfg", "job", "b=2"], ["--cfg", "job"], ["a=1", "b=2"]),
        (["a=1", "--cfg=job", "-p", "data"], ["--cfg=job", "-p", "data"], ["a=1"]),
        (["a=1,2", "-m"], ["-m"], ["a=1,2"]),
        (["--optimizer.lr=0.001", "--seed=3"], [], ["optimizer.lr=0.001", "seed=3"]),
        (["--info", "a=1"], ["--info"], ["a=1"]),
        (["--info", "plugins", "a=1"], ["--info", "plugins"], ["a=1"]),
        (["-cd", "own", "~x", "+y=1"], ["-cd", "own"], ["~x", "+y=1"]),
    ],
)
def test_flags_may_stand_between_settings(
    typed: Sequence[str], flags: list[str], settings: list[str]
) -> None:
    arguments = read_arguments(typed)
    assert (list(arguments.flags), list(arguments.settings)) == (flags, settings)


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        (["--seed", "3"], "a setting is written without dashes and spaces: seed=3$"),
        (["--lr", "1e-3"], ": optimizer.lr=1e-3$"),
        (["--learning-rate", "1e-3"], ": optimizer.lr=1e-3$"),
        (["--model", "tiny"], ": model=tiny$"),
        (["--debug"], r": debug=overfit \(options: overfit, smoke\)$"),
        (["--seed"], ": seed=VALUE$"),
        (["-seed=3"], ": seed=3$"),
        (["--cfgg", "job"], "did you mean --cfg?"),
        (["-m", "--cfg", "job"], "-m and --cfg cannot be given together"),
        (["--info", "-m"], "-m and --info cannot be given together"),
    ],
)
def test_wrong_flags_say_what_to_type(typed: Sequence[str], advice: str) -> None:
    with pytest.raises(InputError, match=advice):
        read_arguments(typed)


def test_a_flag_is_a_setting_of_its_own_command() -> None:
    with pytest.raises(InputError, match=r": rows=4$"):
        read_arguments(["--rows", "4"], "judge")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optimizer.lr = 1e-3", "optimizer.lr=1e-3"),
        ("optimizer.lr= 1e-3 seed=1", "optimizer.lr=1e-3 seed=1"),
        ("optimizer.lr =1e-3", "optimizer.lr=1e-3"),
        ("'optimizer.lr = 1e-3'", "optimizer.lr=1e-3"),
        ("model=tiny, optimizer.lr=1e-3", "model=tiny optimizer.lr=1e-3"),
        ("model=tiny,seed=1", "model=tiny seed=1"),
        ("model=tiny , seed=1,", "model=tiny seed=1"),
        ("model = tiny, seed = 1", "model=tiny seed=1"),
        ("'model=tiny seed=1'", "model=tiny seed=1"),
        ("optimizer.lr=1e-3, 1e-2 seed=1 -m", "-m optimizer.lr=1e-3,1e-2 seed=1"),
        ("--cfg job optimizer.lr = 1e-3 -cd own", "--cfg job -cd own optimizer.lr=1e-3"),
        ("adapter.target_modules=[q, v] seed=1", "'adapter.target_modules=[q,v]' seed=1"),
        ("+adapter.rank_pattern={q: 8}", "'+adapter.rank_pattern={q:8}'"),
    ],
)
def test_spaces_and_commas_where_none_belong_say_what_to_type(typed: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        read_arguments(shlex.split(typed))
    assert str(caught.value).endswith(f"; type: {meant}")


@pytest.mark.parametrize(
    "typed",
    [
        "name= seed=1",
        "name= ~tracking",
        "data.train=dir,x=y.jsonl",
        "'data.system_prompt=Be brief, seed=1'",
        "'data.system_prompt=\"Be brief, a = b\"' seed=1",
        "'optimizer.lr=1e-3, 1e-2' 'a=choice(1, 2)' 'x=[a, b]'",
        "data.train=${oc.env:A,b} seed=1",
        "some words that=x are no settings",
        "",
    ],
)
def test_other_spaces_and_commas_are_left_to_hydra(typed: str) -> None:
    assert list(read_arguments(shlex.split(typed)).settings) == shlex.split(typed)


def test_the_command_prints_what_to_type(hydratune: Command) -> None:
    code, text = hydratune("train", "optimizer.lr", "=", "1e-3", "--cfg", "job")
    assert code == 2 and text.endswith("type: --cfg job optimizer.lr=1e-3\n")


@pytest.mark.parametrize(
    ("setting", "checked"),
    [
        ("name=123E456", 'name="123E456"'),
        ("name=1e3", 'name="1e3"'),
        ("name=007,1e3", 'name=007,"1e3"'),
        ("name=true", 'name="true"'),
        ("name=a", "name=a"),
        ("name=null", "name=null"),
        ("model.revision=12e4567", 'model.revision="12e4567"'),
        ("data.system_prompt=7", 'data.system_prompt="7"'),
        ("optimizer.lr=1e-3", "optimizer.lr=1e-3"),
        ("seed=1,2", "seed=1,2"),
        ("seed=range(1,3)", "seed=range(1,3)"),
        ("hydra.sweep.dir=1e3", "hydra.sweep.dir=1e3"),
    ],
)
def test_the_value_of_a_text_stays_what_was_typed(setting: str, checked: str) -> None:
    assert check_settings([setting], "train", is_sweep=True) == [checked]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("adapter=null", ["adapter = null", "adapter=none trains the model itself", "lora"]),
        ("tracking=null", ["tracking=disabled mirrors the run nowhere"]),
        ("model=7", ["no such option", "tiny"]),
        ("adapter=[lora,dora]", ["-m adapter=lora,dora"]),
        ("+adapter=dora", ["adapter=dora, without +"]),
        ("~tracking", ["a run needs this group", "tracking=disabled"]),
        ("data.system_prompt=None", ["data.system_prompt=null", 'data.system_prompt="None"']),
        ("name=a,None", ["name=a,null"]),
        ("hydra/sweeper=optuna", ["only a sweep uses it", "-m hydra/sweeper=optuna"]),
        ("hydra.launcher.halving.eta=3", ["only a sweep uses it", "or leave it out"]),
        ("hydra.sweep.dir=x", ["only a sweep uses it"]),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting: str, words: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings([setting], "train")
    for word in words:
        assert word in str(caught.value)


def test_settings_of_sweeps_are_accepted_with_m_and_where_settings_are_shown() -> None:
    words = ["hydra/sweeper=optuna", "hydra.launcher.together=2", "hydra.sweep.dir=x"]
    assert check_settings(words, "train", is_sweep=True) == words
    assert check_settings(words, "train", shows=True) == words
    with pytest.raises(ConfigError, match="hydratune judge runs once: leave it out"):
        check_settings(["hydra/launcher=pack"], "judge")


def test_the_folder_of_one_run_is_refused_for_a_sweep() -> None:
    words = ["hydra.run.dir=outputs/a b"]
    with pytest.raises(ConfigError, match=r"with -m: 'hydra\.sweep\.dir=outputs/a b'; or leave"):
        check_settings(words, "train", is_sweep=True)
    assert check_settings(words, "train", shows=True) == words


def test_a_setting_that_is_given_twice_is_named() -> None:
    words = ["seed=1", "optimizer.lr=1e-3", "seed=1", "+optimizer.lr=1e-4", "name=a b", "name=b c"]
    assert list(repeated_settings(words)) == [
        "optimizer.lr is given twice, and only the last value is used: optimizer.lr=1e-4",
        "name is given twice, and only the last value is used: 'name=b c'",
    ]


@pytest.mark.parametrize(
    ("command", "fix"),
    [("prepare", "output=x"), ("judge", "output=x"), ("evaluate", "to the directory of run=DIR")],
)
def test_a_command_without_a_run_directory_refuses_one(command: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=fix):
        check_settings(["hydra.run.dir=x"], command)
    assert check_settings(["hydra.run.dir=x"], "train") == ["hydra.run.dir=x"]


def test_a_quoted_none_is_a_text() -> None:
    assert check_settings(["data.system_prompt='None'"], "train") == ["data.system_prompt='None'"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr=1e-4", "optimizer.lr"),
        ("optimzer.lr=1e-4", "optimizer.lr"),
        ("trainer.lr=1e-4", "optimizer.lr"),
        ("batch_size=4", "data.batch_size"),
        ("batch-size=4", "data.batch_size"),
        ("epochs=3", "trainer.max_epochs"),
        ("adapter.lora_r=4", "adapter.r"),
        ("adapter.lora_alhpa=4", "adapter.lora_alpha"),
    ],
)
def test_the_setting_of_that_name_comes_before_similar_ones(typed: str, meant: str) -> None:
    key = typed.partition("=")[0]
    assert f"did you mean {meant}?" in problems(typed)[key]


@pytest.mark.parametrize("typed", ["+trainer.num_sanity_val_steps=0", "foo=1"])
def test_nothing_is_suggested_where_nothing_is_similar(typed: str) -> None:
    (text,) = problems(typed).values()
    assert "did you mean" not in text


def test_advice_has_the_quotes_of_the_shell() -> None:
    assert (
        "add data=files 'data.train=my file.jsonl'"
        in problems("data.train=my file.jsonl")["data.train"]
    )


def test_settings_that_the_chosen_option_lacks_are_not_suggested() -> None:
    text = problems("rank=8", "adapter=ia3")["rank"]
    assert "it may be adapter.r: adapter=ia3 has no such setting" in text
    text = problems("adapter.r=8", "adapter=ia3")["adapter.r"]
    assert "leave out adapter.r; or, instead of adapter=ia3: adapter=lora adapter.r=8" in text


@pytest.mark.parametrize(
    ("typed", "fix"),
    [
        (["-m", "adapter=lora,ia3", "adapter.r=8"], "why: adapter=ia3 has no such setting"),
        (["-m", "data=contracts,files", "data.train=x"], "why: data=contracts has no such setting"),
        (["-m", "optimizer.lr=[1e-3,1e-4]"], "-m optimizer.lr=1e-3,1e-4"),
        (["trainer.max_epochs=1,2"], "fix: add -m for a sweep: -m trainer.max_epochs=1,2\n"),
        (["adapter.target_modules=q,v"], "'adapter.target_modules=[q,v]'"),
        (["optimizer.lr=1e-3,1e-4", "--cfg", "job", "-m"], "cannot be given together"),
    ],
)
def test_advice_about_sweeps(hydratune: Command, typed: Sequence[str], fix: str) -> None:
    code, text = hydratune("train", *typed)
    assert code == 2 and fix in text


def test_an_agent_may_type_settings_with_hyphens(hydratune: Command) -> None:
    code, text = hydratune("train", "--optimizer.lr=0.002", "model=tiny", "--cfg", "job", "seed=3")
    assert code == 0 and "lr: 0.002" in text and "seed: 3" in text


@pytest.mark.parametrize("command", ["train", "chat", "plan"])
def test_an_unknown_setting_is_looked_up_in_the_settings_of_its_command(
    hydratune: Command, command: str
) -> None:
    code, text = hydratune(command, "zzz=1")
    assert code == 2 and f"see hydratune {command} --cfg job" in text
    code, text = hydratune(command, "--cfg", "job")
    assert code == 0 and ("run:" if command == "chat" else "model:") in text
