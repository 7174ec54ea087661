"""hydratune train: measure the base model, fine-tune it, measure it again, write everything down.

What happens, in the order in which to read it: ``composition.run_command`` composes the settings,
``experiment.lifecycle.execute`` checks them and keeps the run's status, ``run`` below is the
command, ``experiment.run.run_experiment`` the run itself.
"""

from hydratune.experiment.run import preview, run_experiment
from hydratune.records.run_directory import RunDirectory
from hydratune.records.sweep import read_sweep
from hydratune.settings.commands import TrainConfig
from hydratune.sweeps.test_size import say_if_too_few_test_rows


def run(config: TrainConfig, record: RunDirectory) -> None:
    """Show how the first rows are trained if ``preview`` is set; otherwise run the experiment."""
    if config.preview:
        preview(config)
    else:
        if record.path.name not in read_sweep(record.path.parent):  # its sweep has said it
            say_if_too_few_test_rows([config])
        run_experiment(config, record)
