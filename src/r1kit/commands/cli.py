"""The command line: parse arguments, call, print results, set the exit code.

Exit codes: 0 done, 1 failed or damaged, 2 wrong usage or configuration (a missing file included), 3 a
training that cannot learn (``preflight``), 130 interrupted. Errors are printed without a traceback unless
R1KIT_DEBUG is set. Large packages are imported when a command needs them, so ``r1kit --help`` is fast."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from r1kit.commands.options import (
    AllowChange,
    AsJson,
    DryRun,
    EvalAgainst,
    EvalBenchmarks,
    EvalCompletions,
    EvalData,
    EvalJudge,
    EvalJudgeModel,
    EvalLimit,
    EvalModel,
    EvalName,
    EvalOut,
    EvalPaper,
    EvalStandings,
    EvalSuite,
    EvalTasks,
    EvalTemperature,
    EvalTokens,
    EvalTrainedOn,
    ExamplesOption,
    Fresh,
    LaunchDryRun,
    LaunchFolder,
    LaunchHosts,
    LaunchTemplates,
    OpeningOption,
    Out,
    Overrides,
    PlanFormer,
    PlanGpu,
    PlanLength,
    PlanPrice,
    PlanSolve,
    PlanUtilisation,
    PlanWorld,
    PrecisionOption,
    ProveOut,
    ProveSteps,
    RecipeFile,
    RedoFrom,
    Sandbox,
    ServeContext,
    ServeHost,
    ServeName,
    ServeRunOrModel,
    ServeStage,
    ServeTokenVariable,
    StopOption,
    SystemOption,
    TemplateOption,
    ThinkingOption,
    Trust,
)
from r1kit.commands.standings import command_words, not_imported, print_end, print_survey
from r1kit.terminal import argument_error, guard, one_line, print_lines, use_utf8

app = typer.Typer(
    name="r1kit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The whole DeepSeek-R1 recipe, from random weights to a distilled reasoning model.",
    epilog="Begin with:  r1kit doctor  and  r1kit run recipes/mini.yaml",
)

# Overrides may be written --a.b c as well as a.b=c, so options that are not known here are passed on.
OVERRIDABLE = {"ignore_unknown_options": True, "allow_extra_args": True}
TOP_KEYS = ("name", "seed", "runtime", "out", "track", "stages")
OPTIONS = (
    "--out",
    "--fresh",
    "--from",
    "--dry-run",
    "--allow-change",
    "--trust",
    "--sandbox",
    "--json",
    "--explain",
    "--help",
)


@app.callback()
def _import_nothing(context: typer.Context) -> None:
    # Only commands that are asked to run code import it: ``run``, ``eval`` and what has --trust.
    if "--help" in sys.argv:  # prints and ends; the import below is slow
        return
    from r1kit.user_code import imports

    context.with_resource(imports(False))


@app.command(context_settings=OVERRIDABLE)
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    fresh: Fresh = False,
    redo_from: RedoFrom = None,
    allow_change: AllowChange = False,
    dry_run: DryRun = False,
    trust: Trust = False,
    sandbox: Sandbox = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: every stage that is not done yet, from where it was interrupted; then write the report.
    A recipe can name code (my.py:Name), which is imported and so runs."""
    flags = _choose_sandbox(sandbox)
    from r1kit.recipe.layers import read_layers
    from r1kit.runs.fingerprint import find_finished, note_finished

    changes = normalize_overrides(overrides or [], out)
    layers = read_layers(recipe, changes)
    finished = None if fresh or redo_from or dry_run or allow_change else find_finished(layers)
    if finished is not None:
        from r1kit.runs.verify import require_whole

        require_whole(finished)
        print_end(finished, {}, as_json)
        return
    from r1kit.console import make_console
    from r1kit.recipe.recipe import build
    from r1kit.recipe.uses import code_in_words, imports_of
    from r1kit.runs.execute import run as execute
    from r1kit.user_code import imports

    if dry_run:
        with imports(trust):
            print_survey(build(layers), layers, redo_from, fresh, as_json)
        return
    console = make_console(to_stderr=as_json)
    for line in [code_in_words(code) for code in imports_of(layers.data)]:
        console.print(line, markup=False, soft_wrap=True)
    command = command_words("run", str(recipe), *changes, *flags)
    how: dict[str, Any] = {"fresh": fresh, "redo_from": redo_from, "allow_change": allow_change}
    with imports(True):
        summary = execute(build(layers), **how, command=command, console=console, layers=layers)
    note_finished(layers, summary.run_dir)
    print_end(summary.run_dir, summary.states, as_json)


@app.command(context_settings=OVERRIDABLE)
def show(
    recipe: RecipeFile,
    overrides: Overrides = None,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="KEY", help="Print where this key's value comes from.")
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Print a recipe with every default filled in, and what it imports, reads and sends; or where a key's
    value comes from."""
    import yaml  # type: ignore[import-untyped]

    from r1kit.recipe.layers import read_layers
    from r1kit.recipe.recipe import build, resolved
    from r1kit.recipe.recipe import explain as explain_key
    from r1kit.recipe.uses import uses_of
    from r1kit.terminal import printable
    from r1kit.user_code import imports

    layers = read_layers(recipe, normalize_overrides(overrides or []))
    with imports(trust):
        checked = build(layers)
        unchecked = not_imported(checked)
    if explain is not None:
        print_lines(explain_key(checked, layers, explain))
        return
    plain = resolved(checked)
    uses = uses_of(plain, layers)
    if as_json:
        print(json.dumps({**plain, "uses": uses.as_dict()}, indent=2, ensure_ascii=False))
        return
    written = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    if printable(written) != written:  # then with YAML's own escapes, so that it can be read again
        written = yaml.safe_dump(plain, sort_keys=False)
    print(written, end="")
    print_lines(f"# {line}" for line in [*uses.in_words(), *unchecked])


@app.command(context_settings=OVERRIDABLE)
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    trust: Trust = False,
    as_json: AsJson = False,
    gpu: PlanGpu = None,
    world: PlanWorld = None,
    utilisation: PlanUtilisation = None,
    price: PlanPrice = None,
    length: PlanLength = None,
    prompt: Annotated[int, typer.Option("--prompt-tokens", min=0, help="Tokens of a prompt.")] = 128,
    former: PlanFormer = None,
    solve: PlanSolve = None,
) -> None:
    """Estimate what each stage will cost: parameters, tokens, memory, time, price. Then check every file that
    the recipe names. Exit code 3: it does not fit into the memory."""
    from r1kit.commands.plan import DOES_NOT_FIT, Question, answer
    from r1kit.recipe.inputs import check_inputs
    from r1kit.recipe.layers import read_layers
    from r1kit.recipe.recipe import build
    from r1kit.user_code import imports

    question = Question(gpu, utilisation, price, length, prompt, former, solve, as_json, world)
    layers = read_layers(recipe, normalize_overrides(overrides or [], out))
    with imports(trust):
        checked = build(layers)
        plans, fits = answer(checked, question)
        for line in () if as_json else not_imported(checked):
            print(line)
        if not fits:
            raise typer.Exit(DOES_NOT_FIT)
        remaining = [entry.name for entry in plans if entry.basis != "measured"]
        check_inputs(checked, layers, remaining, machine=False)  # the plan may be for another machine


@app.command(context_settings=OVERRIDABLE)
def launch(
    scheduler: Annotated[str, typer.Argument(metavar="WHERE", help="slurm, ray or k8s.")],
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="How many nodes.")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of a node.")] = 8,
    dry_run: LaunchDryRun = False,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where the files are written.")] = Path(
        "launch"
    ),
    templates: LaunchTemplates = None,
    name: Annotated[str, typer.Option("--job-name", help="The job's name; by default the recipe's.")] = "",
    partition: Annotated[str, typer.Option("--partition", help="Slurm's partition.")] = "",
    account: Annotated[str, typer.Option("--account", help="Slurm's account.")] = "",
    time: Annotated[str, typer.Option("--time", help="Slurm's time limit.")] = "7-00:00:00",
    image: Annotated[str, typer.Option("--image", help="Kubernetes: an image that has r1kit.")] = "",
    claim: Annotated[str, typer.Option("--claim", help="Kubernetes: the shared volume's claim.")] = "",
    namespace: Annotated[str, typer.Option("--namespace", help="Kubernetes: the namespace.")] = "default",
    address: Annotated[str, typer.Option("--address", help="Ray: the address of a cluster's jobs.")] = "",
    hosts: LaunchHosts = "",
    python: Annotated[str, typer.Option("--python", help="The interpreter on the nodes.")] = "",
    folder: LaunchFolder = "",
    trust: Trust = False,
) -> None:
    """Run a recipe on a cluster: check it, write the files that Slurm, Ray or Kubernetes need, submit."""
    from r1kit.commands.launch import Cluster, render, submit
    from r1kit.recipe.inputs import check_inputs
    from r1kit.recipe.layers import read_layers
    from r1kit.recipe.recipe import build
    from r1kit.user_code import imports

    changes = normalize_overrides(overrides or [], out)
    layers = read_layers(recipe, changes)
    cluster = Cluster(
        nodes, gpus, name, partition, account, time, image, claim, namespace, address,
        tuple(host for host in hosts.split(",") if host), python, folder,
    )  # fmt: skip
    with imports(trust):
        checked = build(layers)
        launched = render(checked, scheduler, cluster, [str(recipe), *changes], templates)
        check_inputs(checked, layers, machine=False)  # the nodes see the same folder
    if not dry_run:
        submit(launched, to)
        return
    for file, text in launched.files.items():
        print_lines([f"--- {to / file}", *text.splitlines()])
    print_lines([f"--- then, in {to}: {shlex.join(launched.command)}"])


@app.command(context_settings=OVERRIDABLE)
def preflight(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="NAME", help="Which RL stage; by default all whose init exists."),
    ] = None,
    sandbox: Sandbox = None,
    as_json: AsJson = False,
) -> None:
    """Sample some rollouts as an RL stage would, and say whether it can learn anything; exit code 3 where
    nothing can be learned. A recipe can name code (my.py:Name), which is imported and so runs."""
    _choose_sandbox(sandbox)
    from r1kit.console import make_console
    from r1kit.recipe.layers import read_layers
    from r1kit.recipe.recipe import build
    from r1kit.recipe.uses import code_in_words, imports_of
    from r1kit.user_code import imports

    layers = read_layers(recipe, normalize_overrides(overrides or [], out))
    console = make_console(to_stderr=as_json)
    for line in [code_in_words(code) for code in imports_of(layers.data)]:
        console.print(line, markup=False, soft_wrap=True)
    with imports(True):
        # What follows imports torch; a recipe with a mistake should not wait for that.
        checked = build(layers)
        from r1kit.commands.preflight import as_dict, examine_recipe

        found = examine_recipe(checked, layers, stage, console)
    if as_json:
        print(json.dumps({name: as_dict(one) for name, one in found.items()}, indent=2, ensure_ascii=False))
    if any(one.hopeless for one in found.values()):
        raise typer.Exit(3)


@app.command()
def prove(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/mini.")],
    stage: Annotated[str, typer.Option("--stage", metavar="NAME", help="Its RL stage.")] = "r1_zero",
    out: ProveOut = None,
    steps: ProveSteps = None,
    limit: Annotated[int, typer.Option("--limit", min=2, help="Held-out problems of each task.")] = 100,
    n: Annotated[int, typer.Option("--n", min=1, help="Samples of each problem.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Has an RL stage taught its model the task? Trains controls (a coin as reward, the format alone, wrong
    labels, rejection sampling), compares all on held-out problems, and says: learned, noise or artefact. The
    rewards that the run's recipe names as code are imported."""
    from r1kit.commands.prove import in_words, prove_stage
    from r1kit.console import make_console
    from r1kit.figures import to_json
    from r1kit.user_code import imports

    folder = out or run_dir.with_name(f"{run_dir.name}-proof") / stage
    with imports(True):
        found = prove_stage(run_dir, stage, folder, make_console(to_stderr=True), limit, n, steps)
    if as_json:
        print(to_json(found), end="")
        return
    print_lines(in_words(found))


@app.command()
def chat(
    run_or_model: Annotated[
        Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run's folder (runs/mini), or a model.")
    ],
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Which stage's model of the run.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="Answer this one prompt and exit.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the most probable token.")] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p")] = 0.95,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="The longest answer, thinking included.")
    ] = 512,
    seed: int = 0,
    precision: PrecisionOption = "bfloat16",
    template: TemplateOption = None,
    system: SystemOption = None,
    examples: ExamplesOption = None,
    opening: OpeningOption = None,
    stop: StopOption = None,
    thinking: ThinkingOption = None,
) -> None:
    """Chat with a model in the terminal; its thinking is shown dimmed. A model of r1kit's is prompted as it
    was trained, another by its own chat template, unless options say otherwise."""
    _check_precision(precision)
    model = _model_meant(run_or_model, stage)
    # What follows imports torch; a mistyped folder should not wait for that.
    from r1kit.commands.chat import converse
    from r1kit.console import make_console
    from r1kit.types import Sampling

    sampling = Sampling(n=1, temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    given = {"template": template, "system": system, "opening": opening, "stop": stop}
    style = _style(model, examples, **given, thinking=thinking)
    converse(model, sampling, make_console(), prompt, style, precision)  # type: ignore[arg-type]


@app.command()
def serve(
    run_or_model: ServeRunOrModel,
    stage: ServeStage = None,
    host: ServeHost = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    name: ServeName = None,
    token_variable: ServeTokenVariable = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="For requests without one.")] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p", min=0.01, max=1.0, help="The same.")] = 0.95,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="The same.")] = 512,
    context: ServeContext = 8192,
    rows: Annotated[int, typer.Option(min=1, max=4096, help="Completions in the batch.")] = 64,
    queue: Annotated[int, typer.Option(min=0, help="Completions that may wait; then 429.")] = 256,
    memory: Annotated[float, typer.Option(min=0.0, help="GB for keys and values.")] = 2.0,
    seconds: Annotated[float, typer.Option(min=1.0, help="The longest time of a request.")] = 600.0,
    precision: PrecisionOption = "bfloat16",
    template: TemplateOption = None,
    system: SystemOption = None,
    examples: ExamplesOption = None,
    opening: OpeningOption = None,
    stop: StopOption = None,
    thinking: ThinkingOption = None,
) -> None:
    """Serve a model to OpenAI's clients over HTTP, at http://HOST:PORT/v1. It is prompted as ``r1kit chat``
    prompts it."""
    _check_precision(precision)
    folder = _model_meant(run_or_model, stage)
    # What follows imports torch; a mistyped folder should not wait for that.
    from r1kit.commands.serve import access_for, check_installed
    from r1kit.commands.serve import serve as serve_model
    from r1kit.serve.served import Limits
    from r1kit.types import Sampling

    check_installed()
    access = access_for(host, token_variable)
    limits = Limits(context=context, rows=rows, queue=queue, memory=int(memory * 1e9), seconds=seconds)
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    given = {"template": template, "system": system, "opening": opening, "stop": stop}
    style = _style(folder, examples, **given, thinking=thinking)
    serve_model(folder, sampling, limits, access, port, name, style, precision, token_variable)  # type: ignore[arg-type]


@app.command(name="eval")
def evaluate(
    model: EvalModel,
    tasks: EvalTasks = None,
    n: EvalCompletions = None,
    limit: EvalLimit = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Which stage's model of the run.")
    ] = None,
    max_tokens: EvalTokens = None,
    temperature: EvalTemperature = None,
    template: TemplateOption = None,
    system: SystemOption = None,
    examples: ExamplesOption = None,
    opening: OpeningOption = None,
    stop: StopOption = None,
    thinking: ThinkingOption = None,
    suite: EvalSuite = None,
    benchmarks: EvalBenchmarks = None,
    data: EvalData = None,
    out: EvalOut = None,
    against: EvalAgainst = None,
    trained_on: EvalTrainedOn = None,
    judge: EvalJudge = None,
    judge_model: EvalJudgeModel = None,
    name: EvalName = None,
    paper: EvalPaper = "R1",
    standings: EvalStandings = None,
    seed: int = 0,
    sandbox: Sandbox = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model: on held-out problems (--tasks), or on benchmarks by the paper's protocol (--suite,
    --benchmarks; temperature 0.6, top-p 0.95, the task file's k). pass@1 with its error, cons@n, format,
    language, length. A model of r1kit's is prompted as it was trained, another by its own chat template,
    unless options say otherwise."""
    _choose_sandbox(sandbox)
    how = {"template": template, "system": system, "opening": opening, "stop": stop, "thinking": thinking}
    if suite is not None or benchmarks is not None:
        given = (data, n, limit, temperature, max_tokens, seed, trained_on)
        _benchmarks(
            model, stage, suite, benchmarks, out, against, (judge, judge_model), name,
            (paper, standings), given, {"examples": examples, **how}, as_json,
        )  # fmt: skip
        return
    _evaluate_tasks(model, stage, tasks, (n, limit, max_tokens, temperature), examples, how, as_json)


def _evaluate_tasks(
    model: str, stage: str | None, tasks: str | None, sizes: tuple[Any, ...], examples: Path | None,
    how: dict[str, Any], as_json: bool,
) -> None:  # fmt: skip
    """``r1kit eval --tasks``: figures on held-out problems. ``sizes``: n, limit, max_tokens, temperature."""
    if tasks is None:
        raise typer.BadParameter("name what is measured: --tasks A,B, --benchmarks A,B or --suite NAME")
    n, limit, max_tokens, temperature = sizes
    folder = _model_meant(Path(model), stage)
    # What follows imports torch; a mistyped folder should not wait for that.
    from r1kit.commands.evaluate import as_table, measure
    from r1kit.figures import to_json
    from r1kit.recipe.uses import code_in_words, imports_of
    from r1kit.user_code import imports

    names = [name for name in tasks.split(",") if name]
    for code in imports_of({"tasks": names}):
        print(code_in_words(code), file=sys.stderr)
    with imports(True):
        style = _style(folder, examples, **how)
        print(f"{one_line(str(folder))}: {one_line(style.in_words(folder))}", file=sys.stderr)
        settings = {"max_tokens": max_tokens, "temperature": temperature}
        result = measure(folder, names, n or 16, limit or 100, style, **settings)
    print(to_json(result) if as_json else as_table(result), end="" if as_json else "\n")


def _benchmarks(
    model: str, stage: str | None, suite: str | None, benchmarks: str | None, out: Path | None,
    against: str | None, judge: tuple[str | None, str | None], name: str | None,
    beyond: tuple[str, Path | None], given: tuple[Any, ...], how: dict[str, Any], as_json: bool,
) -> None:  # fmt: skip
    """``r1kit eval --benchmarks``. ``given``: data, n, limit, temperature, max_tokens, seed, trained_on;
    ``beyond``: the paper's model, and a file of standings."""
    from r1kit.tasks.benchmarks import PAPER_TEMPERATURE, chosen

    names = [one for one in (benchmarks or "").split(",") if one]
    cards = tuple(chosen(suite, names))
    from r1kit.commands.benchmarks import Job, default_folder, make_judge, run_benchmarks
    from r1kit.report.benchmark_table import lm_eval_results
    from r1kit.stages.benchmarks import Measurement
    from r1kit.stages.models import PromptStyle

    data, n, limit, temperature, max_tokens, seed, trained_on = given
    how = {key: value for key, value in how.items() if value is not None}
    measurement = Measurement(
        data, n, limit, PAPER_TEMPERATURE if temperature is None else temperature,
        max_tokens=max_tokens, seed=seed, judge=make_judge(*judge), trained_on=tuple(trained_on or ()),
    )  # fmt: skip

    def folder_of(named: str, of_stage: str | None) -> Path:
        return _model_meant(Path(named), of_stage)

    style: PromptStyle | None = None
    if how and not model.startswith(("http://", "https://")):
        style = _style(folder_of(model, stage), how.pop("examples", None), **how)
    target = out or default_folder(model, stage)
    job = Job(cards, measurement, target, stage, name, style, *beyond)
    results, lines = run_benchmarks(
        model, job, folder_of, against, lambda line: print(one_line(line), file=sys.stderr)
    )
    if as_json:
        print(lm_eval_results(results), end="")
        return
    print((target / "table.md").read_text(encoding="utf-8"), end="")
    print_lines([*lines, f"{target}: table.html, analysis.md, results.json, and a file for each benchmark"])


@app.command()
def probe(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Runs or models, on the same texts.")
    ],
    task: Annotated[
        str,
        typer.Option("--task", metavar="NAME", help="operator, parity, parity_of_sum, order, or FILE.jsonl."),
    ] = "operator",
    count: Annotated[int, typer.Option("--texts", min=20, help="How many texts.")] = 1000,
    both_sides: Annotated[
        bool, typer.Option("--both-sides", help="Attention to both sides, as in masked language modelling.")
    ] = False,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Which stage's model of a run.")
    ] = None,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """What each layer of a model knows: a linear probe on its hidden states, layer by layer."""
    folders = [_model_meant(model, stage) for model in models]
    # What follows imports torch; a mistyped folder should not wait for that.
    from r1kit.commands.probe import as_table, measure

    figures = measure(folders, task, count, both_sides, seed)
    if as_json:
        print(json.dumps({model: [asdict(one) for one in rows] for model, rows in figures.items()}, indent=2))
    else:
        print_lines(as_table(task, figures))


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder (runs/mini).")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="DIR", help="The new folder; or tensorboard, wandb, trackio: the metrics."
        ),
    ],
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Which stage's model.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="TYPE", help="float32, bfloat16 or float16; as trained without it."),
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Only the adapters (learner.lora), in peft's layout.")
    ] = False,
    project: Annotated[str, typer.Option("--project", help="A tracker's project; by default the run.")] = "",
    online: Annotated[bool, typer.Option("--online", help="Let wandb or trackio send the metrics.")] = False,
    follow: Annotated[bool, typer.Option("--follow", hidden=True)] = False,
) -> None:
    """Copy a finished model as a Hugging Face folder with a model card that says how it was made; or hand the
    metrics of a run to a tracker."""
    from r1kit.commands.track import export_metrics, is_tracker

    if is_tracker(to):
        if stage or dtype or adapter:
            raise typer.BadParameter(
                "--stage, --dtype and --adapter choose a model; a tracker gets all metrics"
            )
        print_lines([export_metrics(run_dir, to, project, online, follow)])
        return
    if project or online or follow:
        raise typer.BadParameter(
            "--project and --online are for trackers: --to tensorboard, wandb or trackio"
        )
    from r1kit.commands.export import export_model

    folder = one_line(str(export_model(run_dir, stage, Path(to), dtype, adapter)))
    opened = (
        "peft opens it on the model that it names" if adapter else "transformers and vLLM open it as it is"
    )
    print(f"{folder}: written; {opened}")


@app.command()
def verify(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder (runs/mini).")],
    as_json: AsJson = False,
) -> None:
    """Hash everything that a run has made again, and print what was made from what; exit code 1 where a file
    is damaged."""
    from r1kit.runs.verify import as_lines, examine

    examined = examine(run_dir)
    if as_json:
        print(json.dumps(examined.as_dict(), indent=2, ensure_ascii=False))
    else:
        print_lines(as_lines(examined))
    if examined.damages:
        raise typer.Exit(1)


@app.command()
def watch(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder (runs/mini).")],
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 3.0,
    once: Annotated[bool, typer.Option("--once", help="Print the board once and exit.")] = False,
) -> None:
    """Show a run as it goes on: its stages, its curves, and what is wrong in plain words."""
    from r1kit.commands.watch import watch as show_board
    from r1kit.console import make_console

    show_board(run_dir, every, make_console(), once)


@app.command()
def why(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder (runs/mini).")],
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Which RL stage.")] = None,
    step: Annotated[int | None, typer.Option("--step", min=0, help="Which update, from 0.")] = None,
    problem: Annotated[
        str | None,
        typer.Option("--problem", metavar="ID", help="Which problem; by default the one that moved most."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write one HTML page instead of text.")
    ] = None,
) -> None:
    """Replay one update of an RL stage: rewards, advantages, clipping, each token's share of the gradient,
    and the probabilities before and after."""
    from r1kit.commands.why_page import show as show_update

    show_update(run_dir, stage, step, problem, out)


@app.command()
def ui(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Folders of runs; by default those in runs/, the newest first."),
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", help="Who may connect: 127.0.0.1 is this machine only; others need a token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8470,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> None:
    """Open the board, rollouts and models of one or more runs in a browser; offline, and changes nothing."""
    from r1kit.commands.ui import serve

    serve(runs or [], host, port, not no_browser)


@app.command()
def doctor(sandbox: Sandbox = None, as_json: AsJson = False) -> None:
    """Check this machine: versions that work together, memory, disk, compiler, sandbox; one fix for each
    failing line."""
    _choose_sandbox(sandbox)
    from r1kit.commands.doctor import as_lines, examine, is_fit

    findings = examine()
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        print_lines(as_lines(findings))
    if not is_fit(findings):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line and exit the process with the code that the module's docstring lists."""
    fault = use_utf8() or argument_error(sys.argv)
    guard()
    if fault is not None:
        print(f"r1kit: {fault}", file=sys.stderr)
        sys.exit(2)
    try:
        app()
    except (SystemExit, GeneratorExit):
        raise
    except KeyboardInterrupt:  # before a command's own handler was there, or in one that has none
        print("r1kit: interrupted", file=sys.stderr)
        sys.exit(130)
    except BaseException as error:
        from r1kit.addresses import without_secrets
        from r1kit.config import ConfigError, R1kitError, is_panic

        if not (isinstance(error, Exception) or is_panic(error)) or os.environ.get("R1KIT_DEBUG"):
            raise
        known = isinstance(error, R1kitError)
        print(f"r1kit: {without_secrets(str(error) if known else _unexpected(error))}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2 if isinstance(error, ConfigError) else 1))


def _unexpected(error: BaseException) -> str:
    from r1kit.files import disk_error

    if trouble := disk_error(error):
        return f"{trouble}; then the same command continues"
    return (
        f"unexpected {type(error).__name__}: {error}\nR1KIT_DEBUG=1 shows where it came from; please report "
        "it with that output."
    )


def _style(model: Path, examples: Path | None, **given: Any) -> Any:
    """How a model is prompted: as it was trained, with what the options give in its place."""
    from r1kit.stages.models import changed_style

    return changed_style(model, examples, **{name: value for name, value in given.items() if value != []})


def normalize_overrides(words: Sequence[str], out: str | None = None) -> list[str]:
    """Bring ``a.b=c``, ``--a.b c`` and ``--a.b=c`` to the first form; ``--out DIR`` is the key ``out``."""
    changes = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            changes.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if key.partition(".")[0] not in TOP_KEYS:
            from r1kit.config import suggest

            hint = suggest(f"--{key}", OPTIONS, f"a change to the recipe begins with {', '.join(TOP_KEYS)}")
            raise typer.BadParameter(f"no option --{key}: {hint}")
        if not equals and not waiting:
            raise typer.BadParameter(f"{word} needs a value: {word[2:]}=VALUE")
        changes.append(f"{key}={value if equals else waiting.pop(0)}")
    return [*changes, f"out={json.dumps(out)}"] if out is not None else changes


def _choose_sandbox(tier: str | None) -> list[str]:
    """Set how untrusted programs are isolated, in this process and its children; return the option for a
    command line that does the same."""
    if tier is None:
        return []
    from r1kit.config import suggest
    from r1kit.sandbox.pool import CHOICE, CHOICES

    if tier not in CHOICES:
        raise typer.BadParameter(f"--sandbox {tier}: no such tier; {suggest(tier, CHOICES)}")
    os.environ[CHOICE] = tier
    return [f"--sandbox={tier}"]


def _check_precision(precision: str) -> None:
    if precision not in ("bfloat16", "float32", "int8"):
        raise typer.BadParameter(f"--precision {precision}: bfloat16, float32 or int8")


def _model_meant(named: Path, stage: str | None) -> Path:
    """The folder of the model that an argument names: a run's, a model's, a GGUF file's, or one of the
    hub's."""
    from r1kit.model.sources import WORK, found_model, kind_of, resolve_model
    from r1kit.records import find_model

    name = str(named)
    if (kind := kind_of(name)) not in WORK:
        return find_model(named, stage)
    if found_model(name) is None:
        print(f"{name}: {WORK[kind]}", file=sys.stderr)
    return resolve_model(name)
