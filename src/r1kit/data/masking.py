"""Masked language modelling and next-sentence prediction as rows of training (BERT: Devlin et al. 2019,
section 3.1).

    masked    rate (15 %) of a text's tokens are chosen; of these 80 % become the mask token, 10 % a random
              one, 10 % stay. The chosen ones are predicted, each at its own place, from both sides.
    pairs     <begin> first half <end> second half <end>; in half of the pairs the second half is another
              document's. The classification head says at the first position which it is.

BERT also adds an embedding of the half that a token is in; here the end token between the halves shows it.
All chance comes from the generator that is given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tokenizers import AddedToken

from r1kit.config import ConfigError
from r1kit.data.fim import FAMILIES
from r1kit.tokenizer import Tokenizer
from r1kit.types import Row

MASK = "<｜mask｜>"
OTHER_NAMES = ("[MASK]", "<mask>", "<|mask|>")  # of other vocabularies that name none
TO_MASK, TO_RANDOM = 0.8, 0.1
SHORTEST_HALF = 3  # tokens
_SENTENCE_ENDS = (".", "!", "?", ";", "\n", "。", "！", "？", "；")


def with_mask_token(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that r1kit has trained, with a mask token added at the end of its vocabulary."""
    tokenizer.backend.add_special_tokens([AddedToken(MASK, special=True)])
    return Tokenizer(
        tokenizer.backend,
        {**tokenizer.names, "mask": MASK},
        tokenizer.templates,
        tokenizer.end_ids,
        tokenizer.max_length,
        template_file=tokenizer.template_file,
        generation=tokenizer.generation,
    )


@dataclass(frozen=True, slots=True)
class Masking:
    """What masking needs of a tokenizer: the ``mask`` token, the ``begin`` and ``end`` tokens of a pair, the
    ids that random tokens are drawn from, which ids are never chosen (``is_special`` [V]), which end a
    sentence ([V]), those that show that a document's middle was moved, and the share of tokens to choose."""

    mask: int
    begin: int
    end: int
    ordinary: np.ndarray
    is_special: np.ndarray
    ends_sentence: np.ndarray
    moved: np.ndarray
    rate: float

    @classmethod
    def of(cls, tokenizer: Tokenizer, rate: float) -> "Masking":
        """Raises ConfigError where the tokenizer has no mask token."""
        named = tokenizer.names.get("mask")
        names = [name for name in (named, MASK, *OTHER_NAMES) if name is not None and tokenizer.has(name)]
        if not names:
            raise ConfigError(
                "objectives: mlm and nsp need a mask token, and the tokenizer has none such as "
                f"{', '.join((MASK, *OTHER_NAMES))}; train one in this stage (tokenizer: SIZE), or leave mlm "
                "and nsp out"
            )
        size = tokenizer.vocab_size
        is_special = np.zeros(size, dtype=bool)
        is_special[sorted(tokenizer.special_ids)] = True
        pieces = tokenizer.pieces(range(size))
        ends = np.array([piece.rstrip(" ").endswith(_SENTENCE_ENDS) for piece in pieces], dtype=bool)
        moved = [tokenizer.id(name) for family in FAMILIES for name in family if tokenizer.has(name)]
        begin = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
        return cls(
            tokenizer.id(names[0]), begin, tokenizer.eos_id, np.flatnonzero(~is_special).astype(np.int32),
            is_special, ends & ~is_special, np.array(moved, dtype=np.int32), rate,
        )  # fmt: skip

    def is_moved(self, token_ids: np.ndarray) -> bool:
        """Whether the middle of a document was moved to its end (data/fim.py)."""
        return bool(len(self.moved)) and bool(np.isin(token_ids, self.moved).any())

    def masked(self, token_ids: np.ndarray, rng: np.random.Generator) -> Row:
        """A row [T + 1] that predicts the chosen ones of T tokens, with weight 1."""
        inputs, chosen = corrupted(token_ids, self, rng)
        return _in_place(inputs, token_ids, chosen, self.end)

    def pair(self, first: np.ndarray, second: np.ndarray, is_next: bool, rng: np.random.Generator) -> Row:
        """A row of two halves with its class (1: the second follows the first) and weight 0 for it; its
        tokens are masked where the rate is above 0."""
        begin, end = (np.array([index], dtype=np.int32) for index in (self.begin, self.end))
        ids = np.concatenate([begin, first, end, second, end]).astype(np.int32)
        inputs, chosen = corrupted(ids, self, rng)
        return replace(_in_place(inputs, ids, chosen, self.end), label=int(is_next))

    def halves(self, token_ids: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray] | None:
        """A document in two halves of at most ``longest`` tokens together: cut after the end of a sentence
        that is nearest its middle, or at its middle where there is none. None for one that is too short."""
        ids = token_ids[~self.is_special[token_ids]][:longest]
        if len(ids) < 2 * SHORTEST_HALF:
            return None
        places = np.flatnonzero(self.ends_sentence[ids]) + 1
        places = places[(places >= SHORTEST_HALF) & (places <= len(ids) - SHORTEST_HALF)]
        middle = len(ids) // 2
        cut = int(places[np.abs(places - middle).argmin()]) if len(places) else middle
        return ids[:cut], ids[cut:]


def corrupted(
    token_ids: np.ndarray, masking: Masking, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(what the model reads [T], which tokens are predicted [T] bool): a share of ``masking.rate`` of the
    ordinary tokens, one at least, or none where the rate is 0."""
    places = np.flatnonzero(~masking.is_special[token_ids])
    chosen = np.zeros(len(token_ids), dtype=bool)
    if not len(places) or masking.rate == 0:
        return token_ids.copy(), chosen
    count = max(1, round(masking.rate * len(places)))
    picked = rng.permutation(places)[:count]
    chosen[picked] = True
    fate = rng.random(count)
    inputs = token_ids.copy()
    inputs[picked[fate < TO_MASK]] = masking.mask
    random = (fate >= TO_MASK) & (fate < TO_MASK + TO_RANDOM)
    inputs[picked[random]] = rng.choice(masking.ordinary, int(random.sum()))
    return inputs, chosen


def _in_place(inputs: np.ndarray, token_ids: np.ndarray, chosen: np.ndarray, last: int) -> Row:
    """A bidirectional row: position t predicts token t. Packing shifts targets by one and drops the last
    input, so a last input is added, and targets and mask begin one later."""
    more = np.array([last], dtype=np.int32)
    mask = np.concatenate([[False], chosen])
    columns: dict[str, Any] = {"targets": np.concatenate([more, token_ids]).astype(np.int32)}
    return Row(np.concatenate([inputs, more]).astype(np.int32), mask, 1.0, bidirectional=True, **columns)


def random_order(count: int, rng: np.random.Generator) -> np.ndarray:
    """For each of ``count`` places another place, never itself: a random cycle through all of them."""
    order = rng.permutation(count)
    others = np.empty(count, dtype=np.int64)
    others[order] = np.roll(order, 1)
    return others


def pair_rows(
    documents: Sequence[np.ndarray], masking: Masking, context: int, rng: np.random.Generator
) -> list[Row]:
    """A pair of each document that is long enough. In half of them (rounded down), chosen at random, the
    second half is that of another of the documents; with one document none."""
    found = [halves for ids in documents if (halves := masking.halves(ids, context - 3)) is not None]
    others = random_order(len(found), rng)
    strange = set(rng.permutation(len(found))[: len(found) // 2].tolist())
    rows = []
    for place, (first, second) in enumerate(found):
        own = place not in strange
        other = second if own else found[others[place]][1]
        rows.append(masking.pair(first, other[: context - 3 - len(first)], own, rng))
    return rows
