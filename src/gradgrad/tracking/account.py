"""What a run says of its own end."""

import traceback

from gradgrad.tracking.ranks import RankFailure
from gradgrad.tracking.verdict import Pruned, Verdict, verdict


def account(
    error: BaseException | None, rank_failed: RankFailure | None, stamp: str
) -> tuple[Verdict, dict[str, str], dict[str, str]]:
    """Tell how a run ended, and why.

    Args:
        error: what ended this process's part; None after a good end.
        rank_failed: the process that failed first, where there are several; what this one felt of it, a lost connection or a
            signal, is no reason.
        stamp: for the names of tracebacks.

    Returns:
        The verdict; tags; texts by the artifact's name.
    """
    if rank_failed is not None:
        end = Verdict("FAILED", 1, rank_failed.kind)
        name = f"traceback-rank{rank_failed.rank}{stamp}.txt"
        return end, {"exception": f"{rank_failed.kind} on rank {rank_failed.rank}"}, {name: rank_failed.traceback}
    end = verdict(error)
    if error is not None and end.status == "FAILED":
        return end, {"exception": end.reason}, {f"traceback{stamp}.txt": "".join(traceback.format_exception(error))}
    if isinstance(error, Pruned):
        return end, {"pruned": "true"}, {}
    return end, {"signal": end.reason} if end.reason else {}, {}
