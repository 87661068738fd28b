"""The one loop of all evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from deepgsr_cli.evaluation.records import Case, Evaluation, M, R, Score, T


def scores(
    evaluation: Evaluation[M, R, T],
    *,
    keep: Callable[[Case[M, T], list[Score], Mapping[str, R]], None] | None = None,
    wait: Callable[[], None] = lambda: None,
) -> Iterator[Score]:
    """Run each method on each case; yield the scores in this order.

    Args:
        evaluation: Cases and methods.
        keep: Called after each case with it, its scores, and the results by method.
        wait: Returns when the device has done what was started on it.

    Raises:
        UserError: As `Evaluation.methods`, before any case, and `Evaluation.cases`.
    """
    methods = evaluation.methods
    for case in evaluation.cases():
        of_case, results = [], {}
        for name, method in methods.items():
            started = time.perf_counter()
            result = method(case.measurement)
            wait()
            seconds = time.perf_counter() - started
            figures = {**evaluation.figures(case, result), "seconds": seconds}
            of_case.append(Score(case.labels, name, figures))
            if keep is not None:
                results[name] = result
            yield of_case[-1]
        if keep is not None:
            keep(case, of_case, results)
