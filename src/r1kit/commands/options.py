"""Arguments and options of the commands: their types, limits and help, as typer reads them."""

from pathlib import Path
from typing import Annotated

import typer


def _recipe(given: Path) -> Path:
    from r1kit.recipe.packaged import find_recipe  # not for --help

    return find_recipe(given)


RecipeFile = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe in YAML, such as recipes/mini.yaml, or the name of one that comes with r1kit: mini.",
        callback=_recipe,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, such as stages.r1_zero.grpo.steps=80."),
]
Out = Annotated[
    str | None,
    typer.Option("--out", metavar="DIR", help="The run's folder; in the recipe: out (runs/{name})."),
]
Sandbox = Annotated[
    str | None,
    typer.Option(
        "--sandbox",
        metavar="TIER",
        help="How untrusted programs are isolated: auto, namespaces, landlock, unsafe-subprocess.",
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Remove the run from its folder and start over; other files stay.")
]
RedoFrom = Annotated[
    str | None, typer.Option("--from", metavar="STAGE", help="Redo this stage and what depends on it.")
]
AllowChange = Annotated[
    bool,
    typer.Option(
        "--allow-change",
        help="Go on although recipe, data or code have changed; the change is recorded with the stage.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check the recipe and all files it names, print what would run, touch nothing.",
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option("--template", metavar="NAME", help="chat, r1_zero, model (its own), or a .jinja file."),
]
SystemOption = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="The system turn.")]
ExamplesOption = Annotated[
    Path | None,
    typer.Option(
        "--examples", metavar="FILE", help="JSON Lines of prompt and completion, shown before every question."
    ),
]
OpeningOption = Annotated[
    str | None, typer.Option("--opening", metavar="TEXT", help="What every completion begins with.")
]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="A text that ends a completion; may be given several times."),
]
PrecisionOption = Annotated[
    str,
    typer.Option(help="bfloat16, float32 or int8, of the products; int8 is faster and takes less memory."),
]
ThinkingOption = Annotated[
    bool | None,
    typer.Option("--thinking/--no-thinking", help="For templates that can turn thinking on or off."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object for programs on standard output.")
]


Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Import the code that the recipe names (my.py:Name), which runs it. Otherwise none of it is "
        "run.",
    ),
]


PlanGpu = Annotated[
    str | None, typer.Option("--gpu", metavar="KIND:N", help="Plan for GPUs, such as h100:8.")
]
PlanWorld = Annotated[
    int | None,
    typer.Option(
        "--world",
        metavar="N",
        min=1,
        help="Shard over so many GPUs: what each holds and sends, and what that costs.",
    ),
]
PlanUtilisation = Annotated[
    float | None,
    typer.Option(min=0.01, max=1.0, help="Share of the GPUs' data sheet speed that is reached."),
]
PlanPrice = Annotated[
    float | None, typer.Option(min=0.0, help="Price of an hour of one GPU, or of this machine.")
]
PlanLength = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=1.0,
        help="Mean length of completions as a share of max_tokens (0.5; 0.2 from 16,384 on).",
    ),
]
PlanFormer = Annotated[
    Path | None, typer.Option(metavar="RUN", help="A former run, whose mean lengths are expected.")
]
PlanSolve = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="The largest max_tokens, lora (rank) or batch that fits."),
]
LaunchDryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the files and the command, write and submit nothing.")
]
LaunchTemplates = Annotated[
    Path | None, typer.Option("--templates", metavar="DIR", help="A folder with templates of your own.")
]
LaunchHosts = Annotated[str, typer.Option("--hosts", metavar="A,B", help="Ray: hosts to start a cluster on.")]
LaunchFolder = Annotated[
    str,
    typer.Option("--folder", metavar="DIR", help="The shared folder on the nodes; by default this one."),
]
ServeRunOrModel = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run's folder, RUN/STAGE, a model, or a GGUF file.")
]
ServeStage = Annotated[
    str | None, typer.Option("--stage", metavar="NAME", help="Which stage's model of the run.")
]
ServeHost = Annotated[
    str, typer.Option(help="The address to listen on; another than this machine's own needs a token.")
]
ServeName = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="The model's name for clients.")
]
ServeTokenVariable = Annotated[
    str | None,
    typer.Option(
        "--token-variable",
        metavar="NAME",
        help="Environment variable with the token; default: a new one.",
    ),
]
ServeContext = Annotated[
    int, typer.Option(min=2, help="At most so many tokens of a prompt and its completion.")
]
EvalModel = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A run's folder, a model, or for benchmarks http://HOST/v1."),
]
EvalTasks = Annotated[
    str | None,
    typer.Option("--tasks", metavar="A,B", help="Which tasks, with commas, such as reasoning or chain,mul."),
]
EvalCompletions = Annotated[
    int | None,
    typer.Option("--n", min=1, help="Completions for each problem (tasks: 16; benchmarks: their own k)."),
]
EvalLimit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="At most this many problems of each (tasks: 100; benchmarks: all)."),
]
EvalTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens", min=1, help="The longest completion (tasks: 112; benchmarks: what fits, up to 32768)."
    ),
]
EvalTemperature = Annotated[
    float | None, typer.Option(min=0.0, help="Tasks: 1, as in training; benchmarks: 0.6. 0 is greedy.")
]
EvalSuite = Annotated[
    str | None, typer.Option("--suite", metavar="NAME", help="Benchmarks: r1, math, choice, code, safety.")
]
EvalBenchmarks = Annotated[
    str | None,
    typer.Option(
        "--benchmarks", metavar="A,B", help="Benchmarks by name, such as math500,gsm8k, or FILE.yaml."
    ),
]
EvalData = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="A folder with the benchmarks' files.")
]
EvalOut = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where results go (evaluations/MODEL).")
]
EvalAgainst = Annotated[
    str | None,
    typer.Option("--against", metavar="B", help="Compare with this model, or folder of results."),
]
EvalTrainedOn = Annotated[
    list[Path] | None,
    typer.Option(
        "--trained-on", metavar="FILE", help="Training data to look for the benchmark's problems in."
    ),
]
EvalStandings = Annotated[
    Path | None,
    typer.Option(
        "--standings", metavar="FILE", help="Contests with their human competitors, a JSON line each."
    ),
]
EvalJudge = Annotated[
    str | None,
    typer.Option("--judge", metavar="URL", help="An endpoint, for benchmarks that a model judges."),
]
EvalJudgeModel = Annotated[
    str | None, typer.Option("--judge-model", metavar="NAME", help="The judge's name at its endpoint.")
]
EvalName = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="The model's name at its endpoint.")
]
EvalPaper = Annotated[
    str,
    typer.Option("--paper", metavar="MODEL", help="Whose scores stand next to it: R1, R1-Zero, R1-Dev1 ..."),
]

ProveOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The run of the controls; by default RUN-proof/STAGE."),
]
ProveSteps = Annotated[
    int | None,
    typer.Option("--steps", min=1, help="Updates of each control; by default as many as the stage made."),
]
