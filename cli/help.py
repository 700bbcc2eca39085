"""The help pages, made from the options, the docstrings and the presets; nothing here imports torch."""

import inspect
import textwrap
from collections.abc import Callable, Mapping

import data
import models
from cli import presets
from cli.resolve import TASKS
from config import Config
from utils import registry
from utils.errors import UsageError, install, nearest
from utils.options import dashed, option_name

WIDTH = 110
Commands = Mapping[str, Callable]


def page(topics: list[str], commands: Commands) -> str:
    """The page on a topic: none, "short", a command, an option, a model, a data set or a preset.

    Raises:
        UsageError: nothing of that name; gives the nearest.
    """
    if not topics:
        return overview(commands)
    name = topics[0]
    if name == "short":
        return short(commands)
    option = option_name(name)
    if option == "config":
        return "--config: a preset of options, by name or path. Presets:\n" + _presets()
    if name in commands:
        return command(name, commands)
    if option in Config.fields():
        return _option(option)
    if name in presets.names():
        return presets.locate(name).read_text(encoding="utf-8", errors="backslashreplace").rstrip()
    if registry.is_external(name):
        return _external(name)
    known_sets = {n.lower(): n for n in data.names()}
    if name.lower() in known_sets and name not in models.names():
        return f"{known_sets[name.lower()]} (data set)\n\n{data.entries()[known_sets[name.lower()]].docstring}"
    known = [*models.names(), *models.torchvision_names()]
    if name in known or name.startswith("timm/"):
        return f"{name} (model)\n\n{models.describe(name)}"
    hint = nearest(name, [*commands, *Config.fields(), *data.names(), *presets.names(), *known])
    left_out = registry.left_out(models.FOLDER) + registry.left_out(data.FOLDER)
    raise UsageError(f"no help on {name!r}: it is no command, option, model, data set or preset.{hint}{left_out}")


def short(commands: Commands) -> str:
    return "\n".join(
        [
            "usage: python main.py COMMAND [--option=value ...]",
            "",
            *_summaries(commands),
            "",
            "try:   python main.py train --config=demo      the built-in images, no download",
            "       python main.py help                     every option, model, data set and preset",
        ]
    )


def overview(commands: Commands) -> str:
    parts = [
        "usage: python main.py COMMAND [--option=value ...]",
        "\nCOMMANDS (help COMMAND tells more)",
        *_summaries(commands),
    ]
    parts.append("\nOPTIONS (help OPTION tells more; --some-name is --some_name; switches: --use-gpu, --no-use-gpu)")
    parts.append(_line("--config", "None", "a preset: a name below, or the path of a YAML file of options"))
    group = None
    for name in Config.fields():
        if group != (group := Config.group_of(name)):
            parts.append(f"  {group}")
        parts.append(_row(name, f"{Config.help_of(name)} [{Config.type_of(name)}]"))
    tv = models.torchvision_names()
    parts.append("\nMODELS (help MODEL tells more)")
    parts += [_entry(name, entry.docstring) for name, entry in models.entries().items()]
    parts.append(_wrap(f"torchvision's {len(tv)} by their names: " + ", ".join(tv)))
    timm = (
        f"timm's {len(models.timm_names())}"
        if models.timm_names()
        else f"timm's, once it is installed: {install('timm')}"
    )
    parts.append(_wrap(f"timm/NAME: {timm}"))
    parts.append(_wrap("path/to/file.py:Class or package.module:Class: an nn.Module of yours"))
    parts.append("\nDATA SETS (help NAME tells more; path/to/file.py:Class: a data set of yours)")
    parts += [_entry(name, entry.docstring) for name, entry in data.entries().items()]
    parts += ["\nPRESETS (--config=NAME)", _presets(), "\nEXAMPLES"]
    parts += [f"  {line}" for function in commands.values() for line in _examples(function)]
    registry.scan(TASKS, "Task", "engine.tasks")
    if lines := [line for folder in (models.FOLDER, data.FOLDER, TASKS) for line in registry.broken(folder)]:
        parts += ["\nLEFT OUT", *(f"  {line}" for line in lines)]
    return "\n".join(parts)


def command(name: str, commands: Commands) -> str:
    text = inspect.getdoc(commands[name]) or ""
    rows = [_row(option, Config.help_of(option)) for option in Config.fields() if name in Config.commands_of(option)]
    if rows:
        rows.insert(0, _line("--config", "None", "a preset: its name, or the path of a YAML file of options"))
    return "\n".join([f"python main.py {name}", "", text, *(["", "Options:", *rows] if rows else [])])


def _option(name: str) -> str:
    default = Config.default_of(name)
    lines = [
        f"--{dashed(name)}: {Config.help_of(name)}",
        f"  type     {Config.type_of(name)}",
        f"  default  {default}",
        f"  works on {', '.join(Config.commands_of(name))}",
    ]
    if Config.is_switch(name):
        lines.append(f"  typed    --{dashed(name)}, --{dashed(name)}=false, --no-{dashed(name)}")
    else:
        example = "..." if default in (None, {}, []) else default
        lines.append(f"  typed    --{dashed(name)}={example}, or `{name.removesuffix('_')}: {example}` in a preset")
    return "\n".join(lines)


def _external(name: str) -> str:
    """What a class or function of the user's says of itself; its file is read and not run."""
    entry = registry.external(name, "model or data set")
    own = [name for name in entry.parameters or () if name not in models.FROM_DATA]
    takes = "any" if entry.parameters is None else ", ".join(own) or "none"
    return f"{name} ({entry.path})\n\n{entry.docstring or 'It has no docstring.'}\n\nArguments: {takes}"


def _summaries(commands: Commands) -> list[str]:
    return [f"  {name:<8} {_first_line(inspect.getdoc(function))}" for name, function in commands.items()]


def _examples(function: Callable) -> list[str]:
    lines = (inspect.getdoc(function) or "").partition("Examples:")[2].splitlines()
    return [line.strip() for line in lines if line.strip()]


def _presets() -> str:
    return "\n".join(f"  {name:<14} {presets.header(presets.locate(name))}" for name in presets.names())


def _row(option: str, help: str) -> str:
    return _line("--" + dashed(option), str(Config.default_of(option)), help)


def _line(flag: str, default: str, help: str) -> str:
    lines = textwrap.wrap(help, WIDTH - 36)
    return "\n".join([f"    {flag:<18} {default:<12.12} {lines[0]}", *(" " * 36 + line for line in lines[1:])])


def _entry(name: str, docstring: str) -> str:
    """The first line of a docstring beside a name."""
    lines = textwrap.wrap(_first_line(docstring), WIDTH - 17)
    return "\n".join([f"  {name:<14} {lines[0]}", *(" " * 17 + line for line in lines[1:])])


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ")


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]
