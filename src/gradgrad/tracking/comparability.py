"""Why groups of runs may not be comparable, as sentences."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from gradgrad.errors import UsageError, some
from gradgrad.tracking.baseline import shown
from gradgrad.tracking.comparison import Group, by_group
from gradgrad.tracking.run_keys import short

# What may differ between runs without making a difference: where they are kept and what they are called.
HARMLESS = ("trainer.logger", "trainer.default_root_dir", "ckpt_path", "run_id", "resume", "config")


def left_in(facts: pd.DataFrame, metric: str, unfinished: bool) -> tuple[pd.DataFrame, list[str]]:
    """Leave out the runs that have no result.

    Args:
        facts: of :func:`gradgrad.tracking.compared_runs.facts_of`.
        metric: its name.
        unfinished: whether runs count that are not FINISHED.

    Returns:
        The rest, and what was left out.

    Raises:
        UsageError: nothing is left.
    """
    notes, left = [], facts[~facts["superseded"]]
    if len(left) < len(facts):
        notes.append(f"{_runs(len(facts) - len(left))} left out: another took the place (tag `superseded`)")
    ended = left["status"] == "FINISHED"
    if not (unfinished or ended.all()):
        states = Counter(_state(*row) for row in left.loc[~ended, ["status", "pruned"]].itertuples(index=False))
        kinds = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        notes.append(f"{_runs(int((~ended).sum()))} left out: not FINISHED ({kinds}); --all takes them in")
        left = left[ended]
    logged = left["value"].notna()
    if not logged.all():
        notes.append(f"{_runs(int((~logged).sum()))} left out: without {metric}")
        left = left[logged]
    if left.empty:
        raise UsageError(f"no run is left to compare\ngot:      {_runs(len(facts), '')}\n" + "\n".join(notes))
    return left.copy(), notes


def _state(status: str, pruned: bool) -> str:
    return f"{status}, pruned" if pruned else status


def finite(runs: pd.DataFrame, metric: str, names: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Leave out results that are no numbers.

    Args:
        runs: with columns ``group`` and ``value``.
        metric: its name.
        names: of the groups' values.

    Returns:
        The rest, and which groups lost how many.

    Raises:
        UsageError: nothing is left.
    """
    infinite = runs["value"] == float("inf")
    if not infinite.any():
        return runs, []
    if infinite.all():
        raise UsageError(f"--metric {metric}: it is NaN or infinite in all {len(runs)} runs.\nwrite: --metric <another one>")
    lost = Counter(runs.loc[infinite, "group"])
    which = some(f"{count} of {shown(group, names)}" for group, count in lost.items())
    return runs[~infinite], [f"{_runs(int(infinite.sum()))} left out: {metric} is NaN or infinite ({which})"]


def newest(runs: pd.DataFrame, names: Sequence[str], pairs: str) -> tuple[pd.DataFrame, list[str]]:
    """Keep one run per group and pair.

    Args:
        runs: oldest first, with columns ``group`` and ``pair``.
        names: of the groups' values.
        pairs: names of the keys that pair.

    Returns:
        The newest of each, and which were there several times.
    """
    double = runs.duplicated(["group", "pair"], keep="last")
    if not double.any():
        return runs, []
    places = dict.fromkeys(runs.loc[double, ["group", "pair"]].itertuples(index=False, name=None))
    which = some(f"{shown(group, names)} with {pairs} {pair}" for group, pair in places)
    return runs[~double], [f"{_runs(int(double.sum()))} left out: a newer one has the same values and the same {pairs} ({which})"]


def doubts(runs: pd.DataFrame, baselines: Mapping[Group, Group], names: Sequence[str], pairs: str) -> Iterator[str]:
    """Look for reasons not to trust a comparison.

    Args:
        runs: with columns ``group, pair, data, commit, dirty``.
        baselines: of the groups that have one; without any, all groups are looked at together.
        names: of the groups' values.
        pairs: names of the keys that pair.

    Yields:
        Sentences.
    """
    parts = by_group(runs)
    seeds = {group: tuple(sorted(part["pair"])) for group, part in parts.items()}
    usual, count = Counter(seeds.values()).most_common(1)[0]
    others = [f"{_listed(have)} in {shown(group, names)}" for group, have in seeds.items() if have != usual]
    if others:
        yield f"{pairs} does not match: {_listed(usual)} in {count} of {len(seeds)} groups, but {some(others)}"
    first = next(iter(parts))
    references = {group: baselines.get(group) if baselines else first for group in parts}
    differ = [shown(g, names) for g, other in references.items() if other and not _same_data(parts[g], parts[other])]
    if differ:
        against = shown(references[first] or first, names) if len(set(references.values())) == 1 else "their baselines"
        yield f"data digests differ from those of {against}: {some(differ)}"
    if unknown := (runs["data"] == "").sum():
        yield f"{unknown} of {len(runs)} runs recorded no data digests: whether they saw the same data is not known"
    commits, dirty = [c for c in runs["commit"].unique() if c], int(runs["dirty"].sum())
    if len(commits) > 1 or dirty:
        said = f"{len(commits)} commits ({some(commits, 3)})" if len(commits) > 1 else "one commit"
        yield f"code: {said}" + (f"; {dirty} of {len(runs)} runs had uncommitted changes" if dirty else "")
    for group, have in seeds.items():
        if len(have) == 1:
            yield f"{shown(group, names)} has one run: no standard error and no interval"


def _same_data(part: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether runs of two groups saw the same data, pair by pair where they have pairs in common."""
    own, others = (frame[frame["data"] != ""].set_index("pair")["data"] for frame in (part, other))
    both = pd.concat([own, others], axis=1, join="inner", keys=["own", "other"])
    if len(both):
        return bool((both["own"] == both["other"]).all())
    return own.empty or others.empty or set(own) == set(others)


def unstated(runs: pd.DataFrame, params: pd.DataFrame, known: Sequence[str]) -> Iterator[str]:
    """Look for parameters that differ within a group, which the groups then hide.

    Args:
        runs: named by id, with column ``group``.
        params: one row per run, one column per parameter.
        known: those that make groups or pairs.

    Yields:
        A sentence.
    """
    names = [n for n in params if n not in known and not str(n).startswith(HARMLESS) and not str(n).endswith(".dirpath")]
    inside = params.loc[runs.index, names].groupby(runs["group"]).nunique(dropna=False)
    hidden = [short(str(name)) for name in names if (inside[name] > 1).any()]
    if hidden:
        yield f"runs of one group differ in {some(hidden)}: put that into --by, or into --pair"


def _listed(pairs: Sequence[str]) -> str:
    return some(pairs, 10)


def _runs(count: int, verb: str = " is", verbs: str = " are") -> str:
    return f"1 run{verb}" if count == 1 else f"{count} runs{verbs if verb else ''}"
