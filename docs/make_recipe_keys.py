"""Write docs/recipe-keys.md, the reference of every key of a recipe, from the configurations themselves.

    python docs/make_recipe_keys.py            # writes docs/recipe-keys.md (make reference)

A key's type, limits and default are pydantic's. What it does is written once, in the source: in the comment
behind the field, or in the sentences of its class's docstring that name it (``key``). A source (paper and
section) stands there in parentheses. Keys that mean the same in every stage are explained in COMMON. Units
are in UNITS. tests/test_recipe_keys.py checks that the page is what this makes and that no key is without an
explanation."""

import ast
import inspect
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

sys.path.insert(0, str(Path(__file__).parent))
from make_api import code, default, source_link, written

from r1kit.config import Config
from r1kit.engine.endpoint import EndpointConfig
from r1kit.engine.vllm import VLLMConfig
from r1kit.model.config import ModelConfig
from r1kit.recipe.recipe import Recipe
from r1kit.rewards.table import REWARDS
from r1kit.runtime.fsdp import FsdpConfig
from r1kit.runtime.local import LocalConfig
from r1kit.runtime.ray import RayConfig
from r1kit.stages import STAGES
from r1kit.stages.stage import Stage
from r1kit.tasks import TASKS
from r1kit.tasks.dataset import DatasetConfig
from r1kit.tasks.miniature.corpus import CorpusMix
from r1kit.tasks.prompts import PromptsConfig

PAGE = Path(__file__).with_name("recipe-keys.md")

# Configurations of a recipe that its types do not name, with where they stand in it.
NAMED = {
    LocalConfig: "runtime, with kind: local",
    FsdpConfig: "runtime, with kind: fsdp",
    RayConfig: "runtime, with kind: ray",
    VLLMConfig: "runtime.engine, with kind: vllm",
    EndpointConfig: "runtime.engine, with kind: endpoint",
    ModelConfig: "model of pretrain",
    DatasetConfig: "an entry of tasks, with kind: dataset",
    PromptsConfig: "an entry of prompts or general, with kind: prompts",
    CorpusMix: "corpus.generated.miniature of pretrain",
}
# Keys that mean the same wherever they stand.
COMMON = {
    "stage": "the stage's kind",
    "init": "the model that it starts from",
    "grpo": "GRPO or another of its family, by `algorithm`",
    "ppo": "PPO, with a critic",
    "rl": "an algorithm of your own ([how](how-to/algorithm.md))",
    "talk": "how prompts are written",
    "learner": "how the model is trained on this machine",
    "training": "how rows are trained on",
    "watch": "held-out problems that are measured while the stage trains",
    "schedule": "the curve of the learning rate",
    "tasks": "the problems, by name: a weight, a file, or options ([tasks](#tasks))",
    "rewards": "what is rewarded: name or file.py:function -> weight ([rewards](#rewards))",
    "max_tokens": "longest completion; a longer one is cut off",
    "temperature": "of sampling",
    "learning_rate": "step of the optimizer",
    "bias_rate": "how far an expert's routing bias moves after each update",
    "epsilon": "bound of the ratio of new and old probability: 1 - epsilon and 1 + epsilon",
    "kind": "which one it is",
    "drills": "documents that are a single fact (7*8=56)",
    "general": "general documents",
    "slip_rate": "of each step of a wrong solution",
}
# The unit of a number: by the last part of its name, or by its whole name.
UNITS = {
    "optimizer updates": "steps reference_refresh warmup every max_skipped mtp_every gap_patience updates",
    "tokens": "tokens max_tokens context batch_tokens sequence max_positions stated_positions "
    "sliding_window original_positions cut_length",
    "problems": "problems rest prompts",
    "completions per problem": "group n samples sampled_solutions direct_n pass_k",
    "rollout phases": "off_policy",
    "rows": "rows batch_rows limit max_rows",
    "pairs": "pairs_per_prompt max_pairs labels batch",
    "passes over the data": "epochs",
    "updates per phase": "updates_per_rollout",
    "seconds": "seconds deadline_s start_s time_limit_s",
    "MB": "memory_limit_mb megabytes",
    "GiB": "cache_gib",
    "processes": "processes learners engines expert_parallel tensor_parallel workers tasks parallel",
    "threads": "threads",
    "share, 0 to 1": "share purity confidence memory final easy hard agreement decay_share general_share "
    "preference_share solutions_share direct chat_layout exact_tags broken_tags boxed drills general recheck "
    "wrong slip_rate taken_back prompt_language other_language switch readable spm_share rate at_least "
    "top_p tokens_share target dropout",
    "factor on the learning rate": "critic_rate rate",
    "weight": "weight helpful_weight safety_weight mtp_weight balance_weight beta entropy_bonus",
    "nats a token": "correction_delta gate_mean gate_max gap_alarm",
    "words": "words gram",
    "attempts": "attempts restarts rounds dynamic_sampling",
    "layers": "layers dense_layers mtp_depth",
    "experts": "experts active_experts shared_experts groups groups_kept",
    "channels": "width ffn_width expert_width head_dim q_rank kv_rank nope_dim rope_dim v_dim rank",
    "heads": "heads kv_heads",
    "number": "samples keep solutions examples least_tests most_tests keep_last keep_every save_every lines "
    "buckets vocab_size tokenizer seed tries keep_steps keep_first seeds gate_problems size bytes",
}
OVERRIDES = {
    "OnPolicyConfig.rate": "factor on the learning rate",
    "SupervisedConfig.epochs": "passes over the data",
    "RLConfig.save_every": "rollout phases",
    "SupervisedConfig.save_every": "optimizer updates",
    "DPOConfig.save_every": "optimizer updates",
    "OnPolicyConfig.save_every": "optimizer updates",
    "DPOConfig.beta": "",
    "LearnerConfig.lines": "lines of `context` tokens",
    "ExecutorConfig.tasks": "shares of the sources",
    "LearnerConfig.keep_every": "optimizer updates",
    "LearnerConfig.keep_last": "saved states",
    "NearConfig.rows": "hashes of a bucket",
    "CurriculumConfig.rest": "epochs of the task",
    "VLLMConfig.tensor_parallel": "GPUs",
    "Pretrain.tokenizer": "tokens of the vocabulary",
}
INTRODUCTION = """\
# Every key of a recipe

Made from the configurations by `make reference`; do not edit. `r1kit show RECIPE` prints a recipe with all
its keys, and `r1kit show RECIPE --explain stages.r1_zero.grpo.steps` where a value comes from. On the
command line a key is its path: `r1kit run mini stages.r1_zero.grpo.steps=150`. Stages stand in `stages`,
each with its `stage` and its own keys.

A number without a unit is a plain number. An empty default means that the key is needed. *Source* is where
the default, or the idea, comes from: **R1** is DeepSeek-R1 (2501.12948, second version), **V3** DeepSeek-V3
(2412.19437), other numbers are arXiv's. Without a source, the default is r1kit's own. [The stages](stages.md)
say which keys to turn; [objectives.md](objectives.md) has the algorithms by name.
"""
AFTER = """\
## Tasks

A task is a name with a weight (`chain: 1`), a file (`pens.jsonl: 1`), or a mapping with `kind`, `weight` and
the options below. [How to write one](how-to/task.md).

{tasks}

## Rewards

A reward is a name with a weight (`accuracy: 1.0`), or a mapping with `weight` and the options below.
[How to write one](how-to/reward.md).

{rewards}
"""


def page() -> str:
    """The whole page."""
    shared = [kind for kind in reachable() if kind not in STAGES.values() and kind is not Recipe]
    parts = [INTRODUCTION, contents(shared)]
    parts += ["## The recipe\n", section(Recipe)]
    parts += ["## Stages\n", *(section(kind, name) for name, kind in STAGES.items())]
    parts += ["## Parts of stages, runtimes and data\n", *(section(kind) for kind in shared)]
    parts.append(AFTER.format(tasks=options(TASKS, {"name"}), rewards=options(REWARDS, {"tasks"})))
    return "\n".join(parts)


@cache
def reachable() -> tuple[type[BaseModel], ...]:
    """Every configuration that a recipe can contain, in the order in which a reader meets it."""
    found: list[type[BaseModel]] = []

    def visit(kind: type[BaseModel]) -> None:
        if kind not in found and kind is not Stage:
            found.append(kind)
            for field in kind.model_fields.values():
                for inner in models_of(field.annotation):
                    visit(inner)

    for kind in (Recipe, *STAGES.values(), *NAMED):
        visit(kind)
    return tuple(found)


def models_of(kind: Any) -> Iterator[type[BaseModel]]:
    """The configurations that a field's type names."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in typing.get_args(kind):
        yield from models_of(inner)


def contents(shared: Sequence[type[BaseModel]]) -> str:
    """Links to all sections."""
    stages = ", ".join(f"[`{name}`](#{name})" for name in STAGES)
    parts = ", ".join(f"[`{kind.__name__}`](#{kind.__name__.lower()})" for kind in shared)
    return f"**Stages**: {stages}\n\n**Parts**: {parts}\n\n**Tables**: [tasks](#tasks), [rewards](#rewards)\n"


def section(kind: type[BaseModel], name: str = "") -> str:
    """One configuration: where it stands, the file that defines it, its keys."""
    lines = [f"### {name or kind.__name__}\n"]
    where = places(kind)
    stage_page = f" What the stage does: [stages/{name}.md](stages/{name}.md)." if name else ""
    lines.append(f"{source_link(kind)}.{' In a recipe: ' + where + '.' if where else ''}{stage_page}\n")
    lines += ["| key | type | default | unit | what it does | source |", "|---|---|---|---|---|---|"]
    lines += [row(kind, key, field) for key, field in kind.model_fields.items()]
    return "\n".join(lines) + "\n"


@cache
def places(kind: type[BaseModel]) -> str:
    """Where a part stands: under which keys of which configurations."""
    if kind in NAMED:
        return f"`{NAMED[kind]}`"
    users = []
    for user in reachable():
        shown = next((name for name, stage in STAGES.items() if stage is user), user.__name__)
        keys = [key for key, field in user.model_fields.items() if kind in models_of(field.annotation)]
        users += [f"`{key}` of [{shown}](#{shown.lower()})" for key in keys]
    return ", ".join(users)


def row(kind: type[BaseModel], key: str, field: FieldInfo) -> str:
    """One line of a table."""
    text, source = explained(kind, key)
    shown = [code(key), type_of(field), default_of(field), unit(kind, key, field), text, source]
    return f"| {' | '.join(shown)} |"


def type_of(field: FieldInfo) -> str:
    """The type with its limits: ``int, >= 1``. Parts are links."""
    parts = list(dict.fromkeys(models_of(field.annotation)))
    if parts and Stage not in parts:
        text = written(field.annotation).replace("|", "or")
        return re.sub(r"\b[A-Z]\w+\b", lambda name: linked(name[0], parts), text)
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [
        f"{sign} {getattr(one, name)}"
        for one in field.metadata
        for name, sign in signs.items()
        if getattr(one, name, None) is not None
    ]
    return code(", ".join([written(field.annotation).replace("None", "null"), *limits]))


def linked(name: str, parts: Sequence[type[BaseModel]]) -> str:
    """A part's name as a link to its section; another name as it is."""
    if name == "None":
        return "null"
    return f"[{name}](#{name.lower()})" if name in {part.__name__ for part in parts} else name


def default_of(field: FieldInfo) -> str:
    """The default as YAML writes it; of a part only what differs from the part's own defaults."""
    value = field.default
    if value is PydanticUndefined:
        return "`{}`" if field.default_factory else ""
    if isinstance(value, BaseModel):
        given = changed(value)
        return code(yaml_like(given)) if given else "its own"
    return code(yaml_like(value))


def changed(value: BaseModel) -> dict[str, Any]:
    """The keys of a part that differ from its class's defaults."""
    found: dict[str, Any] = {}
    for key, field in type(value).model_fields.items():
        mine, usual = getattr(value, key), field.default
        if mine == usual:
            continue
        found[key] = changed(mine) if isinstance(mine, BaseModel) else mine
    return found


def yaml_like(value: Any) -> str:
    """A value in one line, as a recipe has it."""
    if isinstance(value, BaseModel):
        return yaml_like(changed(value))
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {yaml_like(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(yaml_like(one) for one in value) + "]"
    if isinstance(value, str):
        short = value if len(value) <= 60 else value[:57] + "..."
        return '""' if not short else repr(short)[1:-1].replace("\\n", " ")
    if isinstance(value, float):
        return f"{value:.6g}"
    return default(value)


def unit(kind: type[BaseModel], key: str, field: FieldInfo) -> str:
    """The unit of a number, and nothing for what is none."""
    if not is_number(field.annotation):
        return ""
    for owner in kind.__mro__:
        if f"{owner.__name__}.{key}" in OVERRIDES:
            return OVERRIDES[f"{owner.__name__}.{key}"]
    for name, keys in UNITS.items():
        if key in keys.split():
            return name
    last = key.rpartition("_")[2]
    return next((name for name, keys in UNITS.items() if last in keys.split()), "")


def is_number(kind: Any) -> bool:
    """Whether a field holds a whole or a real number, or none."""
    if kind in (int, float):
        return True
    origin = typing.get_origin(kind)
    if origin in (list, tuple, dict) or "Literal" in str(origin):
        return False
    return any(is_number(one) for one in typing.get_args(kind))


@cache
def explained(kind: type[BaseModel], key: str) -> tuple[str, str]:
    """What a key does, and its source: from the comment behind the field, from the sentences that name it in
    the docstring of its class or of one that inherits it, or from COMMON."""
    texts = [COMMON[key]] if key in ("stage", "init", "grpo", "ppo", "rl") else []
    for owner in kind.__mro__:
        if texts or not (inspect.isclass(owner) and issubclass(owner, Config)) or owner is Config:
            continue
        found = [
            comments(owner).get(key, ""),
            named(inspect.cleandoc(owner.__dict__.get("__doc__") or ""), key),
        ]
        texts += [one for one in found if one and one not in texts]
    text = " ".join(one if one.endswith(".") else one + "." for one in texts[:2])
    if not text:
        text = COMMON.get(key, "")
    text, source = split_source(text)
    text = re.sub(rf"^``{key}``(: | is | are )", "", text)
    return cell(text), source


def cell(text: str) -> str:
    """A text for a table: double backquotes become code, signs of Markdown and HTML are escaped."""
    text = text.replace("|", "\\|").strip().removesuffix(".")
    parts = re.split(r"(``.+?``|`.+?`)", text)
    return "".join(
        f"`{part.strip('`')}`" if part.startswith("`") else part.replace("<", "&lt;") for part in parts
    )


@cache
def comments(owner: type) -> dict[str, str]:
    """The comments behind the fields of a class, by field."""
    source = inspect.getsource(owner)
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            _, mark, text = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")
            if mark and not text.startswith(("type:", "noqa")):
                found[node.target.id] = text
    return found


def named(text: str, key: str) -> str:
    """The sentences of a docstring that name the key, each with those after it that name none."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        here = False
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`])|;\s+(?=``)", " ".join(paragraph.split())):
            keys = re.findall(r"``(\w+)", sentence)
            here = key in keys or (here and not keys)
            if here:
                found.append(sentence if sentence.endswith((".", "?")) else sentence + ".")
    return " ".join(found)


SOURCE = re.compile(
    r"\s*\(([^()]*(?:\b\d{4}\.\d{5}\b|\b(?:R1|V3|DeepSeek-R1|DeepSeek-V3(?:\.2)?)\b[^()]*"
    r"(?:section|eq|figure|supplement|version|B\.4|\d\.\d))[^()]*)\)"
)


def split_source(text: str) -> tuple[str, str]:
    """A text without its citations, and the citations."""
    sources = [one.strip() for one in SOURCE.findall(text)]
    return SOURCE.sub("", text), "; ".join(dict.fromkeys(sources))


def options(table: dict[str, Any], hidden: set[str]) -> str:
    """The keyword arguments of each entry of a table of tasks or rewards, with the first sentence of what it
    is."""
    lines = ["| name | options | what it is |", "|---|---|---|"]
    for name, make in table.items():
        if make.__name__ == "<lambda>":  # the miniature's tasks
            shown, text = "`size`, `seed`" if name != "general" else "", "of the miniature"
        else:
            found = inspect.signature(make).parameters.values()
            shown = ", ".join(
                code(f"{one.name}: {yaml_like(one.default)}" if one.default is not one.empty else one.name)
                for one in found
                if one.name not in hidden
                and one.kind is not one.VAR_KEYWORD
                and (hidden == {"name"} or one.kind is one.KEYWORD_ONLY)
            )
            sentences = re.split(r"(?<=[.:])(?<!eq\.)\s", " ".join((inspect.getdoc(make) or "").split()))
            text = " ".join(sentences[: 2 if sentences[0].endswith(":") else 1])
        lines.append(f"| `{name}` | {shown} | {cell(text)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: written")
