"""Commands that trigger a message with a fix, by the function that makes the message.

``CASES``: what is typed after ``hydratune train``; -m stands first for a sweep. ``NOT_TYPED``:
functions whose fixes are not settings, or need a model, data or an earlier run, with the reason.
"""

FILES = ("data=files", "data.train=x.jsonl")  # x.jsonl exists
TWO_RANGES = ("optimizer.lr=interval(1e-4,1e-3)", "adapter.r=int(interval(4,64))")
SEARCH = ("-m", "debug=smoke", "hydra/sweeper=random")

CASES: dict[str, list[tuple[str, ...]]] = {
    "composition.arguments:_group_problems": [
        ("adapter=null",),
        ("tracking=null",),
        ("~tracking",),
        ("model=7",),
        ("adapter=[lora,dora]",),
        ("+adapter=dora",),
    ],
    "composition.arguments:_none_problems": [("data.system_prompt=None",), ("-m", "name=a,None")],
    "composition.hydra_settings:hydra_problems": [
        ("hydra.job.chdir=true",),
        ("hydra.launcher=pack",),
        ("-m", "hydra.sweeper=random", "seed=1,2"),
        ("hydra/sweeper=basic", "seed=1"),
        ("hydra.launcher.together=2", "seed=1"),
        ("hydra.sweep.dir=x", "seed=1"),
    ],
    "composition.hydra_settings:launcher_problem": [
        ("-m", "hydra/launcher=basic", "seed=0,1"),
        ("-m", "hydra/launcher=joblib", "seed=0,1"),
        ("-m", "hydra/launcher=pack,process", "seed=0,1"),
    ],
    "composition.hydra_settings:sweep_problems": [
        ("adapter=glob(*lora)",),
        ("optimizer.lr=range(1,3)",),
        ("optimizer.lr=tag(log, interval(1e-4,1e-3))",),
    ],
    "composition.problems:_halving_as_a_number": [("-m", "hydra.launcher.halving=8", "seed=0,1")],
    "composition.problems:_unreadable_override": [
        ("model=hub", "model.id=a~b"),
        ("name=a~b", "seed=1"),
        ("data.system_prompt=it's 5 % = 1, 2",),
        ("adapter.rank_pattern={^model.layers.0.self_attn.q_proj:8}",),
        ('+adapter.rank_pattern={"^.*(q|k)_proj": 8, v_proj: 4}',),
        ("optimizer.lr_groups={^base:2}",),
    ],
    "composition.problems:_several_values_without_m": [
        ("seed=1,2",),
        ("adapter.target_modules=q_proj,v_proj",),
        ("data.system_prompt=a, b",),
    ],
    "composition.problems:_interval_in_a_grid": [("-m", "optimizer.lr=interval(1e-4,1e-3)")],
    "composition.problems:_no_such_option": [("adapter=lorra",), ("experiment=contract",)],
    "composition.problems:_file_as_option": [("data=x.jsonl",), ("data=it's, a=1 %.jsonl",)],
    "composition.problems:_removed": [("~tracking.project",), ("~data.schema.other",)],
    "composition.problems:_wrong_setting": [
        ("seed=[1,2]",),
        ("-m", "debug=smoke", "optimizer.lr=[1e-3,1e-4]"),
        ("adapter.rank_pattern=8",),
        ("evaluation.forgetting.warn.kl=0.1", "evaluation.forgetting.measure=true"),
        ("optimizer.lr_groups.lora_B=16",),
        ("data.overlength=cut",),
        ("trainer.accelerator=[cpu]",),
        ("tracking.mode=onlin",),
        ("evaluation.metrics=rouge",),
        ("trainer.monitor=null",),
    ],
    "composition.problems:_wrong_mapping": [
        ("adapter.rank_pattern={q_proj:8}",),
        (*FILES, "data.columns={prompt:question}"),
    ],
    "composition.suggestions:unknown_setting": [
        ("lr=1e-4",),
        ("optimzer.lr=1e-4",),
        ("epochs=3",),
        ("data.quality.overlength=off",),
        ("data.quality.overlength=drop",),
        ("adapter=ia3", "rank=8"),
        ("data.path=x.jsonl",),
        ("data.file=x.jsonl",),
    ],
    "composition.suggestions:_setting_of_others": [
        ("adapter=ia3", "adapter.r=8"),
        ("-m", "adapter=lora,ia3", "adapter.r=8"),
        ("model.id=a/b",),
        ("data.train=x.jsonl",),
        ('data.train="it\'s, a=1 %.jsonl"',),
        ("optimizer.momentum=0.5",),
    ],
    "composition.suggestions:_unknown_launcher_setting": [
        ("-m", "hydra.launcher.pack_sizes=8", "seed=0,1")
    ],
    "settings.commands:TrainConfig.problems": [("seed=-1",)],
    "settings.commands:TrainConfig._model_and_others": [
        ("data.max_length=100000",),
        ("model.quantization=nf4", "adapter=none"),
        ("trainer.precision=bf16-true",),
    ],
    "settings.data:QualityConfig.problems": [("data.quality.similarity=0.1",)],
    "settings.data:DataConfig.problems": [("data.overfit_rows=4", "data.control=shuffled_targets")],
    "settings.data:DataConfig._overlap_problems": [
        ("data.overlength=split", "data.split_overlap=1000")
    ],
    "settings.evaluation:ForgettingConfig.problems": [
        ("+evaluation.forgetting.warn.kl=0.1",),
    ],
    "settings.evaluation:EvaluationConfig.problems": [("evaluation.confidence=2",)],
    "settings.evaluation:EvaluationConfig._metrics_problems": [
        ("evaluation.metrics=[]",),
        ("evaluation.metrics=[code]",),
        ("evaluation.metrics=[json]", "evaluation.task=text"),
    ],
    "settings.optimizer:OptimizerConfig._schedule_problems": [
        ("optimizer.schedule=polynomial", "optimizer.power=0"),
    ],
    "settings.optimizer:OptimizerConfig._rate_problems": [
        ("optimizer.layer_lr_decay=0",),
        ("optimizer.layer_lr_decay=2",),
        ("optimizer.loraplus_lr_ratio=0",),
        ("optimizer.loraplus_lr_ratio=16", "adapter=none"),
    ],
    "settings.optimizer:betas_problems": [("optimizer.betas=[2,0.9]",)],
    "settings.ranges:at_least": [
        ("trainer.max_epochs=0",),
        ("data.batch_size=0",),
        ("evaluation.validation_rows=0",),
        ("trainer.micro_tokens=1",),
    ],
    "settings.ranges:between": [("trainer.label_smoothing=2",), ("data.test_fraction=1",)],
    "settings.ranges:one_of": [("trainer.precision=fp16",), ("trainer.accelerator=tpu",)],
    "settings.tracking:TrackingConfig.problems": [
        ("tracking.log_predictions=true", "tracking.log_text=false")
    ],
    "settings.tracking:TrackingConfig._name_problems": [("tracking.project=",)],
    "settings.trainer:TrainerConfig.problems": [("trainer.max_loss_ratio=0.5",)],
    "settings.trainer:TrainerConfig._device_problems": [("trainer.devices=2",)],
    "adapters.methods.lora:LoraAdapter._start_problems": [
        ("adapter.init_lora_weights=none",),
        ("adapter.init_lora_weights=orthogonal", "adapter.r=7"),
        ("adapter=loftq", "model.quantization=int8"),
        ("adapter=pissa", "model.quantization=nf4"),
        ("adapter=loftq", "model.quantization=nf4", "adapter.use_dora=true"),
    ],
    "adapters.methods.lora:LoraAdapter.problems": [("adapter.lora_alpha=0",)],
    "training.optimizers.sgd:SgdOptimizer.own_problems": [
        ("optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true")
    ],
    "training.optimizers.muon:MuonOptimizer.own_problems": [
        ("optimizer=muon",),
        ("optimizer=muon", "adapter=none", "optimizer.ns_steps=0"),
    ],
    "training.optimizers.adafactor:AdafactorOptimizer.own_problems": [
        ("optimizer=adafactor", "optimizer.decay_rate=1")
    ],
    "training.optimizers.adamw:PagedAdamWOptimizer.accelerator_problems": [
        ("optimizer=paged_adamw", "trainer.accelerator=cpu")
    ],
    "settings.commands:TrainConfig._monitor_and_metrics": [
        ("trainer.monitor=val/label_accuracy", "debug=smoke"),
        ("trainer.monitor=val/label_accuracy", "evaluation.metrics=[match]", "debug=smoke"),
    ],
    "experiment.lifecycle:_refuse_sweep_without_m": [("sweep=learning_rate", "debug=smoke")],
    "sweeps.options:HalvingOptions.__post_init__": [
        ("-m", "debug=smoke", "hydra.launcher.halving.eta=4", "seed=0,1"),
        (
            "-m",
            "debug=smoke",
            "hydra.launcher.halving.min_steps=2",
            "hydra.launcher.halving.eta=1",
            "seed=0,1",
        ),
    ],
    "sweeps.void_axes:void_axis": [("-m", "debug=smoke", "trainer.max_epochs=1,2", "seed=0,1")],
    "sweeps.search.samplers:_problems_of_numbers": [
        (*SEARCH, "seed=0,1", "hydra.sweeper.n_trials=0"),
        (*SEARCH, "seed=0,1", "hydra.sweeper.seed=-1"),
    ],
    "sweeps.search.samplers:_problems_of_cmaes": [
        (*SEARCH, "seed=0,1", "hydra.sweeper.sampler=cmaes")
    ],
    "sweeps.search.samplers:make_sampler": [
        (*SEARCH, *TWO_RANGES, "hydra.sweeper.sampler=grid"),
    ],
    "settings.monitor:problems": [
        ("trainer.monitor=val/field_f2",),
        ("trainer.monitor=val/loss:up",),
    ],
    "settings.monitor:test_rows_problem": [("trainer.monitor=eval/field_f1",)],
    "sweeps.job_checks:refuse_several_monitors": [
        (
            *("-m", "debug=smoke", "trainer.monitor=val/loss,val/field_f1"),
            "hydra.launcher.halving.min_steps=2",
        )
    ],
    "sweeps.search.objectives:_problem": [
        (*SEARCH, "seed=0,1", "hydra.sweeper.objectives=val/los:min"),
    ],
    "sweeps.search.objectives:refuse_unmeasured": [
        (*SEARCH, "seed=0,1", "hydra.sweeper.objectives=val/field_f1:max")
    ],
    "sweeps.search.run:_monitor": [
        (*SEARCH, "optimizer.lr=1e-3,1e-4", "trainer.monitor=val/loss,val/field_f1")
    ],
    "sweeps.search.space:read_space": [(*SEARCH, "adapter.r=4")],
}

_MODEL = "needs a loaded model: test_adapter_checks.py and test_start_adapters.py trigger it"
_RUN = "needs an earlier run: tests of resuming, evaluate, decide and judge trigger it"
_PLACE = "the fix names a file or folder of the user"
_OTHER = "the fix is an action outside the settings, such as installing a package"
_PROSE = "the fix describes what to write"

_WANDB_SWEEP = "it needs the file of a W&B sweep, or its server"

NOT_TYPED: dict[str, str] = {
    **dict.fromkeys(
        (
            "sweeps.wandb_sweep.check:_check",
            "sweeps.wandb_sweep.check:_sent_texts",
            "sweeps.wandb_sweep.check:pack_options",
            "sweeps.wandb_sweep.definition:_objective",
            "sweeps.wandb_sweep.definition:_words",
            "sweeps.wandb_sweep.definition:metric_problem",
            "sweeps.wandb_sweep.definition:read_definition",
            "sweeps.wandb_sweep.parameters:read_parameters",
            "sweeps.wandb_sweep.run:_created",
            "sweeps.wandb_sweep.run:_open_folder",
            "sweeps.wandb_sweep.run:_refuse_offline",
            "sweeps.wandb_sweep.run:_refuse_other_contents",
            "sweeps.wandb_sweep.run:_refuse_several_values",
            "sweeps.wandb_sweep.run:_stored",
            "sweeps.wandb_sweep.settings:WandbSweepSettings.__post_init__",
            "tracking.wandb_sweep:SweepServer.read",
        ),
        _WANDB_SWEEP,  # test_wandb_sweep_definition.py reads what they say
    ),
    **dict.fromkeys(
        (
            "adapters.attach:_refuse_other_parts",
            "adapters.attach:_peft_errors",
            "adapters.base:PromptAdapter.model_problems",
            "adapters.initialisation:_no_originals",
            "adapters.lora_rules:_dora_problems",
            "adapters.lora_rules:_pattern_problems",
            "adapters.lora_rules:_bias_problems",
            "adapters.methods.adalora:AdaLoraAdapter.phases",
            "adapters.methods.freeze:PartialFinetune.trained_parameters",
            "adapters.methods.freeze:PartialFinetune._unknown_name",
            "adapters.methods.ia3:Ia3Adapter.model_problems",
            "adapters.methods.ia3:Ia3Adapter._feedforward",
            "adapters.methods.oft:OftAdapter.model_problems",
            "adapters.peft_rules:_extra_problem",
            "adapters.peft_rules:_modules_to_save",
            "adapters.peft_rules:_no_such_module",
            "adapters.peft_rules:_tied_head",
            "adapters.peft_rules:rank_problems",
            "adapters.peft_rules:_target_parameters",
            "adapters.peft_rules:_token_layers",
            "adapters.peft_rules:_token_numbers",
            "adapters.targets:glob_like",
            "adapters.targets:target_patterns",
            "adapters.targets:_unknown_names",
            "adapters.targets:_no_layer",
            "adapters.targets:_excluded_shorthand",
            "adapters.targets:_unused_names",
            "adapters.targets:_wrong_layers",
            "evaluation.assess:TestSet.check",
            "evaluation.constrained:Guide.__init__",
            "evaluation.constrained:no_schema",
            "evaluation.metrics:choose_task",
            "experiment.compatibility:check_model",
            "experiment.compatibility:check_monitor",
            "experiment.compatibility:check_examples",
            "experiment.compatibility:_no_such_embedding",
            "models.hardware:accelerator",
            "models.loading:prepare_model",
            "models.loading:prepare_tokenizer",
            "models.router_loss:refuse_router_loss",
            "training.fit:_make_objective",
            "training.objective:_checkpoint_activations",
            "training.parameter_groups:_unused_rates",
            "training.schedules:check",
        ),
        _MODEL,
    ),
    **dict.fromkeys(
        (
            "adapters.continued:_with_new_adapter",
            "adapters.continued:_weights",
            "adapters.continued:_misfits",
            "adapters.continued:check_base",
            "adapters.continued:_check_recorded_base",
            "adapters.folder:_not_found",
            "adapters.folder:_read",
            "adapters.folder:saved_settings",
            "adapters.folder:_trainable_method",
            "adapters.folder:use_saved_settings",
            "adapters.folder:_contradictions",
            "adapters.folder:_foreign_setting",
            "evaluation.harness:check",
            "evaluation.judge.inputs:read_answers",
            "evaluation.judge.inputs:read_other_answers",
            "evaluation.judge.inputs:read_labels",
            "evaluation.retrieval:documents",
            "experiment.constrained:evaluate_constrained",
            "experiment.data_consistency:refuse_other_rows",
            "experiment.decision:choose_settings",
            "experiment.decision:_refuse_settings_beside_run",
            "experiment.decision:require_prompts",
            "experiment.decision:decide_systems",
            "experiment.extension:_changed",
            "experiment.extension:_not_longer",
            "experiment.extension:_problem",
            "experiment.lifecycle:refuse_foreign_directory",
            "experiment.other_texts:evaluate_other_texts",
            "experiment.other_texts:_read_texts",
            "experiment.other_texts:_window",
            "experiment.resuming:_problem",
            "experiment.resuming:_lengthen",
            "settings.commands:DecideConfig.problems",
            "settings.commands:EvaluateConfig.problems",
            "settings.commands:JudgeConfig.problems",
            "settings.commands:_run_problems",
            "sweeps.job_checks:refuse_other_settings",
            "sweeps.job_checks:refuse_other_environment",
            "sweeps.job_checks:refuse_other_halving",
            "sweeps.job_checks:check_job",
            "sweeps.launch:_refuse_other_contents",
            "sweeps.search.run:_refuse_other_sweep",
            "sweeps.search.study:_describe_new_study",
            "sweeps.search.study:_differences",
        ),
        _RUN,
    ),
    **dict.fromkeys(
        (
            "composition.hydra_settings:_run_folder_problem",  # test_prepare.py runs it
            "composition.mappings:schema_problem",  # test_launchers.py
            "composition.resolvers:run_name",
            "data.cases.base:CaseData.source_problems",
            "data.cases.repository:RepositoryData.source_problems",
            "data.output_folder:_refusal",
            "data.sources.files:FilesData.source_problems",
            "data.sources.files:FilesData._delimiter_problems",
            "data.sources.mixed:MixedData.source_problems",
            "data.sources.mixed:_part_problems",
            "data.sources.prepared:PreparedData.source_problems",
            "data.sources.records:RecordsConfig.record_problems",
            "evaluation.panel:_read",
            "models.sources.local:LocalModel.own_problems",
            "settings.model:ModelConfig.problems",
            "models.sources.local:LocalModel.loading_error",
            "settings.data:DataConfig._schema_problems",
            "sweeps.search.study:open_storage",
        ),
        _PLACE,
    ),
    **dict.fromkeys(
        (
            "api.loaded_model:_check_place",  # these of Python: test_api.py
            "api.training:_attribute_problems",  # test_api_settings.py
            "api.training:_check",
            "settings.own_metrics:problems",  # test_extending.py
            "evaluation.families:family",  # these of packages: test_extending.py
            "extensions:metric",
            "extras:missing",
            "settings.packages:load",
            "settings.packages:of_two",
            "settings.registry:_refuse_second",
            "settings.registry:variant_class",
            "settings.trainer:TrainerConfig._callback_problems",
            "settings.used_parts:only_in_this_process",
            "training.callbacks:_create",
            "training.callbacks:_factory",
            "training.callbacks:_no_callback",
            "evaluation.judge.server:_read_key",
            "models.sources.hub:HubModel.loading_error",
            "models.sources.wheel:WheelModel.own_problems",
            "models.sources.wheel:_unpack",
            "models.sources.wheel:_verify",
            "settings.judge:AskingConfig.asking_problems",
            "settings.secrets:secret_problems",
            "training.elementwise:elementwise_for",
        ),
        _OTHER,
    ),
    **dict.fromkeys(
        (
            "adapters.base:LayerAdapter.problems",
            "adapters.base:PromptAdapter.problems",
            "adapters.methods.adalora:AdaLoraAdapter.problems",
            "adapters.methods.freeze:PartialFinetune.problems",
            "adapters.methods.lora:LoraAdapter._unreadable_patterns",
            "adapters.methods.oft:OftAdapter.problems",
            "adapters.methods.prefix_tuning:PrefixTuning.own_problems",
            "adapters.methods.prompt_tuning:PromptTuning.own_problems",
            "adapters.targets:unreadable",
            "composition.problems:_off_without_quotes",  # of YAML files
            "settings.data:DataConfig._fraction_problems",
            "settings.optimizer:OptimizerConfig.problems",
            "settings.optimizer:OptimizerConfig._group_problems",
            "settings.ranges:above_zero",
            "sweeps.job_checks:_check_folder_names",
            "sweeps.job_checks:_uncomposed",  # test_arguments.py
            "sweeps.job_checks:_hydra_problems",  # of YAML files: test_launchers.py
            "sweeps.options:PackOptions.__post_init__",
            "sweeps.search.objectives:read_objectives",
            "sweeps.search.run:_pack_options",
            "sweeps.search.run:_check_corners",
            "sweeps.search.samplers:_problems_of_options",
        ),
        _PROSE,
    ),
}
