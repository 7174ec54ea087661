"""Commands that export or serve a run."""

from fix_case import Case

_NO_SERVER = "is installed"  # of the message where no server is; with one, the command is printed
_OLD = "mkdir old && touch old/mine.txt"

OF_EXPORTS: dict[str, list[Case]] = {
    "settings.export:ExportSettings.own_problems": [
        Case(
            "export run=run form=quantised quantization=none",
            {
                "set quantization=nf4": "quantization=nf4",
                "or quantization=int8": "quantization=int8",
                "or form=merged": "form=merged",
            },
            ("run",),
            only_settings=True,
        ),
        Case(
            "export run=run llama_cpp=nowhere",
            {
                "give a copy of llama.cpp's repository": "llama_cpp=cpp",
                "or leave llama_cpp out": "-llama_cpp",
            },
            ("run",),
            "mkdir cpp && touch cpp/convert_hf_to_gguf.py",
            only_settings=True,
        ),
    ],
    "settings.export:ExportSettings._form_problems": [
        Case("export run=run form=[merged,merged]", needs=("run",), only_settings=True),
        Case("export run=run form=[gguf,ollama]", needs=("run",), only_settings=True),
    ],
    "settings.export:ExportSettings._push_problems": [
        Case(
            "export run=run push=model",
            {"give it as push=ORG/NAME": "push=me/model"},
            ("run",),
            only_settings=True,
        ),
        Case(
            "export run=run push=me/model form=[merged,gguf]",
            {"set form=merged": "form=merged"},
            ("run",),
            only_settings=True,
        ),
    ],
    "settings.export:ServeSettings.own_problems": [
        Case(
            "serve",
            {"give run=DIR": "run=run", "or export=DIR": "export=run/adapter"},
            ("run",),
            only_settings=True,
        ),
        Case(
            "serve export=nowhere",
            {"give a folder that": "export=run/adapter"},
            ("run",),
            only_settings=True,
        ),
        Case("serve run=run host=-x", {"set host": "host=127.0.0.1"}, ("run",), only_settings=True),
        Case(
            "serve run=run start_timeout=0",
            {"usual: 600": "start_timeout=600"},
            ("run",),
            only_settings=True,
        ),
    ],
    "export.opened:obstacles": [
        Case("export run=full form=adapter rows=1 output=new", needs=("full",)),
    ],
    "export.output:_refusal": [
        Case("export run=run output=old rows=1", needs=("run",), setup=_OLD),
    ],
    "serving.target:_problem": [
        Case(
            "serve export=run/adapter dry_run=true",
            {"or give run=DIR instead": "run=run -export"},
            ("run",),
            ends=_NO_SERVER,
        ),
    ],
    "serving.servers:_problem": [
        Case(
            "serve export=file server=vllm dry_run=true",
            {
                "set server=transformers": "server=transformers",
                "or leave server out": "-server",
            },
            setup="mkdir file && touch file/model.gguf",
            ends="installed",
        ),
    ],
}
