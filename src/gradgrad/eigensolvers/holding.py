"""A solver's promise that nothing its operator depends on changes while it runs."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from gradgrad.derivatives.operators import LinearOperator

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def holding(solver: Callable[Concatenate[LinearOperator, Rest], Result]) -> Callable[Concatenate[LinearOperator, Rest], Result]:
    """Hold the operator while a solver runs, which spares each product a look at the parameters.

    Args:
        solver: takes an operator first.

    Returns:
        The same function; what is no operator is left for it to refuse.
    """

    @wraps(solver)
    def held(operator: LinearOperator, *rest: Rest.args, **named: Rest.kwargs) -> Result:
        if not isinstance(operator, LinearOperator):
            return solver(operator, *rest, **named)
        with operator.held():
            return solver(operator, *rest, **named)

    return held
