"""Configuration in layers, with the place of every key: an extended file, the file itself, the command line.

A later layer wins key by key: mappings merge, lists are replaced whole, null switches a block off. Two rules
are a recipe's own:

- Under ``stages`` a mapping changes stages of the list by name (``stages: {r1_zero: {grpo: {steps: 80}}}``,
  and so does ``stages.r1_zero.grpo.steps=80`` on the command line). Null removes that stage, and a new name
  whose mapping says ``stage:`` is added at the end.
- A mapping under ``tasks``, ``prompts``, ``general``, ``corpus`` or ``rewards`` (``REPLACED``) replaces the
  one of the layer below, and so does any mapping that the command line gives as a whole
  (``stages.r1_zero.grpo={steps: 80}``). So a recipe that extends mini.yaml and names other tasks does not
  train on the miniature's as well. To edit such a mapping, put a null in it (``tasks: {word: null, mine:
  {...}}`` removes one task and adds one) or use a dotted key (``stages.r1_zero.tasks.chain=2``).

The file and line of every key are kept for errors and for ``show --explain``. Unlike in other YAML, a value
that begins with ``@`` needs no quotes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]

from r1kit.addresses import word_without_secrets
from r1kit.config import ConfigError, KeyPath, shorten, suggest

REPLACED = ("tasks", "prompts", "general", "corpus", "rewards")

# A recipe may come from a stranger. The largest of this repository has some 900 keys and values in 20 kB.
LONGEST_FILE = 200_000  # bytes
MOST_NODES = 10_000  # keys and values, counted again wherever an alias repeats them
DEEPEST = 50  # blocks within blocks
LONGEST_INTEGER = 4096  # bits; Python writes integers of some more, but not of any length
MOST_FILES = 20  # that extend one another


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key was written: a file and its line, or an override on the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Layers:
    """Merged plain data, and the place of each of its keys by key path. ``source`` names the whole in
    messages; ``assigned`` is the key path that an override on the command line sets."""

    data: dict[str, Any]
    places: dict[KeyPath, Place] = field(default_factory=dict)
    source: str = ""
    assigned: KeyPath = ()

    def place(self, path: KeyPath) -> Place:
        """The place of the key, or of the nearest thing around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Place(self.source)

    def error(self, path: KeyPath, message: str) -> str:
        """``FILE:LINE: stages.zero.rewards: message`` for what is wrong with the value at ``path``."""
        names = [str(part) for part in path]
        if path[:1] == ("stages",) and len(path) > 1:
            names[1] = stage_name(self.data["stages"][path[1]]) or names[1]
        where = f"{self.place_of_problem(path, message)}: "
        if names and message.startswith((f"{names[-1]}: ", f"{names[-1]}.")):
            names[-1:] = []  # the message begins with this key itself
            return where + ".".join([*names, message])
        return where + (f"{'.'.join(names)}: " if names else "") + message

    def place_of_problem(self, path: KeyPath, message: str) -> Place:
        """The place of the key that a message about the value at ``path`` is about: a message that names keys
        within the value ("rewards: unknown reward 'acuracy'", "tasks.mine: ...") is followed down to them."""
        message = re.split(r"did you mean|known:", message)[0]
        while True:
            found = [
                (match.start(), -len(key), key, match.end())
                for key in self._keys_within(path)
                if (match := _mention(key).search(message))
            ]
            if not found:
                return self.place(path)
            *_, key, end = min(found)
            path, message = (*path, key), message[end:]

    def _keys_within(self, path: KeyPath) -> list[str]:
        inner = [at[len(path)] for at in self.places if at[: len(path)] == path and len(at) == len(path) + 1]
        return [key for key in inner if isinstance(key, str)]


def _mention(key: str) -> re.Pattern[str]:
    """Where a text names a key: in quotes, in a dotted path, before a colon, or anywhere where it is no usual
    word."""
    name = rf"(?<!\w){re.escape(key)}(?!\w)"
    if "_" in key:
        return re.compile(name)
    return re.compile(rf"(?<=['\"]){name}(?=['\"])|(?<=\.){name}|(?<!\.){name}(?=[:=]|\.\w)")


def read_layers(file: Path, overrides: Sequence[str] = ()) -> Layers:
    """Read a YAML file, the files that it extends and ``a.b=c`` overrides. Raises ConfigError with file and
    line."""
    merged = _read_file(file, ())
    for override in overrides:
        merged = merge(merged, parse_override(override))
    return merged


def parse_override(text: str) -> Layers:
    """Read ``a.b.c=value``; the value is YAML, so ``[1, 2]``, ``{x: 1}``, ``null`` and ``1e-6`` mean what
    they say."""
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(
            f"command line: {word_without_secrets(text)!r} is no override: write key=value, with dots for "
            "inner keys (a.b=c)"
        )
    place = Place(f"command line ({word_without_secrets(text)})")
    try:
        if len(value) > LONGEST_FILE:
            raise yaml.YAMLError(f"{len(value)} characters; {LONGEST_FILE} are read")
        inner = yaml.load(value, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(
            f"command line: {shorten(word_without_secrets(text))}: the value is not YAML: {_explain(error)}"
        ) from None
    places: dict[KeyPath, Place] = {tuple(names[: depth + 1]): place for depth in range(len(names))}
    places |= {(*names, *path): place for path in _paths(inner)}
    for name in reversed(names):
        inner = {name: inner}
    return Layers(inner, places, "command line", tuple(names))


def merge(base: Layers, over: Layers) -> Layers:
    """Lay ``over`` on ``base``. Raises ConfigError where ``over`` changes a stage that ``base`` does not
    have."""
    places = dict(base.places)
    data = _merge(base.data, over.data, (), (), over, places)
    return Layers(data, places, base.source or over.source)


def stage_name(stage: Any) -> str | None:
    """The name of a stage as it is written: its ``name``, else its kind."""
    name = stage.get("name") or stage.get("stage") if isinstance(stage, Mapping) else None
    return str(name).rpartition(":")[2] if name else None


def _merge(
    base: Any, over: Any, at: KeyPath, over_at: KeyPath, layer: Layers, places: dict[KeyPath, Place]
) -> Any:
    if isinstance(base, dict) and isinstance(over, dict) and not _replaces(over, over_at, layer):
        merged = dict(base)
        for key, value in over.items():
            merged[key] = _merge(base.get(key), value, (*at, key), (*over_at, key), layer, places)
        if over_at in layer.places:
            places.setdefault(at, layer.places[over_at])
        return merged
    if at == ("stages",) and isinstance(base, list) and isinstance(over, dict):
        return _merge_stages(base, over, layer, places)
    for path in ((), *_paths(base)):
        places.pop((*at, *path), None)
    for path in ((), *_paths(over)):
        if (place := layer.places.get((*over_at, *path))) is not None:
            places[(*at, *path)] = place
    return over


def _replaces(over: dict[str, Any], at: KeyPath, layer: Layers) -> bool:
    """Whether a layer's mapping at ``at`` replaces the one below instead of merging with it."""
    if not at or None in over.values():
        return False
    if layer.assigned[: len(at)] == at:  # an override: only its last key can be given as a whole
        is_stage = at[0] == "stages" and len(at) <= 2
        return at == layer.assigned and not is_stage
    return at[-1] in REPLACED


def _merge_stages(
    stages: list[Any], changes: dict[str, Any], layer: Layers, places: dict[KeyPath, Place]
) -> list[Any]:
    names = [stage_name(stage) for stage in stages]
    merged = list(stages)
    for name, change in changes.items():
        if name not in names and isinstance(change, dict) and "stage" in change:
            names.append(name)
            merged.append(
                _merge({"name": name}, change, ("stages", len(merged)), ("stages", name), layer, places)
            )
            continue
        if name not in names:
            place = layer.place(("stages", name))
            raise ConfigError(
                f"{place}: no stage {name!r}: {suggest(str(name), [known for known in names if known])}"
            )
        index = names.index(name)
        merged[index] = _merge(stages[index], change, ("stages", index), ("stages", name), layer, places)
    kept = [index for index in range(len(merged)) if merged[index] is not None]
    _renumber(places, kept)
    return [merged[index] for index in kept]


def _renumber(places: dict[KeyPath, Place], kept: list[int]) -> None:
    moved = {path: place for path, place in places.items() if path[:1] == ("stages",) and len(path) > 1}
    for path in moved:
        del places[path]
    places.update(
        {
            ("stages", kept.index(int(path[1])), *path[2:]): place
            for path, place in moved.items()
            if path[1] in kept
        }
    )


def _read_file(file: Path, readers: tuple[Path, ...]) -> Layers:
    if file.resolve() in readers:
        chain = " -> ".join(str(path) for path in (*readers, file.resolve()))
        raise ConfigError(f"{file}: files extend each other in a circle: {chain}")
    if len(readers) == MOST_FILES:
        raise ConfigError(f"{file}: more than {MOST_FILES} files extend one another; write fewer layers")
    layers = _read_one(file)
    parent = layers.data.pop("extends", None)
    if parent is None:
        return layers
    place = layers.places.pop(("extends",))
    if not isinstance(parent, str):
        raise ConfigError(f"{place}: extends: name one file, relative to this one (given: {parent!r})")
    path = file.parent / parent
    if not path.is_file():
        raise ConfigError(f"{place}: extends: {path}: no such file (it is looked up from {file.parent})")
    below = _read_file(path, (*readers, file.resolve()))
    return merge(Layers(below.data, below.places, str(file)), layers)


def _read_one(file: Path) -> Layers:
    text = _read_text(file)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        places: dict[KeyPath, Place] = {}
        _locate(node, (), str(file), places)
        data = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        place = Place(str(file), _line_of(error, text))
        raise ConfigError(f"{place}: not valid YAML: {_explain(error)}") from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{file}: a recipe is a mapping of keys (name, runtime, stages); this file holds a "
            f"{type(data).__name__}"
        )
    return Layers(data, places, str(file))


def _read_text(file: Path) -> str:
    """The text of a recipe's file, of which no more than LONGEST_FILE is read."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LONGEST_FILE + 1)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from None
    if len(content) > LONGEST_FILE:
        raise ConfigError(
            f"{file}: more than {LONGEST_FILE} bytes are no recipe; name data in files of their own"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{file}:{line}: not UTF-8 ({error.reason}: byte 0x{content[error.start]:02x}); convert the "
            "file to UTF-8"
        ) from None


def _line_of(error: yaml.YAMLError, text: str) -> int | None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1
    return None


def _locate(node: yaml.Node | None, path: KeyPath, file: str, places: dict[KeyPath, Place]) -> None:
    """Note the line of every key. PyYAML silently keeps the last of two equal keys; here that is an error."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            inner = (*path, str(key.value))
            place = Place(file, key.start_mark.line + 1)
            if inner in places:
                raise ConfigError(
                    f"{place}: key {key.value!r} is given twice (first at line {places[inner].line}): "
                    "remove one"
                )
            places[inner] = place
            _locate(value, inner, file, places)
        for merged in _merged_nodes(node):
            taken_over: dict[KeyPath, Place] = {}
            _locate(merged, path, file, taken_over)
            for inner, place in taken_over.items():
                places.setdefault(inner, place)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[(*path, index)] = Place(file, value.start_mark.line + 1)
            _locate(value, (*path, index), file, places)


def _merged_nodes(node: yaml.MappingNode) -> list[yaml.Node]:
    """The mappings that ``<<: *anchor`` lays below this one."""
    merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
    return [
        single
        for value in merged
        for single in (value.value if isinstance(value, yaml.SequenceNode) else [value])
    ]


def _paths(value: Any) -> list[KeyPath]:
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [
        path for key, inner in entries for path in [(key,), *((key, *deeper) for deeper in _paths(inner))]
    ]


def _explain(error: yaml.YAMLError) -> str:
    """What PyYAML found, with the fix where a value begins with a character that means something else."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character \\u{error.character:04x} does not belong in YAML; remove it"
    problem = str(getattr(error, "problem", None) or error)
    start = re.search(r"found character '(.+)' that cannot start any token", problem)
    if start and start[1] == "\\t":
        return f"{problem}; indent with spaces, not with tabs"
    if start:
        return f"a value that begins with {start[1]} needs quotes: '{start[1]}...'"
    if isinstance(error, yaml.composer.ComposerError) and "undefined alias" in problem:
        return f"{problem}; a value that begins with * needs quotes: '*...'"
    if isinstance(error, yaml.constructor.ConstructorError) and "constructor for the tag" in problem:
        return f"{problem}; a value that begins with ! needs quotes: '!...'"
    return problem


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML with two differences to PyYAML: 1e-6 is a number (PyYAML follows YAML 1.1, to which it is text
    without a dot), and ``@stage`` is a value (YAML reserves the character, and PyYAML refuses it).

    It reads at most MOST_NODES nodes, DEEPEST deep, and no alias that stands for what contains it: ten lines
    of aliases of aliases can stand for more values than a memory holds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.nodes, self.depth = 0, 0
        self.sizes: dict[str, int | None] = {}  # nodes of each anchor; None within it

    def check_directive(self) -> bool:
        """Whether the line is a directive; any other text that begins with % is a value without its
        quotes."""
        return bool(super().check_directive() and self.prefix(5) in ("%YAML", "%TAG "))

    def check_plain(self) -> bool:
        """Whether an unquoted value begins here."""
        return bool(self.peek() == "@" or super().check_plain())

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node, counted. Raises ComposerError with its place where it is one too many or too
        deep."""
        event = self.peek_event()
        anchor, before = event.anchor, self.nodes
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias and self.sizes.get(anchor, 0) is None:
            self._refuse(f"*{anchor} stands for a value that contains it; write the value out", event)
        self.nodes += (self.sizes.get(anchor) or 0) if is_alias else 1
        self.depth += 1
        if self.nodes > MOST_NODES:
            self._refuse(f"more than {MOST_NODES} keys and values, counted with what aliases repeat", event)
        if self.depth > DEEPEST:
            self._refuse(f"more than {DEEPEST} blocks within one another", event)
        if anchor is not None and not is_alias:
            self.sizes[anchor] = None
        node: yaml.Node | None = super().compose_node(parent, index)
        if anchor is not None and not is_alias:
            self.sizes[anchor] = self.nodes - before
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node. Raises ConstructorError with its place for a value that its tag cannot
        have, such as ``!!int x`` or the thirteenth month."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()  # fails for half a character
            if isinstance(value, int) and value.bit_length() > LONGEST_INTEGER:
                raise OverflowError
            return value
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
            if isinstance(node, yaml.ScalarNode):
                kind = node.tag.rpartition(":")[2]
                problem = f"{shorten(node.value)} is no {kind} that can be read; write it in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error
            raise

    def _refuse(self, problem: str, event: yaml.Event) -> NoReturn:
        raise yaml.composer.ComposerError(None, None, problem, event.start_mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)
for _kind in (
    "binary",
    "omap",
    "pairs",
    "set",
):  # no key of a recipe has such a value, and JSON cannot write it
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_undefined)
