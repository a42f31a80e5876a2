"""Whether a metric is better when it is lower."""

import re

LOWER = frozenset(
    ("loss", "error", "err", "rmse", "mse", "mae", "mape", "nll", "nlpd", "crps", "ece", "brier", "perplexity", "ppl", "negative")
)
HIGHER = frozenset(
    (
        "accuracy",
        "acc",
        "r2",
        "auc",
        "auroc",
        "auprc",
        "f1",
        "precision",
        "recall",
        "likelihood",
        "reward",
        "score",
        "psnr",
        "ssim",
    )
)


def direction_of(metric: str) -> str:
    """Guess a direction from a name.

    Args:
        metric: for example ``test/rmse``.

    Returns:
        ``minimize``, ``maximize``, or an empty string where no word of the name tells.
    """
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    return "minimize" if _any(words, LOWER) else "maximize" if _any(words, HIGHER) else ""


def _any(words: set[str], known: frozenset[str]) -> bool:
    return any(word == name or (len(name) > 3 and word.endswith(name)) for word in words for name in known)
