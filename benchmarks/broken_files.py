"""Give r1kit broken files of every kind that it reads, and count what happens.

    python benchmarks/broken_files.py                   300 files of each kind
    python benchmarks/broken_files.py --count 20 --kinds config.json,recipe.yaml

Each file is a good one, changed by chance (a seed gives the same files again): cut off, bytes flipped, put in
or taken out, another encoding, a pointer of git-lfs; for JSON also values of another type or size, keys taken
out, renamed or repeated. Some changes leave a usable file: that counts as ``read``. Everything else must be
an R1kitError that contains the file's name (``refused``). Wrong is any other exception (``unnamed``), more
than ten seconds (``slow``) and more than 2 GB (``memory``). A few files of each kind are given to the real
command as well, which must exit with 1 or 2, without a traceback, and print no control character.

Exits with 1 if anything is wrong."""

import argparse
import copy
import gzip
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SLOWEST_S, MOST_MB = 10.0, 2000
COMMANDS = 2  # real commands of each kind
# What a command may not read to the end: --dry-run looks at the first row of a data file, chat at a template
# only where the tokenizer has no turn tokens of its own.
PARTLY = ("dataset.jsonl", "packed.jsonl.gz", "prompts.jsonl", "chat_template.jinja")

RECIPE = """\
name: broken
seed: 3
runtime: {kind: local, processes: 1}
stages:
  - stage: pretrain
    model: {preset: nano}
    tokens: 60_000
    tokenizer: 320
    corpus: {generated: {miniature: 1.0}}
  - stage: r1_zero
    init: "@pretrain/model"
    tasks: {word: 1.0}
    rewards: {accuracy: 1.0, format: 0.5}
    grpo: {steps: 2, problems: 2, group: 2}
"""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}\n{% if m.role == 'user' %}<｜User｜>{{ m.content }}\n"
    "{% else %}<｜Assistant｜>{{ m.content ~ eos_token }}{% endif %}\n{% endfor %}\n"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    -(10**12),
    10**9,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\x1b[2J\x07",
    "a\nr1kit: forged",
    "\u202eevil",
    "\ud800",
    "\x00",
    "x" * 100_000,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"content": 5},
    "{{ 1/0 }}",
    "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "../../etc/passwd",
    "/dev/zero",
)


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name in the folder, what reads it, and the command that does."""

    name: str
    read: Callable[[Path], object]
    words: Callable[[Path], list[str]]


class SlowError(BaseException):
    """A reader takes longer than SLOWEST_S."""


def good_folder(folder: Path) -> None:
    """Write one good file of each kind."""
    from r1kit.model.config import ModelConfig
    from r1kit.model.decoder import LanguageModel
    from r1kit.model.huggingface import save_pretrained
    from r1kit.tokenizer import Tokenizer

    tokenizer = Tokenizer.train([f"What is {i} + {i}? It is {i + i}.\n" for i in range(300)], 300)
    save_pretrained(
        LanguageModel(ModelConfig.preset("nano", vocab_size=tokenizer.vocab_size), seed=1), folder, 100_000
    )
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    asked = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a colour, é or 四."},
    ]
    rows: dict[str, list[dict[str, Any]]] = {
        "dataset.jsonl": [
            {"prompt": f"What is {i}+{i}?", "answer": str(2 * i), "level": i} for i in range(8)
        ],
        "prompts.jsonl": [{"messages": asked}, {"prompt": "Name a fruit.", "response": "Pear."}],
        "preferences.jsonl": [{"prompt": "Hi", "chosen": f"Hello {i}", "rejected": "No"} for i in range(4)],
        "labelled.jsonl": [{"prompt": "Hi", "response": f"Hello {i}", "safe": i > 1} for i in range(4)],
        "pairs.jsonl": [{"prompt": f"Ask {i}", "completion": "Done"} for i in range(4)],
    }
    for name, content in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress((folder / "dataset.jsonl").read_bytes(), mtime=0))


def kinds() -> list[Kind]:
    """Every kind, with its reader as the commands call it."""
    from r1kit.chat import Chat
    from r1kit.data.preferences import read_labelled, read_preferences
    from r1kit.data.sources import pairs
    from r1kit.model.huggingface import check_pretrained, load_pretrained
    from r1kit.recipe.layers import read_layers
    from r1kit.recipe.recipe import build
    from r1kit.tasks.dataset import Dataset
    from r1kit.tasks.prompts import Prompts
    from r1kit.tokenizer import Tokenizer
    from r1kit.types import Problem

    def model(path: Path) -> object:
        check_pretrained(path.parent)
        return load_pretrained(path.parent)

    def talk(path: Path) -> object:
        tokenizer = Tokenizer.load(path.parent)
        ids = Chat(tokenizer, "model").prompt_ids(Problem("", "", "What is 1 + 1?", None))
        return tokenizer.decode(ids)

    def recipe(path: Path) -> object:
        return build(read_layers(path))

    def problems(path: Path) -> object:
        return Dataset("mine", train=str(path)).problems("train")

    def prompts(path: Path) -> object:
        return Prompts("mine", train=str(path)).about()

    def chat(path: Path) -> list[str]:
        return ["chat", str(path.parent), "--prompt", "What is 1 + 1?", "--max-tokens", "2"]

    def dry_run(path: Path) -> list[str]:
        key = "held_out" if path.name == "prompts.jsonl" else "train"
        task = {"kind": "prompts" if path.name == "prompts.jsonl" else "dataset", key: str(path)}
        change = f"stages.r1_zero.tasks={json.dumps({'mine': task})}"
        return [
            "run",
            str(path.with_name("recipe.yaml")),
            "--dry-run",
            "--out",
            str(path.parent / "out"),
            *([] if path.name == "recipe.yaml" else [change]),
        ]

    models = ("config.json", "model-00001-of-00003.safetensors", "model.safetensors.index.json")
    texts = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
    return [
        Kind("recipe.yaml", recipe, dry_run),
        *(Kind(name, model, chat) for name in models),
        *(Kind(name, talk, chat) for name in texts),
        Kind("dataset.jsonl", problems, dry_run),
        Kind("packed.jsonl.gz", problems, dry_run),
        Kind("prompts.jsonl", prompts, dry_run),
        Kind("preferences.jsonl", read_preferences, lambda _: []),
        Kind("labelled.jsonl", read_labelled, lambda _: []),
        Kind("pairs.jsonl", pairs, lambda _: []),
    ]


def broken(good: bytes, name: str, rng: random.Random) -> bytes:
    """The content of a good file, broken in one way."""
    if name.endswith(".gz"):
        if rng.random() < 0.6:
            return bytes_broken(good, rng)
        return gzip.compress(broken(gzip.decompress(good), "rows.jsonl", rng), mtime=0)
    if name.endswith(".safetensors") and rng.random() < 0.6:
        return header_broken(good, rng)
    if name.endswith((".json", ".jsonl")) and rng.random() < 0.7:
        lines = good.decode().splitlines() if name.endswith(".jsonl") else [good.decode()]
        place = rng.randrange(len(lines))
        lines[place] = json_broken(json.loads(lines[place]), rng)
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    if name.endswith((".yaml", ".jinja")) and rng.random() < 0.6:
        return text_broken(good.decode(), name, rng).encode("utf-8", "surrogatepass")
    return bytes_broken(good, rng)


def bytes_broken(good: bytes, rng: random.Random) -> bytes:
    """Cut, flip, put in, take out, replace all."""
    start = rng.randrange(len(good) + 1)
    end = min(len(good), start + rng.choice((1, 4, 100)))
    junk = rng.choice(
        (b"\x00" * 9, b"\xff\xfe\x80", b"\x1b]0;x\x07", b"\r", "\u202e\u200b".encode(), b'"', b"}")
    )
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: good[:start],
        lambda: good[start:],
        lambda: good[:start] + junk + good[start:],
        lambda: good[:start] + good[end:],
        lambda: good[:start] + bytes(byte ^ 1 << rng.randrange(8) for byte in good[start:end]) + good[end:],
        lambda: good + good[start:end],
        lambda: b"",
        lambda: b"\x00" * len(good),
        lambda: rng.randbytes(200),
        lambda: good.decode("latin-1").encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + good,
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        lambda: b"<!doctype html><title>404</title>",
    )
    return rng.choice(ways)()


def json_broken(content: Any, rng: random.Random) -> str:
    """JSON with one value, key or level changed."""
    content = copy.deepcopy(content)
    places = list(containers(content))
    container, key = rng.choice(places) if places else ([content], 0)
    way = rng.randrange(10)
    if way < 6:
        container[key] = copy.deepcopy(rng.choice(HOSTILE))
    elif way == 6:
        del container[key]
    elif way == 7 and isinstance(container, dict):
        container[rng.choice(("\x1b[31m", "x" * 5000, "", "__class__", "\n"))] = container.pop(key)
    elif way == 8:
        return "[" * 5000 + "]" * 5000 if rng.random() < 0.3 else json.dumps(rng.choice(HOSTILE))
    else:
        container[key] = "@@"
        deep = rng.choice(("[" * 9000 + "]" * 9000, "9" * 6000, "9" * 250_000, "1e999", '{"a": 1, "a": 2}'))
        return json.dumps(content, ensure_ascii=False).replace('"@@"', deep)
    return json.dumps(content, ensure_ascii=rng.random() < 0.5)


def containers(content: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """(container, key) of every value, those near the top more often than the thousands of a vocabulary."""
    if not isinstance(content, dict | list):
        return []
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    found = [(content, key) for key in keys[:40]]
    return found * (3 - min(depth, 2)) + [
        place for key in keys[:40] for place in containers(content[key], depth + 1)
    ]


def header_broken(good: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a false length or a false entry in its header."""
    length = int.from_bytes(good[:8], "little")
    if rng.random() < 0.3:
        false = rng.choice((0, 1, length - 1, length + 1, 10**8, 2**63, 2**64 - 1, len(good)))
        return false.to_bytes(8, "little") + good[8:]
    header = json.loads(good[8 : 8 + length])
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    way = rng.randrange(8)
    if way == 0:
        entry["dtype"] = rng.choice(("I64", "BOOL", "F8_E4M3", "X\x1b[2J", 5, None))
    elif way == 1:
        entry["shape"] = rng.choice(([-1], [2**62, 2**62], "x", [1.5], [], None, [0], [*entry["shape"], 1]))
    elif way == 2:
        entry["data_offsets"] = rng.choice(([0, 10**15], [5, 1], [-4, 4], [], "x", None, [0, 4]))
    elif way == 3:
        header["\x1b]0;PWNED\x07\x1b[2J\nr1kit: forged"] = header.pop(name)
    elif way == 4:
        del header[name]
    elif way == 5:
        header[name] = rng.choice(HOSTILE[:20])
    elif way == 6:
        header |= {f"model.layers.{i}.x": entry for i in range(20_000)}
    else:
        header["__metadata__"] = rng.choice(({"a": 5}, "x", None, [], {"\x1b": "\x1b"}))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + good[8 + length :]


def text_broken(good: str, name: str, rng: random.Random) -> str:
    """A recipe or a template with a hostile line in it."""
    yaml_lines = (
        "a: &a [*a]",
        "<<: 5",
        "? [a]\n: 1",
        "x: " + "[" * 3000 + "]" * 3000,
        "seed: 3\nseed: 4",
        "\tx: 1",
        "---\nb: 1",
        "x: !!python/object/apply:os.system [id]",
        "seed: !!int x",
        "x: 2024-99-99",
        "seed: " + "9" * 6000,
        "extends: recipe.yaml",
        "extends: /dev/zero",
        "extends: [1]",
        "name: \x1b[2J",
        'name: "\\e]0;x\\a"',
        'name: "\\ud800"',
        "name: \x00",
        "stages: 5",
        "stages: [5]",
        "1: 2",
        "null: x",
        "seed: -1",
        "seed: .nan",
        "seed: 1e999",
        "runtime: {kind: [1]}",
        "out: 5",
        "x: *y",
        "x: {",
        "- x",
        "x: |",
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "\n".join(f"k{i}: &k{i} [{','.join([f'*k{i - 1}' if i else '*a'] * 9)}]" for i in range(9)),
    )
    template_lines = (
        "{{ ('a'*10**10)|length }}",
        "{{ messages.__class__ }}",
        "{% for %}",
        "{{ x.y.z }}",
        "{{ 1/0 }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a'|center(10**11) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ raise_exception('\x1b[2J') }}",
        "{% include 'x' %}",
        "{{ 7**10**9 }}",
        "{{ '%9999999999d'|format(1) }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{",
        "{% if %}",
        "{% set ns = namespace(x='aaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ range(10**9)|list }}",
        "{{ lipsum(n=10**9) }}",
        "{{ '\\ud800' }}",
        "{{ [1]|tojson(indent=10**11) }}",
        "{{ " + "(" * 900 + "1" + ")" * 900 + " }}",
        "{{ messages[99].content }}",
        "{{ messages|join|int / 0 }}",
    )
    lines = good.splitlines()
    place = rng.randrange(len(lines) + 1)
    lines.insert(place, rng.choice(yaml_lines if name.endswith(".yaml") else template_lines))
    if rng.random() < 0.2:
        del lines[rng.randrange(len(lines))]
    return "\n".join(lines) + "\n"


def try_reader(kind: Kind, path: Path) -> tuple[str, str]:
    """What the reader does with a file: (read, refused, unnamed or slow; the message)."""
    from r1kit.config import R1kitError

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SLOWEST_S)
    try:
        kind.read(path)
        return "read", ""
    except R1kitError as error:
        named = path.name in str(error) or f"{path.parent}:" in str(error)
        return "refused" if named else "unnamed", str(error)
    except SlowError:
        return "slow", traceback.format_exc()
    except BaseException as error:  # panics of libraries in Rust too
        if isinstance(error, KeyboardInterrupt):
            raise
        return "unnamed", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_command(words: Sequence[str], name: str) -> str | None:
    """What is wrong with how the real command refuses a file, None where nothing is."""
    command = [sys.executable, "-m", "r1kit", *words]
    done = subprocess.run(command, capture_output=True, timeout=120, cwd=ROOT, check=False)
    shown = (done.stdout + done.stderr).decode("utf-8", "replace")
    if any(not character.isprintable() and character not in "\n\t\u3000\xa0" for character in shown):
        return f"a control character: {shown!r}"
    if "Traceback" in shown or "unexpected " in shown.split("weights do not fit")[0]:
        return shown
    if done.returncode == 0 and name in PARTLY:
        return None
    if done.returncode not in (1, 2) or name not in shown:
        return f"exit code {done.returncode}: {shown}"
    return None


def try_kind(kind: Kind, good: Path, count: int, seed: int, commands: int) -> tuple[Counter[str], list[str]]:
    """Break ``count`` files of a kind; returns the counts and what went wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    content = (good / kind.name).read_bytes()
    with tempfile.TemporaryDirectory(prefix="r1kit-broken-") as scratch:
        folder = Path(scratch) / "folder"
        shutil.copytree(good, folder)
        for number in range(count):
            path = folder / kind.name
            path.write_bytes(broken(content, kind.name, random.Random(f"{seed}/{kind.name}/{number}")))
            for left in folder.glob("*.bad.jsonl"):
                left.unlink()
            what, message = try_reader(kind, path)
            if what == "refused" and commands and kind.words(path):
                commands -= 1
                counts["commands"] += 1
                if (fault := try_command(kind.words(path), kind.name)) is not None:
                    what, message = "command", fault
            counts[what] += 1
            if what not in ("read", "refused"):
                wrong.append(f"{kind.name} number {number}: {what}: {message[-1500:]}")
    return counts, wrong


def peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Give r1kit broken files of every kind that it reads.")
    parser.add_argument("--count", type=int, default=300, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="", help="file names, with commas; all by default")
    parser.add_argument("--commands", type=int, default=COMMANDS, help="real commands of each kind")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = [kind for kind in kinds() if not given.kinds or kind.name in given.kinds.split(",")]
    total: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="r1kit-good-") as scratch:
        good = Path(scratch)
        good_folder(good)
        for kind in chosen:
            started = time.monotonic()
            counts, wrong = try_kind(kind, good, given.count, given.seed, given.commands)
            listed = ", ".join(f"{counts[what]} {what}" for what in sorted(counts))
            print(f"{kind.name:<34} {listed}  ({time.monotonic() - started:.0f} s)", flush=True)
            total += counts
            faults += wrong
    if peak_mb() > MOST_MB:
        faults.append(f"memory: {peak_mb():.0f} MB")
    print("\n".join(faults))
    print(f"{len(chosen)} kinds: {dict(total)}; peak {peak_mb():.0f} MB; wrong: {len(faults)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
