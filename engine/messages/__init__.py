"""What the terminal says of a task's metrics. One class serves any task; a task may bring its own."""

from typing import Any

Metrics = dict[str, Any]


class Messages:
    """Lines about metrics, for a task that says no more about them.

    Args:
        task: the task (engine/tasks/base.py).
    """

    def __init__(self, task: Any) -> None:
        self.task, self.opt = task, task.opt

    def epoch(self, means: Metrics, metrics: Metrics) -> list[str]:
        """An epoch in a few words, those first that must not be left out where the line gets too long.

        Args:
            means: the mean metrics of its steps. metrics: those of the evaluation after it.
        """
        train = [f"train {name.replace('_', ' ')} {value:.4f}" for name, value in means.items()]
        return [*train, *(f"val {line}" for line in self._scalars(metrics, ".4f"))]

    def table(self, metrics: Metrics) -> str:
        """The metrics of an evaluation, line by line."""
        return "\n".join(self._scalars(metrics, ".6f", width=18))

    def format_score(self, name: str, value: float) -> str:
        """A metric in a few words."""
        return f"{name.replace('_', ' ')} {value:.4g}"

    def next_commands(self, folder: str) -> list[str]:
        """What to type after a training into `folder`."""
        return [f"python main.py val --load-path={folder}"]

    def diagnose(self, means: Metrics, metrics: Metrics, progress: float) -> str | None:
        """After an epoch: a warning in one line where the net does not seem to learn."""
        return None

    @staticmethod
    def _scalars(metrics: Metrics, style: str, width: int = 0) -> list[str]:
        scalars = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        return [f"{name.replace('_', ' '):<{width}} {value:{style}}" for name, value in scalars.items()]
