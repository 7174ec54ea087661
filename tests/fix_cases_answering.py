"""Commands that answer with the model of a run, and are refused."""

from fix_case import Case

_ASK = "generate run=run input=rows.jsonl output=out.jsonl rows=1 max_new_tokens=2"
_NEEDS = ("run", "rows")
_SCHEMA = """echo '{"enum": ["a"]}' > schema.json"""

OF_ANSWERING: dict[str, list[Case]] = {
    "settings.answering:AnsweringConfig.answering_problems": [
        Case(
            f"{_ASK} top_p=0",
            {"example top_p=0.95": "top_p=0.95", "top_p=1 draws": "top_p=1"},
            _NEEDS,
            only_settings=True,
        ),
        Case(
            f"{_ASK} json_schema=nothing.json",
            {
                "give a JSON schema file": "json_schema=schema.json",
                "or json_schema=run": "json_schema=run",
            },
            _NEEDS,
            _SCHEMA,
            only_settings=True,
        ),
    ],
    "settings.answering:GeneratingConfig.generating_problems": [
        Case(
            "generate run=run input=row.jsonl output=out.jsonl",
            {"give a file with rows": "input=rows.jsonl"},
            _NEEDS,
            only_settings=True,
        ),
    ],
    "settings.answering:GeneratingConfig._output_problems": [
        Case(
            "generate run=run input=rows.jsonl output=out.csv",
            {"output=out.jsonl": "output=out.jsonl"},
            _NEEDS,
            only_settings=True,
        ),
        Case(
            "generate run=run input=rows.jsonl output=rows.jsonl",
            {"output=answers.jsonl": "output=answers.jsonl"},
            _NEEDS,
            only_settings=True,
        ),
        Case(
            "generate run=run input=rows.jsonl output=folder.jsonl",
            {"output=folder.jsonl/a.jsonl": "output=folder.jsonl/a.jsonl"},
            _NEEDS,
            "mkdir folder.jsonl",
            only_settings=True,
        ),
    ],
    "settings.answering:ChattingConfig.chatting_problems": [
        Case(
            "chat run=run compare=true base=true",
            {"leave one of the two": "-base", "of the two out": "-compare"},
            ("run",),
            only_settings=True,
        ),
        Case(
            "chat run=run load=nothing.json",
            {"give the file of a conversation": "load=chat.json"},
            ("run",),
            "echo '{}' > chat.json",
            only_settings=True,
        ),
    ],
    "experiment.answering.asking:read_rows": [
        Case(f"{_ASK} delimiter=ab", {"one of: comma": "delimiter=comma"}, _NEEDS),
    ],
    "experiment.answering.answer_file:AnswerFile._refuse": [
        Case(
            _ASK,
            {"output=out-2.jsonl": "output=out-2.jsonl", "or delete the file": "! rm out.jsonl"},
            _NEEDS,
            "echo '{}' > out.jsonl",
        ),
    ],
    "experiment.answering.answer_file:AnswerFile._writing": [
        Case(
            f"{_ASK} output=a/out.jsonl",
            {"choose another output=FILE.jsonl": "output=new.jsonl"},
            _NEEDS,
            "touch a",
        ),
    ],
    "experiment.answering.scoring:require_references": [
        Case(
            f"{_ASK} input=bare.jsonl metrics=true",
            {"leave metrics out": "-metrics"},
            _NEEDS,
            """echo '{"prompt": "a"}' > bare.jsonl""",
        ),
    ],
    "experiment.answering.model:AnsweringModel.schema": [
        Case(
            "generate run=texts input=rows.jsonl output=out.jsonl rows=1 max_new_tokens=2"
            " json_schema=run",
            {"json_schema=FILE": "json_schema=schema.json", "or leave it out": "-json_schema"},
            ("texts", "rows"),
            _SCHEMA,
        ),
    ],
}
