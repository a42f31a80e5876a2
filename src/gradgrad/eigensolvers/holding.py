"""A solver's promise that nothing its operator depends on changes while it runs."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from gradgrad.derivatives.operators import LinearOperator

Solver = TypeVar("Solver", bound=Callable[..., Any])


def holding(solver: Solver) -> Solver:
    """Hold the operator while a solver runs, which spares each product a look at the parameters.

    Args:
        solver: takes an operator first.

    Returns:
        The same function; what is no operator is left for it to refuse.
    """

    @wraps(solver)
    def held(operator: Any, *rest: Any, **named: Any) -> Any:
        if not isinstance(operator, LinearOperator):
            return solver(operator, *rest, **named)
        with operator.held():
            return solver(operator, *rest, **named)

    return cast(Solver, held)
