"""Which pixels made this unit fire? Convolutional networks, run backwards by another rule."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attribkit.activations import register_activation
    from attribkit.adapters.loading import LoadedModel, list_models, load
    from attribkit.attribution import Attribution
    from attribkit.cases import Cases, evaluate
    from attribkit.explain import explain
    from attribkit.receptive_field import receptive_field
    from attribkit.rewriting import (
        CannotRewrite,
        NothingToRewrite,
        PartlyRewritten,
        Rewritten,
        Site,
        record_switches,
        rewrite,
    )
    from attribkit.rules import BACKPROP, DECONVNET, GUIDED, Rule
    from attribkit.surgery import fold_batch_norm, strides_to_pools
    from attribkit.switches import Switches, SwitchMismatch
    from attribkit.targets import Unit

__version__ = "0.1.0"

__all__ = [
    "BACKPROP",
    "DECONVNET",
    "GUIDED",
    "Attribution",
    "CannotRewrite",
    "Cases",
    "LoadedModel",
    "NothingToRewrite",
    "PartlyRewritten",
    "Rewritten",
    "Rule",
    "Site",
    "SwitchMismatch",
    "Switches",
    "Unit",
    "evaluate",
    "explain",
    "fold_batch_norm",
    "list_models",
    "load",
    "receptive_field",
    "record_switches",
    "register_activation",
    "rewrite",
    "strides_to_pools",
]

# Where each name lives; it is imported when it is first asked for, so that the command answers before torch is there.
_HOMES = {
    "activations": ("register_activation",),
    "adapters.loading": ("LoadedModel", "list_models", "load"),
    "attribution": ("Attribution",),
    "cases": ("Cases", "evaluate"),
    "explain": ("explain",),
    "receptive_field": ("receptive_field",),
    "rewriting": (
        "CannotRewrite",
        "NothingToRewrite",
        "PartlyRewritten",
        "Rewritten",
        "Site",
        "record_switches",
        "rewrite",
    ),
    "rules": ("BACKPROP", "DECONVNET", "GUIDED", "Rule"),
    "surgery": ("fold_batch_norm", "strides_to_pools"),
    "switches": ("Switches", "SwitchMismatch"),
    "targets": ("Unit",),
}
_HOME_OF = {name: f"attribkit.{home}" for home, names in _HOMES.items() for name in names}


class _Package(ModuleType):
    """`attribkit` itself: its names come when they are asked for, and stay."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module 'attribkit' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the module attribkit.explain puts it here; by that name the function is meant.
        if isinstance(value, ModuleType) and name in _HOME_OF:
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
