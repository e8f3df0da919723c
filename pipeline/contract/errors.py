"""Every error a user can cause, one class a kind: what was expected, what it is, where, and which knob.

Exceptions cross processes (Ray pickles them), so each hands its arguments to `super().__init__` and builds its text in
`__str__`.
"""


class InterlaceError(Exception):
    """Base of all errors that are the input's fault; the command line prints them without a traceback."""


class RecipeError(InterlaceError):
    """A recipe with one or more errors.

    Args:
        errors: one line an error, each `dotted.path: what was expected, what it is`.
        source: the file or object the recipe came from.
    """

    def __init__(self, errors: tuple[str, ...], source: str = "recipe") -> None:
        super().__init__(errors, source)
        self.errors = errors
        self.source = source

    def __str__(self) -> str:
        head = f"{self.source}: {len(self.errors)} error{'s' if len(self.errors) != 1 else ''}"
        return "\n  - ".join([head, *self.errors])


class PluginError(InterlaceError):
    """What another installed package brings can't be used: its entry point, its settings, or a part of it."""


class DataError(InterlaceError):
    """A source that can't be read as the recipe says: missing file, damaged Parquet, missing column, wrong type."""


class RecordError(InterlaceError):
    """One record that can't be used; caught at the sample boundary, counted and listed, never fatal by itself."""


class BadShareError(InterlaceError):
    """More records are bad than `max_bad_share` allows."""


class PositionError(InterlaceError):
    """A pack arrived at another position than the plan says; the run stops before it trains on it."""


class CheckpointError(InterlaceError):
    """A checkpoint that is incomplete or damaged."""


class StartError(InterlaceError):
    """What a run shall start from can't serve: it is not there, or its settings or shapes are others.

    Args:
        setting: the part of the recipe that asks for it.
        errors: one line each.
    """

    def __init__(self, setting: str, errors: tuple[str, ...]) -> None:
        super().__init__(setting, errors)
        self.setting = setting
        self.errors = errors

    def __str__(self) -> str:
        return "\n  - ".join([f"{self.setting}: can't start from there", *self.errors])


class ResumeError(InterlaceError):
    """A run or a prepared folder that may not go on under this name: its data or settings differ from the recipe's."""


class NonFiniteLossError(InterlaceError):
    """The loss or gradient became NaN or infinite; that step changed no weights, so they are still good."""


class StoppedError(Exception):
    """A run that was asked to end and did, with a checkpoint: no fault of anyone's, the same command goes on.

    Args:
        step: of the checkpoint.
        num_steps: of the whole run.
        by_hand: asked by Ctrl-C, not by SIGTERM.
    """

    def __init__(self, step: int, num_steps: int, *, by_hand: bool = False) -> None:
        super().__init__(step, num_steps)
        self.step = step
        self.num_steps = num_steps
        self.by_hand = by_hand

    def __str__(self) -> str:
        return f"stopped after step {self.step} of {self.num_steps}; the same command goes on from there"
