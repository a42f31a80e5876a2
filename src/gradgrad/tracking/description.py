"""What a run says of itself at the top of its page in the MLflow UI."""

import shlex
from collections.abc import Mapping, Sequence

from gradgrad.tracking.secrets import redact_arguments


def describe(arguments: Sequence[str], facts: Mapping[str, str], results: Mapping[str, float]) -> str:
    """Write the description of a run.

    Args:
        arguments: the command line after ``gradgrad``.
        facts: what it ran on, in order: data, seed, commit.
        results: final metrics, for example ``test/rmse``.

    Returns:
        Markdown: the command, the facts, a table of results.
    """
    lines = ["```", f"gradgrad {shlex.join(redact_arguments(arguments))}", "```", ""]
    lines += [f"- **{name}**: {value}" for name, value in facts.items() if value]
    if results:
        lines += ["", "| metric | value |", "|---|---:|", *(f"| {name} | {value:.6g} |" for name, value in results.items())]
    return "\n".join(lines)
