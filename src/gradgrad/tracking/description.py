"""What a run says of itself at the top of its page in the MLflow UI."""

from collections.abc import Mapping, Sequence


def describe(commands: Sequence[str], facts: Mapping[str, str], results: Mapping[str, float]) -> str:
    """Write the description of a run.

    Args:
        commands: the command lines that worked on it.
        facts: what it ran on, in order: data, seed, code.
        results: final metrics, for example ``test/rmse``.

    Returns:
        Markdown: the commands, the facts, a table of results.
    """
    lines = ["```", *commands, "```", ""] if commands else []
    lines += [f"- **{name}**: {value}" for name, value in facts.items() if value]
    if results:
        lines += [
            "",
            "| metric | value |",
            "|---|---:|",
            *(f"| {name} | {value:.6g} |" for name, value in results.items()),
        ]
    return "\n".join(lines)
