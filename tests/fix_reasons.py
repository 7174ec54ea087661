"""Functions whose advice is not typed in a test, with the reason."""

_WANDB = "it needs the file of a W&B sweep, or its server: test_wandb_sweep_definition.py reads it"
_PYTHON = "it is Python to be written, not a command: test_api.py"
_PACKAGE = "the part of a package is to be corrected or installed: test_extending.py"
_WHEEL = "it needs a package index: test_wheel.py"
_GGUF = "it needs a copy of llama.cpp's repository: test_export_gguf.py"
_SERVER = "it needs a server that is installed: test_serve.py"
_ATTACK = "it is an attack, to be left out: test_code_in_settings.py and test_markup.py type it"
_STUDY = "it needs the study of an earlier search: test_search_study.py"
_RAY = "it needs a Ray cluster: test_ray_executor.py and test_ray.py"
_SLURM = "it needs a Slurm cluster: test_executors.py and test_slurm.py"

_PLAN = "test_plan.py and test_catalogue.py type the command, and read its message"

NOT_TYPED: dict[str, str] = {
    **dict.fromkeys(
        (
            "models.catalogue.filters:_number",
            "models.catalogue.filters:_texts",
            "planning.duration:chosen_device",
            "planning.output:choose_folder",
            "planning.plan:needs_of",
            "planning.probe:run_probe",
            "planning.structure:find_structure",
            "settings.commands:PlanConfig.problems",
        ),
        _PLAN,
    ),
    "composition.problems:_wrong_mapping": "it says what type a setting has: test_value_types.py",
    "experiment.finished_run:open_run": "it needs a run that did not end: test_answering.py",
    "sweeps.size:refuse_too_many": "the search that it names runs 100 trials: test_sweep.py",
    "sweeps.launch:launch": "it needs a job that was added to a sweep and failed: test_sweep.py",
    **dict.fromkeys(
        (
            "sweeps.executor_options:SlurmOptions._problem",
            "sweeps.executor_options:refuse_not_waiting",
            "sweeps.executors.slurm:SlurmExecutor.__init__",
            "sweeps.executors.submitted:refuse_submitted",
        ),
        _SLURM,
    ),
    **dict.fromkeys(
        (
            "overview.collect:_readable",
            "overview.command:_status",
            "overview.command:parse_options",
            "overview.command:stop",
            "overview.adding:add",
            "overview.adding:_settings_of_jobs",
            "overview.adding:_adapter",
        ),
        "it names a command that shows more: test_overview.py",
    ),
    **dict.fromkeys(
        (
            "composition.arguments:check_settings",
            "composition.code_paths:_named_code",
            "composition.code_paths:_refuse_package",
            "composition.code_paths:code_problems",
            "composition.resolvers:product",
        ),
        "it says that a setting is refused: test_code_in_settings.py",
    ),
    **dict.fromkeys(
        (
            "sweeps.executor_options:RayOptions._problem",
            "sweeps.executors.ray_cluster:RayCluster._connect",
            "sweeps.executors.ray_cluster:_require_answer",
        ),
        _RAY,
    ),
    "sweeps.job_checks:_uncomposed": "it says where to look, not what to type",
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
            "comparison.publish:publish",
        ),
        _WANDB,
    ),
    **dict.fromkeys(
        (
            "api.composing:_listed",
            "api.loaded_model:ModelInMemory.of",
            "api.loaded_model:_check_place",
            "api.loaded_model:_tokenizer_of",
            "api.rows:_records",
            "api.run:Run._metrics",
            "api.sweeping:_run_command",
            "api.sweeping:sweep",
            "api.training:_attribute_problems",
            "api.training:_check",
            "api.training:_in_memory",
            "api.training:_plan",
            "models.sources.loaded:LoadedModel.locate",
        ),
        _PYTHON,
    ),
    **dict.fromkeys(
        (
            "evaluation.families:family",
            "extensions:metric",
            "extras:missing",
            "settings.own_metrics:problems",
            "settings.packages:load",
            "settings.packages:of_two",
            "settings.registry:_refuse_second",
            "settings.registry:variant_class",
            "settings.trainer:TrainerConfig._callback_problems",
            "settings.used_parts:only_in_this_process",
            "sweeps.search.run:_pack_options",
            "training.callbacks:_create",
            "training.callbacks:_factory",
            "training.callbacks:_no_callback",
        ),
        _PACKAGE,
    ),
    **dict.fromkeys(
        (
            "models.sources.wheel:_download",
            "models.sources.wheel:_unpack",
            "models.sources.wheel:_verify",
        ),
        _WHEEL,
    ),
    **dict.fromkeys(
        ("sweeps.search.study:_describe_new_study", "sweeps.search.study:_differences"), _STUDY
    ),
    **dict.fromkeys(
        (
            "export.gguf_tokenizer:pre_tokenizer_name",
            "export.gguf_tokenizer:serialised",
            "export.gguf_tokenizer:token_list",
        ),
        _GGUF,
    ),
    **dict.fromkeys(
        (
            "serving.process:require_free_port",
            "serving.process:wait_until_ready",
            "serving.servers:command_of",
        ),
        _SERVER,
    ),
    **dict.fromkeys(
        ("export.output:require_space", "export.output:staged"),
        "it needs a full disk: test_export.py",
    ),
    "export.gguf_file:_as_f16": "it needs weights beyond 65,504",
    "export.merging:merge": "no method is known that PEFT cannot merge",
    "export.quantised:write": "it needs a bitsandbytes that cannot store a model",
    "adapters.attach:_refuse_other_parts": "no model is known whose names PEFT reads otherwise",
    "adapters.initialisation:_no_originals": "needs a quantised model without its original files:"
    " test_adapters.py",
    "adapters.lora_rules:_dora_problems": "needs 8-bit layers on a CPU: test_adapters.py",
    "composition.problems:explain": "the texts are of OmegaConf, and are cut off",
    "data.encoding.document_parts:split_document": "needs a tokenizer that is not fast, and the"
    " toy model has none",
    "data.sets:load_sets": "the check of the splits refuses such data before",
    "evaluation.code_scores:_Judge.__init__": "needs a user who may not start Python",
    "evaluation.harness:check": "lm-eval reads its thousands of task files: test_harness.py",
    "experiment.finished_run:load_settings": "the fix is another version, or a package",
    **dict.fromkeys(
        (
            "composition.arguments:check_settings",
            "composition.code_paths:_named_code",
            "composition.code_paths:_refuse_package",
            "composition.code_paths:code_problems",
            "composition.resolvers:product",
        ),
        _ATTACK,
    ),
    "experiment.lifecycle:execute": "needs hydra.mode, which the tests of commands leave out",
    "models.loading:prepare_model": "the fix is another architecture: test_architectures.py",
    "records.run_directory:alone": "needs a second process in the folder",
    "training.elementwise:elementwise_for": "needs a machine without a compiler: test_functions.py",
    "training.objective:_checkpoint_activations": "needs an architecture that cannot:"
    " test_architectures.py",
}
