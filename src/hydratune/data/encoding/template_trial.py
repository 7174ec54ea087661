"""Run as a program of its own: renders conversations with a chat template that may be hostile,
under limits of time and memory.

Reads one JSON object from standard input. Its exit code says what happened: ``TOO_MUCH`` if the
text or the memory is too large, a signal if it took too long, 0 otherwise, also for a template that
is wrong in another way: whoever renders it in earnest sees that.
"""

import json
import os
import resource
import sys
from typing import Any

TOO_MUCH = 3


def _environment() -> Any:
    """As transformers makes it, as far as it matters for time and memory."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True)
            ).set_lineno(line)

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
    asked = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CPU, (asked["seconds"], asked["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (asked["bytes"], asked["bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        template = _environment().from_string(asked["template"])
        for prompt in (True, False):
            length = 0
            for part in template.generate(**asked["values"], add_generation_prompt=prompt):
                length += len(part)
                if length > asked["characters"]:
                    os._exit(TOO_MUCH)
    except MemoryError:
        os._exit(TOO_MUCH)
    except Exception:
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
