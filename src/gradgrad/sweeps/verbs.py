"""`gradgrad sweep run | status | best | resume | stop`."""

import json
from collections.abc import Sequence

from gradgrad.errors import UsageError, nearest
from gradgrad.sweeps.folder import STOP, SweepFolder, existing
from gradgrad.tracking.verb import Parser
from gradgrad.written_whole import write_whole

VERBS = {
    "run": "search over keys of `gradgrad fit`; the same command goes on with what was interrupted",
    "status": "what is done, what runs, what failed",
    "best": "the best point, and the command that trains it",
    "resume": "go on as the sweep was last run",
    "stop": "finish what runs and start no more; with --now stop it too",
}
HELP = f"""usage: gradgrad sweep run -c SWEEP.yaml [--dry-run] [--new] [--retry_failed] [--KEY VALUE ...]
       gradgrad sweep status | best | resume | stop NAME

{chr(10).join(f"  {verb:8}{text}" for verb, text in VERBS.items())}

`gradgrad sweep run --help` lists the keys of a sweep file."""


def sweep(arguments: Sequence[str]) -> int:
    """Run one of the verbs.

    Args:
        arguments: what follows ``gradgrad sweep``.

    Returns:
        0; 1 where the sweep could not do what it was to; 130 after Ctrl-C.

    Raises:
        UsageError: what is written is no sweep.
    """
    verb, *rest = arguments or ["--help"]
    if verb in ("-h", "--help"):
        print(HELP)  # noqa: T201
        return 0
    if verb == "run":
        return _run(rest)
    if verb not in VERBS:
        near = nearest(verb, VERBS)
        write = f"\nwrite:    gradgrad sweep {near}" if near else ""
        raise UsageError(f"unknown verb {verb}\nexpected: gradgrad sweep {' | '.join(VERBS)}{write}")
    parser = Parser(f"gradgrad sweep {verb}", f"gradgrad sweep {verb} NAME", VERBS[verb])
    parser.add_argument("name", metavar="NAME", help="of the sweep, or its file")
    if verb == "stop":
        parser.add_argument("--now", action="store_true", help="stop what runs as well; a resumed sweep goes on with it")
    if verb == "resume":
        parser.add_argument("--retry_failed", action="store_true", help="run the points once more that have failed")
    options = parser.parse_args(rest)
    folder = existing(options.name)
    if verb == "resume":
        kept = json.loads((folder.path / "sweep.json").read_text())["arguments"]
        return _run([*kept, *(["--retry_failed"] if options.retry_failed else [])], folder)
    if verb == "stop":
        return _stop(folder, now=options.now)
    from gradgrad.sweeps.status import print_best, print_status
    from gradgrad.sweeps.storage import kept_study

    study = kept_study(folder)
    if verb == "status":
        print_status(study, running=folder.is_held)
    else:
        print_best(study, folder.path / "best.yaml")
    return 0


def _run(arguments: Sequence[str], folder: SweepFolder | None = None) -> int:
    if not {"--dry-run", "-h", "--help"} & set(arguments):
        from gradgrad.sweeps.fork_server import warm_up

        warm_up()  # it imports what every trial needs, while this process imports what it needs itself
    from gradgrad.sweeps.run import run
    from gradgrad.sweeps.spec import read_sweep

    return run(*read_sweep(arguments), arguments, folder)


def _stop(folder: SweepFolder, *, now: bool) -> int:
    if not folder.is_held:
        print(f"sweep {folder.name} does not run")  # noqa: T201
        return 0
    write_whole(folder.path / STOP, "now" if now else "finish")
    what = "stops its trials and ends" if now else "finishes what runs and ends"
    print(f"sweep {folder.name} {what}; gradgrad sweep resume {folder.name} goes on with it")  # noqa: T201
    return 0
