"""Prints what `attribkit filters` shows as usual: the measures of networks with real weights.

    python benchmarks/usual_filters.py      # what attribkit/studies/filters_usual.py holds

The networks come with the extra `packaged`.
"""

from __future__ import annotations

import json

import attribkit
from attribkit.studies.filters_picture import measures

NETWORKS = {"SqueezeNet 1.1": "packaged:squeezenet1_1", "EfficientNet-Lite0": "packaged:efficientnet_lite0"}


def measured() -> dict[str, dict[str, str]]:
    """For each network what is measured of its first layer, in words."""
    return {name: measures(attribkit.filters(attribkit.load(path))) for name, path in NETWORKS.items()}


if __name__ == "__main__":
    print(json.dumps(measured(), indent=4))
