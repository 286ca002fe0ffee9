"""What a preset says, checked: the YAML of an import file, the JSON of a version row, the limits of the form."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from app import durations

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
NAME_RULE = "1 to 63 lower-case letters, digits and dashes, with a letter first and no dash at the end"
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_QUANTITY = re.compile(r"\d{1,9}(\.\d{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?", re.ASCII)
FILE_LIMIT = 1 << 20  # bytes of an import file
COMMAND_LIMIT = 100_000  # characters of a string, or of each part of a list


class PresetError(Exception):
    """An import file cannot be used. The message says which preset and field, and why."""


def _quantity(value: str) -> str:
    if not _QUANTITY.fullmatch(value):
        raise ValueError("write a Kubernetes quantity, such as 4, 500m or 16Gi")
    return value


def _storable(value: str) -> str:
    if "\0" in value:
        raise ValueError("the character NUL cannot be used here")
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("half a character (a lone surrogate) cannot be used here")
    return value


Quantity = Annotated[str, Field(max_length=20), AfterValidator(_quantity)]
Text = Annotated[str, AfterValidator(_storable)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Choice(_Strict):
    """A number that people may choose."""

    default: int = Field(ge=0, le=1024)
    max: int = Field(ge=0, le=1024)

    @model_validator(mode="after")
    def _fits(self) -> Choice:
        if self.default > self.max:
            raise ValueError("the default is above the maximum")
        return self


class PresetVolume(_Strict):
    claim: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
    path: Annotated[Text, Field(pattern=r"^/[^\x00:]{1,250}$")]
    read_only: bool = False


class PresetContent(_Strict):
    name: str
    kind: Literal["training"] = "training"
    image: Annotated[Text, Field(min_length=1, max_length=500)]
    command: str | list[str] = ""
    cpu: Quantity = "1"
    memory: Quantity = "1Gi"
    shm: Quantity | Literal[""] = ""
    gpus: Choice = Choice(default=0, max=0)
    nodes: Choice = Choice(default=1, max=1)
    gpu_types: list[Annotated[Text, Field(min_length=1, max_length=63)]] = []
    env: dict[str, Annotated[Text, Field(max_length=32_768)]] = {}
    volumes: list[PresetVolume] = []
    clusters: list[Annotated[Text, Field(max_length=63)]] = []
    max_runtime: str = "24h"
    description: Annotated[Text, Field(max_length=300)] = ""

    @field_validator("kind", mode="before")
    @classmethod
    def _kind(cls, value: object) -> object:
        if value == "service":
            raise ValueError("presets of kind service are not built yet; only kind training is")
        return value

    @field_validator("command", mode="before")
    @classmethod
    def _command(cls, value: object) -> object:
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if not isinstance(part, str):
                raise ValueError("write a string for /bin/sh -c, or a list of strings, with numbers in quotes")
            if len(_storable(part)) > COMMAND_LIMIT:
                raise ValueError(f"write at most {COMMAND_LIMIT:,} characters")
        return value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(f"a name is {NAME_RULE}")
        return value

    @field_validator("env")
    @classmethod
    def _env(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not ENV_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a variable")
        return value

    @field_validator("max_runtime")
    @classmethod
    def _max_runtime(cls, value: str) -> str:
        return durations.written(durations.seconds(value))

    @field_validator("nodes")
    @classmethod
    def _nodes(cls, value: Choice) -> Choice:
        if value.default < 1:
            raise ValueError("a job has at least one node")
        return value

    @property
    def max_seconds(self) -> int:
        return durations.seconds(self.max_runtime)


def parse(text: str) -> list[PresetContent]:
    """The presets of an import file: one or several YAML documents. Raises PresetError with a sentence."""
    if len(text.encode()) > FILE_LIMIT:
        raise PresetError("The file is larger than 1 MiB.")
    try:
        documents = [each for each in yaml.load_all(text, Loader=_Loader) if each is not None]
    # a tag such as !!int on an empty value makes PyYAML fail in these other ways
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise PresetError(f"This is not YAML that can be used: {error}") from error
    if not documents:
        raise PresetError("The file holds no preset.")
    presets = [_checked(position, each) for position, each in enumerate(documents, 1)]
    names = [each.name for each in presets]
    for name in names:
        if names.count(name) > 1:
            raise PresetError(f"The preset {name} stands in the file more than once.")
    return presets


def _checked(position: int, document: object) -> PresetContent:
    if not isinstance(document, dict):
        raise PresetError(f"Document {position} is not a preset: it must have fields such as name and image.")
    label = document.get("name") or f"number {position}"
    try:
        return PresetContent.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise PresetError(f"Preset {label}, {field}: {_sentence(first).removesuffix('.')}.") from error


def _sentence(error: ErrorDetails) -> str:
    limits = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "this field is needed"
        case "extra_forbidden":
            return "there is no such field"
        case "invalid_key":
            return "the name of a field is a string"
        case "string_type":
            return "write a string; in YAML a number, a date and words such as yes are strings only in quotes"
        case "int_type" | "int_from_float":
            return "write a whole number"
        case "bool_type":
            return "write true or false"
        case "list_type":
            return "write a list, such as [a, b]"
        case "dict_type":
            return "write names with values, such as {NAME: value}"
        case "model_type" | "model_attributes_type" if error["loc"][0] == "volumes":
            return "write {claim: datasets, path: /data, read_only: true}"
        case "model_type" | "model_attributes_type":
            return "write {default: 1, max: 8}"
        case "greater_than_equal":
            return f"write at least {limits['ge']}"
        case "less_than_equal":
            return f"write at most {limits['le']}"
        case "string_too_short":
            return "it must not be empty"
        case "string_too_long":
            return f"write at most {limits['max_length']:,} characters"
        case "literal_error":
            return f"it is {limits['expected']}"
        case "string_pattern_mismatch" if error["loc"][-1] == "claim":
            return "a claim's name has lower-case letters and digits, with dashes and dots between them"
        case "string_pattern_mismatch":
            return "write a whole path, such as /data, without a colon"
        case _:
            return error["msg"].removeprefix("Value error, ")


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which can blow up a small file, and without silently repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) cannot be used here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} stands twice in one place")
        return super().construct_mapping(node, deep)
