"""Checks that a shard has the columns a recipe reads, in types that their fields can use."""

import difflib
from collections.abc import Callable, Mapping

import pyarrow as pa
from pyarrow import types

from interlace.contract.errors import DataError
from interlace.recipe.base import ColumnKind
from interlace.recipe.reads import Reads


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


def _is_integer(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind))


def _is_anything(kind: pa.DataType) -> bool:
    return True


CHECKS: Mapping[ColumnKind, tuple[str, Callable[[pa.DataType], bool]]] = {
    "binary": ("binary", _is_binary),
    "pictures": ("binary (encoded pictures)", _is_binary),
    "sounds": ("binary (encoded sounds)", _is_binary),
    "string": ("string", _is_string),
    "integer": ("an integer", _is_integer),
    "number": ("a number", _is_number),
    "category": ("string, integer or boolean", _is_category),
    "date": ("a date, a timestamp or an ISO 8601 string", _is_date),
    "numbers": ("a list of numbers", _is_list_of_numbers),
    "rows": ("a list of lists of numbers", _is_list_of_rows),
    "categories": ("a list of strings or integers", _is_list_of_categories),
    "labels": ("a list of strings, integers or booleans", _is_list_of_categories),
    "anything": ("anything", _is_anything),
}
"""What settings say that a column holds -> the same in words, and whether an Arrow type does."""


def check_schema(reads: Reads, schema: pa.Schema, shard: str) -> None:
    """Refuse a shard that lacks a column or has one in a type that can't be used; all errors at once.

    Raises:
        DataError: names column, expected type, the type it has, and the recipe's key that reads it.
    """
    wanted: list[tuple[str, str, ColumnKind]] = []
    for name, field in reads.fields.items():
        wanted += [(f"fields.{name}", column, field.holds(column)) for column in field.columns]
    for name, task in reads.tasks.items():
        wanted += [(f"tasks.{name}", column, task.holds(column)) for column in task.columns]
    errors = []
    for key, column, kind in wanted:
        expected, accepts = CHECKS[kind]
        if column not in schema.names:
            near = difflib.get_close_matches(column, schema.names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(schema.names)}"
            errors.append(f"{key}: expected a column `{column}`, but there is none; {hint}")
        elif not accepts(schema.field(column).type) and not types.is_null(schema.field(column).type):
            errors.append(f"{key}: expected `{column}` to be {expected}, but it is {schema.field(column).type}")
    if errors:
        raise DataError(f"{shard}: " + "; ".join(errors))


def check_schemas(reads: Reads, schemas: Mapping[str, pa.Schema], *, sparse: bool) -> None:
    """Check every shard; where the format is sparse, a column that another shard has may be missing.

    Raises:
        DataError: as `check_schema` does.
    """
    names = dict.fromkeys(n for s in schemas.values() for n in s.names) if sparse else {}
    for shard, schema in schemas.items():
        lacking = [pa.field(n, pa.null()) for n in names if n not in schema.names]
        check_schema(reads, pa.schema([*schema, *lacking]), shard)
