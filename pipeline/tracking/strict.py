"""MLflow refuses columns that a model of ours does not know, which it would drop with a warning.

A misspelt column of a request is otherwise a missing field: an answer from less than was given, with status 200. MLflow
checks names before a model sees its input and offers no hook there, so the check is put before its own, in processes
that have loaded such a model, for tables of such models only. Where MLflow's function is gone, its warning remains.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from interlace.tracking.model import check_columns, refusal

_known: set[frozenset[str]] = set()
"""The columns of each model that was loaded in this process."""


def refuse_unknown_columns(columns: Collection[str]) -> None:
    """From now on, refuse other columns in input for the models that read exactly these."""
    from mlflow import pyfunc

    _known.add(frozenset(columns))
    own = getattr(pyfunc, "_enforce_schema", None)
    if own is not None and not hasattr(own, "before"):
        pyfunc._enforce_schema = _checked(own)


def _checked(own: Callable[..., Any]) -> Callable[..., Any]:
    def enforce(data: Any, schema: Any, *rest: Any, **named: Any) -> Any:
        if schema.has_input_names() and frozenset(schema.input_names()) in _known:
            names = _names(data)
            check_columns(names, schema.input_names())
            if not names and len(data):  # MLflow would make a table without rows of it
                raise refusal("expected a value in at least one column, but no row has any")
        return own(data, schema, *rest, **named)

    enforce.before = own  # type: ignore[attr-defined]
    return enforce


def _names(data: Any) -> list[str]:
    """The columns of a table, a mapping of columns, or a list of rows."""
    if isinstance(data, Mapping):
        return [str(name) for name in data]
    if isinstance(data, list):
        return list(dict.fromkeys(str(name) for row in data if isinstance(row, Mapping) for name in row))
    return [str(name) for name in getattr(data, "columns", ())]
