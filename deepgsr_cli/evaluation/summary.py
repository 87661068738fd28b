"""What becomes of scores: means, CSV, and the report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic

from deepgsr_cli.evaluation.records import Case, Evaluation, M, Mean, R, Score, T
from deepgsr_cli.files import atomic_write
from deepgsr_cli.reports.report import Report, ReportItem, write_report


def record(evaluation: Evaluation[M, R, T], score: Score) -> dict[str, str | float]:
    """A score in one mapping, in the order of JSON and CSV."""
    figures = {name: score.figures[name] for name in evaluation.written}
    return {**score.labels, "method": score.method, **figures}


def means(evaluation: Evaluation[M, R, T], scores: Sequence[Score]) -> list[Mean]:
    """Means over each group of scores, one for each method, in the order of the scores."""
    found = []
    for labels, group in evaluation.groups(scores):
        for method in dict.fromkeys(score.method for score in group):
            members = [score for score in group if score.method == method]
            figures: dict[str, float] = {}
            for name in evaluation.written:
                figures |= evaluation.average(name, members)
            found.append(Mean(labels, method, figures))
    return found


def write_csv(path: Path, evaluation: Evaluation[M, R, T], scores: Sequence[Score]) -> None:
    """Write scores, a row each.

    Raises:
        OutputError: The file cannot be written.
    """
    write_rows(path, [record(evaluation, score) for score in scores])


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write mappings with the same keys, at least one, as a table of comma-separated values.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


class Items(Generic[M, R, T]):
    """The cases as items of a report: called with each after its methods have run.

    Attributes:
        evaluation: Makes the items and their pictures.
        items: One for each case so far; the first `Evaluation.pictured` have pictures.
    """

    def __init__(self, evaluation: Evaluation[M, R, T]) -> None:
        self.evaluation = evaluation
        self.items: list[ReportItem] = []

    def __call__(self, case: Case[M, T], scores: Sequence[Score], results: Mapping[str, R]) -> None:
        item = self.evaluation.item(case.labels)
        for score in scores:
            for name, heading in self.evaluation.reported.items():
                item.metrics[heading.format(score.method)] = score.figures[name]
        item.note = "pictures left out"
        if len(self.items) < self.evaluation.pictured:
            item.images, item.note = self.evaluation.images(case, results)
        self.items.append(item)

    def write(self, path: Path, task: str, facts: dict[str, str], means: Sequence[Mean]) -> None:
        """Write the report of all cases.

        Args:
            path: Where to, .html or .json.
            task: Name of the task.
            facts: The protocol.
            means: Of `means`.

        Raises:
            OutputError: The file cannot be written.
        """
        summary: dict[str, float | str] = {**self.evaluation.summary(means)}
        write_report(path, Report(self.evaluation.title, f"eval {task}", self.items, facts, summary))
