"""What is usual: the measures of two networks with real weights, printed by benchmarks/usual_filters.py."""

from __future__ import annotations

USUAL: dict[str, dict[str, str]] = {
    "SqueezeNet 1.1": {
        "dead": "0 of 64",
        "dominating": "0; the strongest 1.57",
        "frequencies": "13%, 39%, 48%",
        "near-duplicates": "4, 4 mirrored",
        "aliasing": "0.83",
    },
    "EfficientNet-Lite0": {
        "dead": "4 of 32",
        "dominating": "0; the strongest 2.67",
        "frequencies": "19%, 37%, 44%",
        "near-duplicates": "0",
        "aliasing": "0.90",
    },
}
