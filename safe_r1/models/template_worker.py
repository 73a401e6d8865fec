"""Renders a chat template in a process of its own, which imports nothing of this project.

Reads ``{"template": …, "dialogues": […], "seconds": …, "mebibytes": …}`` from stdin, and writes the number
of characters of the longest text, or -1 where the template raises: its caller renders it too, and gives the
reason.
"""

import json
import resource
import sys


def main() -> None:
    """Render each dialogue with and without a generation prompt, within limits."""
    task = json.load(sys.stdin)
    limit = task["mebibytes"] << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (task["seconds"], task["seconds"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(str(_longest(task["template"], task["dialogues"])))


def _longest(source: str, dialogues: list[list[dict[str, str]]]) -> int:
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag with which some templates mark what a model wrote; transformers has it too."""

        tags = {"generation"}  # noqa: RUF012 - as the base class has it

        def parse(self, parser: Parser) -> nodes.Node:
            """Its content alone."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: "2026-01-01"}
    longest = -1
    for dialogue in dialogues:
        for prompts in (True, False):
            try:
                text = environment.from_string(source).render(
                    messages=dialogue,
                    add_generation_prompt=prompts,
                    bos_token="<s>",
                    eos_token="</s>",
                    tools=None,
                    documents=None,
                )
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001 - a template raises whatever it likes
                continue
            longest = max(longest, len(text))
    return longest


if __name__ == "__main__":
    main()
