"""Commands whose files, folders or single settings are refused."""

from fix_case import FILES_PART, MODEL, PART, PREPARE, ROWS, RUN, SCHEMA, TOY, Case

OF_FILES: dict[str, list[Case]] = {
    "composition.hydra_settings:_run_folder_problem": [
        Case(
            "prepare model=tiny hydra.run.dir=x",
            {"output=x": "output=x -hydra.run.dir"},
            only_settings=True,
        ),
        Case(
            "evaluate run=run hydra.run.dir=x",
            {"leave it out": "-hydra.run.dir"},
            ("run",),
            only_settings=True,
        ),
    ],
    "composition.mappings:schema_problem": [
        Case(
            f"{TOY} {ROWS} +data.schema.type=object",
            {
                "data.schema_file=FILE": "-data.schema.type data.schema_file=schema.json",
            },
            ("rows",),
            SCHEMA,
            only_settings=True,
        ),
    ],
    "composition.resolvers:run_name": [
        Case(
            f"{TOY} name=a/b",
            {"use letters": "name=a-b", "set hydra.run.dir=DIR": "-name hydra.run.dir=a/b"},
            only_settings=True,
        ),
    ],
    "data.cases.base:CaseData.source_problems": [
        Case(
            "train data=repository data.path=nowhere",
            {"give the folder with": "data.path=code"},
            setup="mkdir code && echo 'a = 1' > code/a.py",
            only_settings=True,
        ),
    ],
    "data.cases.repository:RepositoryData.source_problems": [
        Case(
            "train data=repository data.path=. data.tasks=[]",
            {"some of: body": "data.tasks=[body]"},
            only_settings=True,
        ),
        Case(
            "train data=repository data.path=. data.max_lines=2",
            {"set 3 or more": "data.max_lines=3"},
            only_settings=True,
        ),
    ],
    "data.output_folder:_refusal": [
        Case(f"{PREPARE} output=rows.jsonl", {"give a folder": "output=new"}, ("rows",)),
        Case(
            f"{PREPARE} output=others",
            {"choose an empty or a new folder": "output=new"},
            ("rows",),
            "mkdir others && touch others/notes.txt",
        ),
        Case(
            "prepare model=tiny data=prepared data.path=prepared output=prepared",
            {"give another folder": "output=new"},
            ("prepared",),
        ),
        Case(
            PREPARE,
            {
                "output=outputs/prepared/rows-2": "output=outputs/prepared/rows-2",
                "to replace the other data set": "output=outputs/prepared/rows",
            },
            ("rows",),
            """mkdir -p outputs/prepared/rows && echo '{"origin": {"train": "x"}}' >"""
            " outputs/prepared/rows/report.json",
        ),
    ],
    "data.sources.files:FilesData.source_problems": [
        Case(
            f"{TOY} data=files data.train=nowhere.jsonl",
            {"files with rows in that folder: rows.jsonl": "data.train=rows.jsonl"},
            ("rows",),
            only_settings=True,
        ),
    ],
    "data.sources.files:FilesData._delimiter_problems": [
        Case(
            f"{TOY} data=files data.train=rows.csv data.delimiter=xy",
            {
                "one of: comma": "data.delimiter=comma",
                "or one other character": "'data.delimiter=\"|\"'",
            },
            ("rows",),
            "sed 's/,/|/g' rows.csv > bars.csv && cp bars.csv rows.csv",
            only_settings=True,
            ends="",
        ),
        Case(
            f"{TOY} {ROWS} data.delimiter=comma",
            {"leave it out": "-data.delimiter"},
            ("rows",),
            only_settings=True,
        ),
    ],
    "data.sources.mixed:MixedData.source_problems": [
        Case(
            f"{TOY} data=mixed",
            {
                "data.parts.NAME.source=files data.parts.NAME.train=FILE": "-data.parts"
                " data.parts.own.source=files data.parts.own.train=rows.jsonl"
            },
            ("rows",),
            only_settings=True,
        ),
    ],
    "data.sources.mixed:_part_problems": [
        Case(
            f"{TOY} data=mixed {PART}.source=file {PART}.train=rows.jsonl",
            {"one of: ": f"{PART}.source=files"},
            ("rows",),
            only_settings=True,
        ),
        Case(
            f"{TOY} {FILES_PART} {PART}.weight=0",
            {"for example 1": f"{PART}.weight=1"},
            ("rows",),
            only_settings=True,
        ),
        Case(
            f"{TOY} {FILES_PART} {PART}.max_length=64",
            {"set data.max_length": "-data.parts.own.max_length data.max_length=64"},
            ("rows",),
            only_settings=True,
        ),
        Case(
            f"{TOY} data=mixed {PART}.source=repository {PART}.path=. {PART}.min_lines=0",
            {"set it to 1 or more": f"{PART}.min_lines=1"},
            only_settings=True,
        ),
        Case(
            f"{TOY} {FILES_PART} {PART}.columns.promt=prompt {PART}.columns.completion=completion",
            {
                "did you mean data.parts.own.columns.prompt?": "-data.parts.own.columns.promt"
                f" {PART}.columns.prompt=prompt"
            },
            ("rows",),
            only_settings=True,
        ),
    ],
    "data.sources.prepared:PreparedData.source_problems": [
        Case(
            f"{TOY} data=prepared data.path=nowhere",
            {"give the folder that hydratune prepare wrote": "data.path=prepared"},
            ("prepared",),
        ),
        Case(
            f"{TOY} data=prepared data.path=prepared data.quality.similarity=0.9",
            {
                "give data.quality to hydratune prepare": "hydratune"
                f" {PREPARE} data.quality.similarity=0.9"
            },
            ("prepared", "rows"),
        ),
    ],
    "data.sources.records:RecordsConfig.record_problems": [
        Case(
            f"{TOY} {ROWS} data.columns.promt=prompt data.columns.completion=completion",
            {"did you mean data.columns.prompt?": "-data.columns.promt data.columns.prompt=prompt"},
            ("rows",),
            only_settings=True,
        ),
        Case(
            f"{TOY} {ROWS} data.roles.bot=robot",
            {"one of: ": "data.roles.bot=assistant"},
            ("rows",),
            only_settings=True,
        ),
    ],
    "evaluation.panel:_read": [
        Case(
            f"{TOY} evaluation.forgetting.measure=true evaluation.forgetting.questions=no.jsonl",
            {
                "give a JSONL file": "evaluation.forgetting.questions=questions.jsonl",
                "or null for the built-in panel": "evaluation.forgetting.questions=null",
            },
            setup="""echo '{"question": "How many?", "answer": "3"}' > questions.jsonl""",
        ),
    ],
    "models.sources.local:LocalModel.own_problems": [
        Case(
            f"{TOY} {MODEL}=nowhere",
            {"give a Hugging Face model folder": "model.path=base"},
            ("models",),
        ),
    ],
    "settings.model:ModelConfig.problems": [
        Case(
            f"{TOY} {MODEL}=bare model.chat_template=no.jinja",
            {
                "give a Jinja file": "model.chat_template=chat.jinja",
                "or plain": "model.chat_template=plain",
                "or tools": "model.chat_template=tools",
            },
            ("models",),
        ),
        Case(
            f"{TOY} model.chat_template=no.jinja",
            {"or null": "model.chat_template=null"},
        ),
    ],
    "models.sources.local:LocalModel.loading_error": [
        Case(
            f"{TOY} {MODEL}=bare",
            {"give a complete Hugging Face folder": "model.path=base"},
            ("models",),
            "rm bare/model.safetensors && mv chat.jinja bare/chat_template.jinja",
        ),
    ],
    "settings.data:DataConfig._schema_problems": [
        Case(
            f"{TOY} data.schema_file=schema.json",
            {"give one of the two": "-data.schema_file", "give one": "data.schema=null"},
            setup=SCHEMA,
            only_settings=True,
        ),
        Case(
            f"{TOY} {ROWS} data.schema_file=nowhere.json",
            {"give a JSON schema file": "data.schema_file=schema.json"},
            ("rows",),
            SCHEMA,
            only_settings=True,
        ),
    ],
    "sweeps.search.study:open_storage": [
        Case(
            f"train -m {RUN[6:]} seed=0,1 hydra.sweep.dir=sweep hydra/sweeper=random"
            " hydra.sweeper.n_trials=2 hydra.sweeper.storage=nothing://x",
            {
                "null (a file": "hydra.sweeper.storage=null",
                "a file": "hydra.sweeper.storage=study.log",
                "sqlite:///study.db": "hydra.sweeper.storage=sqlite:///study.db",
            },
        ),
    ],
}
