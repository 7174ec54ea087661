"""Settings of exporting a fine-tuned model, and of serving it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydratune import extras
from hydratune.errors import Problem
from hydratune.settings.model import Quantization
from hydratune.settings.paths import path_setting
from hydratune.settings.ranges import at_least, between, one_of
from hydratune.settings.trainer import ACCELERATORS

_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # hosts that only this machine reaches


class ExportForm(StrEnum):
    """In what form a fine-tuned model is written."""

    merged = "merged"  # a whole model with the adapter merged into it, as safetensors
    adapter = "adapter"  # the adapter by itself, for PEFT and vLLM
    quantised = "quantised"  # merged, and stored in 8 or 4 bits by bitsandbytes
    gguf = "gguf"  # merged, as one GGUF file for llama.cpp
    ollama = "ollama"  # the GGUF file with a Modelfile for Ollama


class StoredType(StrEnum):
    """The number format of merged weights."""

    auto = "auto"  # that in which the base model is stored
    float32 = "float32"  # 4 bytes
    bfloat16 = "bfloat16"  # 2 bytes
    float16 = "float16"  # 2 bytes, with fewer large and more exact numbers


class GgufType(StrEnum):
    """The number format of the matrices in a GGUF file; vectors are always f32."""

    f32 = "f32"  # 4 bytes
    f16 = "f16"  # 2 bytes
    bf16 = "bf16"  # 2 bytes
    q8_0 = "q8_0"  # 8 bits, with a scale for every 32 weights


class Server(StrEnum):
    """A program that answers requests with a model."""

    auto = "auto"  # the first of these that is installed and takes the model
    transformers = "transformers"  # transformers serve
    vllm = "vllm"  # vllm serve
    llama_cpp = "llama_cpp"  # llama-server of llama.cpp


@dataclass
class ParityLimits:
    """How far an export may be from the run's base and adapter."""

    # nats, mean over the positions of the reference answers; null: by the form
    mean_kl: float | None = None
    max_kl: float | None = None  # nats, at any of these positions; null: by the form
    # least share of positions with the same most likely token; null: by the form
    agreement: float | None = None
    # most that the task metric may fall, in points of 1; null: by the form
    metric_drop: float | None = None

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the limits."""
        for name in ("mean_kl", "max_kl"):
            yield from at_least(f"limits.{name}", getattr(self, name), 0)
        for name in ("agreement", "metric_drop"):
            if (value := getattr(self, name)) is not None:
                yield from between(f"limits.{name}", value, 0, 1)


@dataclass
class ExportSettings:
    """What is exported, in which forms, and how exactly."""

    run: str = path_setting()  # its directory
    output: str | None = path_setting(None)  # new folder; null: export in the run's directory
    # merged, adapter, quantised, gguf or ollama; of several, [merged,gguf], each is a folder in
    # output
    form: Any = "merged"
    dtype: StoredType = StoredType.auto  # number format of merged weights
    quantization: Quantization = Quantization.nf4  # of form=quantised
    gguf_type: GgufType = GgufType.f16  # number format of the matrices in a GGUF file
    # folder of llama.cpp, whose convert_hf_to_gguf.py then writes the GGUF file; null: that of the
    # environment variable LLAMA_CPP, and without it the package gguf
    llama_cpp: str | None = path_setting(None)
    rows: int = 20  # test rows of the parity check
    limits: ParityLimits = field(default_factory=ParityLimits)
    batch_size: int | None = None  # rows generated together; null: the run's own
    accelerator: str | None = None  # auto, cpu or gpu; null: the run's own
    # system prompt in Ollama's Modelfile; null: that of the training data
    system: str | None = None
    temperature: float = 0.0  # in Ollama's Modelfile; 0: the most likely token
    # ORG/NAME on the Hugging Face hub to which the finished export is uploaded; null: nowhere
    push: str | None = None
    push_private: bool = True  # whether a repository that is created there is private

    @property
    def forms(self) -> list[ExportForm]:
        """The forms, in the order in which they are written."""
        return [ExportForm(str(name)) for name in self._given]

    @property
    def _given(self) -> list[object]:
        return list(self.form) if isinstance(self.form, list | tuple) else [self.form]

    def own_problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings but those of the run."""
        yield from self._form_problems()
        if self.quantization is Quantization.none and "quantised" in map(str, self._given):
            fix = "set quantization=nf4 or quantization=int8, or form=merged"
            yield Problem("quantization", "none", "the form quantised needs one", fix)
        yield from at_least("rows", self.rows, 1)
        yield from at_least("batch_size", self.batch_size, 1)
        yield from at_least("temperature", self.temperature, 0)
        yield from self.limits.problems()
        if self.accelerator is not None:
            yield from one_of("accelerator", self.accelerator, ACCELERATORS, " or null")
        if self.llama_cpp is not None and not converter_in(self.llama_cpp).is_file():
            why = "there is no convert_hf_to_gguf.py in this folder"
            fix = "give a copy of llama.cpp's repository, or leave llama_cpp out"
            yield Problem("llama_cpp", self.llama_cpp, why, fix)
        yield from self._push_problems()

    def without_effect(self) -> Mapping[str, str]:
        """Return the settings that change nothing beside the others, and why."""
        forms = set(map(str, self._given))
        chosen = (
            f"form={self.form}"
            if isinstance(self.form, str)
            else f"form=[{','.join(sorted(forms))}]"
        )
        users = {
            "quantization": {"quantised"},
            "gguf_type": {"gguf", "ollama"},
            "llama_cpp": {"gguf", "ollama"},
            "dtype": {"merged", "quantised"},
            "system": {"ollama"},
            "temperature": {"ollama"},
        }
        idle = {
            name: f"it is for {' and '.join(f'form={form}' for form in sorted(of))}, not {chosen}"
            for name, of in users.items()
            if not of & forms
        }
        if self.push is None:
            idle["push_private"] = "nothing is uploaded without push=ORG/NAME"
        return idle

    def _form_problems(self) -> Iterator[Problem]:
        given = self._given
        options = [form.value for form in ExportForm]
        for name in given or [""]:
            yield from one_of("form", str(name), options)
        if len(set(map(str, given))) < len(given):
            names = ",".join(dict.fromkeys(map(str, given)))
            yield Problem("form", given, "one form is named twice", f"set form=[{names}]")
        if {"gguf", "ollama"} <= set(map(str, given)):
            why = "ollama holds the same GGUF file"
            names = ",".join(str(name) for name in given if name != "gguf")
            yield Problem("form", given, why, f"set form=[{names}]")
        if "quantised" in map(str, given):
            yield from extras.missing("bitsandbytes", "form", "quantised")

    def _push_problems(self) -> Iterator[Problem]:
        if self.push is None:
            return
        if not _HUB_ID.fullmatch(self.push):
            why = "this is not the name of a repository on the hub"
            yield Problem("push", self.push, why, "give it as push=ORG/NAME")
        if len(given := self._given) > 1:
            why = "a repository on the hub holds one form of a model"
            yield Problem("push", self.push, why, f"set form={given[0]}, and export each alone")


@dataclass
class ServeSettings:
    """What is served, by which program, and where."""

    run: str | None = path_setting(None)  # directory of a finished run
    export: str | None = path_setting(None)  # folder that hydratune export wrote, instead of a run
    server: Server = Server.auto  # which program answers
    # address at which requests are taken; 0.0.0.0 takes them from every machine in the network
    host: str = "127.0.0.1"
    port: int = 8000  # at this address
    # further arguments of the server, such as [--max-model-len,4096]
    arguments: list[str] = field(default_factory=list)
    start_timeout: float = 600.0  # seconds in which the server has to answer
    dry_run: bool = False  # print the command, and start nothing

    def own_problems(self) -> Iterator[Problem]:
        """Yield every problem of these settings but those of the run."""
        if (self.run is None) == (self.export is None):
            why = "nothing to serve was given" if self.run is None else "both a run and an export"
            fix = "give run=DIR, or export=DIR of a folder that hydratune export wrote"
            yield Problem("run", self.run, why, fix)
        if self.export is not None and not Path(self.export).is_dir():
            what = "a file" if Path(self.export).exists() else "no such folder"
            fix = "give a folder that hydratune export wrote"
            yield Problem("export", self.export, f"this is {what}", fix)
        yield from between("port", self.port, 1, 65535)
        if not self.host or self.host.startswith("-"):
            yield Problem("host", self.host, "this is no address", "set host=127.0.0.1")
        if not self.start_timeout > 0:
            why = "a server needs some time to load a model"
            yield Problem("start_timeout", self.start_timeout, why, "usual: 600")


def converter_in(folder: str) -> Path:
    """Return llama.cpp's converter in a copy of its repository."""
    return Path(folder).expanduser() / "convert_hf_to_gguf.py"
