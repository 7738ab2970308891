"""The figure of a recipe on the board: what it says of a stage, and arrows that pass no box."""

import importlib.util
import random
from itertools import pairwise
from typing import Any

import pytest

from r1kit.web.recipes import PlannedStage
from r1kit.web.run_view import StageView

if importlib.util.find_spec("nicegui") is None:
    pytest.skip("the extra ui is not installed (make ui)", allow_module_level=True)

from r1kit.web.board import progress_in_words, recipe_figure

MINI = {
    "pretrain": [],
    "r1_zero": ["pretrain"],
    "cold_start": ["pretrain", "r1_zero"],
    "reasoning_rl": ["cold_start"],
    "rejection_sampling": ["reasoning_rl"],
    "sft": ["pretrain", "rejection_sampling"],
    "reward_models": ["sft"],
    "alignment_rl": ["sft", "reward_models"],
    "student_base": ["pretrain"],
    "distill": ["student_base", "alignment_rl"],
    "evaluate": ["pretrain", "distill"],
}


def stages_of(reads: dict[str, list[str]]) -> list[StageView]:
    return [StageView(PlannedStage(name, "sft", tuple(of), None), "done", 3) for name, of in reads.items()]


def lines_of(series: dict[str, Any]) -> list[tuple[str, str, list[tuple[float, float]]]]:
    """Each arrow: where it begins, the box at whose left edge it ends, and its corners in pixels."""
    places = {node["name"]: (node["x"], node["y"]) for node in series["data"]}
    found, corners, begins = [], [], ""
    for link in series["links"]:
        begins = begins or link["source"]
        corners = corners or [places[begins]]
        corners.append(places[link["target"]])
        if link.get("symbol") == ["none", "arrow"]:
            x, y = corners[-1]
            (end,) = [
                name
                for name, box in boxes_of(series).items()
                if abs(box[0] - x) < 1e-6 and box[1] < y < box[3]
            ]
            found.append((begins, end, corners))
            corners, begins = [], ""
    assert not corners
    return found


def boxes_of(series: dict[str, Any]) -> dict[str, tuple[float, float, float, float]]:
    return {
        node["name"]: (
            node["x"] - node["symbolSize"][0] / 2,
            node["y"] - node["symbolSize"][1] / 2,
            node["x"] + node["symbolSize"][0] / 2,
            node["y"] + node["symbolSize"][1] / 2,
        )
        for node in series["data"]
        if node["symbolSize"]
    }


def passed(series: dict[str, Any]) -> set[tuple[str, str, str]]:
    """(begin, end, box) of every arrow that passes a box that is not its own, looked at point by point."""
    found = set()
    for begin, end, corners in lines_of(series):
        for (x, y), (to_x, to_y) in pairwise(corners):
            for share in range(51):
                at_x, at_y = x + (to_x - x) * share / 50, y + (to_y - y) * share / 50
                for name, (left, top, right, bottom) in boxes_of(series).items():
                    if name not in (begin, end) and left < at_x < right and top < at_y < bottom:
                        found.add((begin, end, name))
    return found


def test_ten_columns_fit_into_a_page_and_no_arrow_passes_a_box() -> None:
    option, width, height = recipe_figure(stages_of(MINI))
    (series,) = option["series"]
    assert width <= 1200 and height <= 210
    arrows = {(begin, end) for begin, end, _ in lines_of(series)}
    assert ("student_base", "distill") in arrows and ("r1_zero", "cold_start") in arrows
    assert ("pretrain", "cold_start") not in arrows  # r1_zero implies it
    assert passed(series) == set()


@pytest.mark.parametrize("seed", range(20))
def test_arrows_of_any_recipe_pass_no_box(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"stage_{number}" for number in range(14)]
    reads = {
        name: rng.sample(names[:place], min(place, rng.choice((1, 1, 2, 3))))
        for place, name in enumerate(names)
    }
    option, width, height = recipe_figure(stages_of(reads))
    (series,) = option["series"]
    assert passed(series) == set()
    places = [(node["x"], node["y"]) for node in series["data"]]
    assert (max(x for x, _ in places), max(y for _, y in places)) == (series["width"], series["height"])
    assert series["width"] < width and series["height"] < height
    assert len({node["name"] for node in series["data"]}) == len(series["data"])


def test_a_straight_line_would_pass_a_box() -> None:
    """The counterpart: the check finds a line that is drawn through a box."""
    (series,) = recipe_figure(stages_of(MINI))[0]["series"]
    _, end, corners = next(line for line in lines_of(series) if line[0] == "student_base")
    direct = {"source": "reward_models", "target": "straight", "symbol": ["none", "arrow"]}
    x, y = corners[-1]
    node = {"name": "straight", "x": x, "y": y, "symbolSize": 0}
    through = {**series, "links": [direct], "data": [*series["data"], node]}
    assert passed(through) == {("reward_models", end, "alignment_rl")}


@pytest.mark.parametrize(
    ("state", "step", "planned", "expected"),
    [
        ("done", 1464, 1465, "done, 1,464 steps"),
        ("done", 1, None, "done, 1 step"),
        ("running", 1464, 2930, "running, step 1,464 of 2,930"),
        ("interrupted", 13, None, "interrupted, 13 steps"),
        ("waiting", None, 90, "waiting"),
    ],
)
def test_a_finished_stage_says_its_steps_and_another_how_many_come(
    state: Any, step: int | None, planned: int | None, expected: str
) -> None:
    assert progress_in_words(StageView(PlannedStage("zero", "r1_zero", (), planned), state, step)) == expected
