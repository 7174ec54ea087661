"""lm-eval's tasks on local files, in a separate process, because lm-eval changes logging and
warnings.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SMALL, write_rows

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-eval, the extra of that name, is not installed",
)
TASK = """\
task: own_texts
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
"""


@pytest.mark.slow
def test_a_local_lm_eval_task_gives_our_bits_per_byte(
    hydratune: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, out = hydratune("train", *SMALL, "hydra.run.dir=run")
    assert code == 0, out
    rows = [{"text": "Either party may terminate this agreement. " * n} for n in (1, 5, 20)]
    file = write_rows(tmp_path / "texts.jsonl", rows)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(TASK.replace("FILE", str(file)))
    command = [
        sys.executable,
        "-m",
        "hydratune",
        "evaluate",
        "run=run",
        f"texts={file}",
        "window=64",
    ]
    command += ["lm_eval=[own_texts]", "lm_eval_path=tasks"]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    theirs = json.loads((tmp_path / "run" / "evaluation_lm_eval.json").read_text())["systems"]
    ours = json.loads((tmp_path / "run" / "evaluation_texts.json").read_text())["systems"]
    for system in ("base", "tuned"):
        assert theirs[system]["own_texts"]["bits_per_byte"] == pytest.approx(
            ours[system]["bits_per_byte"], rel=1e-5
        )


@pytest.mark.slow
def test_unknown_task_and_folder(hydratune: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    probe = "from hydratune.evaluation.harness import check; check({}, {})"
    for tasks, folder, message in (
        (["no_such_task_at_all"], None, "no such task"),
        (["wikitext"], "nowhere", "no such folder"),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", probe.format(tasks, repr(folder))],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 1 and message in ended.stderr, ended.stderr
