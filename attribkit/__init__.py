"""Which pixels made this unit fire? Convolutional networks, run backwards by another rule."""

from typing import TYPE_CHECKING, Any

from attribkit.attribution import Attribution
from attribkit.explain import explain
from attribkit.receptive_field import receptive_field
from attribkit.rewriting import CannotRewrite, NothingToRewrite, Rewritten, Site, record_switches, rewrite
from attribkit.rules import BACKPROP, DECONVNET, GUIDED, Rule
from attribkit.surgery import fold_batch_norm, strides_to_pools
from attribkit.switches import Switches, SwitchMismatch
from attribkit.targets import Unit

if TYPE_CHECKING:
    from attribkit.adapters.loading import LoadedModel, list_models, load

__version__ = "0.1.0"

__all__ = [
    "BACKPROP",
    "DECONVNET",
    "GUIDED",
    "Attribution",
    "CannotRewrite",
    "LoadedModel",
    "NothingToRewrite",
    "Rewritten",
    "Rule",
    "Site",
    "SwitchMismatch",
    "Switches",
    "Unit",
    "explain",
    "fold_batch_norm",
    "list_models",
    "load",
    "receptive_field",
    "record_switches",
    "rewrite",
    "strides_to_pools",
]


def __getattr__(name: str) -> Any:
    """`load` and its kin are imported when they are asked for."""
    if name in ("LoadedModel", "list_models", "load"):
        from attribkit.adapters import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'attribkit' has no attribute {name!r}")
