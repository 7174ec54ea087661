"""hydratune serve: answer requests with a fine-tuned model, by a server that is installed."""

import json
import shlex
from pathlib import Path

from rich.markup import escape

from hydratune.console import console
from hydratune.errors import RunError
from hydratune.experiment.finished_run import open_run
from hydratune.records.run_directory import RunDirectory
from hydratune.serving import servers, target
from hydratune.serving.process import require_free_port, running, wait_until_ready
from hydratune.settings.commands import ServeConfig
from hydratune.settings.export import LOOPBACK

_EVERYWHERE = ("0.0.0.0", "::")  # addresses of this machine in every network


def run(config: ServeConfig, _: RunDirectory) -> None:
    """Start a server, say how it is asked, and end it at Ctrl-C.

    Raises ``RunError`` if it does not start, or ends by itself.
    """
    model, program, exporting = _choose(config)
    if not config.dry_run:
        require_free_port(config.host, config.port)
        if exporting is not None:
            target.export(exporting)
    if config.dry_run and exporting is not None:
        console.print(escape(shlex.join(exporting)), soft_wrap=True)
        command = _before_export(program, model, config)
    else:
        command = servers.command_of(program, model, config)
    if config.dry_run:
        console.print(escape(shlex.join(command)), soft_wrap=True)
        return
    _serve(config, program, model, command)


def _choose(config: ServeConfig) -> tuple[target.Target, servers.Program, list[str] | None]:
    """Return the model, its server, and the command that exports the run before, if any."""
    if config.export is not None:
        model = target.of_export(Path(config.export))
        return model, servers.choose(config.server, model.kind), None
    assert config.run is not None
    open_run(config.run)  # refused before a server is looked for
    program = servers.choose(config.server, None)
    model, exporting = target.of_run(Path(config.run).absolute(), program.kinds[0])
    return model, program, exporting


def _before_export(
    program: servers.Program, model: target.Target, config: ServeConfig
) -> list[str]:
    """Return the command of a server for a model that is not exported yet."""
    if model.kind is not target.Kind.gguf:
        return servers.command_of(program, model, config)
    return servers.command_of(program, target.NotYetWritten(model.folder, model.kind), config)


def _serve(
    config: ServeConfig, program: servers.Program, model: target.Target, command: list[str]
) -> None:
    console.print(f"[dim]{escape(shlex.join(command))}", soft_wrap=True)
    target.check_template(model)
    keys = program.environment(config.host)
    if config.host not in LOOPBACK:
        who = "every machine that reaches this address can ask the model"
        asked = f"with the key {escape(' '.join(keys.values()))}" if keys else "without a password"
        console.print(f"[yellow]host={escape(config.host)}: {who}, {asked}", soft_wrap=True)
    host = "127.0.0.1" if config.host in _EVERYWHERE else config.host
    address = f"http://{f'[{host}]' if ':' in host else host}:{config.port}"
    try:
        with running(command, keys) as process:
            wait_until_ready(process, f"{address}/health", config.start_timeout)
            _print_how_to_ask(f"{address}/v1", servers.shown_model(program, model, command))
            code = process.wait()
            raise RunError(f"the server ended by itself, with exit code {code}")
    except KeyboardInterrupt:  # the usual end
        console.print("\nthe server has ended")


def _print_how_to_ask(url: str, name: str) -> None:
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "..."}],
        "temperature": 0,
        "max_tokens": 256,
    }
    lines = (
        f"server      {url}  (Ctrl-C ends it)",
        f"curl        curl {url}/chat/completions -H 'Content-Type: application/json' -d"
        f" {shlex.quote(json.dumps(body))}",
        f'python      openai.OpenAI(base_url="{url}", api_key="none")'
        f'.chat.completions.create(model="{name}", messages=[...], temperature=0)',
    )
    for line in lines:
        console.print(escape(line), soft_wrap=True)
