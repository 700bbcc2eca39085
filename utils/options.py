"""What an option is: a typed field whose text is converted, checked, and described in one line."""

import ast
import functools
import keyword
import os
import shlex
import types
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from utils import registry
from utils.errors import UsageError, nearest

NONE = ("none", "null", "~", "")  # what clears an option that may be empty
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
TYPES = {str: "text", bool: "true | false", float: "number", dict: "NAME=VALUE ...", list: "names"}


def make_option(default_commands: tuple[str, ...]) -> Callable[..., Any]:
    """A function that declares an option."""

    def option(default: Any, commands: tuple[str, ...] = default_commands, **limits: Any) -> Any:
        """An option with its default, and the commands that read it.

        Args:
            limits: gt, ge, lt, le. model_argument=True: it is an argument of the model's class.
        """
        extra = {"commands": commands, "model_argument": limits.pop("model_argument", False)}
        return Field(default, json_schema_extra=extra, **limits)

    return option


def dashed(name: str) -> str:
    """An option's name as it is typed behind `--`: class_ -> class."""
    return name.removesuffix("_").replace("_", "-")


def option_name(typed: str) -> str:
    """What `dashed` was made of; a keyword of Python has a `_` behind it."""
    name = typed.replace("-", "_")
    return name + "_" * keyword.iskeyword(name)


def code_flags(values: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The flags of those options that name code outside of this program, given in a file and not in Python."""
    flags = []
    for option in names:
        value = values.get(option) or ()
        parts = [value] if isinstance(value, str) else value
        external = [part for part in parts if registry.is_external(part) and not registry.given(part)]
        flags += [f"--{dashed(option)}={','.join(external)}"] if external else []
    return flags


def by_name(find: Callable[[str], str]) -> BeforeValidator:
    """For an option that takes a name, or in Python a class, function or instance; `find` gives the canonical name."""

    def name_of(value: Any) -> Any:
        if value is None or not isinstance(value, str):
            return value if value is None else registry.register(value)
        try:
            return find(value)
        except UsageError as e:
            raise PydanticCustomError("name", "{message}", {"message": str(e)}) from e

    return BeforeValidator(name_of)


def arguments(value: Any) -> Any:
    """Text such as `width=2 depth=3` as a mapping; values are numbers, true, false, None, lists or text.

    Raises:
        ValueError: a word without "=".
    """
    if isinstance(value, str):
        pairs = [word.partition("=") for word in shlex.split("" if value.strip().lower() in NONE else value)]
        if bad := [name for name, equals, _ in pairs if not (name.isidentifier() and equals)]:
            raise ValueError(f"{bad[0]!r} is not NAME=VALUE")
        value = {name: text for name, _, text in pairs}
    return {name: literal(v) for name, v in value.items()} if isinstance(value, Mapping) else value


def literal(text: Any) -> Any:
    """The number, boolean, None, tuple or list that `text` writes, else the text."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if not isinstance(text, str):
        return text
    if text.lower() in words:
        return words[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # as of {[]: 1}, or nested too deeply
        return text
    return value if _is_plain(value) else text


def _is_plain(value: Any) -> bool:
    """Whether config.yaml can hold it."""
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return isinstance(value, (str, float, int, type(None)))


def names(value: Any) -> list[str]:
    """Text such as `a.py:f,b.py:g` as a list; a class or function given in Python as its name."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    parts = list(parts) if isinstance(parts, (list, tuple)) else [parts]
    return [part if isinstance(part, str) else registry.register(part) for part in parts if part not in NONE]


def path_text(path: str) -> str:
    """The path with `~` replaced.

    Raises:
        ValueError: it can be no path on this machine: too long, with a NUL, a link that leads to itself.
    """
    path = os.path.expanduser(path)
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except OSError as e:
        raise ValueError(e.strerror) from e
    except ValueError as e:
        raise ValueError("it holds a character that no path can hold") from e
    return path


PathText = Annotated[
    str,
    BeforeValidator(lambda v: os.fspath(v) if isinstance(v, os.PathLike) else v),
    AfterValidator(path_text),
]
Arguments = Annotated[dict[str, Any], BeforeValidator(arguments)]
Names = Annotated[list[str], BeforeValidator(names)]


class _Parse:
    """`Config.parse({...})` makes a new Config; `opt.parse({...})` changes `opt` (book, 6.1.7). Both return it."""

    def __get__(self, opt: Any, cls: Any) -> Callable[[Mapping[str, Any]], Any]:
        def parse(values: Mapping[str, Any]) -> Any:
            mine = cls() if opt is None else opt
            checked = cls(**mine.model_dump() | dict(values))
            for name in values:
                setattr(mine, name, getattr(checked, name))
            return mine

        return parse


class Options(BaseModel):
    """A group of options, or all of them. What is wrong raises UsageError in one line."""

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        defer_build=True,  # a group alone is never validated
        protected_namespaces=(),
    )
    parse: ClassVar[Any] = _Parse()
    _typed: frozenset[str] = PrivateAttr(default=frozenset())

    def __init__(self, places: Mapping[str, str] = MappingProxyType({}), /, **values: Any) -> None:
        """`places`: {option: where it was given}, for errors."""
        for name in values:
            self._check_known(name)
        try:
            super().__init__(**values)
        except ValidationError as e:
            raise self._usage_error(e, places) from None

    def typed(self, name: str) -> bool:
        """Whether the option was typed as a flag, not taken from a preset or a saved run."""
        return name in self._typed

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            self._check_known(name)
        try:
            super().__setattr__(name, value)
        except ValidationError as e:
            raise self._usage_error(e, {}) from None

    @model_validator(mode="before")
    @classmethod
    def _none_from_text(cls, values: Any) -> Any:
        """The text None clears the options that may be empty."""
        if not isinstance(values, dict):
            return values
        empty = {k for k in cls.model_fields if cls.may_be_none(k)}
        return {k: None if k in empty and str(v).strip().lower() in NONE else v for k, v in values.items()}

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """{option: its field}, in order."""
        return cls.model_fields

    @classmethod
    def extra(cls, name: str) -> dict[str, Any]:
        return cls.model_fields[name].json_schema_extra  # type: ignore[return-value]

    @classmethod
    def commands_of(cls, name: str) -> tuple[str, ...]:
        """The commands that read the option `name`."""
        return cls.extra(name)["commands"]

    def read_by(self, command: str) -> dict[str, Any]:
        """The options that `command` reads, and their values."""
        return {name: value for name, value in self.model_dump().items() if command in self.commands_of(name)}

    @classmethod
    def group_of(cls, name: str) -> str:
        """The group of an option, in lower case: "data", "optimization", ..."""
        return next(c.__name__.lower() for c in reversed(cls.__mro__) if name in getattr(c, "model_fields", {}))

    @classmethod
    def help_of(cls, name: str) -> str:
        """What an option means, in one line."""
        return " ".join((cls.model_fields[name].description or "").split())

    @classmethod
    @functools.cache  # the table of a thousand runs asks often
    def default_of(cls, name: str) -> Any:
        return cls.model_fields[name].default

    @classmethod
    def type_of(cls, name: str) -> str:
        """The option's type and range in words: `int >= 1`, `adam | sgd`, `path or None`."""
        field = cls.model_fields[name]
        annotation, metadata, empty = field.annotation, field.metadata, ""
        if get_origin(annotation) in (Union, types.UnionType):
            annotation, empty = get_args(annotation)[0], " or None"
        if get_origin(annotation) is Annotated:
            annotation, *metadata = get_args(annotation)
        limits = [f"{SIGNS[k]} {getattr(m, k)}" for m in field.metadata for k in SIGNS if hasattr(m, k)]
        return f"{_kind(annotation, metadata)} {', '.join(limits)}".strip() + empty

    @classmethod
    def is_switch(cls, name: str) -> bool:
        """Whether the option is true or false, so that it may be typed as --name and --no-name."""
        annotation = cls.model_fields[name].annotation
        return bool in (annotation, *get_args(annotation))

    @classmethod
    def may_be_none(cls, name: str) -> bool:
        return type(None) in get_args(cls.model_fields[name].annotation)

    @classmethod
    def _usage_error(cls, e: ValidationError, places: Mapping[str, str]) -> UsageError:
        """The first of pydantic's errors in one line; `places` say where an option was given."""
        error = e.errors()[0]
        name, value = str(error["loc"][0]), error["input"]
        place = places.get(name, name)
        where = place if place.startswith("--") or place == name else f"{place}: {name}"
        if error["type"] == "name":
            return UsageError(error["msg"] if where in (place, name) else f"{place}: {error['msg']}")
        annotation = cls.model_fields[name].annotation
        choices = get_args(annotation) if get_origin(annotation) is Literal else ()
        reason = f" ({error['ctx']['error']})" if error["type"] == "value_error" else ""
        return UsageError(f"{where} takes {cls.type_of(name)}, not {value!r}{reason}.{nearest(str(value), choices)}")

    @classmethod
    def _check_known(cls, name: str) -> None:
        if name not in cls.model_fields:
            raise UsageError(f"unknown option {name!r}.{nearest(name, cls.model_fields)}")


def _kind(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(get_args(annotation))
    if annotation is str and any(isinstance(m, AfterValidator) for m in metadata):
        return "path"
    if annotation is str and any(isinstance(m, BeforeValidator) for m in metadata):
        return "name"
    kind = get_origin(annotation) or annotation
    return TYPES.get(kind) or kind.__name__
