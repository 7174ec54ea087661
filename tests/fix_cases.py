"""Settings that are refused by themselves, by the function that says why.

``CASES``: what is typed after ``hydratune train``; -m stands first for a sweep.
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
        ("-m", "hydra.run.dir=x", "seed=0,1"),
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
    "composition.options:unknown_option": [("adapter=lorra",), ("experiment=contract",)],
    "composition.options:option_meant": [
        ("data=x.jsonl",),
        ("data=it's, a=1 %.jsonl",),
        ("data=./x.jsonl",),
        ("data=owner/name",),
        ("model=owner/name.1",),
    ],
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
        ("evaluation.forgetting.warn.kl=0.1",),
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
    "settings.data:DataConfig._share_problems": [
        ("data.train_share=0",),
        ("data.train_share=12",),
        ("data.train_share=0.5", "data.overfit_rows=4"),
    ],
    "sweeps.train_sizes:check_train_sizes": [
        (
            "-m",
            "debug=smoke",
            "hydra.launcher.halving.min_steps=2",
            "data.train_share=0.5,1",
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
