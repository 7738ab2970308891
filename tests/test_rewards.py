"""Rewards: formats, languages, lengths, failures that are never zeros, and functions written for TRL."""
# ruff: noqa: E501 - one case, one entry

import contextlib
import json
import math
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

import numpy as np
import pytest
from waiting import LIMIT_S

from r1kit.chat import parse, prompt_column
from r1kit.config import ConfigError, R1kitError
from r1kit.endpoints import complete_chat
from r1kit.language import language_share
from r1kit.rewards import (
    REWARDS,
    Ahead,
    TooManyFailuresError,
    WeightedReward,
    adapt,
    format_reward,
    load_rewards,
    repeated_share,
    score,
)
from r1kit.rewards.judge import judged_score
from r1kit.rewards.table import trl_arguments
from r1kit.tasks import Dataset, Prompts
from r1kit.types import Completion, Problem, Rollout, Verdict


class Echo:
    """A task whose answers are checked against the problem's, and that can be made to fail."""

    name = "echo"

    def __init__(self, seconds: dict[str, float] | None = None):
        self.seconds = seconds or {}

    def check(self, problem, answer):
        if problem.answer is None:
            return Verdict("unverifiable")
        if answer == "crash":
            return Verdict("failed", "the worker died")
        return Verdict(
            "correct" if answer == problem.answer else "wrong", seconds=self.seconds.get(answer, 0.0)
        )


def rollout(
    answer="4",
    *,
    problem="p",
    index=0,
    gold="4",
    thinking="we think",
    text=None,
    tokens=10,
    finish="stop",
    language="en",
    **columns,
):
    said = f"<think>{thinking}</think><answer>{answer}</answer>" if text is None else text
    completion = Completion(np.arange(tokens), np.zeros(tokens), finish)
    made = Problem(problem, "echo", "2+2?", gold, language, columns=columns)
    return Rollout(
        made,
        index,
        np.arange(3),
        completion,
        said,
        thinking if text is None else None,
        answer if text is None else None,
    )


def values(name, rollouts, tasks=None, **options):
    return REWARDS[name]({"echo": tasks or Echo()}, **options)(rollouts)


@pytest.mark.parametrize(
    ("text", "value"),
    [("<think>a</think><answer>4</answer>", 1.0), ("<think>a</think> 4", 1.0), (" <think>\na\n</think>\n\n<answer> 4 </answer>\n", 1.0), ("4", 0.0),
     ("<think>a</think>", 0.0), ("<think>a</think><answer> </answer>", 0.0), ("<think>a</think><answer>4</answer> and more", 0.0), ("a</think>4", 0.0),
     ("x<think>a</think>4", 0.0), ("<think>a<think>b</think>4", 0.0), ("<think>a</think>4</think>", 0.0), ("<think>a</think><think>b</think>4", 0.0),
     ("<think>a</think><answer>4</answer><answer>5</answer>", 0.0), ("<think>a</think><answer>4", 0.0), ("<think>a<answer>4</answer></think>4", 0.0),
     ("<THINK>a</THINK>4", 0.0), ("<think>a</think>4<THINK>", 0.0), ("", 0.0), ("<think></think>4", 0.0), ("<think> \n</think>4", 0.0), ("<think>\u200b\u3164</think>4", 0.0), ("<think>.</think>4", 1.0), ("<think>a</think><answer>4<b>5</b></answer>", 1.0)],
)  # fmt: skip
def test_the_format_is_one_thinking_and_then_a_nonempty_answer(text, value):
    assert format_reward(text) == value


def test_format_is_what_the_parser_of_completions_says():
    for text in (
        "<think>a</think>4",
        "<think>a</think><answer>4</answer>",
        "<think>a</think>\u200b",
        "<think>a</think>4<Answer>",
        "4",
    ):
        assert format_reward(text) == float(parse(text) is not None)


def test_an_empty_thought_earns_the_format_reward_only_where_the_recipe_says_so():
    thoughts = [rollout(thinking=thinking) for thinking in ("", " \n", "\u200b", "2+2")]
    assert values("format", thoughts) == [0.0, 0.0, 0.0, 1.0]
    assert values("format", thoughts, empty_thought=True) == [1.0] * 4
    assert format_reward("<think>\n</think>4", empty_thought=True) == 1.0
    assert parse("<think>\n</think>4") == ("", "4")  # its answer is checked all the same
    [paid] = load_rewards({"format": {"weight": 0.1, "empty_thought": True}}, [Echo()])
    assert paid.function(thoughts[:1]) == [1.0]


def test_a_rollout_that_was_cut_off_has_no_format():
    assert values("format", [rollout(), rollout(finish="length")]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [("", "en", None), ("1 + 2 = 3", "en", None), ("$\\frac{a}{b}$ `code`", "zh", None), ("So we add them", "en", 1.0), ("我们把它们相加", "zh", 1.0),
     ("我们把它们相加", "en", 0.0), ("So we add them", "zh", 0.0), ("We add 我们", "en", 2 / 3), ("Alice 有 3 个苹果", "zh", 1.0), ("计算 gcd 和 x_1", "zh", 1.0),
     ("これは日本語です", "ja", 1.0), ("我们相加", "ja", 0.0), ("우리는 더한다", "ko", 1.0), ("мы складываем", "ru", 1.0), ("نجمع العددين", "ar", 1.0),
     ("we add مع", "en", 2 / 3), ("```python\nprint('这是中文')\n``` so we go", "en", 1.0), ("λ and μ are roots", "en", 1.0),
     ("Alice给Bob三个苹果。", "zh", 1.0), ("計算結果", "ja", 0.0), ("먼저 더하면 seven 입니다", "ko", 3 / 4), ("Сначала we add", "ru", 1 / 3),
     ("أولا نجمع العددين then", "ar", 3 / 4), ("`中文` $中文$ https://a.b/中文 so", "en", 1.0), ("def f(x): 返回", "zh", 1.0), ("x y z", "en", None),
     ("\u200b", "en", None), ("हम जोड़ते हैं", "hi", 1.0), ("Première étape: on additionne", "fr", 1.0)],
)  # fmt: skip
def test_the_language_share_counts_words_of_the_target(text, language, share):
    assert language_share(text, language) == pytest.approx(share)


@pytest.mark.parametrize("piece", ["\\[", "\\(", "$", "```", "<a", "a'", "中 "])
def test_the_language_of_a_long_text_costs_little(piece):
    begun = time.process_time()
    language_share(piece * 50_000, "en")
    assert time.process_time() - begun < 2.0


def test_latin_languages_are_distinguished_by_function_words_where_asked():
    text = "Nous avons donc la somme et the answer is"
    assert language_share(text, "fr") == 1.0
    assert 0.4 < language_share(text, "fr", ("en",)) < 0.8
    with pytest.raises(ValueError, match="unknown language"):
        language_share(text, "xx")


def test_accuracy_is_the_task_s_verdict():
    found = values(
        "accuracy",
        [rollout(), rollout("5"), rollout(text="no template"), rollout(gold=None), rollout("crash")],
    )
    assert found[:4] == [1.0, 0.0, 0.0, None]
    assert math.isnan(found[4])


def test_scores_are_weighted_sums_and_a_failure_is_no_zero():
    rewards = load_rewards({"accuracy": 1.0, "format": 0.5, "language": {"weight": 2}}, [Echo()])
    group = [rollout(index=n) for n in range(39)] + [rollout("crash", index=39)]
    failures = []
    scores = score(group, rewards, failures)
    assert scores[0].total == 3.5
    assert scores[0].parts == {"accuracy": 1.0, "format": 1.0, "language": 1.0}
    assert math.isnan(scores[39].total)
    assert scores[39].parts["accuracy"] is None
    assert [(f.problem, f.index, f.reward) for f in failures] == [("p", 39, "accuracy")]
    assert score([rollout(gold=None)], rewards)[0].total == 2.5


def test_a_reward_that_raises_is_a_failure_of_that_rollout_with_its_traceback():
    def fragile(rollouts):
        return [1.0 / len(r.answer) for r in rollouts]

    group = [rollout(index=n) for n in range(30)] + [rollout("", index=30)]
    failures = []
    scores = score(group, [WeightedReward("fragile", 1.0, fragile)], failures)
    assert [s.total for s in scores[:30]] == [1.0] * 30
    assert math.isnan(scores[30].total)
    assert failures[0].index == 30
    assert "ZeroDivisionError" in failures[0].detail
    assert "fragile" in failures[0].detail


def test_rewards_that_compare_a_group_are_asked_again_without_the_one_at_fault():
    def ranks(rollouts):
        lengths = sorted(len(r.answer) / bool(r.answer) for r in rollouts)
        return [float(lengths.index(len(r.answer))) for r in rollouts]

    group = [rollout("1" * (n + 1), index=n) for n in range(20)] + [rollout("", index=20)]
    scores = score(group, [WeightedReward("ranks", 1.0, ranks)], failures := [])
    assert [s.total for s in scores[:20]] == [float(n) for n in range(20)]
    assert [f.index for f in failures] == [20] and "ZeroDivisionError" in failures[0].detail


def test_a_failed_verdict_is_tried_once_more_and_says_why():
    class Flaky(Echo):
        asked = 0

        def check(self, problem, answer):
            self.asked += 1
            return (
                Verdict("failed", "timeout: too slow")
                if self.asked < 2 or answer == "slow"
                else Verdict("correct")
            )

    assert values("accuracy", [rollout("4")], Flaky()) == [1.0]
    score([rollout("slow")], load_rewards({"accuracy": 1.0}, [Flaky()]), failures := [])
    assert failures[0].detail == "echo: timeout: too slow"


def test_the_run_stops_with_what_happened_and_what_to_do():
    with pytest.raises(
        TooManyFailuresError, match=r"(?s)3 of 20 .*accuracy.*the worker died.*Fix the.*same command"
    ):
        score(
            [rollout(index=n) for n in range(17)] + [rollout("crash", index=n) for n in range(17, 20)],
            load_rewards({"accuracy": 1}, [Echo()]),
        )


def test_more_than_five_per_cent_of_failures_stop_the_run():
    with pytest.raises(TooManyFailuresError, match="3 of 40"):
        score(
            [rollout(index=n) for n in range(37)] + [rollout("crash", index=n) for n in range(37, 40)],
            load_rewards({"accuracy": 1}, [Echo()]),
        )


def test_functions_written_for_trl_work_unchanged():
    def brevity(completions, **kwargs):
        return [float(len(text)) for text in completions]

    def columns(prompts, completions, completion_ids, solution):
        return [
            1.0 if s == "4" and p == "2+2?" and len(i) == 10 else None
            for p, i, s in zip(prompts, completion_ids, solution, strict=True)
        ]

    async def later(completions, **kwargs):
        return [2.0] * len(completions)

    group = [rollout(solution="4"), rollout(solution="5")]
    assert adapt(brevity)(group) == [float(len(r.text)) for r in group]
    assert adapt(columns)(group) == [1.0, None]
    assert adapt(later)(group) == [2.0, 2.0]


def test_a_user_s_function_is_found_by_file_and_name(tmp_path):
    file = tmp_path / "my_rewards.py"
    file.write_text(
        "def short(completions, **kwargs):\n    return [float(len(c) < 50) for c in completions]\n"
    )
    rewards = load_rewards({f"{file}:short": 0.5}, [])
    assert [s.total for s in score([rollout(), rollout(thinking="x" * 100)], rewards)] == [0.5, 0.0]


def test_a_function_written_for_trl_gets_what_trl_gives_it():
    """The keyword arguments of TRL 1.16 (GRPOTrainer._calculate_rewards), and no others."""
    seen = []

    def everything(**given):
        seen.append(given)
        return [0.0] * len(given["completions"])

    def asked(prompts, completions, trainer_state, log_extra, log_metric, answer, *, level=None):
        log_extra("length", [len(text) for text in completions])
        log_metric("mean", 1.0)
        return [float(trainer_state.global_step)] * len(prompts)

    system = {"role": "system", "content": "Be brief."}
    row = {"prompt": "2+2?", "completion": "x", "completion_ids": [1], "level": 3, "answer": "#### 4"}
    plain = replace(rollout(), problem=Problem("p", "echo", "2+2?", "4", columns=row))
    turns = rollout(messages=(system,), prompt=[system, {"role": "user", "content": "2+2?"}])
    single = rollout(messages=(), prompt=[{"role": "user", "content": "2+2?"}])
    listed = rollout(messages=[system])  # a column of the data's own, and no turn
    group = [plain, turns, single, listed]
    assert adapt(everything)(group) == [0.0] * 4 and adapt(asked)(group) == [0.0] * 4
    (given,) = seen
    user = {"role": "user", "content": "2+2?"}
    assert given["prompts"] == ["2+2?", [system, user], [user], "2+2?"]
    said = [{"role": "assistant", "content": plain.text}]
    assert given["completions"] == [plain.text, said, said, plain.text]
    assert given["completion_ids"] == [r.completion.token_ids.tolist() for r in group]
    assert given["level"] == [3, None, None, None] and given["answer"] == ["#### 4", "4", "4", "4"]
    assert set(given) == {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric",
                          "level", "answer"}  # fmt: skip
    later = replace(plain, completion=replace(plain.completion, version=7))
    assert adapt(asked)([plain, later]) == [7.0, 7.0]


def test_a_conversation_of_one_turn_is_one_for_trl_also_from_a_file(tmp_path):
    user = {"role": "user", "content": "2+2?"}
    for name, row in {
        "text": {"prompt": "2+2?"},
        "turns": {"prompt": [user]},
        "messages": {"messages": [user]},
    }.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps(row | {"answer": "4"}) + "\n")
        problems = [Dataset("d", held_out=str(file)).problems("held_out")[0],
                    Prompts("d", held_out=str(file)).problems("held_out")[0]]  # fmt: skip
        for problem in problems:
            (prompt,) = trl_arguments([replace(rollout(), problem=problem)])["prompts"]
            assert prompt == ("2+2?" if name == "text" else [user])
            assert prompt_column(problem) == "2+2?"  # what a run writes stays a text


@pytest.mark.parametrize(
    ("spec", "message"),
    [({"acuracy": 1.0}, "did you mean 'accuracy'"), ({"cosine": {"weight": 1, "limt": 3}}, "unknown option 'limt'"), ({"format": "high"}, "weight"),
     ({"judge": 1.0}, "endpoint"), ({"soft_overlong": {"weight": 1, "limit": 5, "buffer": 9}}, "buffer")],
)  # fmt: skip
def test_a_wrong_specification_is_refused_with_the_fix(spec, message):
    with pytest.raises(ConfigError, match=message):
        load_rewards(spec, [Echo()])


def test_length_rewards_have_the_values_of_their_papers():
    lengths = [rollout(tokens=n) for n in (0, 50, 75, 100, 200)]
    assert values("soft_overlong", lengths, limit=100, buffer=50) == [0.0, 0.0, -0.5, -1.0, -1.0]
    right_wrong = [
        rollout(tokens=0),
        rollout(tokens=100),
        rollout("5", tokens=0),
        rollout("5", tokens=100),
        rollout(tokens=50),
    ]
    assert values("cosine", right_wrong, limit=100) == pytest.approx([1.0, 0.5, -1.0, -0.5, 0.75])
    group = [
        rollout(tokens=10),
        rollout(tokens=20),
        rollout(tokens=30),
        rollout("5", tokens=10),
        rollout("5", tokens=30),
    ]
    assert values("length", group) == [0.5, 0.0, -0.5, 0.0, -0.5]


def two_groups_of_one_problem():
    """Lengths 10, 20 and 40, 80: the same problem, drawn twice."""
    return [
        replace(rollout(tokens=tokens, index=index), group=group)
        for group, lengths in enumerate(((10, 20), (40, 80)))
        for index, tokens in enumerate(lengths)
    ]


def test_length_compares_within_a_group_and_not_within_a_problem():
    """Kimi k1.5's reward, group by group: [.5 -.5 .5 -.5]; all four together would give [.5 .36 .07 -.5]."""
    groups = two_groups_of_one_problem()
    assert values("length", groups) == [0.5, -0.5, 0.5, -0.5]
    mixed = [groups[place] for place in (2, 0, 3, 1)]
    assert values("length", mixed) == [0.5, 0.5, -0.5, -0.5]
    together = [replace(one, group=0) for one in groups]
    assert values("length", together) == pytest.approx([0.5, 0.5 - 10 / 70, 0.5 - 30 / 70, -0.5])


@pytest.mark.parametrize("portions", [[], [[0, 1, 2, 3]], [[0, 1], [2, 3]], [[2, 3]]])
def test_an_early_reward_is_the_same_whichever_group_was_complete_first(portions):
    groups = two_groups_of_one_problem()
    ahead = Ahead(load_rewards({"length": 1.0}, [Echo()]))
    for portion in portions:
        ahead.ask([groups[place] for place in portion])
    again = [replace(one) for one in groups]  # equal keys, other objects
    for rollouts in (groups, again):
        assert [s.total for s in score(rollouts, ahead.informed())] == [0.5, -0.5, 0.5, -0.5]


def test_speed_compares_within_a_group_and_not_within_a_problem():
    task = Echo({"4": 0.2, "04": 0.4})
    task.check = lambda problem, answer: Verdict("correct", seconds=task.seconds[answer])
    first, second = [rollout("4"), rollout("04", index=1)], [rollout("04"), rollout("04", index=1)]
    both = first + [replace(one, group=1) for one in second]
    assert values("speed", both, task) == [1.0, 0.5, 1.0, 1.0]


def test_failures_are_counted_by_rollout_also_where_a_problem_was_drawn_often():
    """40 of 80 rollouts fail: 20 groups of one problem, two of whose four rollouts fail in each. By problem and
    index only two would be counted, which is below the limit of 4."""
    rollouts = [
        replace(rollout("crash" if index < 2 else "4", index=index), group=group)
        for group in range(20)
        for index in range(4)
    ]
    with pytest.raises(TooManyFailuresError, match="40 of 80 rollouts"):
        score(rollouts, load_rewards({"accuracy": 1.0}, [Echo()]))
    few = [replace(one, answer="4") if one.group > 1 else one for one in rollouts]
    score(few, load_rewards({"accuracy": 1.0}, [Echo()]), failures := [])
    assert [one.rollout for one in failures] == [("p", 0, 0), ("p", 0, 1), ("p", 1, 0), ("p", 1, 1)]


def test_repetition_and_steps():
    assert repeated_share("a b c d", 2) == 0.0
    assert repeated_share("a b a b a b", 2) == pytest.approx(1 - 2 / 5)
    assert repeated_share("", 2) == 0.0
    assert values("repetition", [rollout(text="a " * 100)], ngram=1) == [-0.99]
    assert values(
        "reasoning_steps", [rollout(thinking="First, we\nStep 2: go\n3. end"), rollout(thinking="hm")]
    ) == [1.0, 0.0]


def test_speed_compares_right_programs_of_a_group_or_with_a_reference():
    task = Echo({"4": 0.2})
    quick, slow = rollout("4"), rollout("4", problem="q", reference_seconds=0.1)
    assert values("speed", [quick, rollout("5"), slow], task) == [1.0, 0.0, 0.5]


def test_a_judge_s_verdict_is_read_and_its_failures_are_no_zeros():
    replies = iter(['{"analysis": "fine", "score": 7}', "no verdict", '{"score": 99}', '{"score": "ten"}'])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert asked["model"] == "j"
            body = json.dumps({"choices": [{"message": {"content": next(replies)}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}/v1"
        found = values(
            "judge",
            [rollout(index=n) for n in range(4)] + [rollout(text="no answer")],
            endpoint=endpoint,
            model="j",
            parallel=1,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert found[0] == 0.7
    assert all(math.isnan(value) for value in found[1:4])
    assert found[4] == 0.0


@contextlib.contextmanager
def endpoint(answer):
    """An HTTP server; ``answer(handler, number)`` handles its number-th request."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            with contextlib.suppress(OSError):
                answer(self, len(asked))

        def log_message(self, *_):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def said(handler, body, status=200):
    handler.send_response(status)
    handler.end_headers()
    handler.wfile.write(body)


def verdict(content):
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 200), (b"not json", 200), (b"[" * 100_000, 200), (b"{}", 200), (b'{"choices": []}', 200), (verdict(None), 200), (verdict(""), 200),
     (verdict('{"score": NaN}'), 200), (verdict('{"score": true}'), 200), (verdict('{"score": -1}'), 200), (verdict('{"score": 3} {"score": 9}'), 200),
     (b"\xff\xfe", 200), (b"error", 500), (b"no such model", 404), (b"x" * (2 << 20), 200)],
)  # fmt: skip
def test_junk_from_a_judge_is_a_failure_with_its_reason(body, status):
    with endpoint(lambda handler, _: said(handler, body, status)) as (address, _):
        found = score(
            [rollout()],
            load_rewards({"judge": {"endpoint": address, "model": "j", "seconds": 5}}, []),
            failures := [],
        )
    assert math.isnan(found[0].total) and found[0].parts["judge"] is None
    assert failures[0].reward == "judge" and len(failures[0].detail) > 20


def test_a_judge_that_is_down_slow_or_trickles_is_a_failure_in_time():
    given_up, answered = threading.Event(), []

    def silent(*_):
        given_up.wait(LIMIT_S)
        answered.append(given_up.is_set())

    def trickle(handler, _, begun=b"HTTP/1.1 200 OK\r\n\r\n"):
        handler.wfile.write(begun)
        for _ in range(int(LIMIT_S / 0.05)):
            handler.wfile.write(b" ")  # fails when the caller has given up
            time.sleep(0.05)
        answered.append(False)

    def trickle_headers(handler, number):
        trickle(handler, number, b"HTTP/1.1 200 OK\r\nName: ")

    for answer in (silent, trickle, trickle_headers, lambda handler, _: handler.connection.close()):
        with endpoint(answer) as (address, _):
            with pytest.raises(R1kitError, match="no answer"):
                complete_chat(address, {}, "NO_KEY", 0.3, attempts=1)
            given_up.set()
    assert False not in answered
    with pytest.raises(R1kitError, match="is the server up"):
        complete_chat("http://127.0.0.1:9/v1", {}, "NO_KEY", 0.3, attempts=2)
    with pytest.raises(R1kitError, match="no address"):
        complete_chat("my-judge", {}, "NO_KEY", 0.3)


def test_an_endpoint_that_stumbles_is_asked_again_and_one_that_refuses_is_not():
    with endpoint(
        lambda handler, number: said(handler, verdict('{"score": 4}'), 500 if number < 3 else 200)
    ) as (address, asked):
        assert judged_score(complete_chat(address, {}, "NO_KEY", 5)) == 0.4
    assert len(asked) == 3
    with (
        endpoint(lambda handler, _: said(handler, b"bad key", 401)) as (address, asked),
        pytest.raises(R1kitError, match="401"),
    ):
        complete_chat(address, {}, "NO_KEY", 5)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("reply", "points"),
    [('{"score": 7}', 0.7), ('```json\n{"analysis": "fine {really}", "score": 10}\n```', 1.0), ('{"analysis": "it says {\\"score\\": 10}", "score": 2}', 0.2),
     ('Verdict: {"score": 3, "why": {"score": 9}} as I said', 0.3), ('{"score": 0}', 0.0), ('{x} {"score": 5.5}', 0.55), ('{"score": 5} {"score": 5}', 0.5)],
)  # fmt: skip
def test_the_verdict_of_a_judge_is_its_outermost_object(reply, points):
    assert judged_score(reply) == pytest.approx(points)
