"""Commands whose rows are refused."""

from fix_case import AGAIN, MODEL, PREPARE, ROWS, TEXTS, TOY, Case, rows_file, turns

OF_ROWS: dict[str, list[Case]] = {
    "data.encoding.examples:_too_long_error": [
        Case(
            f"{TOY} {ROWS} data.max_length=64 data.overlength=error",
            {
                "raise it": "data.max_length=1024",
                "data.overlength=drop": "data.overlength=drop",
                "data.overlength=truncate_prompt": "data.overlength=truncate_prompt",
            },
            setup=rows_file(
                "rows.jsonl",
                {"prompt": "What is N?", "completion": "It is N."},
                {"prompt": "Nothing N happens here. " * 9, "completion": "It is N indeed."},
            ),
        ),
        Case(
            f"{TEXTS} data.max_length=32 data.overlength=error",
            {"data.overlength=split": "data.overlength=split"},
            setup=rows_file(
                "texts.jsonl", {"text": "Nothing N happens here, and that is all. " * 3}
            ),
        ),
    ],
    "data.encoding.examples:nothing_fits_error": [
        Case(
            f"{TOY} data.max_length=211 data.overlength=drop",
            {
                "raise data.max_length": "data.max_length=1024",
                "set data.overlength=truncate_prompt": "data.overlength=truncate_prompt",
            },
        ),
    ],
    "data.encoding.template:ChatTemplate.render": [
        Case(
            f"{TOY} {MODEL}=base model.chat_template=bad.jinja",
            {
                "correct it": "! cp chat.jinja bad.jinja",
                "model.chat_template=FILE": "model.chat_template=chat.jinja",
            },
            ("models",),
            "echo '{% if %}' > bad.jinja",
        ),
    ],
    "data.formats.delimiters:_refuse_unclear": [
        Case(
            f"{TOY} data=files data.train=rows.csv",
            setup="printf 'prompt;completion|x\\n' > rows.csv && for n in $(seq 40); do"
            ' echo "question $n;answer|more"; done >> rows.csv',
            ways={
                "data.delimiter=semicolon": "data.delimiter=semicolon data.columns.prompt=prompt"
                " 'data.columns.completion=\"completion|x\"'",
                "data.delimiter=pipe": "data.delimiter=pipe data.columns.completion=x"
                " 'data.columns.prompt=\"prompt;completion\"'",
            },
        ),
    ],
    "data.formats.layouts:layout_of_named_columns": [
        Case(
            f"{TOY} {ROWS} data.columns.prompt=prompt",
            {"add data.columns.completion=YOURS": "data.columns.completion=completion"},
            ("rows",),
        ),
    ],
    "data.formats.layouts:layout_of_record": [
        Case(
            f"{TOY} {ROWS}",
            {
                "data.columns.prompt=text data.columns.completion=label": "data.columns.prompt="
                "text data.columns.completion=label",
                "data.columns.text=text": "data.columns.text=text",
            },
            setup=rows_file("rows.jsonl", {"text": "It is N.", "label": "good N"}),
        ),
        Case(
            f"{TOY} {ROWS}",
            {
                "data.columns.prompt=YOURS data.columns.completion=YOURS": "data.columns.prompt="
                "ask 'data.columns.completion=\"the reply\"'",
                "or data.columns.text=YOURS": "data.columns.text=ask",
            },
            setup=rows_file("rows.jsonl", {"ask": "What is N?", "the reply": "It is N."}),
        ),
        Case(
            f"{TOY} {ROWS}",
            setup=rows_file(
                "rows.jsonl",
                {"the talk": turns(("user", "What is N?"), ("assistant", "N"))["messages"]},
            ),
        ),
    ],
    "data.formats.preferences:refuse_preferences": [
        Case(
            f"{TOY} {ROWS}",
            setup=rows_file("rows.jsonl", {"prompt": "N?", "chosen": "N.", "rejected": "No N."}),
        ),
        Case(
            f"{TOY} {ROWS}",
            {"data.columns.text=chosen": "data.columns.text=chosen"},
            setup=rows_file("rows.jsonl", {"chosen": "Yes, N.", "rejected": "No N."}),
        ),
    ],
    "data.formats.preferences:refuse_marked": [
        Case(
            f"{TOY} {ROWS}",
            setup=rows_file(
                "rows.jsonl",
                {"prompt": "What is N?", "completion": "It is N.", "label": True},
                {"prompt": "What was N?", "completion": "It was N.", "label": False},
            ),
        ),
    ],
    "data.formats.roles:role_of": [
        Case(
            f"{TOY} {ROWS}",
            setup=rows_file(
                "rows.jsonl", turns(("Mr. X", "What is N?"), ("assistant", "It is N."))
            ),
        ),
    ],
    "data.formats.reader:open_hub": [
        Case(
            f"{TOY} data=hub data.id=nobody/nothing",
            {"download it and use data=files": "-data.id data=files data.train=rows.jsonl"},
            ("rows",),
        ),
    ],
    "data.formats.text_files:_refuse_wide_or_binary": [
        Case(
            f"{TOY} {ROWS}",
            {
                "data.encoding=utf-16": "data.encoding=utf-16",
                "or save the file as UTF-8": "! mv kept.jsonl rows.jsonl",
            },
            ("rows",),
            "cp rows.jsonl kept.jsonl && iconv -t UTF-16 kept.jsonl > rows.jsonl",
        ),
        Case(
            f"{TOY} {ROWS}",
            {"data.encoding=utf-16-le": "data.encoding=utf-16-le"},
            ("rows",),
            "cp rows.jsonl kept.jsonl && iconv -t UTF-16LE kept.jsonl > rows.jsonl",
        ),
    ],
    "data.formats.text_files:wrong_encoding_error": [
        Case(
            f"{TOY} {ROWS}",
            setup=rows_file("utf8.jsonl", {"prompt": "Wie N?", "completion": "Schoen N."})
            + "\nsed 's/Schoen/Schön/' utf8.jsonl | iconv -t LATIN1 > rows.jsonl",
        ),
    ],
    "data.formats.turn_order:_check_tool_turns": [
        Case(
            f"{TOY} {ROWS}",
            setup=rows_file(
                "rows.jsonl",
                turns(
                    ("user", "What is N?"),
                    ("assistant", "I look N up."),
                    ("tool", "N"),
                    ("assistant", "It is N."),
                ),
            ),
        ),
    ],
    "data.output_folder:_cannot_write": [
        Case(f"{PREPARE} output=rows.jsonl/x", {"output=DIR": "output=new"}, ("rows",)),
    ],
    "data.prepared:read_prepared": [
        Case(
            f"{TOY} data=prepared data.path=prepared",
            {
                "run it again": f"hydratune {PREPARE} output=prepared",
                "use the file as data=files": "-data.path data=files"
                " data.train=prepared/train.parquet",
            },
            ("prepared",),
            "cp prepared/validation.parquet prepared/test.parquet",
        ),
        Case(
            f"{TOY} data=prepared data.path=prepared",
            {"make one with hydratune prepare": f"hydratune {PREPARE} output=new"},
            ("prepared",),
            "echo '{}' > prepared/report.json && rm prepared/digests.json",
        ),
    ],
    "data.sets:_refuse_errors": [
        Case(
            f"{TOY} {ROWS} data.test_fraction=0",
            {"hydratune prepare, with the same": f"{AGAIN} {ROWS} data.test_fraction=0"},
            ("rows",),
            ends="report      out",
        ),
        Case(
            f"{TOY} {ROWS} data.test_fraction=0",
            {
                "data.test=FILE": "data.test=others.jsonl",
                "or larger fractions": "data.test_fraction=0.2",
            },
            ("rows",),
            rows_file("others.jsonl", {"prompt": "Where was N found?", "completion": "N."}),
        ),
        Case(
            f"{TOY} data.quality.ungrounded=error",
            {"data.quality.ungrounded=off": "data.quality.ungrounded=off"},
        ),
    ],
    "data.sets:take_share": [Case(f"{TOY} data.train_share=0.01")],
    "data.sets:_shuffle_targets": [
        Case(
            f"{TEXTS} data.control=shuffled_targets",
            {"data.control=shuffled_targets is not possible": "-data.control"},
            ("texts",),
        ),
    ],
    "experiment.compatibility:_look_for_special_tokens": [
        Case(
            f"{TOY} {ROWS} data.quality.template_tokens=error",
            {
                "remove them from the texts": "! sed -i 's/<|im_start|>//' rows.jsonl",
                "data.quality.template_tokens=warn": "data.quality.template_tokens=warn",
            },
            setup=rows_file(
                "rows.jsonl", {"prompt": "What is N?", "completion": "N <|im_start|> N"}
            ),
        ),
    ],
}
