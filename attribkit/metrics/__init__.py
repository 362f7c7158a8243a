"""Metrics for attribution maps, of whichever tool they come from. docs/metrics.md says what each means and cannot show.

Maps and images are N x C x H x W; a map may have another number of colours than its image (one, say). Results have
one value per image, so that methods can be compared image by image. NaN stands for *undefined*: a map that is zero
everywhere has no direction, a constant one no ranks. Count them (`values.isnan().sum()`) before you average the others
with `nanmean`. NaN in what is given is an error.
"""

from attribkit.metrics.baselines import centred_gaussian_maps, random_maps, sobel_maps
from attribkit.metrics.cases import Cases
from attribkit.metrics.frequencies import lattice_energy
from attribkit.metrics.grid import grid_scores, mosaics
from attribkit.metrics.maps import magnitude
from attribkit.metrics.perturbation import (
    deletion,
    insertion,
    occlusion_agreement,
    occlusion_ceiling,
    occlusion_drops,
    response_curves,
)
from attribkit.metrics.retrieval import Candidates, found_sources, source_correlations, source_leads
from attribkit.metrics.sanity import cascade, maps_of_random_signals, signal_convergence, with_upper_layers_random
from attribkit.metrics.scoring import METRICS, evaluate
from attribkit.metrics.similarity import (
    cosine_similarity,
    image_dependence,
    map_distances,
    rank_similarity,
    structural_similarity,
)

__all__ = [
    "METRICS",
    "Candidates",
    "Cases",
    "cascade",
    "centred_gaussian_maps",
    "cosine_similarity",
    "deletion",
    "evaluate",
    "found_sources",
    "grid_scores",
    "image_dependence",
    "insertion",
    "lattice_energy",
    "magnitude",
    "map_distances",
    "maps_of_random_signals",
    "mosaics",
    "occlusion_agreement",
    "occlusion_ceiling",
    "occlusion_drops",
    "random_maps",
    "rank_similarity",
    "response_curves",
    "signal_convergence",
    "sobel_maps",
    "source_correlations",
    "source_leads",
    "structural_similarity",
    "with_upper_layers_random",
]
