"""From the words of a command line to a command and its flags, as typed text.

fire dispatches the commands, and is handed clean words only, `--flag=text`: left to itself it would run a command first
and complain about its flags afterwards, take `--normalize` for `--no-rmalize` and `--name=1e3` for a number.
"""

import inspect
import os
from collections.abc import Callable, Mapping

from config import Config
from utils.errors import UsageError, nearest
from utils.options import dashed, option_name

HELP = ("--help", "-h", "-help")
SWITCHES = [name for name in Config.fields() if Config.is_switch(name)]


def parse(words: list[str], commands: Mapping[str, Callable]) -> tuple[str, list[str], dict[str, str]]:
    """Splits `words` into (command, words, {option: text}); there are words where the command takes `*words`.

    Raises:
        UsageError: an unknown command, a stray word, a flag without a value, a flag given twice with two values.
    """
    if not words:
        return "help", ["short"], {}
    if any(word in HELP for word in words):
        topics = [word.lstrip("-").split("=")[0] for word in words if word not in HELP]
        return "help", topics[:1], {}
    command, *rest = words
    if command not in commands:
        where = "the command comes first" if command.startswith("-") else f"the commands are {', '.join(commands)}"
        raise UsageError(f"unknown command {command!r}: {where}.{nearest(command, commands)}")
    if command == "help":
        return command, [word.lstrip("-") for word in rest], {}
    return command, *_split(command, rest, takes_words(commands[command]))


def takes_words(function: Callable) -> bool:
    """Whether the function of a command takes `*words`, as run folders or images."""
    return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(function).parameters.values())


def _split(command: str, words: list[str], with_words: bool) -> tuple[list[str], dict[str, str]]:
    own: list[str] = []
    flags: dict[str, str] = {}
    words = list(reversed(words))
    while words:
        word = words.pop()
        if with_words and word and (word == "-" or not word.startswith("-")) and not _is_option(word):
            own.append(word)
            continue
        if not word.startswith("--") or not word[2:].partition("=")[0]:
            raise UsageError(_stray(command, word))
        name, equals, text = word[2:].partition("=")
        name = option_name(name)
        _check_spaces(name, equals, text, words)
        if not equals and name not in Config.fields() and name.removeprefix("no_") in SWITCHES:
            name, text = name.removeprefix("no_"), "false"
        elif not equals and name in SWITCHES:
            text = words.pop() if words and words[-1].lower() in ("true", "false", "none") else "true"
        elif not equals:
            text = _next_value(name, words)
        if flags.setdefault(name, text) != text:
            raise UsageError(f"--{dashed(name)} is given twice, as {flags[name]!r} and as {text!r}: keep one")
    return own, flags


def _is_option(word: str) -> bool:
    """Whether it is `name=value`, an option without its dashes."""
    name, equals, _ = word.partition("=")
    return bool(equals) and option_name(name) in (*Config.fields(), "config")


def _check_spaces(name: str, equals: str, text: str, rest: list[str]) -> None:
    """Refuses `--name = value`, `--name =value` and `--name= value`; `rest`: the next words, reversed."""
    words = []
    if not equals and rest and rest[-1].startswith("="):
        words = [rest[-1].lstrip("="), *rest[-2:-1]]
    elif equals and not text and rest and not rest[-1].startswith("-"):
        words = [rest[-1]]
    value = next((word for word in words if word), "")
    if words:
        raise UsageError(f"--{dashed(name)}: no spaces around the equals sign; type --{dashed(name)}={value or '...'}")


def _next_value(name: str, words: list[str]) -> str:
    """The word after `--name`. An unknown name takes none, so that cli.resolve can say what is wrong with it."""
    if name not in (*Config.fields(), "config"):
        return words.pop() if words and not words[-1].startswith("-") else ""
    if not words or words[-1].startswith("--"):
        raise UsageError(f"--{dashed(name)} needs a value: --{dashed(name)}=...")
    return words.pop()


def _stray(command: str, word: str) -> str:
    name = option_name(word.lstrip("-").partition("=")[0])
    if name in (*Config.fields(), "config"):
        return f"stray word {word!r} after {command}: options start with two dashes, as in --{word.lstrip('-')}"
    if command in Config.commands_of("load_path") and os.path.exists(word):
        return f"stray word {word!r} after {command}: a run or a checkpoint is named by --load-path={word}"
    known = [*(option for option in Config.fields() if command in Config.commands_of(option)), "config"]
    return f"stray word {word!r} after {command}: options are typed as --name=value.{nearest(name, known)}"
