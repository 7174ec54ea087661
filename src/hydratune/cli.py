"""The table of commands, and the way from the command line to a command.

``hydratune COMMAND [overrides]`` composes ``conf/<command>.yaml`` and hands it to
``hydratune.commands.<command>``. Imports nothing heavy: help is instant, and a wrong setting is
refused before torch is loaded.
"""

import difflib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "prepare": "read, clean, check and split a data set; a report of what is in it",
    "plan": "what a run or a sweep needs and costs, before any weight is loaded",
    "train": "fine-tune one model, or with -m a whole sweep; measure it before and after",
    "sweep": "train the trials of a W&B sweep, several at a time",
    "evaluate": "measure a finished run again, from its adapter or from its stored predictions",
    "decide": "prompt, retrieve or fine-tune? every way on the same test rows",
    "generate": "answer the rows of a file with the model of a finished run",
    "chat": "talk to the model of a finished run in the terminal",
    "judge": "a model reads the answers of a run, by a rubric or beside those of another",
    "export": "write a fine-tuned model for other programs, and check that it answers as before",
    "serve": "answer requests with a fine-tuned model, by a server that is installed",
    "compare": "rank the runs of a sweep (or any run directories)",
    "status": "what runs where, how far it is, the best so far, and what was lost",
    "stop": "end jobs of a sweep, or a run, with their work kept",
    "add": "further jobs for a sweep, from the base model or from another job's adapter",
    "doctor": "check packages, hardware, disk and accounts; what is wrong, and its remedy",
}
_ABOUT = {
    "configs [GROUP]": "list the config groups and their options; models can be filtered",
    "help SETTING": "explain a setting: its type, default and rule",
}

_EXAMPLES = """\
examples:
  hydratune train experiment=contracts                  the built-in task, end to end
  hydratune train debug=smoke                           the same in under a minute, on a toy model
  hydratune train preview=3                             see which tokens are trained, then stop
  hydratune prepare data=files data.train=my.jsonl      look at your own rows before training
  hydratune plan data=files data.train=my.jsonl         will it fit, how long will it take?
  hydratune train data=files data.train=my.jsonl        your own rows
  hydratune train -m optimizer.lr=3e-4,1e-3 adapter.r=4,16    a sweep
  hydratune train -m sweep=learning_rate                a prepared sweep from sweeps/
  hydratune train -m sweep=search                       24 trials that learn from each other
  hydratune sweep ENTITY/PROJECT/ID                     trials of a W&B sweep, together in a process
  hydratune evaluate run=DIR                            measure a run again
  hydratune export run=DIR output=OUT                   a whole model; form=gguf for llama.cpp
  hydratune serve run=DIR                               the model at http://127.0.0.1:8000/v1
  hydratune compare DIR                                 rank the runs below DIR
  hydratune train --cfg job                             show the composed configuration, run nothing

exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted
"""


def _help() -> str:
    every = {**COMMANDS, **_ABOUT}
    rows = "\n".join(f"  {name:15} {text}" for name, text in every.items())
    return f"usage: hydratune COMMAND [key=value ...]\n\ncommands:\n{rows}\n\n{_EXAMPLES}"


def _complete(args: list[str]) -> int:
    """Install completion, or answer the shell. Returns the exit code.

    Commands are completed here, and settings by Hydra, which must not see the command.
    """
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    command = words[1] if len(words) > 1 else ""
    if "query" in args[-1] and (command not in COMMANDS or line.endswith(command)):
        print(" ".join(name for name in COMMANDS if name.startswith(command)))
        return 0
    if command in ("compare", "doctor", "status", "stop", "add"):  # take no settings
        return 0
    os.environ["COMP_LINE"] = line.replace(f" {command}", "", 1)
    from hydratune.composition import run_command

    has_settings = command in COMMANDS and command != "sweep"  # which has those of train
    return run_command(command if has_settings else "train", args)


def _explain(args: Sequence[str]) -> int:
    """Print what ``hydratune configs`` and ``hydratune help`` are asked. Returns the exit code."""
    about, asked = args[0], [word for word in args[1:] if word not in ("-h", "--help")]
    if about == "help" and len(asked) == 1 and asked[0] in COMMANDS:
        return main([asked[0], "--help"])
    from hydratune.composition.listing import explain_setting, groups, list_configs
    from hydratune.console import print_error
    from hydratune.errors import HydratuneError, InputError

    try:
        if asked[:1] == ["model"]:
            from hydratune.composition.model_table import print_models

            print_models(asked[1:])
            return 0
        if len(asked) > 1:
            what = "one group" if about == "configs" else "one setting"
            raise InputError(f"{' '.join(asked)}: give {what}")
        if about == "configs" or not asked or asked[0] in groups():
            print(list_configs(asked[0] if asked else None), end="")
        else:
            print(explain_setting(asked[0]), end="")
    except HydratuneError as error:
        print_error(f"hydratune {about}: {error}")
        return error.exit_code
    return 0


def _sweep(args: Sequence[str]) -> int:
    """Run ``hydratune sweep``, which is a sweep of ``hydratune train``. Returns the exit code."""
    from hydratune.commands.sweep import HELP, train_arguments
    from hydratune.console import print_error
    from hydratune.errors import InputError

    if not args or {"-h", "--help"} & set(args):
        print(HELP, end="")
        return 0 if args else 2
    try:
        words = train_arguments(args)
    except InputError as error:
        print_error(f"hydratune sweep: {error}")
        return error.exit_code
    from hydratune.composition import run_command
    from hydratune.tracking.typed_command import typed_as

    with typed_as("hydratune sweep", args):
        return run_command("train", words, shown="sweep")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] in (["-sc"], ["--shell-completion"]):
        return _complete(args)
    if args[:1] == ["configs"] or (args[:1] == ["help"] and len(args) > 1):
        return _explain(args)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help(), end="")
        return 0
    if args[0] == "--version":
        from hydratune import __version__

        print(f"hydratune {__version__}")
        return 0
    command = args[0]
    if command not in COMMANDS:
        known = [*COMMANDS, *(name.partition(" ")[0] for name in _ABOUT)]
        near = difflib.get_close_matches(command, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(known)}"
        from hydratune.console import print_error

        print_error(f"hydratune: unknown command {command!r}; {hint}")
        return 2
    if command == "compare":  # takes directories, not settings
        from hydratune.lean_imports import load

        return load("hydratune.commands.compare").main(args[1:])
    if command == "add":
        from hydratune.overview.adding import add

        return add(args[1:])
    if command in ("status", "stop"):  # of runs that other processes perform
        from hydratune.overview import command as overview

        return (overview.status if command == "status" else overview.stop)(args[1:])
    if command == "doctor":  # it works where packages are missing
        from hydratune.doctor.command import main as examine

        return examine(args[1:])
    if command == "sweep":
        return _sweep(args[1:])
    if {"-h", "--help"} & set(args[1:]):
        from hydratune.composition.help import command_help

        print(command_help(command, COMMANDS[command]), end="")
        return 0
    from hydratune.composition import run_command

    return run_command(command, args[1:])
