"""Where training and sampling run: the only package that knows processes, ranks and devices. Stages get
learners and engines from a runtime.

A recipe configures it with ``runtime: {kind: local, ...}``. ``kind`` is a name in ``RUNTIMES`` or a class
outside r1kit, ``my_runtime.py:Name``. A runtime's own imports, such as torch, happen only when a recipe names
it."""

from r1kit.config import ConfigError, suggest
from r1kit.runtime.runtime import RUNTIME, LostError, Runtime, RuntimeConfig
from r1kit.user_code import imports, load_name

__all__ = ["RUNTIMES", "LostError", "Runtime", "RuntimeConfig", "config_class", "start"]

RUNTIMES = {
    "local": "r1kit.runtime.local:LocalConfig",
    "fsdp": "r1kit.runtime.fsdp:FsdpConfig",
    "ray": "r1kit.runtime.ray:RayConfig",
}


def config_class(kind: str) -> type[RuntimeConfig]:
    """The configuration of the runtimes of this kind. Raises ConfigError where there is none."""
    if ":" not in kind and kind not in RUNTIMES:
        raise ConfigError(f"runtime: unknown kind {kind!r}: {suggest(kind, RUNTIMES)}")
    if ":" in kind:
        found: type[RuntimeConfig] = load_name(kind, RUNTIME)
        return found
    with imports(True):  # r1kit's own
        own: type[RuntimeConfig] = load_name(RUNTIMES[kind], RUNTIME)
    return own


def start(settings: RuntimeConfig) -> Runtime:
    """Start the runtime of a recipe's ``runtime:``."""
    return settings.start()
