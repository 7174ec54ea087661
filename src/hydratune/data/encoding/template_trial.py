"""Render conversations with a chat template that may be hostile, as a program of its own.

It reads one JSON object from standard input and sets limits of time and memory. Its exit code says
what happened: ``EXIT_TOO_LARGE`` if the text or the memory is too large, a signal if it took too
long, 0 otherwise. A template that is wrong in another way also gives 0, because the rendering that
follows raises its error.
"""

import json
import os
import resource
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

EXIT_TOO_LARGE = 3


def _environment() -> "Environment":
    """Return an environment like that of transformers, as far as time and memory are concerned."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block ``{% generation %}``, whose content is rendered like any other text."""

        tags = {"generation"}

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, indent=options.get("indent")
    )
    environment.globals["raise_exception"] = lambda message: 1 / 0
    environment.globals["strftime_now"] = str
    return environment


def main() -> None:
    """Render the template of the job once with a generation prompt and once without."""
    job = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (job["bytes"], job["bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        template = _environment().from_string(job["template"])
        for generation_prompt in (True, False):
            length = 0
            for text in template.generate(**job["values"], add_generation_prompt=generation_prompt):
                length += len(text)
                if length > job["characters"]:
                    os._exit(EXIT_TOO_LARGE)
    except MemoryError:
        os._exit(EXIT_TOO_LARGE)
    except Exception:
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
