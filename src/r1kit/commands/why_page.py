"""The page of ``r1kit why``: one HTML file with everything in it, no script, nothing from elsewhere.

What a model or a data set says is text, never HTML. The tokens are coloured by one of several measures, which
the reader chooses with buttons that the style sheet alone carries out. The page is at most MOST_BYTES large:
of long rollouts the first tokens are shown."""

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from r1kit.commands.why import Explanation, clipped_share, explain, in_words, short, times
from r1kit.config import ConfigError
from r1kit.files import write_whole
from r1kit.log import prompt_text
from r1kit.terminal import one_line, printable
from r1kit.train.replay import Replayed

MOST_BYTES = 1_000_000
MOST_TOKENS = 3_000  # of all rollouts, with their colours
MOST_PROMPT = 20_000  # characters
MOST_ROWS = 200  # of a table
SPREAD = 4.0  # a measure is strongest at so many times its mean size

# (name, what the colours say, values of a rollout's tokens [T])
Measure = tuple[str, str, Callable[[Replayed], np.ndarray]]
MEASURES: tuple[Measure, ...] = (
    ("share", "share of the gradient: blue along it, red against it", lambda one: one.share_T),
    ("change", "change of the log-probability by the update: blue up, red down",
     lambda one: one.after_T - one.before_T),
    ("surprise", "log-probability when it was sampled: the redder, the less likely",
     lambda one: np.minimum(one.sampled_T, 0.0)),
    ("entropy", "entropy of the learner's distribution: the bluer, the more open",
     lambda one: one.entropy_T),
    ("gap", "learner minus engine: blue where the learner finds the token likelier",
     lambda one: one.before_T - one.sampled_T),
)  # fmt: skip


def show(run_dir: Path, stage: str | None, step: int | None, problem: str | None, out: Path | None) -> None:
    """Print the explanation, and write its page to ``out``."""
    found = explain(run_dir, stage, step, problem)
    if out is None:
        print("\n".join(one_line(line) for line in in_words(found)))
        return
    try:
        write_whole(out, page(found))
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror or error}; name another file") from None
    print(one_line(f"{out}: {found.stage}, step {found.step}, problem {found.problem.id}"))


def page(found: Explanation) -> str:
    """The whole page, at most MOST_BYTES of UTF-8."""
    tokens = MOST_TOKENS
    while len((text := _page(found, tokens)).encode()) > MOST_BYTES and tokens:
        tokens //= 2
    return text


def _page(found: Explanation, tokens: int) -> str:
    problem = found.problem
    title = f"Why: {found.run}, {found.stage}, step {found.step}"
    truth = "" if problem.answer is None else f"<p>right answer: <code>{_text(problem.answer)}</code></p>"
    prompt = prompt_text(problem.prompt)
    cut = f"{prompt[:MOST_PROMPT]} [...]" if len(prompt) > MOST_PROMPT else prompt
    body = [
        f"<h1>{_text(title)}</h1>",
        f"<p class=soft>step {found.step} of {found.steps}, problem {_text(problem.id)}</p>",
        f"<pre>{_text(cut)}</pre>{truth}",
        *(f"<p class=soft>{_text(note)}.</p>" for note in found.notes),
        "<h2>The rollouts of this problem</h2>",
        _rollouts(found),
    ]
    if found.has_gradient:
        body += ["<h2>Their tokens</h2>", _tokens(found, tokens)]
        body += ["<h2>Share of the gradient by problem</h2>", _shares(found)]
    body += ["<h2>The numbers of this update, computed again</h2>", _numbers(found)]
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>{_text(title)}</title><style>{STYLE}</style><main>{''.join(body)}</main></html>\n"
    )


def _rollouts(found: Explanation) -> str:
    parts = list(dict.fromkeys(name for one in found.rollouts for name in one.score.parts))
    heads = ["rollout", "reward", *map(short, parts), "advantage", "tokens"]
    gradient = ["clipped", "share", "log p before", "log p after", "p is multiplied by"]
    rows = []
    for one in found.rollouts[:MOST_ROWS]:
        row = [str(one.rollout.index), _number(one.score.total)]
        row += [_number(one.score.parts.get(name)) for name in parts]
        row += [_number(one.advantage, "+.4g"), f"{len(one.sampled_T):,}"]
        if found.has_gradient:
            before, after = float(one.before_T.sum()), float(one.after_T.sum())
            row += [f"{clipped_share(one):.0%}", f"{float(one.share_T.sum()):+.2%}"]
            row += [f"{before:.3f}", f"{after:.3f}", times(after - before)]
        rows.append(row)
    return _table([*heads, *(gradient if found.has_gradient else [])], rows, len(found.rollouts))


def _tokens(found: Explanation, most: int) -> str:
    buttons = "".join(
        f"<input type=radio name=by id=by-{name}{' checked' if not place else ''}>"
        f"<label for=by-{name}>{name}</label>"
        for place, (name, _, _) in enumerate(MEASURES)
    )
    legends = "".join(f"<p class='soft legend of-{name}'>{_text(says)}</p>" for name, says, _ in MEASURES)
    scales = [_scale([measure(one) for one in found.rollouts]) for _, _, measure in MEASURES]
    each = most // max(1, len(found.rollouts))
    blocks = []
    for one, texts in zip(found.rollouts, found.pieces, strict=True):
        spans = "".join(_spans(one, texts[:each], scales))
        left = len(texts) - each
        rest = float(one.share_T[each:].sum())
        more = f" <em>and {left:,} more tokens, share {rest:+.2%}</em>" if left > 0 else ""
        state = "" if one.trained else ", not trained on: its advantage is zero"
        heading = f"rollout {one.rollout.index}, reward {one.score.total:.3g}{state}"
        reasons = "".join(
            f"<p class=soft>{_text(name)}: {_text(reason)}</p>" for name, reason in one.score.reasons.items()
        )
        blocks.append(f"<h3>{_text(heading)}</h3>{reasons}<div class=tokens>{spans}{more}</div>")
    return f"<div class=by>{buttons}{legends}{''.join(blocks)}</div>"


def _spans(one: Replayed, texts: Sequence[str], scales: Sequence[float]) -> Iterator[str]:
    values = [measure(one) for _, _, measure in MEASURES]
    for place, text in enumerate(texts):
        style = ";".join(
            f"--{name[:2]}:{_colour(float(of[place]), scale)}"
            for (name, _, _), of, scale in zip(MEASURES, values, scales, strict=True)
            if abs(of[place]) * 20 > scale
        )
        tip = (
            f"share {one.share_T[place]:+.3%}, log p {one.before_T[place]:.3f} to {one.after_T[place]:.3f}, "
            f"sampled at {one.sampled_T[place]:.3f}, entropy {one.entropy_T[place]:.2f}, "
            f"dL/dl {one.slope_T[place]:.2e}" + (", clipped" if one.clipped_T[place] else "")
        )
        yield f'<span style="{style}" title="{tip}">{_text(text)}</span>'


def _scale(values: Sequence[np.ndarray]) -> float:
    """The size at which the colour of a measure is strongest."""
    sizes = np.abs(np.concatenate([np.zeros(0), *values]))
    return float(min(sizes.max(), SPREAD * sizes.mean())) if len(sizes) and sizes.max() > 0 else 1.0


def _colour(value: float, scale: float) -> str:
    alpha = 0.8 * min(1.0, math.sqrt(abs(value) / scale))
    return f"rgba({'40,110,220' if value > 0 else '215,60,40'},{alpha:.2f})"


def _shares(found: Explanation) -> str:
    rows = [[f"{name}, group {group}", f"{share:+.2%}"] for name, group, share in found.shares[:MOST_ROWS]]
    return _table(["problem", "share"], rows, len(found.shares))


def _numbers(found: Explanation) -> str:
    rows = [[one.name, f"{one.logged:.8g}", f"{one.found:.8g}", one.verdict] for one in found.compared]
    said = f"<p class=soft>Norm of the gradient in float64: {found.exact_norm:.8g}.</p>"
    table = _table(["number", "in the run", "computed again", ""], rows, len(rows))
    return table + (said if found.has_gradient else "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], count: int) -> str:
    head = "".join(f"<th>{_text(name)}" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}" for cell in row) for row in rows)
    more = f"<p class=soft>and {count - len(rows)} more</p>" if count > len(rows) else ""
    return f"<div class=wide><table><thead><tr>{head}<tbody>{body}</table></div>{more}"


def _number(value: float | None, form: str = ".4g") -> str:
    return "–" if value is None or math.isnan(value) else f"{value:{form}}"


def _text(text: str) -> str:
    return escape(printable(text))


STYLE = """
:root{color-scheme:light dark;--paper:#fffefb;--ink:#1c1d20;--soft:#5d6169;--rule:#dcdad3;--panel:#f5f3ec}
@media (prefers-color-scheme:dark){
:root{--paper:#15171b;--ink:#e4e3df;--soft:#a0a4ac;--rule:#353941;--panel:#1e2127}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:68rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}h3{font-size:.95rem;margin:1.2rem 0 .3rem}
.soft{color:var(--soft);font-size:.88rem;margin:.3rem 0}
pre,.tokens{background:var(--panel);padding:.7rem .9rem;border-radius:5px;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.84rem;
font-family:ui-monospace,Menlo,Consolas,"Noto Sans Mono CJK SC",monospace}
.tokens{line-height:1.8}.tokens span{border-radius:3px}
.tokens span:hover{outline:1px solid var(--ink)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;text-align:right;border-top:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{border:0}
.by input{position:absolute;opacity:0}.legend{display:none}
.by label{display:inline-block;padding:.2rem .8rem;margin:0 .4rem .4rem 0;border:1px solid var(--rule);
border-radius:1rem;cursor:pointer;font-size:.86rem}
.by input:checked+label{background:var(--ink);color:var(--paper)}
.by input:focus-visible+label{outline:2px solid #3b6fb5}
""" + "".join(
    f"#by-{name}:checked~.of-{name}{{display:block}}"
    f"#by-{name}:checked~.tokens span{{background:var(--{name[:2]},transparent)}}\n"
    for name, _, _ in MEASURES
)
