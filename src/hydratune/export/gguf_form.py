"""form=gguf: the merged model as one GGUF file, by llama.cpp's converter or by the package gguf."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hydratune.errors import InputError, RunError
from hydratune.export import gguf_file
from hydratune.export import merged as merged_form
from hydratune.export.form import Written, exactness_of, in_fp32
from hydratune.export.gguf_tokenizer import ADVICE, pre_tokenizer_name
from hydratune.export.limits import Exactness
from hydratune.export.opened import OpenedRun
from hydratune.models import loading
from hydratune.settings.export import ExportSettings, GgufType, converter_in
from hydratune.settings.secrets import mask

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_ENVIRONMENT = "LLAMA_CPP"  # names the folder of llama.cpp where the settings do not
_DTYPES = {GgufType.f32: torch.float32, GgufType.f16: torch.float16, GgufType.bf16: torch.bfloat16}
_LAST_LINES = 5  # of the converter, in a message


def write(
    opened: OpenedRun, merged: "PreTrainedModel | None", config: ExportSettings, to: Path
) -> Written:
    """Write ``model-TYPE.gguf`` into the folder ``to``."""
    assert merged is not None
    file = to / f"model-{config.gguf_type.value}.gguf"
    converter = _converter(config)
    model = opened.job.config.model
    if converter is not None:
        _convert(opened, merged, converter, config.gguf_type, file)
        writer = "convert_hf_to_gguf.py of llama.cpp"
    else:
        gguf_file.write_file(
            merged,
            opened.tokenizer,
            file,
            name=f"{model.name}, fine-tuned",
            licence=None if model.licence == "unknown" else model.licence,
            ends=opened.job.answer_ends,
            kind=config.gguf_type,
        )
        writer = f"the package gguf, pre-tokenizer {pre_tokenizer_name(opened.tokenizer)}"
    facts: dict[str, object] = {
        "type": config.gguf_type.value,
        "written by": writer,
        "file": file.name,
    }
    return Written(_exactness(opened, config.gguf_type), facts=facts)


def check(opened: OpenedRun, config: ExportSettings) -> None:
    """Raise ``RunError`` if the model cannot be written, before anything is computed."""
    if _converter(config) is None:
        own = opened.job.model.config.get_text_config()
        if (why := gguf_file.obstacle(own)) is not None:
            raise RunError(f"no GGUF file can be written of this model: {why}; {ADVICE}")
        pre_tokenizer_name(opened.tokenizer)


def _exactness(opened: OpenedRun, kind: GgufType) -> Exactness:
    if kind is GgufType.q8_0:
        return Exactness.eight_bits
    return exactness_of(opened, _DTYPES[kind])


def _converter(config: ExportSettings) -> Path | None:
    """Return llama.cpp's converter. Raises ``InputError`` if the environment names a wrong one."""
    given = config.llama_cpp or os.environ.get(_ENVIRONMENT)
    if not given:
        return None
    file = converter_in(given)
    if not file.is_file():
        raise InputError(
            f"the environment variable {_ENVIRONMENT} names {given}, where there is no"
            f" {file.name}; correct it, or unset {_ENVIRONMENT}"
        )
    return file


def _convert(
    opened: OpenedRun, merged: "PreTrainedModel", converter: Path, kind: GgufType, file: Path
) -> None:
    """Let llama.cpp's converter write ``file``. Raises ``RunError`` with what it says."""
    dtype = _DTYPES.get(kind, torch.float32)
    with tempfile.TemporaryDirectory(dir=file.parent.parent, prefix=".whole-") as folder:
        merged_form.save(opened, merged, dtype, Path(folder))
        command = [sys.executable, str(converter), folder]
        command += ["--outfile", str(file), "--outtype", kind.value]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
    if done.returncode or not file.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:]
        said = "\n  ".join(mask(line) for line in lines) or "it said nothing"
        raise RunError(f"{converter} failed (exit code {done.returncode}):\n  {said}")


def load(opened: OpenedRun, folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load the file by transformers, in fp32.

    transformers does not read how Llama 3.1 scales positions, nor the size of a head of Qwen 3:
    where these are not its defaults, the weights are loaded under the config of the run's model.
    """
    (file,) = folder.glob("*.gguf")
    compute = in_fp32(opened.job.compute)
    own = opened.job.model.config
    options: dict[str, object] = {} if _is_read(own.get_text_config(), file) else {"config": own}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), gguf_file=file.name, trust_remote_code=False
            )
            model = AutoModelForCausalLM.from_pretrained(
                str(folder),
                gguf_file=file.name,
                dtype=torch.float32,
                trust_remote_code=False,
                **options,
            )
    except (ValueError, NotImplementedError) as error:
        raise RunError(
            f"transformers cannot load {file.name} back ({error}), so nothing can be compared"
        ) from error
    model = model.to(compute.device)
    tokenizer.pad_token_id = opened.tokenizer.pad_token_id
    return loading.prepare_model(model, opened.unquantised, compute), tokenizer


def _is_read(own: "PretrainedConfig", file: Path) -> bool:
    """Return whether transformers reads from the file what the config of the model says."""
    read = AutoConfig.from_pretrained(
        str(file.parent), gguf_file=file.name, trust_remote_code=False
    )
    same_heads = gguf_file.head_dim(read) == gguf_file.head_dim(own)
    return same_heads and gguf_file.rope_type(own) == "default"


def usage(opened: OpenedRun, config: ExportSettings) -> str:
    """Return the section of the card that says how the file is run."""
    return f"## How to run it\n\n{how_to_run(opened, config)}"


def how_to_run(opened: OpenedRun, config: ExportSettings) -> str:
    """Return how llama.cpp runs the file, and where an answer ends."""
    ends = ", ".join(map(str, opened.job.answer_ends))
    return (
        f"`llama-server -m model-{config.gguf_type.value}.gguf --jinja --port 8000` answers"
        " OpenAI's requests at http://127.0.0.1:8000/v1; `hydratune serve export=FOLDER` starts"
        f" it. The chat template is in the file. An answer ends with token {ends}.\n"
    )
