"""Measuring a model on benchmarks: files of results, stops, protocols, tables, comparison, contamination."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from small_world import model_directory

from r1kit.commands.benchmarks import (
    Job,
    compare_folders,
    measure_model,
    result_folder,
    training_files,
    training_texts,
    write_tables,
)
from r1kit.config import ConfigError, R1kitError
from r1kit.figures.benchmark_analysis import analyse, compare, is_loop, reflection_rates
from r1kit.figures.benchmarks import ProblemResult, Sample, consensus, majority, pass_at_powers, summarise
from r1kit.report.benchmark_table import lm_eval_results, lm_eval_samples, table_of
from r1kit.stages.benchmarks import Measurement, Written, answer_of, measure_benchmark, read_results
from r1kit.tasks.benchmarks import load_card

CARD = load_card("gsm8k")


def questions(count):
    return [
        {"question": f"A farmer has {i} sheep and buys {i} more from one {i + 20} miles north. How many?",
         "answer": f"#### {2 * i}"}
        for i in range(1, count + 1)
    ]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions(12)))
    return folder


class Scripted:
    """A model that answers problem i right in i % 4 of its samples, at most 3; ``calls`` are the problems it
    was asked, and after ``stop_after`` calls it is interrupted."""

    name, identity, style, unit = "scripted", "weights 1", "plain", "tokens"

    def __init__(self, stop_after=None, shift=0):
        self.calls, self.stop_after, self.shift = [], stop_after, shift

    def longest(self, problems):
        return 500

    def respond(self, problems, sampling):
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append([problem.id for problem in problems])
        return [[self.one(int(problem.answer), index) for index in range(sampling.n)] for problem in problems]

    def one(self, gold, index):
        right = index < (gold // 2 + self.shift) % 4
        text = f"<think>Wait, but I check it.</think>\\boxed{{{gold if right else gold + 1}}}"
        return Written(text, "length" if index == 3 else "stop", 10 + gold, index != 3)


@pytest.fixture
def how(data, monkeypatch):
    monkeypatch.setattr("r1kit.stages.benchmarks.COMPLETIONS", 8)  # two problems a call
    return Measurement(data=data, k=4, code="hash")


def test_figures_equal_those_by_hand(how, tmp_path):
    result = measure_benchmark(CARD, Scripted(), how, tmp_path / "out")
    rights = [i % 4 for i in range(1, 13)]  # of 4 samples; the fourth is cut off, so wrong
    assert result.figures.pass_1 == pytest.approx(sum(rights) / 48)
    assert result.figures.score == pytest.approx(100 * sum(rights) / 48)
    from_subsets = (
        sum({0: 0, 1: 3 / 6, 2: 5 / 6, 3: 1}[one] for one in rights) / 12
    )  # pairs of 4 with a right one
    assert result.figures.pass_k[2] == pytest.approx(from_subsets)
    # Votes: 3 complete answers; a majority is right from 2 of them on.
    assert result.figures.cons == pytest.approx(sum(one >= 2 for one in rights) / 12)
    assert result.figures.truncated == 0.25 and result.figures.followed == 0.75
    assert result.figures.length == pytest.approx(10 + sum(range(2, 25, 2)) / 12)
    assert result.setting.k == 4 and result.setting.temperature == 0.6 and result.setting.top_p == 0.95
    assert (
        result.setting.max_tokens == 500 and result.setting.code == "hash" and len(result.setting.data) == 64
    )


def test_a_stop_changes_nothing(how, tmp_path):
    whole = measure_benchmark(CARD, Scripted(), how, tmp_path / "whole")
    interrupted = Scripted(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        measure_benchmark(CARD, interrupted, how, tmp_path / "cut")
    file = tmp_path / "cut/gsm8k.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[:-40])  # the last line was cut off by the stop
    again = Scripted()
    assert measure_benchmark(CARD, again, how, tmp_path / "cut") == whole
    asked = [name for call in again.calls for name in call]
    assert len(asked) == 12 - 5  # five of the six whole lines were left
    assert file.read_bytes() == (tmp_path / "whole/gsm8k.jsonl").read_bytes()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/gsm8k.jsonl").write_bytes(content[:50])  # stopped in its first line
    assert measure_benchmark(CARD, Scripted(), how, tmp_path / "begun") == whole
    nothing = Scripted()
    measure_benchmark(CARD, nothing, how, tmp_path / "cut")
    assert nothing.calls == []


def test_another_protocol_or_model_does_not_continue_a_file(how, tmp_path):
    measure_benchmark(CARD, Scripted(), how, tmp_path / "out")
    with pytest.raises(R1kitError, match=r"another measurement \(k 4 / 2"):
        measure_benchmark(CARD, Scripted(), replace(how, k=2), tmp_path / "out")
    with pytest.raises(R1kitError, match=r"temperature 0\.6 / 1\.0"):
        measure_benchmark(CARD, Scripted(), replace(how, temperature=1.0), tmp_path / "out")
    other = Scripted()
    other.identity = "weights 2"
    with pytest.raises(R1kitError, match="another model"):
        measure_benchmark(CARD, other, how, tmp_path / "out")
    (how.data / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions(13)))
    with pytest.raises(R1kitError, match="another data"):
        measure_benchmark(CARD, Scripted(), how, tmp_path / "out")


def test_damaged_results_are_named(how, tmp_path):
    measure_benchmark(CARD, Scripted(), how, tmp_path / "out")
    file = tmp_path / "out/gsm8k.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], '{"id": 3}', *lines[4:]]) + "\n")
    with pytest.raises(R1kitError, match=r"gsm8k.jsonl:4: no result"):
        read_results(file)
    file.write_text("nothing\n")
    with pytest.raises(R1kitError, match="first line is no protocol"):
        read_results(file)


def test_too_many_tokens_are_refused(how, tmp_path):
    with pytest.raises(R1kitError, match="leaves 500 tokens"):
        measure_benchmark(CARD, Scripted(), replace(how, max_tokens=501), tmp_path / "out")
    with pytest.raises(ConfigError, match="--judge"):
        measure_benchmark(load_card("simpleqa"), Scripted(), how, tmp_path / "out")


def test_tables_say_what_differs(how, tmp_path):
    one = measure_benchmark(CARD, Scripted(), how, tmp_path / "one")
    two = measure_benchmark(CARD, Scripted(), replace(how, k=3), tmp_path / "two")
    text = table_of([one, two]).markdown()
    assert "NOT the same protocol: scripted against scripted: k 4 / 3" in text
    assert "NOT the same protocol" not in table_of([one, one]).markdown()
    assert "training data not checked" in text and "swe_bench_verified" in text
    paper = replace(one, paper={"R1": 97.3}, paper_k=16, setting=replace(one.setting, max_tokens=32768))
    assert "NOT the paper's protocol: k 4 (paper 16)." in table_of([paper]).markdown()
    page = table_of([replace(paper, model="<b>&")]).html()
    assert "<td>97.3</td>" in page and "&lt;b&gt;&amp;" in page
    same = replace(paper, setting=replace(paper.setting, k=16))
    assert "NOT the paper's" not in table_of([same]).markdown()


def test_results_in_the_format_of_lm_eval(how, tmp_path):
    result = measure_benchmark(CARD, Scripted(), how, tmp_path / "out")
    found = json.loads(lm_eval_results([result]))
    assert found["results"]["gsm8k"]["pass@1,none"] == result.figures.pass_1
    assert found["n-samples"]["gsm8k"] == {"original": 12, "effective": 12}
    assert found["configs"]["gsm8k"]["generation_kwargs"]["temperature"] == 0.6
    _, problems = read_results(tmp_path / "out/gsm8k.jsonl")
    rows = [json.loads(line) for line in lm_eval_samples(result, problems).splitlines()]
    assert [row["doc_id"] for row in rows] == list(range(12)) and len(rows[0]["resps"][0]) == 4
    text = write_tables([result], tmp_path / "out")
    assert text == (tmp_path / "out/table.md").read_text()
    for name in ("table.html", "analysis.md", "results.json", "samples_gsm8k.jsonl"):
        assert (tmp_path / "out" / name).is_file()


def test_two_models_are_paired_by_problem(how, tmp_path):
    measure_benchmark(CARD, Scripted(), how, tmp_path / "one")
    measure_benchmark(CARD, Scripted(shift=1), replace(how, seed=1, limit=10), tmp_path / "two")
    (_, first), (_, second) = (read_results(tmp_path / name / "gsm8k.jsonl") for name in ("one", "two"))
    found = compare(first, second)
    rights = [(i % 4 / 4, (i + 1) % 4 / 4) for i in range(1, 11)]
    assert found.test.problems == 10
    assert found.test.difference == pytest.approx(sum(a - b for a, b in rights) / 10)
    assert found.notes == ("2 problems that only one of them has are left out",)
    lines = compare_folders(tmp_path / "one", tmp_path / "two", [CARD], ("A", "B"))
    assert "A against B" in lines[0] and "p = " in lines[0]
    assert any("seed 0 / 1" in line for line in lines[1:])
    assert result_folder(str(tmp_path / "two"), [CARD]) == tmp_path / "two"
    assert result_folder("some-model", [CARD]) is None
    with pytest.raises(R1kitError, match="no results of aime24"):
        result_folder(str(tmp_path / "two"), [CARD, load_card("aime24")])


def test_contamination_is_found_and_printed(how, tmp_path):
    rows = questions(12)
    known = tmp_path / "train.jsonl"
    known.write_text(
        json.dumps({"messages": [{"role": "user", "content": rows[2]["question"]}]}) + "\n"
        + json.dumps({"text": "On the farm: " + rows[6]["question"].lower() + " said Ann."}) + "\n"
        + json.dumps({"prompt": "A farmer has many sheep, and buys none."}) + "\n"
    )  # fmt: skip
    how = replace(how, trained_on=(known,))
    result = measure_benchmark(CARD, Scripted(), how, tmp_path / "out", lambda: training_texts([known]))
    found = result.contamination
    # The third problem is there as it is, the seventh within a longer text.
    assert found.problems == 2 and found.share == pytest.approx(2 / 12)
    clean = [i % 4 / 4 for i in range(1, 13) if i not in (3, 7)]
    assert found.pass_1_clean == pytest.approx(sum(clean) / 10)
    assert "2 problems (16.7%) are in the training data; without them" in table_of([result]).markdown()
    none = measure_benchmark(CARD, Scripted(), how, tmp_path / "none", lambda: ["something else"])
    assert none.contamination.problems == 0


def test_training_files_of_a_run_leave_out_held_out_ones(tmp_path):
    for name in ("train.jsonl", "held.jsonl"):
        (tmp_path / name).write_text("{}\n")
    stage = tmp_path / "run/stages/rejection"
    stage.mkdir(parents=True)
    (stage / "data.jsonl").write_text("{}\n")
    (tmp_path / "run/recipe.yaml").write_text(
        f"stages:\n- tasks:\n    mine:\n      train: {tmp_path}/train.jsonl\n"
        f"      held_out: {tmp_path}/held.jsonl\n"
    )
    assert training_files(tmp_path / "run") == (stage / "data.jsonl", tmp_path / "train.jsonl")
    assert training_files(tmp_path) == ()


def outcome(name, scores, texts=None, votes=None, lengths=None, difficulty=None, category=""):
    count = len(scores)
    return ProblemResult(
        name, "q", "g", difficulty, category, "",
        tuple(
            Sample(score, vote, "stop", True, 1.0, length, 3, text)
            for score, vote, length, text in zip(
                scores, votes or [None] * count, lengths or [100] * count, texts or [""] * count, strict=True
            )
        ),
    )  # fmt: skip


def test_majority_by_classes_of_answers():
    assert majority(outcome("a", [1.0, 0.0, 1.0], votes=["x", "y", "x"])) == 1
    assert majority(outcome("a", [1.0, 0.0, 0.0], votes=["x", "y", "y"])) == 0
    assert majority(outcome("a", [0.0, 1.0], votes=["y", "x"])) == 0  # a tie: the first
    assert majority(outcome("a", [1.0, 0.0, 0.0], votes=["x", None, None])) == 1
    assert majority(outcome("a", [1.0])) is None
    voted, silent = outcome("a", [1.0], votes=["x"]), outcome("b", [0.0])
    assert consensus([voted, silent]) == 0.5  # no answer is no majority
    assert consensus([silent]) is None


def test_scores_between_0_and_1_have_no_pass_at_k():
    assert pass_at_powers([outcome("a", [0.5, 1.0])]) == {}
    found = pass_at_powers([outcome("a", [1.0, 0.0, 0.0, 0.0, 1.0]), outcome("b", [0.0] * 6)])
    assert sorted(found) == [1, 2, 4, 5] and found[1] == pytest.approx(0.2) and found[5] == 0.5


def test_samples_that_could_not_be_judged_are_no_mistakes():
    results = [outcome(f"{i}", [1.0, 0.0]) for i in range(20)] + [outcome("x", [None, 1.0])]
    found = summarise(results)
    assert found.unjudged == 1 and found.pass_1 == pytest.approx((20 * 0.5 + 1) / 21)
    with pytest.raises(R1kitError, match="4 of 8 samples could not be judged"):
        summarise([outcome(f"{i}", [None, 1.0]) for i in range(4)])


def test_a_rating_from_samples_of_rated_problems():
    results = [outcome(f"{i}", [1.0, 0.0], difficulty=1500.0) for i in range(10)]
    found = summarise(results, "rating")
    assert found.score == pytest.approx(1500, abs=0.01) and 80.4 < found.percentile < 84.5
    with pytest.raises(R1kitError, match="problems with ratings"):
        summarise([outcome("a", [1.0])], "rating")


def test_analysis_by_hand():
    results = [
        outcome("a", [1.0, 1.0], ["Wait, check: but no.", "ok"], ["x", "x"], [10, 30], 1, "algebra"),
        outcome("b", [1.0, 0.0], ["However, verify.", "waiting"], ["y", "z"], [50, 70], 3, "algebra"),
        outcome("c", [0.0, 0.0], ["", ""], ["u", "v"], [100, 140], 5, "geometry"),
    ]
    found = analyse(results)
    assert [(one.name, one.problems, one.pass_1, one.length) for one in found.by_difficulty] == [
        ("1", 1, 1.0, 20.0), ("3", 1, 0.5, 60.0), ("5", 1, 0.0, 120.0)]  # fmt: skip
    assert [(one.name, one.problems) for one in found.by_category] == [("algebra", 2), ("geometry", 1)]
    assert found.length_against_difficulty == pytest.approx(1)
    assert found.reflection == pytest.approx(1000 * 5 / 400)  # "waiting" is another word
    assert found.reflection_by_word["wait"] == pytest.approx(1000 / 400)
    assert found.majority_gain == pytest.approx(2 / 3 - 0.5)
    assert reflection_rates([]) == {}


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("abc" * 40, True),
        ("So the answer is 5. Let me check again. " * 5, True),
        ("So the answer is 5. Let me check again. " * 3, False),
        ("A normal text without any loop, which ends after some words. " + "ha" * 20, False),
        ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24", False),
        ("", False),
    ],
)
def test_loops_at_the_end_of_a_text(text, looping):
    assert is_loop(text) is looping


def test_answers_of_completions():
    def of(text, finish="stop"):
        return answer_of(Written(text, finish, 1, True))

    assert of("<think>a</think><answer>5</answer>") == "5"
    assert of("a</think>\n\n5") == "5"
    assert of("The answer is 5.") == "The answer is 5."
    assert of("<think>never closed") is None
    assert of("<think>a</think>5", "length") is None
    assert of("  ") is None


def test_a_model_folder_is_measured(tmp_path, data):
    model = model_directory(tmp_path / "model", max_positions=256)
    how = Measurement(data=data, k=2, limit=3, max_tokens=8)
    job = Job((CARD,), how, tmp_path / "out")
    said = []
    (result,) = measure_model(str(model), model, job, said.append)
    assert result.figures.problems == 3 and result.setting.max_tokens == 8
    assert said[-1] == "gsm8k: 3 of 3 problems" and len(result.model_hash) == 64
    (again,) = measure_model(str(model), model, job, said.append)
    assert again == result


class Server(BaseHTTPRequestHandler):
    bodies: list[dict[str, object]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        text = "I add.</think>\n\\boxed{2}"
        content = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def test_an_endpoint_is_measured(tmp_path, data):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Server.bodies.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        job = Job((CARD,), Measurement(data=data, k=3, limit=2), tmp_path / "out", name="r1")
        (result,) = measure_model(f"http://127.0.0.1:{server.server_port}/v1", None, job, lambda line: None)
    finally:
        server.shutdown()
        server.server_close()
    assert result.figures.pass_1 == 0.5  # 1 + 1 is 2, 2 + 2 is not
    assert result.figures.followed == 1.0 and result.setting.length_unit == "words"
    assert {body["model"] for body in Server.bodies} == {"r1"}
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in Server.bodies} == {
        (0.6, 0.95, 32768)
    }
    assert len({body["seed"] for body in Server.bodies}) == 6


def test_the_worked_example_of_the_page(tmp_path):
    (tmp_path / "gsm8k.jsonl").write_text(
        json.dumps({"question": "A half?", "answer": "#### 1/2"})
        + "\n"
        + json.dumps({"question": "Eight?", "answer": "#### 8"})
        + "\n"
    )
    said = {"1/2": ["0.5", "1/2", "2", "cut"], "8": ["7", "7", "7", "8"]}

    class Model(Scripted):
        def respond(self, problems, sampling):
            return [
                [
                    Written(f"\\boxed{{{one}}}", "length" if one == "cut" else "stop", 5, False)
                    for one in said[p.answer]
                ]
                for p in problems
            ]

    found = measure_benchmark(CARD, Model(), Measurement(data=tmp_path), tmp_path / "out").figures
    assert found.pass_1 == pytest.approx(0.375) and found.pass_k[2] == pytest.approx(2 / 3)
    assert found.cons == 0.5 and found.truncated == 0.125 and found.stderr == pytest.approx(0.125)
