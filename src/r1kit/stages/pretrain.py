"""Pretraining a base model from random weights (DeepSeek-V3, section 4): next token, plus one further token
ahead (MTP).

In the paper: 14.8T tokens, AdamW(.9, .95), lambda of MTP 0.3 then 0.1, alpha of the balance loss 1e-4, bias
rate 0.001. Here: a tokenizer is trained on the corpus first, unless the recipe names another stage's, and the
head's product is in bf16, since no engine's log-probabilities are compared with it."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from r1kit.config import ConfigError, InputError
from r1kit.data.corpora import SourceConfig, source_errors
from r1kit.data.fim import DEEPSEEK, with_fim_tokens
from r1kit.data.masking import with_mask_token
from r1kit.data.pacing import SupervisedCurriculum
from r1kit.data.packed_corpus import PackedConfig, Recipe, check_shards, pack_sources, tokenizer_texts
from r1kit.data.token_loader import Lines, LineStream, updates
from r1kit.files import rename_whole
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.seeds import derive_seed
from r1kit.stages.corpus_documents import DocumentsConfig, FirstDocuments, document_rows, until
from r1kit.stages.curate import resolved_source
from r1kit.stages.extended import ExtendConfig, write_beginning
from r1kit.stages.kept import is_kept, keep
from r1kit.stages.paced_corpus import paced_documents, paced_lines
from r1kit.stages.recipe_names import log_tasks
from r1kit.stages.results import finish
from r1kit.stages.stage import Context, Stage, StagePlan, TrainingPhase
from r1kit.tasks import load_tasks
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import PretrainingConfig
from r1kit.train.objective_mix import ObjectiveMix, ObjectiveWeights
from r1kit.train.optimizers import OptimizerConfig, ScheduleConfig
from r1kit.train.supervised import SupervisedConfig, text_row, train, update_batches
from r1kit.types import Row

TOKENS = "tokens"  # the folder of packed sources
TOKENIZER_DOCUMENTS = 8000  # enough for the small vocabularies that a recipe trains


class CorpusConfig(DocumentsConfig):
    """At least one source of documents (corpus_documents.py), and with ``first`` others that come before
    them. Or, in their place, ``packed``: sources of any size and format, tokenised and packed once
    (data/packed_corpus.py)."""

    first: FirstDocuments | None = None
    packed: PackedConfig | None = None

    def rows(self, tokens: int, tokenizer: Tokenizer, context: int, seed: int) -> Iterator[Row]:
        """The documents of a training on ``tokens`` tokens, in order, without end."""
        rows = document_rows(self.documents(seed), tokenizer, context)
        if self.first is None:
            return rows
        before = document_rows(self.first.documents(derive_seed(seed, "first")), tokenizer, context)
        return itertools.chain(until(before, self.first.share * tokens), rows)


class Pretrain(Stage):
    """``model`` is {preset: name, key: value ...}; ``tokenizer`` a vocabulary size, or another stage whose
    tokenizer is used. In the place of both, ``init`` names the model that is trained further, for longer
    texts with ``extend`` (YaRN: stages/extended.py). ``objectives``: the weights of next token, masked
    language modelling and next-sentence prediction (train/objective_mix.py). With a ``curriculum`` easy
    documents or lines come first (data/pacing.py)."""

    writes: ClassVar[tuple[str, ...]] = ("init", "tokenizer", "model", "report.json", TOKENS)

    stage: Literal["pretrain"] = "pretrain"
    model: dict[str, Any] = {}
    init: str = ""
    extend: ExtendConfig | None = None
    tokens: int = Field(ge=1)  # to train on; V3's base: 14.8T
    tokenizer: int | str = 768
    corpus: CorpusConfig = CorpusConfig()  # where the documents come from
    curriculum: SupervisedCurriculum | None = None  # the order of the documents (docs/data.md)
    objectives: ObjectiveWeights = ObjectiveWeights()
    learner: PretrainingConfig = PretrainingConfig(
        context=160, lines=26, head="bfloat16", optimizer=OptimizerConfig(kind="muon", learning_rate=3e-3)
    )
    training: SupervisedConfig = SupervisedConfig(
        epochs=1,
        batch_tokens=4096,
        schedule=ScheduleConfig(kind="wsd", warmup=20, decay_share=0.6),
        mtp_weight=0.3,
        balance_weight=1e-4,
    )

    @model_validator(mode="after")
    def _has_documents(self) -> Self:
        if bool(self.model) == bool(self.init):
            raise ValueError(
                "name either the shape of a new model (model: {preset: mini}), or the model to train further "
                '(init: "@pretrain")'
            )
        if self.init and "tokenizer" in self.model_fields_set:
            raise ValueError("tokenizer: the model of init has one; leave tokenizer out")
        if self.extend is not None and not self.init:
            raise ValueError("extend: makes texts longer for a pretrained model; name it under init")
        corpus = self.corpus
        if corpus.packed is not None and (corpus.named or corpus.first):
            raise ValueError(
                "corpus: packed has sources of its own; leave files, tasks, generated and first out, "
                "or packed"
            )
        if corpus.first is not None and not corpus.first.named:
            raise ValueError("corpus.first: name its documents too: files, tasks or generated, as in corpus")
        if corpus.packed is None and not corpus.named:
            raise ValueError(
                "corpus: name what to read: files: {FILE.jsonl: 1.0}, tasks: {gsm8k: {kind: dataset, train: "
                "data/gsm8k_train.jsonl}}, or generated: {miniature: 1.0}"
            )
        if self.objectives.nsp and corpus.packed is not None and not corpus.packed.document_masks:
            raise ValueError(
                "objectives.nsp cuts documents in two, and with corpus.packed.document_masks: false a line "
                "of several is one row; leave document_masks at true, or nsp out"
            )
        return self

    @model_validator(mode="after")
    def _curriculum_has_rows(self) -> Self:
        if self.curriculum is None:
            return self
        if self.corpus.tasks or self.corpus.generated:
            raise ValueError(
                "curriculum: documents of tasks and generated ones have no end, so they have no order; "
                "name files or packed sources"
            )
        if self.corpus.first is not None:
            raise ValueError("curriculum: it orders all documents; leave corpus.first out, or curriculum")
        if self.corpus.packed is not None and self.curriculum.named_column:
            raise ValueError(
                "curriculum: packed lines hold parts of several documents and have no columns; order them "
                'by: rarity or length, or by the loss of a model (reference: "@stage")'
            )
        return self

    def input_errors(self) -> Iterator[InputError]:
        yield from self.corpus.file_errors("corpus")
        if self.corpus.first is not None:
            yield from self.corpus.first.file_errors("corpus", "first")
        if self.corpus.packed is not None:
            for path, error in source_errors(self.corpus.packed.sources):
                yield ("corpus", "packed", "sources", *path), error

    def run(self, ctx: Context) -> None:
        source = derive_seed(ctx.seed, "corpus")
        log_tasks(ctx, load_tasks(self.corpus.tasks))
        if self.corpus.first is not None:
            log_tasks(ctx, load_tasks(self.corpus.first.tasks))
        tokenizer = self._tokenizer(ctx, source)
        init = self._beginning(ctx, tokenizer)
        steps, tokens = self.training.updates_of(self.tokens)
        batches = self._batches(ctx, tokenizer, source)
        mix = None
        if not self.objectives.plain:
            mix = ObjectiveMix(self.objectives, tokenizer, self.learner.context, source)
            batches = mix.batches(batches)
        config = self.learner.model_copy(update={"pair_head": self.objectives.nsp > 0})
        learner = ctx.runtime.learner(init, config)
        last = train(learner, batches, steps, self.training, ctx.log, ctx.out, ctx.identities, mix=mix)
        finish(ctx, learner, facts=last | {"steps": steps, "tokens": tokens})

    def _beginning(self, ctx: Context, tokenizer: Tokenizer) -> Path:
        """The folder of the weights that the training begins with."""
        init = ctx.out / "init"
        if is_kept(ctx, "init"):
            return init
        with _whole(init) as partial:
            if self.init:
                config = write_beginning(ctx.model(self.init), partial, self.extend)
                self._check_length(config)
            else:
                shape = self._shape(tokenizer.vocab_size)
                save_pretrained(LanguageModel(shape, seed=derive_seed(ctx.seed, "weights")), partial)
                tokenizer.save(partial)
        keep(ctx, "init")
        return init

    def _check_length(self, config: ModelConfig) -> None:
        if self.learner.context > config.max_positions:
            raise ConfigError(
                f"learner.context: {self.learner.context} is longer than the {config.max_positions} "
                f"positions of {self.init}; write extend: {{factor: "
                f"{-(-self.learner.context // config.max_positions)}}}, or a shorter context"
            )

    def _batches(self, ctx: Context, tokenizer: Tokenizer, seed: int) -> Callable[[int], Iterator[list[Row]]]:
        """The updates from a given one on."""
        if self.corpus.packed is not None:
            return self._packed_batches(ctx, self.corpus.packed, tokenizer, seed)
        if self.curriculum is not None:
            paced = paced_documents(ctx, self, self.curriculum, tokenizer, derive_seed(seed, "order"))
            return lambda start: iter(paced[start:])

        def batches(start: int) -> Iterator[list[Row]]:
            rows = self.corpus.rows(self.tokens, tokenizer, self.learner.context, seed)
            return itertools.islice(update_batches(rows, self.training.sizes()), start, None)

        return batches

    def _packed_batches(
        self, ctx: Context, packed: PackedConfig, tokenizer: Tokenizer, seed: int
    ) -> Callable[[int], Iterator[list[Row]]]:
        """Updates of as many packed lines as hold ``batch_tokens``, from shards that are made first."""
        folder = ctx.path(packed.folder) if packed.folder else ctx.out / TOKENS
        if not packed.folder:
            recipe = Recipe(_resolved(ctx, packed), tokenizer, self.learner.context, seed)
            pack_sources(folder, recipe, ctx.log.info)
        by_name = check_shards(folder, self.learner.context)
        lines = [
            Lines.open(name, paths, source.weight, source.epochs)
            for name, paths in by_name.items()
            for source in (packed.sources.get(name) or SourceConfig(path=name),)
        ]
        context, joined = self.learner.context, not packed.document_masks

        def lines_of(sizes: Iterable[int]) -> Iterator[int]:
            return (max(1, round(size / context)) for size in sizes)

        paced = None
        if self.curriculum is not None:
            steps, _ = self.training.updates_of(self.tokens)
            total = sum(lines_of(itertools.islice(self.training.sizes(), steps)))
            paced = paced_lines(ctx, self.curriculum, lines, self.learner, total, derive_seed(seed, "order"))
        stream = LineStream(lines, derive_seed(seed, "lines"), paced)
        return lambda start: updates(stream, lines_of(self.training.sizes()), joined, text_row, start)

    def plan(self) -> StagePlan:
        steps = float(self.training.updates_of(self.tokens)[0])
        phase = TrainingPhase(
            self.learner,
            self.init,
            updates=steps,
            tokens=float(self.tokens),
            batch_tokens=self.training.batch_tokens,
            saves=steps / self.training.save_every,
            ahead=1.0 / self.training.mtp_every if self.training.mtp_weight else 0.0,
        )
        return StagePlan(
            steps=steps,
            tokens=float(self.tokens),
            model=self.model or None,
            vocabulary=self.tokenizer if isinstance(self.tokenizer, int) and not self.init else None,
            phases=(phase,),
        )

    def _shape(self, vocab_size: int) -> ModelConfig:
        overrides = {key: value for key, value in self.model.items() if key != "preset"}
        return ModelConfig.preset(
            str(self.model.get("preset", "mini")), **{"vocab_size": vocab_size, **overrides}
        )

    def _tokenizer(self, ctx: Context, seed: int) -> Tokenizer:
        if self.init:
            return Tokenizer.load(ctx.model(self.init))
        if isinstance(self.tokenizer, str):
            return Tokenizer.load(ctx.model(self.tokenizer))
        kept = ctx.out / "tokenizer"
        if not is_kept(ctx, "tokenizer"):
            with _whole(kept) as partial:
                self._new_tokenizer(ctx, self.tokenizer, seed).save(partial)
            keep(ctx, "tokenizer")
        return Tokenizer.load(kept)

    def _new_tokenizer(self, ctx: Context, size: int, seed: int) -> Tokenizer:
        """A tokenizer of ``size`` tokens, learned from the corpus's first documents."""
        if not self.objectives.plain:
            return with_mask_token(self._trained_tokenizer(ctx, size - 1, seed))
        return self._trained_tokenizer(ctx, size, seed)

    def _trained_tokenizer(self, ctx: Context, size: int, seed: int) -> Tokenizer:
        packed = self.corpus.packed
        if packed is None:
            first = list(itertools.islice(self.corpus.documents(seed), TOKENIZER_DOCUMENTS))
            return Tokenizer.train(first, size)
        if packed.folder:
            raise ConfigError(
                f"tokenizer: {packed.folder} is tokenised; name the stage whose tokenizer made it "
                '(tokenizer: "@pretrain")'
            )
        first = tokenizer_texts(_resolved(ctx, packed).sources, TOKENIZER_DOCUMENTS, seed)
        if packed.fim is None:
            return Tokenizer.train(first, size)
        return with_fim_tokens(Tokenizer.train(first, size - len(DEEPSEEK)))


def _resolved(ctx: Context, packed: PackedConfig) -> PackedConfig:
    """The settings with the paths of other stages' files in the place of their references."""
    sources = {name: resolved_source(ctx, source) for name, source in packed.sources.items()}
    return packed.model_copy(update={"sources": sources})


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to ``folder`` when it is complete, so an interruption leaves no
    partial folder."""
    partial = folder.with_name(f".{folder.name}.tmp")
    yield partial
    rename_whole(partial, folder)
