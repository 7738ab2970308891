"""What data preparation finds and how fast it is, in parts:

    python benchmarks/data.py duplicates leaks curation packing loader substitution mutation
    python benchmarks/data.py stream --gigabytes 10

Each part prints the lines of a table (docs/data.md). Throughput is per second of processor time, so that a
busy machine does not change it; datatrove and ``datasets`` do the same work in the same run. The corpus is
made of the words of GSM8K (gsm8k_train.jsonl in the folder R1KIT_DATA, by default data), drawn as often as
they occur there."""

import argparse
import hashlib
import itertools
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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

import numpy as np

from r1kit.data.contamination import Contamination, evaluations_of
from r1kit.data.corpora import Source, SourceConfig
from r1kit.data.curation_settings import CurationConfig, NearConfig
from r1kit.data.packed_corpus import PackedConfig, Recipe, check_shards, pack_sources
from r1kit.data.token_loader import Lines, LineStream, updates
from r1kit.tasks.overlap import words
from r1kit.tokenizer import Tokenizer

DATA = Path(os.environ.get("R1KIT_DATA", "data"))
GSM8K, TEST = DATA / "gsm8k_train.jsonl", DATA / "gsm8k_test.jsonl"
EDITS = (1, 2, 4, 6, 9, 14)  # words of a page that are replaced in its copies


def gsm8k(path: Path = GSM8K) -> list[dict[str, str]]:
    """The problems of a file. Exits with the way to get it where it is not there."""
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; get it: python data/get.py gsm8k, or set R1KIT_DATA")
    return [json.loads(line) for line in path.open(encoding="utf-8")]


class Writer:
    """Draws pages of sentences from the words of GSM8K."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        counts = Counter(word for row in gsm8k() for word in row["question"].split())
        self.words, weights = list(counts), np.cumsum(list(counts.values()))
        self.weights = weights.tolist()

    def sentence(self) -> str:
        drawn = self.random.choices(self.words, cum_weights=self.weights, k=self.random.randint(8, 25))
        return " ".join(drawn).strip(".,?!").capitalize() + "."

    def page(self, sentences: int = 12) -> str:
        return "\n".join(self.sentence() for _ in range(sentences))


def write_pages(path: Path, pages: Iterator[str] | Sequence[str]) -> int:
    """Write a page a row; return the bytes of text."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for page in pages:
            size += len(page.encode())
            file.write(json.dumps({"text": page}) + "\n")
    return size


def shingles(text: str, size: int = 5) -> set[tuple[str, ...]]:
    found = words(text)
    return set(zip(*(found[start:] for start in range(size)), strict=False))


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of the sets of five words in a row: what MinHash estimates."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


@dataclass(frozen=True, slots=True)
class Planted:
    """A page, a ``copy`` of one with some words replaced, or a ``mixed`` page of which one half is of another
    page. ``page``: the number of the original, ``similarity`` to it."""

    kind: str
    page: int
    similarity: float
    text: str


def planted(seed: int) -> list[Planted]:
    writer = Writer(seed)
    pages = [writer.page() for _ in range(500)]
    rows = [Planted("page", number, 1.0, page) for number, page in enumerate(pages)]
    for number, edits in enumerate(EDITS * 50):
        found = pages[number].split(" ")
        for _ in range(edits):
            found[writer.random.randrange(len(found))] = writer.random.choice(writer.words)
        copy = " ".join(found)
        rows.append(Planted("copy", number, similarity(pages[number], copy), copy))
    for number in range(300, 500):
        mixed = "\n".join([*pages[number].split("\n")[:6], *writer.page(6).split("\n")])
        rows.append(Planted("mixed", number, similarity(pages[number], mixed), mixed))
    return rows


def duplicates(folder: Path) -> None:
    """Pairs that share a bucket of the stage's signatures, against planted ones."""
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    from r1kit.data.curation_pipeline import SignWords

    for near in (NearConfig(), NearConfig(buckets=20, rows=7), NearConfig(buckets=14, rows=8)):
        step = SignWords(str(folder / "s"), MinhashConfig(near.words, near.buckets, near.rows, near.seed))
        close = found_close = pairs = wrong = 0
        by_similarity: dict[int, list[tuple[float, bool]]] = {}
        for seed in (1, 2, 3, 4):
            rows = planted(seed)
            colliding = collisions(step, [row.text for row in rows])
            pairs += len(colliding)
            wrong += sum(
                rows[a].page != rows[b].page or "mixed" in (rows[a].kind, rows[b].kind) for a, b in colliding
            )
            for place, row in enumerate(rows):
                if row.kind == "copy":
                    hit = (row.page, place) in colliding
                    close, found_close = (
                        close + (row.similarity >= 0.8),
                        found_close + (hit and row.similarity >= 0.8),
                    )
                    by_similarity.setdefault(int(10 * row.similarity), []).append((row.similarity, hit))
        name = f"{near.buckets} x {near.rows}"
        print(
            f"| {name} | recall at similarity >= .8 | {found_close} of {close} ({found_close / close:.4f}) |"
        )
        print(f"| {name} | precision | {pairs - wrong} of {pairs} pairs ({1 - wrong / pairs:.4f}) |")
        for _, cases in sorted(by_similarity.items(), reverse=True):
            s = sum(one for one, _ in cases) / len(cases)
            share = sum(hit for _, hit in cases) / len(cases)
            formula = 1 - (1 - s**near.rows) ** near.buckets
            rate = f"{share:.2f} of {len(cases)} (formula {formula:.2f})"
            print(f"| {name} | found at similarity {s:.2f} | {rate} |")


def collisions(step: Any, texts: Sequence[str]) -> set[tuple[int, int]]:
    """The pairs of texts that have a bucket in common."""
    buckets: dict[tuple[Any, ...], list[int]] = {}
    for place, text in enumerate(texts):
        for number, hashes in enumerate(step.get_signature(step.get_shingles(text))):
            buckets.setdefault((number, *hashes), []).append(place)
    return {pair for places in buckets.values() for pair in itertools.combinations(places, 2)}


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def other_numbers(rng: random.Random, text: str) -> str:
    return " ".join(
        "".join(str(rng.randint(1, 9)) if c.isdigit() else c for c in word) for word in text.split(" ")
    )


def other_names(rng: random.Random, text: str) -> str:
    """Names and every eighth word replaced: a crude paraphrase."""
    names = ("Alba", "Boris", "Chen", "Dana", "Emil")
    return " ".join(
        rng.choice(names) if word[:1].isupper() and place else ("also" if place % 8 == 7 else word)
        for place, word in enumerate(text.split(" "))
    )


def leaks(_: Path) -> None:
    """Questions of GSM8K's test planted in pages, as they are and changed."""
    writer = Writer(2)
    texts = evaluations_of([str(TEST)])
    questions = [row["question"] for row in gsm8k(TEST)]
    rng = random.Random(3)
    changes: dict[str, Callable[[str], str]] = {
        "as it is": lambda text: text,
        "upper case": str.upper,
        "full width": full_width,
        "other spaces": lambda text: text.replace(" ", " \u3000\n "),
        "no spaces": lambda text: text.replace(" ", ""),
        "letters spaced": lambda text: " ".join(text),
        "no punctuation": lambda text: "".join(c if c.isalnum() or c == " " else " " for c in text),
        "other numbers": lambda text: other_numbers(rng, text),
        "other names and every eighth word": lambda text: other_names(rng, text),
    }
    for gram in (10, 13):
        found = Contamination(texts, gram)
        for name, change in changes.items():
            planted = [f"{writer.page(3)}\n{change(question)}\n{writer.page(3)}" for question in questions]
            hits = sum(found.find(text) is not None for text in planted)
            print(f"| {gram} words | {name} | {hits} of {len(questions)} ({hits / len(questions):.1%}) |")
        clean = [writer.page(12) for _ in range(2000)]
        hits = sum(found.find(text) is not None for text in clean)
        print(f"| {gram} words | pages without a question | {hits} of {len(clean)} |")
        train = [row["question"] for row in gsm8k()]
        hits = sum(found.find(text) is not None for text in train)
        print(f"| {gram} words | questions of GSM8K's own training set | {hits} of {len(train)} |")
    pages = [writer.page(40) for _ in range(2000)]
    size = sum(len(page.encode()) for page in pages)
    rate = measured(lambda: [found.find(page) for page in pages], size)
    print(f"| 13 words | speed | {rate:.1f} MB/s |")


def measured(work: Callable[[], Any], size: int) -> float:
    """MB per second of processor time."""
    before = time.process_time()
    work()
    return size / 1e6 / (time.process_time() - before)


def curation(folder: Path) -> None:
    """Steps of curation, one by one and together, and plain datatrove's."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    from r1kit.data.curation_pipeline import SignWords, curate
    from r1kit.data.language_id import identify

    writer = Writer(4)
    pages = [writer.page(30) for _ in range(1000)]
    file = folder / "pages.jsonl"
    size = write_pages(file, pages)
    print(f"| corpus | {size / 1e6:.1f} MB, {len(pages)} pages |")
    config = MinhashConfig(5, 14, 8)
    steps: dict[str, Callable[[], Any]] = {
        "r1kit: read the rows": lambda: list(Source("web", SourceConfig(path=str(file))).records()),
        "r1kit: language": lambda: [identify(page) for page in pages],
        "r1kit: MinHash signatures, 14 x 8": lambda: signed(SignWords(str(folder / "s"), config), pages),
        "datatrove: MinHash signatures, 14 x 8": lambda: signed(
            MinhashDedupSignature(str(folder / "s"), config), pages
        ),
        "datatrove: repair (ftfy)": lambda: [FTFYFormatter().format(page) for page in pages],
    }
    warm = Document(pages[0], "0")
    for rule in (GopherQualityFilter(), GopherRepetitionFilter(), FineWebQualityFilter()):
        rule.filter(warm)
    for name, work in steps.items():
        print(f"| {name} | {measured(work, size):.2f} MB/s |")
    rules = ["gopher", "repetition", "fineweb"]
    common = {"exact": False, "lines": False, "near": None}
    source = {"web": SourceConfig(path=str(file))}
    whole = measured(lambda: curate(folder / "a", source, CurationConfig(rules=rules, **common)), size)

    def plain() -> None:
        stream: Any = JsonlReader(str(folder), glob_pattern="pages.jsonl").run()
        for step in (
            FTFYFormatter(),
            PIIFormatter(),
            GopherQualityFilter(),
            GopherRepetitionFilter(),
            FineWebQualityFilter(),
        ):
            stream = step.run(stream)
        list(JsonlWriter(str(folder / "plain"), compression=None).run(stream))

    other = measured(plain, size)
    print(f"| r1kit: repair, masks, language, Gopher, repetition, FineWeb, two passes | {whole:.2f} MB/s |")
    print(f"| datatrove: repair, masks, Gopher, repetition, FineWeb, one pass | {other:.2f} MB/s |")
    full = CurationConfig(decontaminate=[str(TEST)])
    rate = measured(lambda: curate(folder / "b", source, full), size)
    print(f"| r1kit: everything (also exact, lines, MinHash, decontamination) | {rate:.2f} MB/s |")


def signed(step: Any, pages: Sequence[str]) -> None:
    for page in pages:
        step.get_signature(step.get_shingles(page))


def substitution(_: Path) -> None:
    """How many of GSM8K's first 2,000 training problems get other numbers, and why the others do not."""
    from r1kit.data.substitution import Solved, UnclearError, other_numbers
    from r1kit.tasks import Dataset

    task = Dataset("gsm8k", train=str(GSM8K), held_out=str(TEST))
    counts: Counter[str] = Counter()
    problems = task.problems("train")[:2000]
    for number, problem in enumerate(problems):
        solved = Solved(problem.prompt, str(problem.columns.get("solution", "")), str(problem.answer))
        try:
            new = other_numbers(solved, random.Random(number))
        except UnclearError as why:
            counts[str(why)] += 1
            continue
        counts["changed"] += 1
        if counts["changed"] % 20 == 0:
            print(f"{new.prompt}\n  {new.solution} = {new.answer}\n")
    for what, count in counts.most_common():
        print(f"| {what} | {count} of {len(problems)} |")


def mutation(_: Path) -> None:
    """How many of MBPP's programs are mutated, and how many then still pass their tests in the sandbox."""
    from r1kit.data.code_mutation import mutated
    from r1kit.data.substitution import UnclearError
    from r1kit.tasks import Dataset

    task = Dataset("mbpp", train=str(DATA / "mbpp.jsonl"), check="program")
    problems = [*task.problems("train"), *task.problems("held_out")]
    made, unclear = [], 0
    for number, problem in enumerate(problems):
        said = f"{problem.columns['tests']} {problem.columns['entry_point']}"
        reference = str(problem.columns["reference"])
        try:
            made.append((problem, reference, mutated(reference, said, random.Random(number))))
        except UnclearError:
            unclear += 1
    right = [
        [verdict.outcome == "correct" for verdict in task.check_batch([one[0] for one in made], programs)]
        for programs in ([f"```python\n{one[place]}\n```" for one in made] for place in (1, 2))
    ]
    kept = sum(before and after for before, after in zip(*right, strict=True))
    passing = sum(right[0])
    print(f"| mutated | {len(made)} of {len(problems)} programs ({unclear} have nothing to change) |")
    print(f"| of the {passing} that pass here, still right | {kept} ({kept / passing:.1%}) |")


def tokenizer_of(pages: Sequence[str]) -> Tokenizer:
    return Tokenizer.train(pages[:100], 4096)


CONTEXT = 1024


def packing(folder: Path) -> None:
    """Tokenising and packing next to datasets.map and datatrove, and a kill that changes nothing."""
    writer = Writer(5)
    pages = [writer.page(writer.random.randint(3, 60)) for _ in range(400)]
    file = folder / "pages.jsonl"
    size = write_pages(file, pages)
    tokenizer = tokenizer_of(pages)
    config = PackedConfig(sources={"web": SourceConfig(path=str(file))}, shard_tokens=20_000)
    recipe = Recipe(config, tokenizer, CONTEXT, 1)
    before = time.process_time()
    pack_sources(folder / "tokens", recipe)
    seconds = time.process_time() - before
    paths = check_shards(folder / "tokens", CONTEXT)["web"]
    headers = [json.loads(path.read_text()) for path in paths]
    tokens, lines = (sum(header[name] for header in headers) for name in ("tokens", "lines"))
    pieces = sum(header["pieces"] for header in headers)
    print(f"| r1kit: read, tokenise, pack best-fit, write | {tokens / seconds / 1e3:.0f} thousand tokens/s |")
    print(f"| positions filled | {(tokens - pieces) / (lines * CONTEXT):.2%} of {lines} lines of {CONTEXT} |")
    seconds, count = map_tokens(file, tokenizer, folder / "cache")
    print(f"| datasets.map: tokenise, then cut into blocks | {count / seconds / 1e3:.0f} thousand tokens/s |")
    seconds, count = datatrove_tokens(folder, tokenizer)
    print(f"| datatrove: DocumentTokenizer, no packing | {count / seconds / 1e3:.0f} thousand tokens/s |")
    before = time.process_time()
    for start in range(0, len(pages), 512):
        tokenizer.encode_batch(pages[start : start + 512])
    seconds = time.process_time() - before
    rates = f"{tokens / seconds / 1e3:.0f} thousand tokens/s, {size / 1e6 / seconds:.1f} MB/s"
    print(f"| tokenizers alone | {rates} |")
    kills(folder, recipe)


def map_tokens(file: Path, tokenizer: Tokenizer, cache: Path) -> tuple[float, int]:
    """(processor seconds, tokens) of datasets' usual way: map to ids, then map to blocks."""
    import datasets

    datasets.disable_progress_bars()

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"ids": [ids.tolist() for ids in tokenizer.encode_batch(batch["text"])]}

    def blocks(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        flat = [one for ids in batch["ids"] for one in ids]
        return {"ids": [flat[start : start + CONTEXT] for start in range(0, len(flat), CONTEXT)]}

    before = time.process_time()
    rows = datasets.load_dataset("json", data_files=str(file), cache_dir=str(cache), split="train")
    rows = rows.map(encode, batched=True, remove_columns=rows.column_names)
    rows = rows.map(blocks, batched=True)
    seconds = time.process_time() - before
    return seconds, sum(map(len, rows["ids"]))


def datatrove_tokens(folder: Path, tokenizer: Tokenizer) -> tuple[float, int]:
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    tokenizer.save(folder / "tokenizer")
    step = DocumentTokenizer(
        str(folder / "trove"),
        tokenizer_name_or_path=str(folder / "tokenizer/tokenizer.json"),
        shuffle_documents=False,
    )
    before = time.process_time()
    step.run(JsonlReader(str(folder), glob_pattern="pages.jsonl").run())
    seconds = time.process_time() - before
    made = sum(path.stat().st_size for path in (folder / "trove").glob("*.ds"))
    return seconds, made // 2


CHILD = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from r1kit.data.corpora import SourceConfig
from r1kit.data.packed_corpus import PackedConfig, Recipe, pack_sources
from r1kit.tokenizer import Tokenizer
config = PackedConfig(sources={{"web": SourceConfig(path={file!r})}}, shard_tokens=20_000)
pack_sources(Path({out!r}), Recipe(config, Tokenizer.load({tokenizer!r}), {context}, 1))
"""


def kills(folder: Path, recipe: Recipe) -> None:
    """Kill the making at random times until it ends; its bytes are compared with those of one that was not
    killed."""
    rng, killed = random.Random(6), 0
    out = folder / "killed"
    code = CHILD.format(
        here=str(Path(__file__).parents[1] / "src"),
        file=str(folder / "pages.jsonl"),
        out=str(out),
        tokenizer=str(folder / "tokenizer"),
        context=CONTEXT,
    )
    while True:
        child = subprocess.Popen([sys.executable, "-c", code])
        try:
            child.wait(timeout=0.9 + rng.random() * (0.8 + 0.1 * killed))
            break
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            killed += 1
    same = digest(out) == digest(folder / "tokens") and child.returncode == 0
    print(f"| killed by SIGKILL | {killed} times; the same bytes: {'yes' if same else 'NO'} |")


def digest(folder: Path) -> str:
    """A hash of all shards; headers that name other settings would differ."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.bin")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def loader(folder: Path) -> None:
    """What the loader feeds, and what a learner of the miniature's shape eats, in this run."""
    from r1kit.model.config import ModelConfig
    from r1kit.model.decoder import LanguageModel
    from r1kit.model.huggingface import save_pretrained
    from r1kit.runtime.local import LocalConfig, LocalRuntime
    from r1kit.stages.pretrain import Pretrain
    from r1kit.train.objectives import CrossEntropy
    from r1kit.train.supervised import text_row, weighted

    writer = Writer(7)
    pages = [writer.page(writer.random.randint(1, 12)) for _ in range(500)]
    write_pages(folder / "pages.jsonl", pages)
    tokenizer = Tokenizer.train(pages[:100], 768)
    stage = Pretrain.model_validate(
        {"model": {"preset": "mini"}, "tokens": 1, "corpus": {"generated": {"miniature": 1}}}
    )
    context = stage.learner.context
    config = PackedConfig(sources={"web": SourceConfig(path=str(folder / "pages.jsonl"))})
    pack_sources(folder / "tokens", Recipe(config, tokenizer, context, 1))
    stream = LineStream([Lines.open("web", check_shards(folder / "tokens", context)["web"])], 1)
    each = round(stage.training.batch_tokens / context)
    before, tokens, count = time.process_time(), 0, 200
    for number, rows in enumerate(updates(stream, itertools.repeat(each), False, text_row)):
        tokens += sum(len(row.token_ids) for row in rows)
        if number == count:
            break
    fed = tokens / (time.process_time() - before)
    init = folder / "init"
    save_pretrained(LanguageModel(ModelConfig.preset("mini", vocab_size=768), seed=1), init)
    tokenizer.save(init)
    runtime = LocalRuntime(LocalConfig(processes=1))
    learner = runtime.learner(init, stage.learner)
    feed = updates(stream, itertools.repeat(each), False, text_row)
    for _ in range(2):
        learner.update(weighted(next(feed)), CrossEntropy(0.3, 1e-4), 1.0)
    before, tokens = time.process_time(), 0
    for _ in range(8):
        rows = next(feed)
        tokens += sum(len(row.token_ids) for row in rows)
        learner.update(weighted(rows), CrossEntropy(0.3, 1e-4), 1.0)
    eaten = tokens / (time.process_time() - before)
    del feed  # ends its thread
    runtime.close()
    print(f"| the loader feeds | {fed:,.0f} tokens per second of processor time |")
    print(f"| the miniature's learner eats | {eaten:,.0f} tokens per second of processor time |")
    print(f"| ratio | {fed / eaten:.1f} |")


def stream(folder: Path, gigabytes: float) -> None:
    """Read a large file from the beginning to its end, and once more from its middle."""
    file, writer = folder / "large.jsonl", Writer(8)
    block = "".join(json.dumps({"text": writer.page(40)}) + "\n" for _ in range(8000)).encode()
    with file.open("wb") as out:
        for _ in range(round(gigabytes * 1e9 / len(block))):
            out.write(block)
    source = Source("large", SourceConfig(path=str(file)))
    rows, size, half, place = 0, 0, file.stat().st_size // 2, None
    before = time.process_time()
    for record in source.records():
        rows, size = rows + 1, size + len(record.columns["text"])
        if place is None and record.after.offset > half:
            place = (rows, record.after)
    seconds = time.process_time() - before
    assert place is not None
    again = time.perf_counter()
    first = next(source.records(place[1]))
    found = time.perf_counter() - again
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"| file | {file.stat().st_size / 1e9:.1f} GB, {rows} rows |")
    print(f"| read and checked | {size / 1e6 / seconds:.0f} MB of text per second of processor time |")
    print(f"| peak memory of the process | {peak:.0f} MB |")
    print(f"| continue in the middle (row {first.after.row}) | {1e3 * found:.0f} ms to the first row |")


PARTS: dict[str, Callable[[Path], None]] = {
    "duplicates": duplicates,
    "leaks": leaks,
    "curation": curation,
    "packing": packing,
    "loader": loader,
    "substitution": substitution,
    "mutation": mutation,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "stream"])
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of the file of the part stream")
    given = parser.parse_args()
    for part in given.parts:
        folder = Path(tempfile.mkdtemp(prefix=f"r1kit-data-{part}-"))
        print(f"\n### {part}\n", flush=True)
        try:
            if part == "stream":
                stream(folder, given.gigabytes)
            else:
                PARTS[part](folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
