"""Write docs/commands.md, the reference of the command line, from the commands themselves.

    python docs/make_commands.py            # writes docs/commands.md (make reference)

tests/test_reference.py checks that the page is what this makes."""

import re
from pathlib import Path
from typing import Any

import typer

from r1kit.commands.cli import app

PAGE = Path(__file__).with_name("commands.md")
INTRODUCTION = """\
# Every command

Made from the command line itself by `make reference`; do not edit. `r1kit COMMAND --help` prints the same.
Where a command takes changes of a recipe, they are its keys with a value: `stages.r1_zero.grpo.steps=150`
([recipe-keys.md](recipe-keys.md)). Exit codes and files are on [reference.md](reference.md).
"""


def page() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("r1kit", [], resilient_parsing=True)
    names = list(group.list_commands(context))
    parts = [INTRODUCTION, "\n".join(f"- [`{name}`](#{name})" for name in names) + "\n"]
    parts += [section(name, group.get_command(context, name)) for name in names]
    return "\n".join(parts)


def section(name: str, command: Any) -> str:
    """One command: what it does, its arguments and options."""
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    words = [shown_argument(one) for one in arguments]
    usage = " ".join(["r1kit", name, *words, "[OPTIONS]"])
    lines = [f"## {name}\n", plain(command.help) + "\n", f"```text\n{usage}\n```\n"]
    rows = [f"| `{shown_argument(one)}` | | {plain(getattr(one, 'help', ''))} |" for one in arguments]
    for one in command.params:
        if one.param_type_name == "option" and one.name != "help" and not getattr(one, "hidden", False):
            rows.append(f"| {shown_option(one)} | {default(one)} | {plain(one.help)} |")
    if rows:
        lines.append(
            "\n".join(["| argument or option | default | what it does |", "|---|---|---|", *rows]) + "\n"
        )
    return "\n".join(lines)


def shown_argument(argument: Any) -> str:
    """An argument's name, in brackets where it may be left out."""
    name = argument.metavar or (argument.name or "").upper()
    name = f"{name}..." if argument.nargs == -1 and not name.endswith("...") else name
    return name if argument.required else f"[{name.strip('[]')}]"


def shown_option(option: Any) -> str:
    """An option's names, with what follows it."""
    names = [*option.opts, *option.secondary_opts]
    value = option.metavar or (option.name or "").upper()
    follows = "" if option.is_flag else f" {value}"
    return ", ".join(f"`{name}{follows}`" for name in names).replace("|", "\\|")


def default(option: Any) -> str:
    """The default, where it says something."""
    value = option.default
    if callable(value) or value in (None, False, (), [], ""):
        return ""
    return f"`{value}`"


def plain(text: str | None) -> str:
    """A help text in one line of Markdown."""
    text = re.sub(r"``(.+?)``", r"`\1`", " ".join((text or "").split()))
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: written")
