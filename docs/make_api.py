"""Write docs/api.md, the reference of the public names, from their docstrings and signatures.

    python docs/make_api.py            # writes docs/api.md (make api)

tests/test_public_api.py checks that the page is what this makes.
"""

import dataclasses
import enum
import inspect
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import r1kit

PAGE = Path(__file__).with_name("api.md")
ROOT = Path(__file__).parents[1]

# The public names in the order in which a reader meets them.
SECTIONS = {
    "Recipes and runs": ("load", "Recipe", "run"),
    "What you may write yourself": ("Task", "Reward", "Stage", "Context", "Engine", "Runtime"),
    "Checking answers": ("check_math", "format_reward", "language_share", "run_program"),
    "Models": (
        "ModelConfig",
        "LanguageModel",
        "load_pretrained",
        "save_pretrained",
        "Tokenizer",
        "Chat",
        "NativeEngine",
    ),
    "Training": ("GRPOConfig",),
    "What flows": ("Problem", "Sampling", "Completion", "Rollout", "Verdict", "Score", "Row"),
    "Configuration and errors": ("Config", "R1kitError", "ConfigError"),
}
# Names that only an extension needs: they are imported from their module, not from r1kit itself.
EXTENSIONS = {
    "r1kit.train.rl_loop": ("RLConfig", "Algorithm"),
    "r1kit.runtime": ("RuntimeConfig",),
    "r1kit.stages.stage": ("StagePlan", "SamplingPhase", "TrainingPhase"),
    "r1kit.train.learner": ("LearnerConfig",),
    "r1kit.train.objectives": ("Objective", "Predictions"),
    "r1kit.runs.execute": ("Summary",),
}
EXTENSIONS_TITLE = "For extensions, from their modules"
INTRODUCTION = """\
# API reference

Made from the docstrings by `make api`; do not edit. A name is imported when it is first used:

```python
import r1kit

recipe = r1kit.load("recipes/nano.yaml", ["seed=1"])
summary = r1kit.run(recipe)
```

[how-to/](how-to/README.md) has a tested example of everything that you may write yourself;
[glossary.md](glossary.md) explains the words.
"""


def page() -> str:
    """The whole page. Raises ValueError where a public name has no section, or a section a name that is not
    public."""
    listed = [name for names in SECTIONS.values() for name in names]
    if sorted(listed) != sorted(r1kit.__all__):
        raise ValueError(f"SECTIONS and r1kit.__all__ differ: {sorted(set(listed) ^ set(r1kit.__all__))}")
    parts = [INTRODUCTION, contents()]
    for title, names in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [entry(name, getattr(r1kit, name)) for name in names]
    parts.append(f"## {EXTENSIONS_TITLE}\n")
    for module, names in EXTENSIONS.items():
        parts += [entry(name, getattr(import_module(module), name), module) for name in names]
    return "\n".join(parts)


def contents() -> str:
    """A table of all names with links to their entries."""
    extensions = [name for names in EXTENSIONS.values() for name in names]
    lines = ["| section | names |", "|---|---|"]
    for title, names in {**SECTIONS, EXTENSIONS_TITLE: extensions}.items():
        lines.append(f"| {title} | {', '.join(f'[`{name}`](#{name.lower()})' for name in names)} |")
    return "\n".join(lines) + "\n"


def entry(name: str, thing: Any, module: str = "") -> str:
    """One name: where it is defined, its signature, its docstring, its fields and methods. ``module``: where
    it is imported from, for names that are not r1kit's own."""
    lines = [f"### `{name}`\n", source_link(thing) + "\n"]
    if module:
        lines.append(f"```python\nfrom {module} import {name}\n```\n")
    if inspect.isclass(thing):
        lines += [docstring(thing), *fields(thing), *methods(thing)]
    else:
        lines += [f"```python\n{signature(name, thing)}\n```\n", docstring(thing)]
    return "\n".join(line for line in lines if line)


def source_link(thing: Any) -> str:
    """A link to the file that defines a class or a function."""
    source = Path(inspect.getsourcefile(thing) or "").relative_to(ROOT)
    return f"[{source}](../{source})"


def docstring(thing: Any) -> str:
    """The docstring as Markdown: names in double backquotes become code, indented blocks stay as they are."""
    text = inspect.getdoc(thing) or ""
    return re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL) + "\n" if text else ""


def signature(name: str, function: Any) -> str:
    """``def name(...) -> ...`` as it is written, over several lines where it is long."""
    shown = inspect.signature(function)
    arguments: list[str] = []
    kinds = [parameter.kind for parameter in shown.parameters.values()]
    for place, parameter in enumerate(shown.parameters.values()):
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.VAR_POSITIONAL not in kinds:
            arguments += ["*"] * ("*" not in arguments)
        arguments.append(argument(parameter))
        following = kinds[place + 1] if place + 1 < len(kinds) else None
        if parameter.kind is parameter.POSITIONAL_ONLY and following is not parameter.POSITIONAL_ONLY:
            arguments.append("/")
    returned = "" if shown.return_annotation is shown.empty else f" -> {written(shown.return_annotation)}"
    line = f"def {name}({', '.join(arguments)}){returned}"
    if len(line) <= 100:
        return line
    return f"def {name}(\n    " + ",\n    ".join(arguments) + f",\n){returned}"


def argument(parameter: inspect.Parameter) -> str:
    """One argument of a signature with its type and default."""
    marks: dict[Any, str] = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    stars = marks.get(parameter.kind, "")
    kind = "" if parameter.annotation is parameter.empty else f": {written(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{kind}"
    return f"{parameter.name}{kind}{' = ' if kind else '='}{default(parameter.default)}"


def fields(thing: type) -> list[str]:
    """Tables of a configuration's or dataclass's fields with types and defaults. Fields that a configuration
    inherits stand in a table of their own, under the docstring of the class that defines them."""
    if issubclass(thing, BaseModel):
        return [
            part
            for owner in thing.__mro__
            if issubclass(owner, BaseModel)
            for part in own_fields(thing, owner)
        ]
    if not dataclasses.is_dataclass(thing):
        return []
    rows: list[tuple[str, Any, str]] = []
    hints = get_type_hints(thing)
    for own in dataclasses.fields(thing):
        missing = own.default is dataclasses.MISSING
        made = "" if own.default_factory is dataclasses.MISSING else "a new one"
        rows.append((own.name, hints[own.name], made if missing else default(own.default)))
    return table(rows)


def own_fields(thing: type[BaseModel], owner: type[BaseModel]) -> list[str]:
    """The table of those fields of ``thing`` that ``owner``, itself or a class that it inherits from, is the
    first to have."""
    known = {name for base in owner.__bases__ if issubclass(base, BaseModel) for name in base.model_fields}
    rows = []
    for name, field in thing.model_fields.items():
        if name in owner.model_fields and name not in known:
            missing = field.default is PydanticUndefined
            rows.append((name, field.annotation, "" if missing else default(field.default)))
    if owner is thing or not rows:
        return table(rows)
    return [f"**Keys of `{owner.__name__}`** ({source_link(owner)})\n", docstring(owner), *table(rows)]


def table(rows: Sequence[tuple[str, Any, str]]) -> list[str]:
    """Fields as a table: name, type, default."""
    if not rows:
        return []
    lines = ["| field | type | default |", "|---|---|---|"]
    lines += [f"| `{name}` | {code(written(kind))} | {code(value)} |" for name, kind, value in rows]
    return ["\n".join(lines) + "\n"]


def default(value: Any) -> str:
    """A default as it is written in a recipe or in Python."""
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}()"
    if isinstance(value, enum.Enum):
        return repr(value.value)
    return repr(value)


def written(kind: Any) -> str:
    """A type as people write it: without modules, unions with bars."""
    if kind is None or kind is type(None):
        return "None"
    if isinstance(kind, str):
        return kind
    if isinstance(kind, list):
        return f"[{', '.join(written(one) for one in kind)}]"
    origin, inner = get_origin(kind), get_args(kind)
    if origin is None or not inner:
        return getattr(kind, "__name__", str(kind).rpartition(".")[2])
    if "Union" in str(origin):
        return " | ".join(written(one) for one in inner)
    if hasattr(kind, "__metadata__"):
        return written(inner[0])
    if "Literal" in str(origin):
        return " | ".join(repr(one) for one in inner)
    parts = ["..." if one is ... else written(one) for one in inner]
    return f"{getattr(origin, '__name__', str(origin))}[{', '.join(parts)}]"


def code(text: str) -> str:
    """Text as code in a table, where a bar has to be escaped; nothing for nothing."""
    return "`" + text.replace("|", "\\|") + "`" if text else ""


def methods(thing: type) -> list[str]:
    """The public methods that the class itself defines, each with its docstring. One that overrides an
    inherited method and has no docstring of its own is described there."""
    found = []
    for name, member in vars(thing).items():
        if name.startswith("_") and name != "__call__":
            continue
        if not member.__doc__ and any(name in vars(base) for base in thing.__mro__[1:]):
            continue
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(member, property):
            found.append(f"#### `{thing.__name__}.{name}`{returned(member)}\n\n{docstring(member)}")
        elif inspect.isfunction(function) and function.__module__ == thing.__module__:
            shown = signature(name, function)
            found.append(
                f"#### `{thing.__name__}.{name}`\n\n```python\n{shown}\n```\n\n{docstring(function)}"
            )
    return found


def returned(member: property) -> str:
    """``: type`` of a property, where it is annotated."""
    kind = inspect.signature(member.fget).return_annotation if member.fget else inspect.Signature.empty
    return "" if kind is inspect.Signature.empty else f": `{written(kind)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: written")
