"""Commands whose model, or saved adapter, cannot be used."""

from fix_case import LOOSE, MODEL, ROWS, TOY, Case

OF_MODELS: dict[str, list[Case]] = {
    "adapters.base:PromptAdapter.model_problems": [
        Case(
            f"{TOY} {MODEL}=window adapter=prompt_tuning adapter.num_virtual_tokens=70",
            {"set fewer than 64": "adapter.num_virtual_tokens=63"},
            ("models",),
        )
    ],
    "experiment.compatibility:check_model": [
        Case(f"{TOY} {MODEL}=short", needs=("models",)),
        Case(
            f"{TOY} {MODEL}=short data.max_length=512 adapter=prompt_tuning"
            " adapter.num_virtual_tokens=510",
            needs=("models",),
        ),
    ],
    "experiment.compatibility:check_monitor": [
        Case(
            f"{TOY} {ROWS} trainer.monitor=val/field_f1",
            {"val/loss": "trainer.monitor=val/loss", "val/rougeL": "trainer.monitor=val/rougeL"},
            ("rows",),
        ),
        Case(
            f"{TOY} trainer.monitor=val/rougeL",
            {
                "val/field_f1": "trainer.monitor=val/field_f1",
                "evaluation.metrics=[json,rouge]": "evaluation.metrics=[json,rouge]",
            },
        ),
    ],
    "experiment.compatibility:check_examples": [
        Case(
            f"{TOY} adapter=prompt_tuning adapter.num_virtual_tokens=1900",
        ),
    ],
    "experiment.compatibility:_no_such_embedding": [
        Case(
            f"{TOY} model=local 'model.path=\"it'\"'\"'s\"'",
            {"or enlarge it once": "printed"},
            ("models",),
            'mv more_tokens "it\'s"',
        )
    ],
    "evaluation.assess:TestSet.check": [
        Case(
            f"{TOY} {MODEL}=base evaluation.max_new_tokens=2000",
            {"lower data.max_length or evaluation.max_new_tokens": "evaluation.max_new_tokens=4"},
            ("models",),
        )
    ],
    "evaluation.metrics:choose_task": [
        Case(
            f"{TOY} {ROWS} evaluation.task=json",
            {
                "set evaluation.task=text": "evaluation.task=text",
                "or correct the data": "! sed -i 's/It is [a-z.]*/{}/' rows.jsonl",
            },
            ("rows",),
        )
    ],
    "models.loading:prepare_tokenizer": [
        Case(
            f"{TOY} {MODEL}=bare",
            {
                "set model.chat_template=plain": "model.chat_template=plain",
                "or give a Jinja file": "model.chat_template=chat.jinja",
            },
            ("models",),
        )
    ],
    "models.router_loss:refuse_router_loss": [
        Case(
            f"{TOY} {MODEL}=moe",
            {
                'set "output_router_logits": false': "! cp -r moe copy &&"
                ' sed -i \'s/"output_router_logits": true/"output_router_logits": false/\''
                " copy/config.json && rm -r moe && mv copy moe"
            },
            ("models",),
        )
    ],
    "models.hardware:accelerator": [
        Case(f"{TOY} trainer=gpu", {"set trainer=cpu": "trainer=cpu"}),
    ],
    "training.fit:_make_objective": [
        Case(f"{TOY} {MODEL}=padded trainer.neftune_alpha=5", needs=("models",))
    ],
    "training.schedules:check": [
        Case(
            f"{TOY} optimizer.warmup_steps=9",
            {
                "set fewer": "optimizer.warmup_steps=1",
                "or train for longer": "trainer.max_steps=null trainer.max_epochs=9",
            },
        )
    ],
}


OF_SAVED_ADAPTERS: dict[str, list[Case]] = {
    "adapters.folder:_not_found": [
        Case(
            f"{TOY} model.adapter=nowhere",
            {"give a run directory": "model.adapter=run", "adapter/": "model.adapter=run/adapter"},
            ("run",),
        ),
        Case(
            f"{TOY} 'model.adapter=\"it'\"'\"'s base\"'",
            needs=("models",),
        ),
        Case(
            f"{TOY} model.adapter=sweep",
            needs=("run",),
            setup="mkdir sweep && echo '{\"jobs\": []}' > sweep/sweep.json && cp -r run sweep/0",
        ),
        Case(
            f"{TOY} model.adapter=outer",
            needs=("run",),
            setup="mkdir outer && cp -r run/adapter outer/'a, b'",
        ),
        Case(
            f"{TOY} model.adapter=unfinished",
            {"give a run that was finished": "model.adapter=run"},
            ("run",),
            "cp -r run unfinished && rm -r unfinished/adapter",
        ),
    ],
    "adapters.folder:_read": [
        Case(
            f"{TOY} model.adapter=run",
            {
                "bring it back": "! mv kept.safetensors run/adapter/adapter_model.safetensors",
                "give another adapter": "model.adapter=other",
            },
            ("run",),
            "cp -r run other && mv run/adapter/adapter_model.safetensors kept.safetensors",
        ),
        Case(
            f"{TOY} model.adapter=loose",
            {"bring the file back": "! cp run/adapter/adapter_config.json loose/"},
            ("run",),
            f"{LOOSE} && echo '[]' > loose/adapter_config.json",
        ),
    ],
    "adapters.folder:saved_settings": [
        Case(
            f"{TOY} model.adapter=loose",
            {
                "bring the file back": "! cp run/adapter/adapter_config.json loose/",
                "give another adapter": "model.adapter=run",
            },
            ("run",),
            f"""{LOOSE} && sed -i 's/"r": 4/"r": "many"/' loose/adapter_config.json""",
        ),
    ],
    "adapters.folder:_trainable_method": [
        Case(
            f"{TOY} model.adapter=loose",
            {
                "give another adapter": "model.adapter=run",
                "leave model.adapter out": "-model.adapter",
            },
            ("run",),
            f"{LOOSE} && sed -i s/CAUSAL_LM/SEQ_CLS/ loose/adapter_config.json",
        ),
    ],
    "adapters.folder:use_saved_settings": [
        Case(
            f"{TOY} model.adapter=run adapter=none",
            {"leave adapter out": "-adapter", "or model.adapter": "-model.adapter"},
            ("run",),
        ),
    ],
    "adapters.folder:_contradictions": [
        Case(
            f"{TOY} model.adapter=run adapter.r=8",
            {"leave it out": "-adapter.r", "or leave model.adapter out": "-model.adapter"},
            ("run",),
        ),
        Case(
            f"{TOY} model.adapter=run adapter=dora",
            {"leave it out": "-adapter", "or leave model.adapter out": "-model.adapter"},
            ("run",),
        ),
    ],
    "adapters.folder:_foreign_setting": [
        Case(
            f"{TOY} model.adapter=run adapter=vera adapter.vera_dropout=0.1",
            {
                "adapter=lora adapter.lora_dropout=0.1": "-adapter.vera_dropout"
                " adapter=lora adapter.lora_dropout=0.1",
            },
            ("run",),
        ),
        Case(
            f"{TOY} model.adapter=run adapter.extra.lora_bias=false",
            {
                "leave it out": "-adapter.extra.lora_bias",
                "or leave model.adapter out": "-model.adapter",
            },
            ("run",),
        ),
    ],
    "adapters.continued:_with_new_adapter": [
        Case(
            f"{TOY} model.adapter=loose",
            {"or another adapter": "model.adapter=run"},
            ("run",),
            f"{LOOSE} && sed -i '1s/{{/{{\"a_field_of_tomorrow\": 3,/' loose/adapter_config.json",
        ),
    ],
    "adapters.continued:_weights": [
        Case(
            f"{TOY} model.adapter=loose",
            {
                "bring the file back": "! cp run/adapter/adapter_model.safetensors loose/",
                "give another adapter": "model.adapter=run",
            },
            ("run",),
            f"{LOOSE} && echo cut > loose/adapter_model.safetensors",
        ),
    ],
    "adapters.continued:_misfits": [
        Case(
            f"{TOY} model.adapter=loose",
            {"or another adapter": "model.adapter=run"},
            ("run",),
            f"""{LOOSE} && sed -i 's/"r": 4/"r": 8/' loose/adapter_config.json""",
        ),
        Case(
            f"{TOY} {MODEL}=base model.adapter=loose",
            {"give the base model that it was trained on": "model=tiny -model.path"},
            ("run", "models"),
            LOOSE,
        ),
    ],
    "adapters.continued:check_base": [
        Case(
            f"{TOY} {MODEL}=base_of_others model.adapter=loose",
            needs=("models", "local_run"),
            setup="cp -r local_run/adapter loose",
        ),
    ],
    "adapters.continued:_check_recorded_base": [
        Case(
            f"{TOY} {MODEL}=base_of_others model.adapter=local_run", needs=("models", "local_run")
        ),
        Case(
            f"{TOY} model.quantization=nf4 model.adapter=run",
            {
                "model.quantization=none": "model.quantization=none",
                "or leave model.adapter out": "-model.adapter",
            },
            ("run",),
        ),
    ],
}
