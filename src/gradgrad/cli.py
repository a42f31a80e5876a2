"""The command line: verbs, exit codes, and errors as sentences."""

import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import gradgrad
from gradgrad.errors import UsageError, nearest

VERBS = {
    "fit": "train, then test the best checkpoint, as one tracked run",
    "validate": "evaluate on the validation part",
    "test": "evaluate on the test part",
    "predict": "predict the test part",
    "spectrum": "measure the curvature of the training loss at a checkpoint",
    "compare": "compare groups of runs: mean, interval and paired tests over seeds",
    "sweep": "search over keys of fit, by a sweep file: run, status, best, resume, stop",
    "sync": "send to the tracking store what runs could not send",
    "doctor": "mark runs whose process is gone, deliver what they left, check the store",
    "reproduce": "bring a run's code, environment and result back",
    "ui": "open the MLflow UI on this project's runs",
}
HELP = f"""usage: gradgrad VERB [options]

{gradgrad.__doc__}

verbs (each has its own --help):
{chr(10).join(f"  {verb:10}{text}" for verb, text in VERBS.items())}

for example:
  gradgrad fit -c configs/gradient_norm_regressor.yaml
  gradgrad test -c configs/gradient_norm_regressor.yaml --ckpt_path best
  gradgrad spectrum -c configs/gradient_norm_regressor.yaml --ckpt_path best

Runs are kept in mlruns/ under the current folder, unless MLFLOW_TRACKING_URI says otherwise."""


class Termination:
    """End on SIGTERM as on Ctrl-C, so that the run can say that it was killed.

    While Lightning trains, its own handler waits for the end of the step, and this one leaves it to that.
    """

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal.

        Args:
            number: of the signal.
            frame: unused.

        Raises:
            SystemExit: with 143, at once, where Lightning is not in charge.
        """
        if signal.getsignal(number) is self:
            raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows ``gradgrad``; None means ``sys.argv``.

    Returns:
        0, 1 failure, 2 usage, 130 interrupt, 143 terminated.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = arguments[0] if arguments else "--help"
    previous = signal.signal(signal.SIGTERM, Termination())
    try:
        return _run(verb, arguments[1:])
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Exception as error:
        usage = _usage_error(error)
        print(_redacted(f"gradgrad {verb}: {usage}" if usage else traceback.format_exc()), file=sys.stderr)
        return 2 if usage else 1
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(verb: str, arguments: Sequence[str]) -> int:
    if verb in ("-h", "--help"):
        print(HELP)
    elif verb == "--version":
        print(f"gradgrad {gradgrad.__version__}")
    elif verb == "ui":
        from gradgrad.tracking.ui import ui

        return ui(arguments)
    elif verb == "compare":
        from gradgrad.tracking.compare import compare

        return compare(arguments)
    elif verb == "sweep":
        from gradgrad.sweeps.verbs import sweep

        return sweep(arguments)
    elif verb == "sync":
        from gradgrad.tracking.sync import sync

        return sync(arguments)
    elif verb == "doctor":
        from gradgrad.tracking.doctor import doctor

        return doctor(arguments)
    elif verb == "reproduce":
        from gradgrad.tracking.reproduce import reproduce

        return reproduce(arguments)
    elif verb in VERBS:
        from gradgrad.training import train  # seconds of imports that `gradgrad --help` need not spend

        return train(verb, arguments)
    else:
        if verb.startswith("-"):
            raise UsageError(f"the verb comes first\nexpected: gradgrad <{' | '.join(VERBS)}> {verb} ...")
        near = nearest(verb, VERBS)
        raise UsageError(f"unknown verb\nexpected: one of {', '.join(VERBS)}" + (f"\nwrite:    gradgrad {near}" if near else ""))
    return 0


def _usage_error(error: BaseException | None) -> UsageError | None:
    """Find the sentence in a chain of causes: jsonargparse wraps what a constructor raises."""
    while error is not None and not isinstance(error, UsageError):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error


def _redacted(text: str) -> str:
    from gradgrad.tracking.secrets import redact

    return redact(text)
