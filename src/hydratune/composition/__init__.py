"""Hydra around a command: settings are composed, and every error is one clear message.

``run_command`` composes ``conf/<command>.yaml`` with what the user typed and runs the command;
``resolvers`` are the functions that ``conf/`` calls; ``problems`` turns the errors of Hydra and
OmegaConf into problems of single settings, and ``suggestions`` finds what was probably meant.
"""

from hydratune.composition.command import run_command
from hydratune.composition.problems import composition_problems
from hydratune.composition.resolvers import CONF, register, sweep_name

__all__ = ["CONF", "composition_problems", "register", "run_command", "sweep_name"]
