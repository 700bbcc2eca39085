"""What a sweep searches: options given as a range, `--lr=1e-4..1e-1`, or as choices, `--optimizer=SGD,AdamW`."""

import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

from cli.resolve import resolve
from config import Config
from utils.errors import NoEffectError, UsageError
from utils.options import dashed

DIGITS = 4  # of a number that is drawn: more tells nothing, and is hard to type
DECADE = 10  # a range whose ends differ by this factor is searched by the logarithm
TRIED = 64  # combinations of an option with others that are looked at to find one in which it has an effect
UNSWEPT = ("seed", "checkpoint_dir", "resume", "name", "load_path", "debug_file", "dry_run", "profile", "processes")


@dataclass(frozen=True)
class Choice:
    """One of several values, as they were typed."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.values

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(map(str, self.values))

    def typed(self, text: str) -> Any:
        """The value that has this text."""
        return self.values[self.texts.index(text)]

    def __str__(self) -> str:
        return ",".join(self.texts)


@dataclass(frozen=True)
class Range:
    """The numbers from low to high, both included.

    Attributes:
        log: whether their logarithms are equally likely. whole: whether they are integers.
    """

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def typed(self, value: float) -> float:
        """The value with a few digits, still in the range."""
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


Space = dict[str, Choice | Range]


def split(values: Mapping[str, Any]) -> tuple[dict[str, Any], Space]:
    """The options that are the same in all trials, and those that are searched.

    Raises:
        UsageError: a range that is none, a value twice, an option that cannot be searched.
    """
    space = {name: part for name, value in values.items() if (part := _part(name, value))}
    for name in space:
        if name in UNSWEPT:
            hint = ": --seeds=N trains each trial with N seeds" if name == "seed" else ""
            raise UsageError(f"--{dashed(name)} takes one value in a sweep{hint}")
    return {name: value for name, value in values.items() if name not in space}, space


def _part(name: str, value: Any) -> Choice | Range | None:
    """What is searched of an option; None: it has one value."""
    if name not in Config.fields():  # it is refused where the options are resolved
        return None
    if isinstance(value, (list, tuple)) and not isinstance(Config.default_of(name), list):
        return _choice(name, value)
    if not isinstance(value, str):
        return None
    kind = _numeric(name)
    if kind and ".." in value:
        return _range(name, value, kind)
    single = isinstance(Config.default_of(name), list) or "," not in value or os.path.exists(value)
    return None if single else _choice(name, [part.strip() for part in re.split(r",(?![^\[({]*[\])}])", value)])


def _numeric(name: str) -> type | None:
    """int or float, where the option takes such a number."""
    annotation = Config.fields()[name].annotation
    kinds = {annotation, *get_args(annotation)}
    return next((kind for kind in (int, float) if kind in kinds), None)


def _choice(name: str, values: Any) -> Choice | None:
    texts = [str(value) for value in values]
    if "" in texts:
        raise UsageError(f"--{dashed(name)}={','.join(texts)}: a value is missing beside a comma")
    for text in texts:
        if texts.count(text) > 1:
            raise UsageError(f"--{dashed(name)}={','.join(texts)} gives {text} twice")
    return Choice(tuple(values)) if len(values) > 1 else None


def _range(name: str, text: str, kind: type) -> Range:
    low_text, _, high_text = text.partition("..")
    try:
        low, high = (_number(name, part, kind) for part in (low_text, high_text))
    except ValueError:
        raise UsageError(
            f"--{dashed(name)}={text} is no range: type the smallest and the largest "
            + ("integer, as in 16..256" if kind is int else "number, as in 1e-4..1e-1")
        ) from None
    if low >= high:
        raise UsageError(f"--{dashed(name)}={text} is no range: it ends where it begins, or before")
    return Range(low, high, low > 0 and high / low >= DECADE, kind is int)


def _number(name: str, text: str, kind: type) -> Any:
    value = kind(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def points(space: Space) -> Iterator[dict[str, Any]] | None:
    """All combinations in order, the last option the fastest; None where there is no end of them."""
    if any(isinstance(part, Range) for part in space.values()):
        return None
    return (dict(zip(space, values, strict=True)) for values in itertools.product(*(p.ends for p in space.values())))


def size(space: Space) -> float:
    """How many points there are; infinity where one is a number that is not whole."""
    count = 1.0
    for part in space.values():
        if isinstance(part, Choice):
            count *= len(part.values)
        else:
            count *= part.high - part.low + 1 if part.whole else math.inf
    return count


def options_at(fixed: Mapping[str, Any], point: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, NoEffectError]]:
    """What to give for a trial, and the options that are left out, as they have no effect there: {option: why}.

    Raises:
        UsageError: the options do not go together.
    """
    given, idle = {**fixed, **point}, {}
    while True:
        try:
            resolve("train", given)
        except NoEffectError as e:
            if e.option not in given:
                raise
            del given[e.option]
            idle[e.option] = e
        else:
            return given, idle


def check(fixed: Mapping[str, Any], space: Space) -> None:
    """Refuses a space in which a value is out of place, or an option has no effect anywhere.

    Raises:
        UsageError: so it is.
    """
    first = {name: part.ends[0] for name, part in space.items()}
    tried = [options_at(fixed, first)]
    tried += [options_at(fixed, first | {name: value}) for name, part in space.items() for value in part.ends]
    choices = {name: part.values for name, part in space.items() if isinstance(part, Choice)}
    for values in itertools.islice(itertools.product(*choices.values()), TRIED):
        with suppress(UsageError):  # what does not go together becomes a trial that says so
            tried.append(options_at(fixed, first | dict(zip(choices, values, strict=True))))
    for name, error in {name: error for _, idle in tried for name, error in idle.items()}.items():
        if not any(name in given for given, _ in tried):
            raise error
