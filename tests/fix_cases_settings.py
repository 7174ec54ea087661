"""Commands with settings that are refused, by themselves or beside others."""

from fix_case import ADALORA, CHECK, JUDGE, JUDGED, MODEL, PART, REPOSITORY, ROWS, TOY, Case

OF_SETTINGS: dict[str, list[Case]] = {
    "settings.ranges:above_zero": [Case(f"{TOY} optimizer.eps=0")],
    "adapters.base:LayerAdapter.problems": [
        Case(
            f"{TOY} adapter.target_modules=[]",
            {
                "set adapter.target_modules=[all-linear]": "adapter.target_modules=[all-linear]",
                "or null for PEFT's choice": "adapter.target_modules=null",
            },
        ),
        Case(
            f"{TOY} adapter.layers_pattern=layers",
            {"set adapter.layers_to_transform as well": "adapter.layers_to_transform=[0]"},
        ),
    ],
    "adapters.base:PromptAdapter.problems": [
        Case(f"{TOY} adapter=prefix_tuning adapter.num_virtual_tokens=2045"),
        Case(f"{TOY} adapter=prompt_tuning trainer.neftune_alpha=5"),
    ],
    "adapters.methods.adalora:AdaLoraAdapter.problems": [
        Case(
            f"{ADALORA} adapter.lora_alpha=0",
            {"usual: 2 * adapter.init_r": "adapter.lora_alpha=24"},
        ),
        Case(f"{ADALORA} adapter.init_r=8"),
        Case(f"{ADALORA} adapter.beta1=1"),
    ],
    "adapters.methods.freeze:PartialFinetune.problems": [
        Case(
            f"{TOY} adapter=freeze adapter.last_layers=0",
            {
                "set adapter.last_layers=2": "adapter.last_layers=2",
                "or name adapter.trainable=[...]": "adapter.trainable=[norm]",
            },
        ),
    ],
    "adapters.methods.lora:LoraAdapter._unreadable_patterns": [
        Case(
            f"{TOY} '+adapter.rank_pattern={{*q: 4}}'",
            {
                "give the name of a layer": "-adapter.rank_pattern adapter.rank_pattern.q_proj=4",
                "or mend the expression": "'+adapter.rank_pattern={.*q_proj: 4}'",
            },
        ),
    ],
    "adapters.methods.lora:LoraAdapter._odd_ranks": [
        Case(f"{TOY} adapter.init_lora_weights=orthogonal adapter.r=7"),
        Case(
            f"{TOY} adapter.init_lora_weights=orthogonal adapter.rank_pattern.q_proj=7",
            {"set it to 8": "adapter.rank_pattern.q_proj=8"},
        ),
    ],
    "adapters.methods.lora:LoraAdapter.problems": [
        Case(
            f"{TOY} adapter.rank_pattern.q_proj=0",
            {"set it to 1 or more": "adapter.rank_pattern.q_proj=1"},
        ),
    ],
    "adapters.methods.lora:LoraAdapter._start_problems": [
        Case(f"{TOY} adapter=pissa model.quantization=int8", only_settings=True),
    ],
    "adapters.methods.oft:OftAdapter.problems": [Case(f"{TOY} adapter=oft adapter.eps=0")],
    "adapters.methods.prefix_tuning:PrefixTuning.own_problems": [
        Case(
            f"{TOY} adapter=prefix_tuning adapter.encoder_hidden_size=8",
            {
                "set adapter.prefix_projection=true": "adapter.prefix_projection=true",
                "or take it out": "-adapter.encoder_hidden_size",
            },
        ),
    ],
    "adapters.methods.prompt_tuning:PromptTuning.own_problems": [
        Case(
            f"{TOY} adapter=prompt_tuning adapter.prompt_tuning_init=TEXT",
            {"give a sentence": "adapter.prompt_tuning_init_text='Answer briefly'"},
        ),
        Case(
            f"{TOY} adapter=prompt_tuning adapter.prompt_tuning_init_text=Briefly",
            {
                "set adapter.prompt_tuning_init=TEXT": "adapter.prompt_tuning_init=TEXT",
                "or take it out": "-adapter.prompt_tuning_init_text",
            },
        ),
    ],
    "adapters.targets:unreadable": [
        Case(
            f"{TOY} 'adapter.target_modules=[\"q_proj(\"]'",
            {
                "give a name": "adapter.target_modules=[q_proj]",
                "or mend the expression": "'adapter.target_modules=[\".*(q_proj)\"]'",
            },
        ),
    ],
    "settings.data:DataConfig._fraction_problems": [
        Case(
            f"{TOY} {ROWS} data.validation_fraction=0.5 data.test_fraction=0.5",
            {"keep their sum below 1": "data.test_fraction=0.2"},
            ("rows",),
        ),
    ],
    "settings.optimizer:OptimizerConfig.problems": [
        Case(
            f"{TOY} optimizer.lr=0",
            {"usual for LoRA: 1e-4": "optimizer.lr=1e-4", "to 1e-3": "optimizer.lr=1e-3"},
            only_settings=True,
        ),
    ],
    "settings.optimizer:OptimizerConfig._group_problems": [
        Case(
            f"{TOY} optimizer.lr_groups.lora_A=0",
            {"1 changes nothing": "optimizer.lr_groups.lora_A=1"},
        ),
        Case(
            f"{TOY} '+optimizer.lr_groups={{*B: 2}}'",
            {"such as lora_B": "-optimizer.lr_groups optimizer.lr_groups.lora_B=2"},
        ),
    ],
    "settings.commands:DecideConfig.problems": [
        Case("decide debug=smoke margin=2", only_settings=True),
    ],
    "settings.judge:AskingConfig.asking_problems": [
        Case(
            f"{JUDGE} time_limit=0",
            {"usual: 3600": "time_limit=3600", "or null for no limit": "time_limit=null"},
            ("run",),
            only_settings=True,
        ),
        Case(f"{JUDGE} timeout=0", needs=("run",), only_settings=True),
        Case(
            "judge run=run judge=x budget=1",
            {"set price_in and price_out": "price_in=1 price_out=2"},
            ("run",),
            only_settings=True,
        ),
    ],
    "evaluation.judge.server:_read_key": [
        Case(
            "judge run=run judge=x base_url=http://127.0.0.1:9/v1 retries=0 rows=1 timeout=1"
            " key_env=NO_SUCH_KEY",
            {"or key_env=null": "key_env=null"},
            ("run",),
            ends=JUDGED,
        ),
    ],
    "models.sources.hub:HubModel.loading_error": [
        Case(
            f"{TOY} model=hub model.id=nobody/nothing",
            {"download it and use model=local model.path=DIR": f"-model.id {MODEL}=base"},
            ("models",),
        ),
    ],
    "models.sources.wheel:WheelModel.own_problems": [
        Case(
            "train model.sha256=12",
            {"sha256sum FILE.whl": f"model.sha256={'0' * 64}"},
            only_settings=True,
        ),
    ],
    "sweeps.job_checks:_check_folder_names": [
        Case(
            f"train -m {TOY[6:]} seed=0,1 hydra.sweep.subdir=same",
            {"leave it at its default": "-hydra.sweep.subdir"},
        ),
    ],
}


SWEEP = f"train -m {TOY[6:]} seed=0,1"
SEARCH = f"{SWEEP} hydra/sweeper=random hydra.sweeper.n_trials=2"
OWN_FILE = "mkdir -p own/experiment && printf '# @package _global_\\n%s\\n'"

OF_SWEEPS: dict[str, list[Case]] = {
    "sweeps.options:PackOptions.__post_init__": [
        Case(
            f"{SWEEP} hydra.launcher.pack_size=0",
            {
                "set 1 or more": "hydra.launcher.pack_size=1",
                "or null": "hydra.launcher.pack_size=null",
            },
        ),
    ],
    "sweeps.search.objectives:read_objectives": [
        Case(
            f"{SEARCH} hydra.sweeper.objectives=[]",
            {
                "[val/loss:min,cost/cpu_seconds:min]": "'hydra.sweeper.objectives="
                "[val/loss:min,cost/cpu_seconds:min]' hydra.sweeper.sampler=random"
            },
        ),
    ],
    "sweeps.search.samplers:_problems_of_options": [
        Case(
            f"{SEARCH} +hydra.sweeper.options.speed=3",
            {"it has none": "-hydra.sweeper.options.speed"},
        ),
    ],
    "sweeps.search.run:_check_corners": [
        Case(
            f"{SEARCH} hydra.sweep.subdir=same",
            {"leave it at its default": "-hydra.sweep.subdir"},
        ),
    ],
    "settings.not_given:not_given": [
        Case(
            f"train -m {TOY[6:]} data=contracts,files",
            {"data=files data.train=rows.jsonl": "data=files data.train=rows.jsonl"},
            ("rows",),
        ),
        Case(
            f"{TOY} data=mixed {PART}.source=files",
            {"data.parts.own.train=rows.jsonl": f"{PART}.train=rows.jsonl"},
            ("rows",),
            only_settings=True,
        ),
    ],
    "sweeps.job_checks:_hydra_problems": [
        Case(
            f"train -m --config-dir=own experiment=own {TOY[6:]} seed=0,1",
            {"leave it out of the file": "! sed -i /chdir/d own/experiment/own.yaml"},
            setup=f"{OWN_FILE} 'hydra: {{job: {{chdir: true}}}}' > own/experiment/own.yaml",
        ),
    ],
    "composition.problems:_off_without_quotes": [
        Case(
            f"train --config-dir=own experiment=own {TOY[6:]}",
            {'write it in quotes: "off"': "! sed -i 's/off/\"off\"/' own/experiment/own.yaml"},
            setup=f"{OWN_FILE} 'data: {{quality: {{near_leaks: off}}}}' > own/experiment/own.yaml",
        ),
    ],
    "settings.secrets:secret_problems": [
        Case(f"{TOY} name=hf_{'abcdefghij' * 4}", {"remove it here": "-name"}),
    ],
    "adapters.attach:_peft_errors": [
        Case(
            f"{TOY} adapter.extra.target_parameters=[q_proj.weight]",
            {"change the setting it names": "-adapter.extra.target_parameters"},
        ),
    ],
    "evaluation.constrained:Guide.__init__": [
        Case(
            "evaluate run=run constrained=true",
            {"simplify the schema": "! mv kept.json run/schema.json"},
            ("run",),
            "mv run/schema.json kept.json && rm run/digests.json && echo '"
            '{"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}}'
            "' > run/schema.json",
        ),
    ],
    "data.formats.files:read_records": [
        Case(
            f"{TOY} data=files data.train=stored/data-00000-of-00001.arrow",
            {"data=hub data.id=FOLDER": "-data.train data=hub data.id=stored"},
            ("stored",),
        ),
    ],
}


OF_COMPARISONS: dict[str, list[Case]] = {
    "comparison.criterion:parse_criterion": [
        Case(
            "compare compared mode=max",
            {"name another metric=...": "metric=eval/exact_match"},
            ("compared",),
        ),
        Case(
            "compare compared metric=own",
            {"add mode=min": "mode=min", "mode=max": "mode=max"},
            ("compared",),
        ),
    ],
    "comparison.gate:_parse_limit": [
        Case(
            f"{CHECK} fail_if=nonsense",
            {"fail_if='eval/field_f1": "'fail_if=eval/exact_match<-0.02, val/loss>+1%'"},
            ("compared",),
        ),
    ],
    "comparison.gate:check_candidate": [
        Case(
            f"{CHECK} certain=true",
            {"belongs to fail_if=...": "'fail_if=eval/exact_match<-0.5'", "without it": "-certain"},
            ("compared",),
        ),
    ],
    "comparison.gate:_always_failing": [
        Case(
            "compare baseline=compared/broken candidate=compared/b",
            {"give another run as baseline=DIR": "baseline=compared/a"},
            ("compared",),
        ),
    ],
    "comparison.gate:_check_significance": [
        Case(
            "compare baseline=compared/a candidate=compared/other",
            {"say by fail_if=...": "'fail_if=val/loss>+1%'"},
            ("compared",),
        ),
    ],
    "comparison.gate:_pair_rows": [
        Case(
            CHECK,
            {"give fail_if=...": "'fail_if=val/loss>+1%'"},
            ("compared",),
            "rm compared/b/predictions.jsonl",
        ),
        Case(
            CHECK,
            {"give fail_if=...": "'fail_if=val/loss>+1%'"},
            ("compared",),
            "sed -i 's/item 3/item 99/' compared/b/predictions.jsonl",
        ),
    ],
    "comparison.options:Options.pareto": [
        Case("compare compared pareto=val/loss", needs=("compared",)),
    ],
    "comparison.options:Options.require_comparison": [
        Case(
            "compare compared 'fail_if=val/loss>+1%'",
            {"baseline=DIR candidate=DIR": f"hydratune {CHECK} 'fail_if=val/loss>+1%'"},
            ("compared",),
        ),
    ],
    "comparison.options:Options.require_check": [
        Case(
            "compare baseline=compared/a",
            {"baseline=DIR and candidate=DIR": "candidate=compared/b"},
            ("compared",),
        ),
    ],
    "comparison.options:parse_options": [
        Case("compare compared --colour", {"hydratune compare --help lists": "printed"}),
    ],
}


OF_COMPOSITION: dict[str, list[Case]] = {
    "composition.command:_read": [
        Case(
            "evaluate -m run=run",
            {"for a sweep use hydratune train -m": f"hydratune train -m {TOY[6:]} seed=0,1"},
        ),
    ],
    "composition.command:_existing": [
        Case(
            f"train --config-dir=nowhere experiment=own {TOY[6:]}",
            {
                "experiment/NAME.yaml in it": "hydratune train --config-dir=own experiment=own"
                f" {TOY[6:]}"
            },
            setup="mkdir -p own/experiment && printf '# @package _global_\\nseed: 3\\n'"
            " > own/experiment/own.yaml",
        ),
    ],
    "composition.listing:list_configs": [
        Case("configs adaptor", {"did you mean adapter?": "hydratune configs adapter"}),
        Case("configs nothing", {"groups: ": "hydratune configs data"}),
    ],
    "composition.listing:explain_setting": [
        Case("help adapter.rank", {"did you mean adapter.r": "hydratune help adapter.r"}),
        Case("help zzzzzz", {"hydratune configs lists groups": "printed"}),
    ],
    "sweeps.wandb_sweep.definition:read_file": [
        Case(
            "sweep rank.yaml",
            {
                "run it with hydratune train -m sweep=rank": f"hydratune train -m {TOY[6:]}"
                " sweep=rank",
            },
            setup=f"cp {REPOSITORY}/conf/sweep/rank.yaml .",
        ),
    ],
    "experiment.finished_run:load_model": [
        Case(
            "evaluate 'run=\"it'\"'\"'s\"'",
            {"its stored predictions can still be scored": "printed"},
            ("texts",),
            'sed -i s/Yes/No/ texts.jsonl && mv texts "it\'s"',
        ),
    ],
    "digests:_read": [
        Case(
            "evaluate run=run source=predictions",
            {"rm ": "printed"},
            ("run",),
            "echo cut > run/digests.json",
        ),
    ],
}
