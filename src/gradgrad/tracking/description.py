"""What a run says of itself at the top of its page in the MLflow UI."""

from collections.abc import Mapping, Sequence


def describe(commands: Sequence[str], facts: Mapping[str, str], results: Mapping[str, float]) -> str:
    """Write the description of a run; the result comes first, because MLflow folds all but the first lines.

    Args:
        commands: the command lines that worked on it.
        facts: what it ran on, in order: data, seed, code.
        results: final metrics by name, for example ``test/rmse``.

    Returns:
        Markdown: a line of results per stage, the commands, the facts.
    """
    stages: dict[str, list[str]] = {}
    for name, value in results.items():
        stage, _, metric = name.partition("/")
        stages.setdefault(stage, []).append(f"{metric} {value:.5g}")
    lines = [f"- **{stage}**: {', '.join(values)}" for stage, values in sorted(stages.items(), reverse=True)]
    lines += ["", "```", *commands, "```", ""] if commands else []
    lines += [f"- **{name}**: {value}" for name, value in facts.items() if value]
    return "\n".join(lines)
