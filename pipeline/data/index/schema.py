"""Checks that a shard has the columns a recipe reads, in types that their fields can use."""

import difflib
from collections.abc import Callable, Mapping

import pyarrow as pa
from pyarrow import types

from interlace.contract.errors import DataError
from interlace.recipe.fields import AnyField, AudioField, ImageField, SeriesField, TableField, TextField
from interlace.recipe.recipe import Recipe
from interlace.recipe.tasks import AnyTask, ClassificationTask, GenerationTask, RegressionTask


def _is_binary(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind))


def _is_category(kind: pa.DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(_is_string(kind) or types.is_integer(kind) or types.is_boolean(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    return _is_list(kind) and _is_number(kind.value_type)


def _is_list_of_rows(kind: pa.DataType) -> bool:
    return _is_list(kind) and _is_list_of_numbers(kind.value_type)


def _is_list_of_categories(kind: pa.DataType) -> bool:
    return _is_list(kind) and _is_category(kind.value_type)


def _is_date(kind: pa.DataType) -> bool:
    return bool(types.is_date(kind) or types.is_timestamp(kind) or _is_string(kind))


Check = tuple[str, Callable[[pa.DataType], bool]]


def _series_check(field: SeriesField, column: str) -> Check:
    if column == field.column:
        return "a list of lists of numbers", _is_list_of_rows
    if column == field.channel:
        return "a list of strings or integers", _is_list_of_categories
    return "a list of numbers", _is_list_of_numbers


def _field_check(field: AnyField, column: str) -> Check:
    if isinstance(field, ImageField):
        return "binary (encoded pictures)", _is_binary
    if isinstance(field, AudioField):
        return "binary (encoded sounds)", _is_binary
    if isinstance(field, TextField):
        return "string", _is_string
    if isinstance(field, SeriesField):
        return _series_check(field, column)
    assert isinstance(field, TableField)
    if field.dates:
        return "a date, a timestamp or an ISO 8601 string", _is_date
    if field.numbers:
        return "a number", _is_number
    return "string, integer or boolean", _is_category


def _task_check(task: AnyTask) -> Check:
    if isinstance(task, RegressionTask):
        return "a number", _is_number
    if isinstance(task, GenerationTask):
        return "string", _is_string
    if isinstance(task, ClassificationTask) and task.multi_label:
        return "a list of strings, integers or booleans", _is_list_of_categories
    return "string, integer or boolean", _is_category


def check_schema(recipe: Recipe, schema: pa.Schema, shard: str) -> None:
    """Refuse a shard that lacks a column or has one in a type that can't be used; all errors at once.

    Raises:
        DataError: names column, expected type, the type it has, and the recipe's key that reads it.
    """
    wanted: list[tuple[str, str, Check]] = []
    for name, field in recipe.fields.items():
        wanted += [(f"fields.{name}", column, _field_check(field, column)) for column in field.columns]
    for name, task in recipe.tasks.items():
        wanted += [(f"tasks.{name}", column, _task_check(task)) for column in task.columns]
    errors = []
    for key, column, (expected, accepts) in wanted:
        if column not in schema.names:
            near = difflib.get_close_matches(column, schema.names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(schema.names)}"
            errors.append(f"{key}: expected a column `{column}`, but there is none; {hint}")
        elif not accepts(schema.field(column).type) and not types.is_null(schema.field(column).type):
            errors.append(f"{key}: expected `{column}` to be {expected}, but it is {schema.field(column).type}")
    if errors:
        raise DataError(f"{shard}: " + "; ".join(errors))


def check_schemas(recipe: Recipe, schemas: Mapping[str, pa.Schema], *, sparse: bool) -> None:
    """Check every shard; where the format is sparse, a column that another shard has may be missing.

    Raises:
        DataError: as `check_schema` does.
    """
    names = dict.fromkeys(n for s in schemas.values() for n in s.names) if sparse else {}
    for shard, schema in schemas.items():
        lacking = [pa.field(n, pa.null()) for n in names if n not in schema.names]
        check_schema(recipe, pa.schema([*schema, *lacking]), shard)
