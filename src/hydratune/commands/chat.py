"""hydratune chat: a conversation with the model of a finished run in the terminal."""

from hydratune.experiment.answering.chat import COMMANDS, Chat
from hydratune.experiment.answering.model import open_model, system_prompt
from hydratune.experiment.answering.terminal import Screen, open_screen
from hydratune.experiment.finished_run import open_run
from hydratune.records.headline import headline
from hydratune.records.run_directory import RunDirectory
from hydratune.settings.commands import ChatConfig
from hydratune.settings.registry import flat, plain


def run(config: ChatConfig, _: RunDirectory) -> None:
    """Converse until the input ends."""
    finished = open_run(config.run)
    model = open_model(finished, config)
    system = system_prompt(finished, config.system)
    screen = open_screen(list(COMMANDS))
    chat = Chat(model, config, system.text, screen)
    screen.say(headline(flat(plain(finished.settings))))
    text = f": {system.text}" if system.text else ""
    screen.say(f"system prompt, {system.origin}{text}")
    if config.json_schema is not None:
        model.schema(config.json_schema)  # refused before weights are loaded
    if config.load is not None:
        chat.load(config.load)
    if screen.is_interactive:
        screen.say("/help lists the commands; Ctrl-D ends\n")
    _converse(chat, screen)


def _converse(chat: Chat, screen: Screen) -> None:
    while True:
        try:
            line = screen.read()
        except KeyboardInterrupt:
            if not screen.is_interactive:
                raise
            screen.say("Ctrl-D or /quit ends")
            continue
        if line is None or not chat.handle(line):
            return
