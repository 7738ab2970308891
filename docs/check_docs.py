"""Check the documentation: every command, link and anchor of every page; with --run also what takes seconds.

    python docs/check_docs.py              # every command with how it is checked; faults at the end
    python docs/check_docs.py --run        # make docs-check: quick commands are executed too

How a command is checked:

    run       executed: by --run where it takes seconds, or by tests/test_how_to.py (bash listings of how-to
              pages)
    parsed    read by the real argument parser of r1kit, or its target, script and options are there; a recipe
              of r1kit's is loaded with the changes that the line makes
    named     another program's (pip, git, docker, ...): its name is known here, nothing more is checked"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

from r1kit.commands.cli import app, normalize_overrides
from r1kit.config import R1kitError
from r1kit.recipe.recipe import load

ROOT = Path(__file__).parents[1]
MADE = ("api.md", "commands.md", "recipe-keys.md")  # their commands have words in the place of values
OTHERS = (
    "pip", "git", "docker", "torchrun", "ssh", "curl", "export", "cd", "mkdir", "tar", "apt", "source",
    ".", "jupytext", "sbatch", "ray", "kubectl", "vllm", "lm_eval", "nice", "env", "tensorboard", "wandb",
)  # fmt: skip
QUICK = ("show", "doctor")
BLOCK = re.compile(r"^```(\w*)(?: (\S+))?[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A line that a reader is asked to type: its page, and the listing's language (or "inline")."""

    page: str
    line: str
    listing: str


def pages() -> list[Path]:
    """Every Markdown file that a reader meets."""
    folders = (
        ROOT.glob("*.md"),
        (ROOT / "docs").rglob("*.md"),
        (ROOT / "data").glob("*.md"),
        (ROOT / "models").glob("*.md"),
    )
    return sorted(page for folder in folders for page in folder)


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page: lines of its shell listings, and inline code that begins with a program."""
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    if page.name in MADE:
        return
    for language, _, listing in BLOCK.findall(text):
        if language in ("sh", "bash", "shell", "console") or (
            language in ("", "text") and re.search(r"^(r1kit|make) ", listing, re.M)
        ):
            for line in re.sub(r"\\\n\s*", "", listing).splitlines():
                line = re.split(r"\s{2,}#|^#", line.strip().removeprefix("$ "))[0].strip()
                if line and (
                    language in ("sh", "bash", "shell", "console") or re.match(r"(r1kit|make) ", line)
                ):
                    yield Command(name, line, language or "text")
    for line in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)):
        if re.match(r"(\.venv/bin/)?(r1kit|make|python|pip) [\w.{-]", line):
            yield Command(name, line, "inline")


@cache
def check(command: Command) -> tuple[str, str]:
    """How a command is checked (see the top of the file), and what is wrong with it or ""."""
    if re.search(r"\.\.\.|…|\bRECIPE\b", command.line):
        return "named", ""  # words stand for values
    line = re.sub(r"^(?:[A-Z0-9_]+=(?:\"[^\"]*\"|\S+) )+", "", command.line)  # variables in front
    try:
        ways = [check_words(words, command.listing == "inline") for words in programs_of(line)]
    except (ValueError, R1kitError, typer.BadParameter) as error:
        return "parsed", str(error)
    faults = "; ".join(fault for _, fault in ways if fault)
    in_test = command.listing == "bash" and command.page.startswith("docs/how-to/")
    best = (
        "run" if in_test else next((way for way in ("run", "parsed", "named") if (way, "") in ways), "parsed")
    )
    return best, faults


def programs_of(line: str) -> list[list[str]]:
    """The words of each program of a line of the shell: a; b && c | d."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def check_words(words: list[str], inline: bool) -> tuple[str, str]:
    """The same for one program with its words; ``inline`` code may name a command without its arguments."""
    program = words[0].removeprefix(".venv/bin/")
    if program == "r1kit" or words[:3] == ["python", "-m", "r1kit"]:
        return check_r1kit(words[1:] if program == "r1kit" else words[3:], inline)
    if program == "make":
        return check_make(words[1:])
    if program in ("python", "python3") and len(words) > 1:
        return check_script(words[1:])
    if program.startswith("./") or program in (".ci/run", "setup.sh"):
        return "parsed", "" if (ROOT / program).is_file() else f"{program}: no such file"
    return "named", "" if program in OTHERS else f"{program}: a program that docs/check_docs.py does not know"


def check_r1kit(words: list[str], inline: bool) -> tuple[str, str]:
    """Parse a command of r1kit; load the recipe that it names where it is one of r1kit's."""
    group: Any = typer.main.get_command(app)
    if not words or words == ["--help"]:
        return "parsed", ""
    context = group.make_context("r1kit", list(words[:1]))
    command = group.get_command(context, words[0])
    if command is None:
        return "parsed", f"r1kit has no command {words[0]!r}"
    if "--help" in words:
        return "parsed", ""
    try:
        given = command.make_context(words[0], list(words[1:]), parent=context).params
    except Exception as error:  # a boundary: the parser's errors have no common class that typer exports
        unfinished = inline and type(error).__name__ in ("MissingParameter", "BadOptionUsage")
        return "parsed", "" if unfinished else f"{type(error).__name__}: {getattr(error, 'message', error)}"
    recipe = given.get("recipe")
    if recipe is None:
        return ("run" if words[0] in QUICK else "parsed"), ""
    file = recipe if recipe.is_absolute() else ROOT / recipe
    if file.parent != ROOT / "recipes":  # the reader's own
        return "parsed", ""
    load(file, normalize_overrides(given.get("overrides") or [], given.get("out")), trust=False)
    return ("run" if words[0] in QUICK else "parsed"), ""


def check_make(words: list[str]) -> tuple[str, str]:
    """Look for the targets in the Makefile."""
    rules = re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    targets = {name for rule in rules for name in rule.split()}
    missing = [word for word in words if "=" not in word and not word.startswith("-") and word not in targets]
    return "parsed", f"no target {', '.join(missing)} in the Makefile" if missing else ""


def check_script(words: list[str]) -> tuple[str, str]:
    """Look for the script, and for the options that the line gives it in its source."""
    if words[0] in ("-m", "-c"):
        return "named", ""
    if words[0].startswith("llama_cpp_python-"):
        return "named", ""
    file = ROOT / words[0]
    if not file.is_file():  # a page's own file is written by the reader
        named = any(
            words[0] == name
            for page in pages()
            for _, name, _ in BLOCK.findall(page.read_text(encoding="utf-8"))
        )
        return ("run" if named else "parsed"), "" if named else f"{words[0]}: no such file"
    source = file.read_text(encoding="utf-8")
    unknown = [word for word in words[1:] if word.startswith("--") and word.partition("=")[0] not in source]
    return "parsed", f"{words[0]} has no option {', '.join(unknown)}" if unknown else ""


def execute(command: Command) -> str:
    """Run a quick command of r1kit; return what is wrong, or ""."""
    words = shlex.split(command.line.partition("  #")[0], comments=True)
    done = subprocess.run(
        [sys.executable, "-m", "r1kit", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return (
        "" if done.returncode == 0 else f"exit code {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}"
    )


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown file's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#{1,6} (.+?)\s*#*$", BLOCK.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        result.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return result | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def dead_links(page: Path) -> list[str]:
    """Links of a page to files that are not there, or to headings that a page does not have."""
    text = re.sub(
        r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            dead.append(f"{link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            dead.append(f"{link}: no such heading")
    return dead


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", action="store_true", help="execute the quick commands")
    run = parser.parse_args().run
    faults = [f"{page.relative_to(ROOT)}: {link}" for page in pages() for link in dead_links(page)]
    counts: dict[str, int] = {}
    for command in dict.fromkeys(one for page in pages() for one in commands(page)):
        way, fault = check(command)
        if (
            run
            and way == "run"
            and not fault
            and command.line.startswith("r1kit ")
            and not command.page.startswith("docs/how-to/")
        ):
            fault = execute(command)
        counts[way] = counts.get(way, 0) + 1
        print(f"{way:7} {command.page}: {command.line}")
        if fault:
            faults.append(f"{command.page}: {command.line}: {fault}")
    print(
        f"{len(pages())} pages; commands: "
        + ", ".join(f"{count} {way}" for way, count in sorted(counts.items()))
    )
    print("\n".join(["faults:", *faults]) if faults else "no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
