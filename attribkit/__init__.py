"""Which pixels made this unit fire? Convolutional networks, run backwards by another rule."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attribkit.adapters.checkpoints import checkpoints
    from attribkit.adapters.loading import list_models, load
    from attribkit.adapters.source import LoadedModel
    from attribkit.engine.activations import register_activation
    from attribkit.engine.plan import CannotRewrite, NothingToRewrite, PartlyRewritten, Site
    from attribkit.engine.rewriting import Rewritten, record_switches, rewrite
    from attribkit.engine.rules import BACKPROP, DECONVNET, GUIDED, Rule
    from attribkit.engine.switches import Switches, SwitchMismatch
    from attribkit.errors import AttribkitError
    from attribkit.explaining.attribution import Attribution
    from attribkit.explaining.explainer import Explainer, explain
    from attribkit.explaining.fields import receptive_field
    from attribkit.metrics.cases import Cases
    from attribkit.metrics.scoring import evaluate
    from attribkit.structure.folding import fold_batch_norm
    from attribkit.structure.strides import strides_to_pools
    from attribkit.studies.correspondence import Correspondence, correspondence
    from attribkit.studies.evolution import Checkpoint, Evolution, evolve
    from attribkit.studies.filters import Filters, filters
    from attribkit.studies.gallery import Gallery, gallery
    from attribkit.studies.invariance import Invariance, invariance
    from attribkit.studies.occlusion import Occlusion, occlude
    from attribkit.studies.probes import Probes, probe
    from attribkit.units import Unit

__version__ = "0.1.0"

__all__ = [
    "BACKPROP",
    "DECONVNET",
    "GUIDED",
    "AttribkitError",
    "Attribution",
    "CannotRewrite",
    "Cases",
    "Checkpoint",
    "Correspondence",
    "Evolution",
    "Explainer",
    "Filters",
    "Gallery",
    "Invariance",
    "LoadedModel",
    "NothingToRewrite",
    "Occlusion",
    "PartlyRewritten",
    "Probes",
    "Rewritten",
    "Rule",
    "Site",
    "SwitchMismatch",
    "Switches",
    "Unit",
    "checkpoints",
    "correspondence",
    "evaluate",
    "evolve",
    "explain",
    "filters",
    "fold_batch_norm",
    "gallery",
    "invariance",
    "list_models",
    "load",
    "occlude",
    "probe",
    "receptive_field",
    "record_switches",
    "register_activation",
    "rewrite",
    "strides_to_pools",
]

# Where each name lives. It is imported when it is first asked for, so that the command answers before torch is there.
_HOMES = {
    "adapters.checkpoints": ("checkpoints",),
    "adapters.loading": ("list_models", "load"),
    "adapters.source": ("LoadedModel",),
    "engine.activations": ("register_activation",),
    "engine.plan": ("CannotRewrite", "NothingToRewrite", "PartlyRewritten", "Site"),
    "engine.rewriting": ("Rewritten", "record_switches", "rewrite"),
    "engine.rules": ("BACKPROP", "DECONVNET", "GUIDED", "Rule"),
    "engine.switches": ("SwitchMismatch", "Switches"),
    "errors": ("AttribkitError",),
    "explaining.attribution": ("Attribution",),
    "explaining.explainer": ("Explainer", "explain"),
    "explaining.fields": ("receptive_field",),
    "metrics.cases": ("Cases",),
    "metrics.scoring": ("evaluate",),
    "structure.folding": ("fold_batch_norm",),
    "structure.strides": ("strides_to_pools",),
    "studies.correspondence": ("Correspondence", "correspondence"),
    "studies.evolution": ("Checkpoint", "Evolution", "evolve"),
    "studies.gallery": ("Gallery", "gallery"),
    "studies.filters": ("Filters", "filters"),
    "studies.invariance": ("Invariance", "invariance"),
    "studies.occlusion": ("Occlusion", "occlude"),
    "studies.probes": ("Probes", "probe"),
    "units": ("Unit",),
}
_HOME_OF = {name: f"attribkit.{home}" for home, names in _HOMES.items() for name in names}
_PACKAGES = (
    "adapters",
    "cli",
    "engine",
    "explaining",
    "metrics",
    "reference_models",
    "report",
    "structure",
    "studies",
    "verify",
)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"attribkit.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'attribkit' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
