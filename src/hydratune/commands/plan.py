"""hydratune plan: what a run needs and costs, before any weight is loaded.

With ``-m``, ``planning.sweep`` plans the trials of a sweep, as Hydra hands them to a launcher.
"""

from hydra.core.hydra_config import HydraConfig

from hydratune.planning.output import choose_folder, show, typed_of_train
from hydratune.planning.plan import make_plan
from hydratune.planning.probe import run_probe
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import PlanConfig
from hydratune.settings.overrides import typed_overrides


def run(config: PlanConfig, _: RunDirectory) -> None:
    """Print the plan of a run, and write it as plan.json and report.html."""
    words = typed_overrides(HydraConfig.get().overrides.task)
    choose_folder(config, words)
    overrides = typed_of_train(words)
    probe = run_probe(config, overrides) if config.probe else None
    show(config, make_plan(config, overrides, probe), words)
