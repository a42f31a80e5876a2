"""Put a comparison together: which runs make which groups, what is compared with what, and what is to be said of it."""

from argparse import Namespace
from collections.abc import Iterator, Sequence

import pandas as pd

from gradgrad.errors import UsageError, some
from gradgrad.tracking.baseline import find_baselines, shown
from gradgrad.tracking.comparability import doubts, finite, left_in, newest, unstated
from gradgrad.tracking.compared_runs import Selected, facts_of, settings_of
from gradgrad.tracking.comparison import LEVEL, RESAMPLES, Method, compare_groups
from gradgrad.tracking.comparison_tables import Comparison
from gradgrad.tracking.direction import direction_of
from gradgrad.tracking.run_keys import differing, find, labels, resolve, short
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.trial_runs import KEYS, POINT, SEED

SEEDS = ("seed_everything", SEED)  # the parameter, and the tag of a sweep's trials
ABSENT = "absent"  # what a group shows of a setting that its runs do not have


def compare_runs(selected: Selected, options: Namespace) -> Comparison:
    """Compare runs as the command line asks.

    Args:
        selected: from the store.
        options: of `gradgrad compare`.

    Returns:
        The comparison.

    Raises:
        UsageError: the runs cannot be compared in this way.
    """
    runs, keys, pairing, notes = _grouped(selected, options)
    names, pairs = labels(keys), ", ".join(labels(pairing)) or SEEDS[0]
    baselines = find_baselines(options.against, keys, names, list(dict.fromkeys(runs["group"]))) if options.against else {}
    direction = options.direction or direction_of(options.metric) or "minimize"
    method = Method(options.interval, options.test, options.correction, direction == "maximize")
    table = compare_groups(runs, baselines, method)
    several = len(set(baselines.values())) > 1
    baseline = shown(next(iter(baselines.values())), names) if baselines else None
    if several:
        baseline = f"{' '.join(options.against)} with the same other values"
    notes += [*doubts(runs, baselines, names, pairs), *_untested(table, names, method), *_of_metric(options, selected)]
    return Comparison(
        metric=options.metric,
        names=names,
        keys=[short(key) for key in keys],
        table=table,
        runs=runs,
        baseline=baseline,
        correction=options.correction,
        caption=_caption(selected.name, options.metric, method, pairs, table, baseline, several),
        notes=notes,
    )


def _grouped(selected: Selected, options: Namespace) -> tuple[pd.DataFrame, list[str], list[str], list[str]]:
    """Give the runs that count, with their groups and pairs; the keys of both; and what was left out."""
    facts, notes = left_in(facts_of(selected.runs, options.metric), options.metric, options.all)
    settings = settings_of([run for run in selected.runs if run.info.run_id in facts.index])
    keys = _by(selected, settings, options.by)
    pairing = _pairing(settings, options.pair)
    if both := [key for key in keys if key in pairing]:
        raise UsageError(f"{short(both[0])} is in --by and pairs the runs too.\nwrite:    --pair <what else the groups share>")
    names, pairs = labels(keys), ", ".join(labels(pairing)) or SEEDS[0]
    seeded = settings[pairing].notna().all(axis=1) & bool(pairing)
    if not seeded.all():
        notes.append(f"{(~seeded).sum()} of {len(facts)} runs have no {pairs}: they count, and cannot be paired")
    shared = [", ".join(values) for values in _tuples(settings, pairing)]
    facts["group"] = _tuples(settings, keys)
    facts["pair"] = [pair if known else f"of run {name}" for pair, known, name in zip(shared, seeded, facts.index, strict=True)]
    runs, infinite = finite(facts, options.metric, names)
    params = settings_of([run for run in selected.runs if run.info.run_id in runs.index], tags=False)
    hidden = list(unstated(runs, params, [*keys, *pairing]))  # of all runs: it may be why some seem to be there twice
    runs, double = newest(runs, names, pairs)
    return runs, keys, pairing, [*notes, *infinite, *double, *hidden]


def _by(selected: Selected, settings: pd.DataFrame, keys: Sequence[str] | None) -> list[str]:
    if keys:
        return resolve("--by", keys, settings)
    if POINT not in settings or selected.parent is None:
        known = [key for key in differing(settings) if key not in SEEDS]
        raise UsageError("--by is missing.\nexpected: --by KEY ..." + (f"; these differ: {some(known)}" if known else ""))
    space = [key.strip() for key in selected.parent.data.tags.get(KEYS, "").split(",")]
    found = list(dict.fromkeys(name for key in space if key for name in find(key, settings)))
    # A point is named by its values, unless they do not tell it from another.
    distinct = bool(found) and not settings.drop_duplicates([POINT, *found]).duplicated(found).any()
    return found if distinct else [POINT, *found]


def _pairing(settings: pd.DataFrame, keys: Sequence[str] | None) -> list[str]:
    return resolve("--pair", keys, settings) if keys else [name for name in SEEDS if name in settings][:1]


def _tuples(settings: pd.DataFrame, keys: Sequence[str]) -> list[tuple[str, ...]]:
    known = {value: redact(str(value)) for value in pd.unique(settings[list(keys)].to_numpy().ravel()) if not pd.isna(value)}
    columns = [[known.get(value, ABSENT) for value in settings[key]] for key in keys]
    return [tuple(column[row] for column in columns) for row in range(len(settings))]


def _untested(table: pd.DataFrame, names: Sequence[str], method: Method) -> Iterator[str]:
    """Say why a p is missing, or cannot be small."""
    if "p" not in table:
        return
    compared = table[table["pairs"].notna()]
    reasons = {
        "no pair in common with its baseline": compared["pairs"] == 0,
        "one pair": compared["pairs"] == 1,
        "its differences do not vary": (compared["pairs"] > 1) & compared["p"].isna(),
    }
    for reason, rows in reasons.items():
        if rows.any():
            yield f"no test for {some(shown(group, names) for group in compared.loc[rows, 'group'])}: {reason}"
    few = compared["pairs"].max()
    if method.test == "wilcoxon" and 1 < few <= 5:  # 2 / 2^5 = 0.0625
        yield f"with {few:.0f} pairs the Wilcoxon test cannot give p below {2 / 2**few:.4g}"


def _of_metric(options: Namespace, selected: Selected) -> Iterator[str]:
    metric: str = options.metric
    if not (options.direction or direction_of(metric)):
        yield f"the name {metric} does not tell a direction: lower is taken as better; or write --direction maximize"
    best = f"best/{metric.partition('/')[2]}"
    if metric.startswith("val/") and any(best in run.data.metrics for run in selected.runs):
        yield f"{metric} is the last value of each run; {best} is that of its best checkpoint"


def _caption(
    name: str, metric: str, method: Method, pairs: str, table: pd.DataFrame, baseline: str | None, several: bool
) -> list[str]:
    better, best = ("higher", "highest") if method.maximize else ("lower", "lowest")
    interval = "Student t" if method.interval == "t" else f"bootstrap, BCa, {RESAMPLES:,} resamples"
    sentences = [
        f"{metric} of {name}; {better} is better.",
        f"Bold: the {best} mean{' of those that share a baseline' if several else ''}.",
        f"Mean and standard error over {pairs}; intervals: {100 * LEVEL:.0f} %, {interval}.",
    ]
    if baseline is None:
        return sentences
    test = "paired t-test" if method.test == "t" else "Wilcoxon signed-rank test"
    count = int(table["p"].notna().sum())
    adjusted = f"corrected for {count} comparison{'s' * (count != 1)} ({method.correction})"
    return [
        *sentences,
        f"Differences: group minus {baseline}, paired by {pairs}.",
        f"p: {test}, two-sided, {'not corrected' if method.correction == 'none' else adjusted}.",
    ]
