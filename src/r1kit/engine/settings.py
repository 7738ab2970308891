"""What a recipe says under ``runtime: {engine: ...}``: a name, or a mapping whose ``kind`` is the name.

    native                 r1kit's own engine, in the learner's processes and on its tensors
    my_engine.py:Name      an engine outside r1kit, made of the learner's model (own.py)
    {kind: vllm, ...}      vLLM in an interpreter and a process of its own (vllm.py)
    {kind: endpoint, ...}  a server that speaks OpenAI's protocol, for sampling only (endpoint.py)

The first two share a process with the learner's model. The others are connected: ``connect`` makes an engine
with weights of its own."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from r1kit.config import describe_problems, suggest
from r1kit.engine import ENGINE, Engine, MakeEngine
from r1kit.engine.connected import ConnectedConfig
from r1kit.engine.endpoint import EndpointConfig
from r1kit.engine.native import NativeEngine, Precision
from r1kit.engine.own import completed
from r1kit.engine.vllm import VLLMConfig
from r1kit.files import hash_file
from r1kit.model.decoder import LanguageModel
from r1kit.tokenizer import Tokenizer
from r1kit.user_code import code_file, load_name

NATIVE = "native"
CONNECTED: Mapping[str, type[ConnectedConfig]] = {"vllm": VLLMConfig, "endpoint": EndpointConfig}


def _read(given: Any) -> Any:
    """The setting as it is written: the name of an engine that shares the learner's process, or the checked
    configuration of a connected one."""
    if isinstance(given, ConnectedConfig):
        return given
    options = dict(given) if isinstance(given, Mapping) else {"kind": given}
    kind = options.get("kind")
    if not isinstance(kind, str):
        raise ValueError(
            f"write {NATIVE}, file.py:Name, or a mapping with kind: {', '.join(CONNECTED)} "
            f"(given: {given!r:.60})"
        )
    if kind in CONNECTED:
        try:
            return CONNECTED[kind].model_validate(options)
        except ValidationError as error:
            raise ValueError(f"{kind}: {describe_problems(error)}") from None
    if ":" not in kind and kind != NATIVE:
        hint = suggest(kind, (NATIVE, *CONNECTED))
        raise ValueError(f"unknown engine {kind!r}: {hint}; one of your own is file.py:Name")
    if others := sorted(options.keys() - {"kind"}):
        raise ValueError(f"{kind} has no key {others[0]!r}; write engine: {kind}")
    if ":" in kind:
        load_name(kind, ENGINE)
    return kind


EngineChoice = Annotated[str | SerializeAsAny[ConnectedConfig], BeforeValidator(_read)]


def make_engine(
    choice: str, model: LanguageModel, tokenizer: Tokenizer, precision: Precision, batch_rows: int,
    speculate: int = 0,
) -> Engine:  # fmt: skip
    """The engine of that name on ``model`` itself, in this process; ``speculate`` is r1kit's own's."""
    if choice != NATIVE:
        make: MakeEngine = load_name(choice, ENGINE)
        return completed(make(model, tokenizer.end_ids), choice)
    return NativeEngine(
        model, tokenizer.end_ids, precision=precision, batch_rows=batch_rows, decode=tokenizer.decode_all,
        speculate=speculate,
    )  # fmt: skip


def identity(choice: str | ConnectedConfig) -> str:
    """What a result's last bits may depend on, for an engine that is not r1kit's own."""
    if isinstance(choice, ConnectedConfig):
        return choice.identity()
    file = code_file(choice)
    return f"{choice} {hash_file(file) if file else ''}".rstrip()
