"""Each command imports only what it uses, and what is imported later than usual works as usual."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hydratune.cli import main

# modules that take long, with what they bring
HEAVY = (
    *("torch", "torch._dynamo", "torch._inductor.lowering", "torch._inductor.compile_fx"),
    *("transformers", "transformers.modeling_utils", "peft", "bitsandbytes", "lightning"),
    *("torchmetrics", "matplotlib.pyplot", "scipy", "scipy.signal", "scipy.stats"),
    *("scipy.optimize", "sklearn", "pandas", "datasets", "optuna", "plotly", "wandb"),
    *("wandb_workspaces", "llguidance", "sacrebleu", "openai", "presidio_analyzer", "lm_eval"),
)
_TRAINING = {
    *("torch", "transformers", "transformers.modeling_utils", "peft", "lightning", "torchmetrics"),
    "torch._dynamo",  # torch.optim and Lightning import it
    "scipy",  # its special functions, for intervals
    "pandas",  # Arrow looks whether values are of it
}
_PROGRAM = f"""
import gc, json, sys
from pathlib import Path
from hydratune.cli import main
code = main(sys.argv[2:])
heavy = sorted(set({HEAVY!r}) & set(sys.modules))
Path(sys.argv[1]).write_text(json.dumps([code, heavy, gc.isenabled(), gc.get_freeze_count()]))
"""
_ROWS = [
    {"id": str(n), "prompt": f"What is {n} and {n}?", "completion": f"It is {2 * n}."}
    for n in range(24)
]
_TOY = ("model=tiny", "tracking=disabled", "data=files", "data.train=rows.jsonl")
_SHORT = ("trainer.max_steps=1", "evaluation.baselines=[]", "evaluation.max_new_tokens=4")


def python(program: str, *arguments: str, path: Path | None = None) -> str:
    """Run a program of this interpreter and return what it prints; ``path``: searched first."""
    before = os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{before}"} if path else None
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


class Loaded:
    """A command that was run in a process of its own: its exit code and what it imported."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        file = folder / "loaded.json"
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(file), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
        assert file.is_file(), done.stderr[-3000:]
        self.code, self.heavy, self.collects_garbage, self.frozen = json.loads(file.read_text())
        file.unlink()
        self.printed = done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with rows to train on."""
    folder = tmp_path_factory.mktemp("startup")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, _ROWS)))
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Loaded:
    """A toy run in ``run/``, trained in a process of its own."""
    return Loaded(folder, "train", *_TOY, *_SHORT, "hydra.run.dir=run")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--help"),
        ("prepare", "--help"),
        ("train", "--cfg", "job"),
        ("evaluate", "--cfg", "job"),
        ("compare", "--help"),
    ],
    ids=" ".join,
)
def test_showing_settings_imports_nothing_heavy(folder: Path, arguments: tuple[str, ...]) -> None:
    shown = Loaded(folder, *arguments)
    assert shown.code == 0
    assert set(shown.heavy) <= ({"scipy"} if arguments[0] == "compare" else set())


def test_refusing_a_wrong_setting_imports_nothing_heavy(folder: Path) -> None:
    refused = Loaded(folder, "train", "adapter.rank=8")
    assert refused.code == 2
    assert "did you mean adapter.r?" in refused.printed
    assert not refused.heavy


@pytest.mark.slow
def test_preparing_files_imports_no_model_classes(folder: Path, trained: Loaded) -> None:
    assert trained.code == 0  # it has made the toy model
    prepared = Loaded(folder, "prepare", "data=files", "data.train=rows.jsonl", "model=tiny")
    assert prepared.code == 0
    # transformers' settings of models name torch's functions
    assert set(prepared.heavy) <= {"torch", "torch._dynamo", "transformers", "pandas"}


def test_training_imports_only_what_the_run_uses(trained: Loaded) -> None:
    assert trained.code == 0, trained.printed
    assert set(trained.heavy) <= _TRAINING
    assert trained.collects_garbage
    assert trained.frozen > 100_000  # the modules are no garbage to look for


@pytest.mark.slow
def test_evaluating_imports_only_what_the_run_uses(folder: Path, trained: Loaded) -> None:
    evaluated = Loaded(folder, "evaluate", "run=run", "source=predictions")
    assert evaluated.code == 0, evaluated.printed
    assert set(evaluated.heavy) <= _TRAINING


def test_comparing_imports_no_torch(folder: Path, trained: Loaded) -> None:
    compared = Loaded(folder, "compare", "run")
    assert compared.code == 0, compared.printed
    assert set(compared.heavy) <= {"scipy", "plotly"}


def test_garbage_is_collected_again_after_a_refusal() -> None:
    assert main(["train", "adapter.rank=8"]) == 2
    assert gc.isenabled()
    assert main(["train", "model=local", "model.path=nowhere"]) == 2
    assert gc.isenabled()


@pytest.mark.slow
def test_bitsandbytes_works_where_peft_was_imported_without_it() -> None:
    program = """
import sys
from hydratune import lean_imports
lean_imports.install()
import peft, torch
assert "bitsandbytes" not in sys.modules, "PEFT imports bitsandbytes at once"
plain = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)),
                            peft.LoraConfig(target_modules=["0"]))
peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)),
                    peft.OFTConfig(target_modules=["0"], oft_block_size=8))
peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)),
                    peft.IA3Config(target_modules=["0"], feedforward_modules=[]))
assert "bitsandbytes" not in sys.modules, "an adapter of plain layers imports bitsandbytes"
import bitsandbytes
for layer, flag in ((bitsandbytes.nn.Linear4bit(64, 64), "is_loaded_in_4bit"),
                    (bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False),
                     "is_loaded_in_8bit")):
    model = torch.nn.Sequential(layer)
    setattr(model, flag, True)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["0"]))
    print(type(adapted.base_model.model[0]).__module__, type(adapted.base_model.model[0]).__name__)
    adapted = peft.get_peft_model(torch.nn.Sequential(type(layer)(64, 64)),
                                  peft.OFTConfig(target_modules=["0"], oft_block_size=8))
    print(type(adapted.base_model.model[0].quantization_backend).__name__)
assert peft.helpers.bnb.functional.dequantize_4bit is bitsandbytes.functional.dequantize_4bit
"""
    assert python(program).splitlines() == [
        *("peft.tuners.lora.bnb Linear4bit", "Bnb4bitBackend"),
        *("peft.tuners.lora.bnb Linear8bitLt", "Bnb8bitBackend"),
    ]


@pytest.mark.slow
def test_plots_and_losses_work_where_their_libraries_were_not_imported() -> None:
    pytest.importorskip("matplotlib")
    program = """
import sys
from hydratune import lean_imports
lean_imports.install()
import torchmetrics
import transformers.loss.loss_utils
from transformers.loss.loss_for_object_detection import linear_sum_assignment
early = {"scipy.signal", "scipy.optimize", "matplotlib", "matplotlib.pyplot"} & set(sys.modules)
assert not early, early
rows, columns = linear_sum_assignment([[1.0, 0.0], [0.0, 1.0]])
metric = torchmetrics.MeanMetric()
metric.update(2.0)
figure, axes = metric.plot()
import matplotlib, matplotlib.pyplot, scipy.optimize, torchmetrics.utilities.plot as plots
print(columns.tolist(), type(figure) is matplotlib.figure.Figure,
      plots._AX_TYPE is matplotlib.axes.Axes,
      type(scipy.optimize.linear_sum_assignment).__name__, scipy.signal.__name__)
"""
    assert python(program).split() == (
        ["[1,", "0]", "True", "True", "builtin_function_or_method", "scipy.signal"]
    )


@pytest.mark.slow
def test_transformers_names_the_same_modules_read_once_as_read_twice() -> None:
    program = """
from functools import lru_cache
from pathlib import Path
from hydratune import lean_imports
lean_imports.install()
import transformers
from transformers import AutoConfig
from transformers.utils import import_utils
read = import_utils.create_import_structure_from_path
assert read.cache_info().maxsize is None, "transformers reads its files in another way"
models = Path(transformers.__file__).parent / "models"
lean = import_utils.define_import_structure.__wrapped__(models)
import_utils.create_import_structure_from_path = lru_cache(read.__wrapped__)
print(len(lean) > 3, lean == import_utils.define_import_structure.__wrapped__(models))
"""
    assert python(program).split() == ["True", "True"]


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """Small libraries in place of those whose imports are changed."""
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text("from peft import helpers\n")
    (tmp_path / "bitsandbytes.py").write_text("import sys\nclass Linear4bit: pass\n")
    return tmp_path


_READ_PEFT = """
import sys
from hydratune import lean_imports
lean_imports.install()
import peft
print("bitsandbytes" in sys.modules, peft.helpers.bnb)
"""


def test_a_version_of_peft_that_uses_bitsandbytes_at_once_imports_it(libraries: Path) -> None:
    helpers = libraries / "peft" / "helpers.py"
    helpers.write_text("import bitsandbytes\nbnb = bitsandbytes.Linear4bit.__name__\n")
    assert python(_READ_PEFT, path=libraries).split() == ["True", "Linear4bit"]
    helpers.write_text("from bitsandbytes import Linear4bit\nbnb = Linear4bit.__module__\n")
    assert python(_READ_PEFT, path=libraries).split() == ["True", "bitsandbytes"]


def test_peft_sees_that_bitsandbytes_is_not_installed(libraries: Path) -> None:
    (libraries / "peft" / "helpers.py").write_text(
        "try:\n    import bitsandbytes as bnb\nexcept ImportError:\n    bnb = None\n"
    )
    missing = "import sys\nsys.modules['bitsandbytes'] = None\n"
    assert python(missing + _READ_PEFT, path=libraries).split() == ["True", "None"]
    assert python(_READ_PEFT, path=libraries).split()[0] == "False"
