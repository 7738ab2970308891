"""Data that a model writes: a harvest that was killed goes on where it was, and no problem is lost or
repeated."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_world import model, tokenizer

from r1kit.chat import Chat
from r1kit.engine.native import NativeEngine
from r1kit.records import SAMPLED
from r1kit.stages import sampling as module
from r1kit.stages.sampling import harvest, sample
from r1kit.tasks import Procedural
from r1kit.types import Completion, Rollout, Sampling

SAMPLING = Sampling(2, max_tokens=6)
CHAT = Chat(tokenizer())
PROBLEMS = Procedural("chain", 40).problems("train")[:11]


class Mortal(NativeEngine):
    """Counts the problems that it is asked for, and dies when it is asked too often."""

    calls_left = -1
    asked = 0

    def generate(self, prompts: Any, *rest: Any) -> list[list[Completion]]:
        if self.calls_left == 0:
            raise KeyboardInterrupt
        self.calls_left -= 1
        self.asked += len(prompts)
        return super().generate(prompts, *rest)


def engine(calls_left: int = -1) -> Mortal:
    made = Mortal(model(init_std=0.05), [tokenizer().eos_id])
    made.calls_left = calls_left
    return made


warnings: list[str] = []


def run(
    out: Path, engine: NativeEngine, seed: int = 3, owners: tuple[str, ...] = ("me",), name: str = "model"
) -> list[list[Rollout]]:
    out.mkdir(exist_ok=True)
    ctx: Any = SimpleNamespace(
        out=out, identities=owners, log=SimpleNamespace(info=warnings.append, check_place=int)
    )
    folder = out.parent / name
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(name)
    return harvest(ctx, "reasoning", folder, engine, CHAT, PROBLEMS, SAMPLING, seed)


def same(one: list[list[Rollout]], other: list[list[Rollout]]) -> bool:
    pairs = list(zip([r for group in one for r in group], [r for group in other for r in group], strict=True))
    arrays = [
        (getattr(a.completion, name), getattr(b.completion, name))
        for a, b in pairs
        for name in ("token_ids", "logprobs")
    ]
    texts = [
        (r.problem.id, r.index, r.text, r.answer, r.completion.finish, r.completion.version) for r, _ in pairs
    ]
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in arrays) and texts == [
        (r.problem.id, r.index, r.text, r.answer, r.completion.finish, r.completion.version) for _, r in pairs
    ]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings.clear()
    monkeypatch.setattr(module, "CHUNK", 4)


def test_a_harvest_is_what_sampling_all_at_once_gives(tmp_path: Path) -> None:
    assert same(run(tmp_path / "a", engine()), sample(engine(), CHAT, PROBLEMS, SAMPLING, 3))


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_killed_harvest_samples_only_what_it_had_not(calls: int, tmp_path: Path) -> None:
    wanted = run(tmp_path / "straight", engine())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", engine(calls))
    again = engine()
    assert same(run(tmp_path / "killed", again), wanted) and again.asked == len(PROBLEMS) - 4 * calls
    third = engine()
    assert same(run(tmp_path / "killed", third), wanted) and third.asked == 0


@pytest.mark.parametrize("how", ["torn", "flipped", "emptied", "another seed"])
def test_a_chunk_that_is_not_what_was_written_is_sampled_again(how: str, tmp_path: Path) -> None:
    wanted = run(tmp_path / "a", engine(), seed=3)
    file = sorted((tmp_path / "a" / SAMPLED).iterdir())[1]
    content = file.read_text()
    if how == "another seed":
        run(tmp_path / "a", engine(), seed=4)
    else:
        file.write_text(
            {
                "torn": content[:-20],
                "flipped": content.replace("-", "+", 1)[:-9] + content[-9:],
                "emptied": "",
            }[how]
        )
    again = engine()
    assert same(run(tmp_path / "a", again, seed=3), wanted)
    assert again.asked == (len(PROBLEMS) if how == "another seed" else 4)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("model", "it is of another model"),
        ("owner", "it is of another run or configuration"),
        ("place", "it is of another chunk, problems, prompts"),
        ("rows", "its rows are not those that were written"),
        ("head", "its first line is damaged"),
        ("bytes", "it cannot be read"),
    ],
)
def test_a_foreign_or_damaged_chunk_is_named_and_sampled_again(how: str, says: str, tmp_path: Path) -> None:
    wanted = run(tmp_path / "a", engine())
    assert warnings == []
    files = sorted((tmp_path / "a" / SAMPLED).iterdir())
    head, _, body = files[0].read_text().partition("\n")
    if how == "model":
        run(tmp_path / "b", engine(), name="another")
        shutil.copytree(tmp_path / "b" / SAMPLED, tmp_path / "a" / SAMPLED, dirs_exist_ok=True)
    elif how == "owner":
        run(tmp_path / "b", engine(), owners=("you", "me"))
        shutil.copytree(tmp_path / "b" / SAMPLED, tmp_path / "a" / SAMPLED, dirs_exist_ok=True)
    elif how == "place":
        shutil.copy(files[1], files[0])
    elif how == "rows":
        files[0].write_text(f"{head}\n{body.replace('0', '1', 1)}")
    elif how == "head":
        files[0].write_text(f"{head[:40]}\n{body}")
    else:
        files[0].write_bytes(b"\xff" + files[0].read_bytes())
    warnings.clear()
    again = engine()
    assert same(run(tmp_path / "a", again), wanted)
    chunks = len(files) if how in ("model", "owner") else 1
    assert len(warnings) == chunks and f"{files[0]}: {says}" in warnings[0]
    assert again.asked == (len(PROBLEMS) if chunks > 1 else 4)


def test_the_chunks_of_an_accepted_owner_are_used(tmp_path: Path) -> None:
    wanted = run(tmp_path / "a", engine(), owners=("before",))
    again = engine()
    assert same(run(tmp_path / "a", again, owners=("now", "before")), wanted)
    assert again.asked == 0 and warnings == []
