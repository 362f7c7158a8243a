"""Which pixels made this unit fire? Convolutional networks, run backwards by another rule."""

from attribkit.attribution import Attribution
from attribkit.explain import explain
from attribkit.receptive_field import receptive_field
from attribkit.rewriting import CannotRewrite, NothingToRewrite, Rewritten, Site, record_switches, rewrite
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
    "NothingToRewrite",
    "Rewritten",
    "Rule",
    "Site",
    "SwitchMismatch",
    "Switches",
    "Unit",
    "explain",
    "fold_batch_norm",
    "receptive_field",
    "record_switches",
    "rewrite",
    "strides_to_pools",
]
