"""Dispatches the commands; each is a file of commands/."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # where it is imported from elsewhere

from cli import process  # isort: skip - first: Ctrl-C, and packages of the same names

import fire
from fire.decorators import SetParseFn

from cli import help as help_pages
from cli import parsing
from commands.bench import bench
from commands.check import check
from commands.explain import explain
from commands.export import export
from commands.features import features
from commands.generate import generate
from commands.predict import predict
from commands.replay import replay
from commands.report import report
from commands.runs import runs
from commands.summary import summary
from commands.sweep import sweep
from commands.test import test
from commands.train import train
from commands.val import val
from utils import launchers
from utils.errors import UsageError


@SetParseFn(str)
def help(*topics: str) -> None:  # noqa: A001 - the book's name for it
    """Explain the commands and options; `help NAME` explains one command, option, model, data set or preset.

    Examples:
        python main.py help
        python main.py help lr
        python main.py help ResNet34
    """
    print(help_pages.page(list(topics), COMMANDS))


ALL = (
    train,
    sweep,
    val,
    test,
    predict,
    export,
    generate,
    explain,
    features,
    check,
    bench,
    summary,
    runs,
    report,
    replay,
    help,
)
COMMANDS = {command.__name__: command for command in ALL}


def main() -> None:
    """Runs the command line, and exits: 0, 1 (a failure, or findings of `check`), 2 (wrong input), 128 + a signal."""
    with process.exit_codes():
        command, topics, flags = parsing.parse(sys.argv[1:], COMMANDS)
        if command not in ("train", "sweep") and launchers.place():
            raise UsageError(f"{command} runs in one process: type it without torchrun or srun")
        words = [command, *topics, *(f"--{name}={text}" for name, text in flags.items())]
        words += ["--", "--separator=\0"]  # of fire's, which would be "-": to predict that is standard input
        result = fire.Fire(COMMANDS, command=words, name="main.py", serialize=lambda result: None)
        if command == "train":  # its lines are in log.txt too: it may be that nobody reads these
            process.settle()
        if command == "check" and result:
            sys.exit(1)


if __name__ == "__main__":
    main()
