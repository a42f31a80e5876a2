"""Names of parameters as names of metrics."""

import re

LAYERS = 64  # whose shares become metrics, the largest ones; a guess at what a page of charts bears


def plain(name: str) -> str:
    """Leave out what MLflow does not take.

    Args:
        name: of a layer, or a pattern.

    Returns:
        Letters, digits and ``_ - . / space``.
    """
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "", name).strip("./ ") or "all"


def layer_metrics(shares: dict[str, float]) -> dict[str, float]:
    """Name the shares of the layers.

    Args:
        shares: by layer.

    Returns:
        Those of the largest, by metric.
    """
    largest = sorted(shares, key=lambda layer: -shares[layer])[:LAYERS]
    return {f"share/{plain(layer)}": share for layer, share in shares.items() if layer in largest}
