"""benchmarks/bench: the arithmetic of lengths, limits and ratios, and what the page says of them; nothing is
timed."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from r1kit.config import R1kitError
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained
from r1kit.tokenizer import Tokenizer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("limits", "models", "page", "peers", "race", "results", "work", "measurement")


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(f"bench.{name}") for name in NAMES})
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def small():
    return ModelConfig.parse(
        {
            "family": "qwen3",
            "vocab_size": 60,
            "width": 32,
            "layers": 2,
            "heads": 2,
            "kv_heads": 1,
            "head_dim": 16,
            "ffn_width": 64,
            "tie_embeddings": True,
            "init_std": 0.02,
            "max_positions": 128,
        },
        "small",
    )


def test_ending_chance_gives_the_mean_of_even_lengths(bench):
    chance = bench.work.ending_chance(bench.work.FULL)
    lengths = np.minimum(np.random.default_rng(0).geometric(chance, 400_000), 256)
    assert lengths.mean() == pytest.approx((20 + 256) / 2, rel=0.005)


def test_models_end_with_the_chance_that_was_asked_for(bench, small):
    model = LanguageModel(small, seed=3)
    bench.models.set_ending(model, eos_id=1, chance=0.05)
    tokens_BT = torch.randint(5, 60, (16, 64), generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        chances_BT = model.eval().logits(model(tokens_BT).hidden_BTD).softmax(-1)[..., 1]
    assert float(chances_BT.mean()) == pytest.approx(0.05, rel=0.15)
    assert float(chances_BT[:, :8].mean()) == pytest.approx(
        float(chances_BT[:, -8:].mean()), rel=0.3
    )  # no matter where


def test_a_made_model_opens_with_a_tokenizer_whose_text_has_the_prompts_ids(bench, small, tmp_path):
    folder = bench.models.make(tmp_path / "model", small, 0.05)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.vocab_size == load_pretrained(folder).config.vocab_size == 60
    ids = [17, 5, 59]
    assert tokenizer.encode(bench.models.words(ids)).tolist() == ids
    prompt = tokenizer.encode(bench.models.prompt_text(ids), special=True).tolist()
    assert prompt == [tokenizer.bos_id, tokenizer.id("<｜User｜>"), *ids, tokenizer.id("<｜Assistant｜>")]


@pytest.mark.parametrize("shape", ["7m", "30m", "dsv3"])
def test_shapes_have_the_size_they_are_called_by(bench, shape):
    config = ModelConfig.parse(bench.work.SHAPES[shape], shape)
    expected = {"7m": 7.3e6, "30m": 29.9e6, "dsv3": 11.7e6}[shape]
    assert sum(p.numel() for p in LanguageModel(config).parameters()) == pytest.approx(expected, rel=0.02)


def test_rows_and_prompts_have_the_lengths_of_the_work(bench):
    size = bench.work.Size()
    assert {len(row) - 1 for row in bench.work.learner_rows(size, "uniform", 4096, 5)} == {256}
    ragged = [len(row) - 1 for row in bench.work.learner_rows(size, "ragged", 4096, 5)]
    assert len(ragged) == 32 and min(ragged) >= 20 and max(ragged) <= 256 and len(set(ragged)) > 20
    assert {len(prompt) + 3 for prompt in bench.work.prompts(size, 4096, 5)} == {64}


def test_names_choose_works_and_their_peers(bench):
    only = bench.work.chosen(["rollout/7m/ragged/vs_hf"])
    assert [(work.name, work.peers) for work in only] == [("rollout/7m/ragged", ("hf",))]
    assert bench.work.chosen([]) == list(bench.work.PLAN)
    names = [work.ratio_name(peer) for work in bench.work.PLAN for peer in work.peers]
    assert len(names) == len(set(names))
    assert {
        "grpo/7m/uniform/vs_trl",
        "grpo/7m/ragged/vs_trl",
        "grpo/30m/uniform/vs_trl",
        "grpo/dsv3/uniform/vs_trl",
    } <= set(names)
    assert {
        "rollout/7m/ragged/vs_vllm_cpu",
        "rollout/30m/uniform/vs_vllm_cpu",
        "learner/7m/ragged/vs_hf",
    } <= set(names)


def test_a_large_model_gets_less_of_the_same_work(bench):
    work, full = bench.work.Work("grpo", "135m", "uniform", ("trl",)), bench.work.FULL
    assert work.sized(full).rows == 16 and work.sized(full).new_tokens == 128
    assert work.sized(bench.work.QUICK) == bench.work.QUICK
    assert work.sized(replace(full, repeats=1)).new_tokens == 128
    learner = bench.work.Work("learner", "135m", "uniform", ("hf",)).sized(full)
    assert (learner.learner_rows, learner.new_tokens, learner.repeats) == (4, 512, full.repeats)
    assert bench.work.Work("grpo", "30m", "uniform", ("trl",)).sized(full) == full


def test_a_line_in_8_bits_has_a_name_of_its_own_and_says_so_to_the_sides(bench, tmp_path):
    plain, eight, _ = bench.work.chosen(["rollout/7m/uniform/vs_vllm_cpu", "rollout/7m/uniform/int8"])
    assert (plain.precision, eight.precision) == ("bfloat16", "int8")
    assert eight.ratio_name("vllm_cpu") == "rollout/7m/uniform/int8/vs_vllm_cpu"
    names = [work.ratio_name(peer) for work in bench.work.PLAN for peer in work.peers]
    assert len(set(names)) == len(names)


def test_products_run_in_the_faster_format(bench):
    assert bench.limits.Peaks(bf16=31.0, fp32=163.0, stream=14.0).products == 163.0
    assert bench.limits.Peaks(bf16=219.0, fp32=99.0, stream=20.0).products == 219.0


def test_flops_and_bytes_of_a_token_by_hand(bench, small):
    # per layer: q 32x32, k and v 32x16 each, o 32x32, three 32x64; norms 32+32+16+16; the head 60x32; the
    # last norm 32
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
    assert bench.limits.product_parameters(small) == 2 * (layer + 96) + 60 * 32 + 32
    assert bench.limits.attention_flops(small, 10) == 2 * 2 * (
        2 * 16 * 10 + 2 * 16 * 10
    )  # layers x heads x (scores + sum)
    assert bench.limits.cache_bytes(small) == 2 * 2 * (2 * 16)  # bytes x layers x (key + value of one head)


def test_limits_by_hand_where_one_side_decides(bench, small):
    peaks = bench.limits.Peaks(bf16=1e30, fp32=1.0, stream=1000.0)
    weights = 2 * sum(p.numel() for p in LanguageModel(small).parameters())
    seconds = [
        (weights + live * seen * 128) / 1000 for live, seen in ((2, 5), (1, 6))
    ]  # lengths 1 and 2 after four tokens
    assert bench.limits.decode_limit(small, peaks, 4, [1, 2]) == pytest.approx(3 / sum(seconds))
    multiplying = bench.limits.Peaks(bf16=1e6, fp32=1.0, stream=1e30)
    span, head = bench.limits.Span, 60 * 32
    flops = 3 * 3 * (2 * bench.limits.product_parameters(small) + bench.limits.attention_flops(small, 2))
    assert bench.limits.learn_limit(small, multiplying, [span(0, 3, 3)]) == pytest.approx(3 / (flops / 1e6))
    shared = flops - 3 * 3 * 2 * head  # a prompt of three: no head
    shared += (
        2
        * 3
        * (2 * bench.limits.product_parameters(small) + bench.limits.attention_flops(small, 4) + 2 * head)
    )
    rollouts = [
        span(0, 3, 0),
        span(3, 4, 2),
        span(3, 4, 2),
    ]  # two of two tokens: one position and the prompt's last
    assert bench.limits.learn_limit(small, multiplying, rollouts) == pytest.approx(4 / (shared / 1e6))


def measured(bench, tokens, cpu_s, wall_s=1.0, **reply):
    return bench.race.Measured(tokens, cpu_s, wall_s, 100.0, reply)


def test_a_ratio_is_the_median_over_pairs_not_the_ratio_of_medians(bench):
    ours = [measured(bench, 100, 1.0), measured(bench, 100, 4.0), measured(bench, 100, 2.0)]
    theirs = [measured(bench, 100, 3.0), measured(bench, 100, 4.0), measured(bench, 100, 10.0)]
    spread = bench.race.ratios(ours, theirs, cores=1)
    assert (spread.median, spread.least, spread.most) == (3.0, 1.0, 5.0)
    assert bench.race.ratios(
        [measured(bench, 10, 1.0, 2.0)], [measured(bench, 10, 9.0, 3.0)], cores=2
    ).median == pytest.approx(1.5)


class FakeSide:
    def __init__(self, bench, lengths=None, fails_at=None):
        self.bench, self.lengths, self.fails_at, self.orders = bench, lengths, fails_at, []

    def measure(self, order):
        self.orders.append(dict(order))
        if self.fails_at == len(self.orders):
            raise self.bench.race.SideError("out of memory")
        return measured(
            self.bench, 5, 1.0, **({"lengths": [self.lengths, len(self.orders)]} if self.lengths else {})
        )


def test_peers_get_the_lengths_of_the_same_round_and_the_first_round_is_not_counted(bench):
    sides = {"r1kit": FakeSide(bench, lengths=3), "hf": FakeSide(bench)}
    found, failed = bench.race.race(sides, repeats=2, seed=7)
    assert [order["lengths"] for order in sides["hf"].orders] == [[3, 1], [3, 2], [3, 3]]
    assert [order["seed"] for order in sides["hf"].orders] == [7, 8, 9]
    assert all("lengths" not in order for order in sides["r1kit"].orders)
    assert not failed and {side: len(each) for side, each in found.items()} == {"r1kit": 2, "hf": 2}


def test_a_peer_that_fails_is_left_out_with_its_reason_and_r1kits_failure_is_raised(bench):
    found, failed = bench.race.race(
        {"r1kit": FakeSide(bench, 3), "trl": FakeSide(bench, fails_at=2)}, repeats=2, seed=7
    )
    assert failed == {"trl": "out of memory"} and set(found) == {"r1kit"} and len(found["r1kit"]) == 2
    with pytest.raises(bench.race.SideError, match="r1kit: out of memory"):
        bench.race.race({"r1kit": FakeSide(bench, 3, fails_at=1)}, repeats=2, seed=7)


def test_a_side_answers_orders_and_its_failure_is_an_error_with_its_words(bench, tmp_path):
    script = tmp_path / "side.py"
    script.write_text(
        "from serving import serve\n"
        "def start(spec):\n"
        "    def run(order):\n"
        "        return {'tokens': spec['tokens'] // order['by']}\n"
        "    return run\n"
        "serve(start)\n",
        encoding="utf-8",
    )
    cores = sorted(os.sched_getaffinity(0))[:1]
    side = bench.race.Side(
        Path(sys.executable), str(script), cores, tmp_path / "log", [BENCHMARKS / "bench"], 1
    )
    try:
        assert side.ask({"tokens": 12}, 60) == {"ready": True}
        done = side.measure({"by": 3})
        assert done.tokens == 4 and done.wall_s > 0 and done.cpu_s >= 0 and 1 < done.peak_mb < 2000
        with pytest.raises(bench.race.SideError, match="ZeroDivisionError"):
            side.ask({"by": 0}, 60)
        with pytest.raises(bench.race.SideError):
            side.ask({"by": 1}, 60)
    finally:
        side.close()


def load_command():
    """benchmarks/bench.py, which has the name of its package."""
    specification = importlib.util.spec_from_file_location("bench_command", BENCHMARKS / "bench.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def filled(bench, tmp_path, ratio=6.0):
    results = bench.results.Results.open(tmp_path / "bench.json", quick=False)
    results.content["peaks"] = {"bf16": 2e11, "fp32": 1e11, "stream": 3e10}
    work = bench.work.Work("grpo", "7m", "uniform", ("trl",))
    parts = {"rollout": 1.0, "update": 3.0}
    sides = {"r1kit": [measured(bench, 600, 1.0, parts=parts)] * 3, "trl": [measured(bench, 600, ratio)] * 3}
    results.add(
        work, sides, {}, {"limit": 1200.0, "load": 0.5, "operations": {"aten::mm": 0.4, "aten::rare": 0.001}}
    )
    return results, work


def test_results_hold_ratios_for_programs_and_start_again_on_another_machine(bench, tmp_path):
    results, work = filled(bench, tmp_path)
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert content["ratios"] == {"grpo/7m/uniform/vs_trl": 6.0}
    assert content["measured"]["grpo/7m/uniform"]["sides"]["r1kit"]["repeats"][0]["tokens"] == 600
    assert bench.results.Results.open(tmp_path / "bench.json", quick=False).content["ratios"]
    results.add(work, {"r1kit": [measured(bench, 1, 1.0)]}, {"trl": "no wheel"}, {"load": 0.0})
    assert results.content["ratios"] == {} and results.content["missing"] == {
        "grpo/7m/uniform/vs_trl": "no wheel"
    }
    content["machine"]["processor"] = "another"
    (tmp_path / "bench.json").write_text(json.dumps(content), encoding="utf-8")
    assert not bench.results.Results.open(tmp_path / "bench.json", quick=False).content["ratios"]


def test_a_part_of_the_lines_is_measured_and_the_next_call_continues(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.results, "revision", lambda: "one")
    command = load_command()
    results, first = filled(bench, tmp_path)
    second, failing = (
        bench.work.Work("grpo", "7m", lengths, ("trl",), cores=cores)
        for lengths, cores in (("ragged", 1), ("uniform", 2))
    )
    measured_now = []

    class Fake:
        def __init__(self):
            self.results = results

        def compare(self, work):
            measured_now.append(work)
            sides = {"r1kit": [measured(bench, 10, 1.0)] * 3}
            missing = {"trl": "no wheel"} if work is failing else {}
            if work is not failing:
                sides["trl"] = [measured(bench, 5, 1.0)] * 3
            results.add(work, sides, missing, {"load": 0.0})

    works = [first, second, failing]
    assert command.compare(works, Fake(), resume=True, minutes=0.0) == [second, failing] and not measured_now
    now = iter([0.0, 30.0, 61.0])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(now))
    assert command.compare(works, Fake(), resume=True, minutes=1.0) == [failing] and measured_now == [second]
    monkeypatch.undo()
    monkeypatch.setattr(bench.results, "revision", lambda: "one")
    assert command.compare(works, Fake(), resume=True, minutes=None) == [] and measured_now == [
        second,
        failing,
    ]
    assert command.compare(works, Fake(), resume=True, minutes=None) == [] and len(measured_now) == 2
    monkeypatch.setattr(bench.results, "revision", lambda: "two")  # another source: everything again
    assert command.compare(works, Fake(), resume=True, minutes=None) == [] and len(measured_now) == 5
    assert command.compare(works[:1], Fake(), resume=False, minutes=None) == [] and len(measured_now) == 6


def test_measuring_one_peer_again_keeps_the_figures_of_the_others(bench, tmp_path):
    results = bench.results.Results.open(tmp_path / "bench.json", quick=False)
    both = bench.work.Work("rollout", "7m", "uniform", ("hf", "vllm_cpu"))
    results.add(
        both, {side: [measured(bench, 10, 1.0)] for side in ("r1kit", "hf", "vllm_cpu")}, {}, {"load": 0.0}
    )
    one = bench.work.Work("rollout", "7m", "uniform", ("hf",))
    results.add(
        one, {"r1kit": [measured(bench, 20, 1.0)], "hf": [measured(bench, 10, 1.0)]}, {}, {"load": 0.0}
    )
    assert results.content["ratios"] == {
        "rollout/7m/uniform/vs_hf": 2.0,
        "rollout/7m/uniform/vs_vllm_cpu": 1.0,
    }
    assert set(results.content["measured"]["rollout/7m/uniform"]["sides"]) == {"r1kit", "hf", "vllm_cpu"}


@pytest.mark.parametrize(("ratio", "said"), [(6.0, "reached (6)"), (4.0, "**missed** (6)")])
def test_the_page_says_whether_a_target_was_reached(bench, tmp_path, ratio, said):
    results, _ = filled(bench, tmp_path, ratio)
    page = tmp_path / "page.md"
    page.write_text("# Before\n<!-- bench -->\nold\n<!-- /bench -->\nAfter\n", encoding="utf-8")
    bench.page.write_page(page, results)
    text = page.read_text(encoding="utf-8")
    assert said in text and "old" not in text and text.startswith("# Before\n") and text.endswith("After\n")
    assert "| grpo/7m/uniform | 600 | 1,200 | 0.50 |" in text
    assert "### A lone row\n\nNot measured." in text
    assert "rollout 25 %; update 75 %" in text and "`aten::mm` 40 %" in text and "rare" not in text


def test_the_page_says_how_near_a_lone_row_comes_to_reading_its_weights(bench):
    shape, _ = bench.work.LONE["500m"]
    config = ModelConfig.parse(shape, "500m")
    peaks = bench.limits.Peaks(bf16=2e11, fp32=1e11, stream=2e10)
    limit = bench.limits.decode_limit(config, peaks, 64, [64])
    read = (
        2 * 494_032_768 + 96.5 * 2 * 24 * 2 * 2 * 64
    )  # bytes: Qwen2.5-0.5B's weights, and on average 96.5 positions of keys and values
    assert limit == pytest.approx(2e10 / read, rel=1e-6)
    found = {
        "500m": {"rate": {"median": 0.4 * limit, "least": 0.3 * limit, "most": 0.5 * limit}, "limit": limit}
    }
    assert "| 500m | 494M | 8 (6..10) | 20 | 0.40, **missed** (0.5) |" in bench.page.lone_table(
        {"lone": found}
    )


def test_a_page_without_its_marks_is_refused(bench, tmp_path):
    results, _ = filled(bench, tmp_path)
    page = tmp_path / "page.md"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(R1kitError, match="exactly one <!-- bench -->"):
        bench.page.write_page(page, results)


def test_targets_are_found_by_the_beginning_of_a_name(bench):
    assert bench.page.target("grpo/30m/uniform/vs_trl") == 4.0
    assert bench.page.target("grpo/7m/ragged/vs_trl/2cores") == 9.0
    assert bench.page.target("learner/135m/uniform/vs_hf") == 2.0
    assert bench.page.target("rollout/dsv3/ragged/vs_hf") == 3.5
    assert bench.page.target("learner/7m/ragged/vs_hf_bf16") is None
    assert bench.page.target("rollout/30m/ragged/vs_vllm_cpu") is None


def test_a_peer_that_cannot_be_installed_says_why(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(
        bench.peers,
        "run_command",
        lambda words: (_ for _ in ()).throw(bench.peers.PeerError("no such version")),
    )
    with pytest.raises(bench.peers.PeerError, match="no such version"):
        bench.peers.python_of(bench.peers.PEERS["trl"], tmp_path)
    assert not (tmp_path / "venv-hf" / "ready").exists()


def test_a_side_ends_when_its_caller_is_gone_and_not_before(tmp_path):
    """A caller that is killed closes nothing in order: the side would compute on for hours."""
    script = tmp_path / "busy.py"
    script.write_text(
        f"import sys, time\nsys.path.insert(0, {str(BENCHMARKS / 'bench')!r})\nimport serving\n"
        "serving.GRACE_S = 0.0\nline = serving.Line()\norders = line.orders()\n"
        "line.answer({'got': next(orders)})\n"
        "while True:\n    time.sleep(0.01)\n"  # an order that takes hours
    )
    orders, caller = os.pipe()
    answers, answer = os.pipe()
    side = subprocess.Popen([sys.executable, script, str(orders), str(answer)], pass_fds=(orders, answer))
    os.close(orders)
    os.close(answer)
    try:
        os.write(caller, b'{"work": 1}\n')
        assert json.loads(os.read(answers, 1000)) == {"got": {"work": 1}}
        with pytest.raises(subprocess.TimeoutExpired):
            side.wait(0.5)
        os.close(caller)
        assert side.wait(60) == 1
    finally:
        side.kill()
        side.wait()
        os.close(answers)
