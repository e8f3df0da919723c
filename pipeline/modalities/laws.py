"""What is true of every modality, as checks for the tests of any package that brings one.

`check_modality` goes over all laws with some values of the training rows; the others look at one law each. All raise
AssertionError with what was expected.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interlace import modalities
from interlace.contract.errors import RecordError
from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.base import Fitted, Learner, Modality
from interlace.recipe.fields import AnyField

Value = tuple[Any, ...]
CLOSE = 1e-6
"""Relative difference of sums that were made in another order."""


def check_modality(field: AnyField, values: Sequence[Value], refused: Sequence[Any] = ()) -> Modality:
    """Every law of a modality and of what learns for it.

    Args:
        field: settings; its modality may be one of an installed plug-in.
        values: raw values of the training rows (tuples, as columns of the field), at least two.
        refused: values (tuples) that must be refused with a reason, and that learning passes over.

    Returns:
        The modality that these values give.
    """
    check_learning(lambda: modalities.learner(field), values, passed_over=refused)
    state = learn(lambda: modalities.learner(field), [values])
    made, remade = (modalities.make("f", field, s) for s in (state, json.loads(json.dumps(state))))
    assert made.spec == remade.spec, "expected the same spec from the state after a round trip through JSON"
    for value in values:
        check_value(made, value)
        again = remade.decode(value).tobytes()
        assert made.decode(value).tobytes() == again, f"{value!r}: decoded otherwise after a round trip of the state"
    for value in refused:
        check_refused(made, value)
    return made


def check_value(modality: Modality, value: Value, seed: int = 0) -> Tokens:
    """Tokens are as many as measured, of the shape that the spec says, and decided by the value (and the seed) alone.

    Returns:
        The value's tokens.
    """
    spec, extent = modality.spec, modality.measure(value)
    decoded = modality.decode(value)
    before = decoded.tobytes()
    tokens = modality.encode(decoded)
    check_tokens(spec, tokens)
    assert tokens.grid == modality.grid(extent), f"expected the grid {modality.grid(extent)}, but is {tokens.grid}"
    count = modality.num_tokens(extent)
    assert len(tokens.values) == count, f"expected {count} tokens as measured, but are {len(tokens.values)}"
    again = modality.decode(value)
    assert _same(again, decoded), f"{value!r}: decoded twice, it differs"
    words = modality.token_texts(decoded)
    assert len(words) in (0, count), f"expected a word for each of {count} tokens or none, but are {len(words)}"
    assert all(word is None or isinstance(word, str) for word in words), "expected words to be strings or None"
    varied, twin = (modality.augment(decoded, np.random.default_rng(seed)) for _ in range(2))
    assert _same(varied, twin), "expected `augment` to follow `rng` alone, but two draws of one seed differ"
    assert modality.varies or _same(varied, decoded), "expected `augment` to change nothing, as `varies` says"
    assert decoded.tobytes() == before, "expected `augment` and `encode` to leave what was decoded as it is"
    variant = modality.encode(varied)
    check_tokens(spec, variant)
    assert variant.grid == tokens.grid, f"augmented, the grid {tokens.grid} became {variant.grid}"
    return tokens


def check_tokens(spec: FieldSpec, tokens: Tokens) -> None:
    """The shape, type and range of tokens is what their spec says."""
    values, (rows, columns) = tokens.values, tokens.grid
    assert len(values) == rows * columns, f"expected {rows} x {columns} tokens, but are {len(values)}"
    most = spec.max_grid
    assert rows <= most[0] and columns <= most[1], f"expected a grid of at most {most}, but is {tokens.grid}"  # noqa: PT018
    if spec.kind == "ids":
        assert values.dtype == np.int32, f"expected ids in int32, but are {values.dtype}"
        assert values.ndim == 1, f"expected ids `[n]`, but are {values.shape}"
        inside = not len(values) or 0 <= values.min() <= values.max() < spec.vocab_size
        assert inside, f"expected ids from 0 to below `vocab_size` {spec.vocab_size}, but are {values}"
    else:
        assert values.dtype == np.dtype(spec.patch_dtype), f"expected {spec.patch_dtype}, but are {values.dtype}"
        wide = values.shape[1:] == (spec.patch_dim,)
        assert wide, f"expected patches of {spec.patch_dim} numbers, but are {values.shape}"
        assert np.isfinite(values).all(), "expected finite numbers"
    assert spec.clocked == (tokens.times is not None), "expected times where the spec is `clocked`, and only there"
    if tokens.times is not None:
        timed = tokens.times.dtype == np.float32 and tokens.times.shape == (len(values),)
        assert timed, f"expected a float32 time for each token, but are {tokens.times.dtype} {tokens.times.shape}"
        assert np.isfinite(tokens.times).all(), "expected finite times"


def check_refused(modality: Modality, value: Value) -> str:
    """A value that can't be used is refused with a reason, when it is measured or when it is decoded; the reason."""
    reason = None
    try:
        modality.measure(value)
        modality.decode(value)
    except RecordError as error:
        reason = str(error)
    assert reason is not None, f"expected {value!r} to be refused with a RecordError, but it was taken"
    assert reason, f"expected a reason why {value!r} is refused"
    return reason


def check_learning(
    learner: Callable[[], Learner], values: Sequence[Value], passed_over: Sequence[Value] = ()
) -> Mapping[str, Any]:
    """What is learned is plain JSON, the same each time, and the same however the rows are cut into row groups.

    Also of targets. Numbers may differ by roundings between cuts.

    Args:
        learner: makes one that has learned nothing.
        values: raw values of the training rows.
        passed_over: values that change nothing of what is learned.

    Returns:
        The state that the values give.
    """
    state = learn(learner, [values])
    assert json.loads(json.dumps(state)) == state, "expected plain JSON, but a round trip changes the state"
    assert json.dumps(learn(learner, [values])) == json.dumps(state), "expected the same state from the same values"
    for at in range(1, len(values)):
        parts = learn(learner, [values[:at], values[at:]])
        assert close(parts, state), f"cut before row {at}: expected {state}, but is {parts}"
    idle = learner()
    idle.partial(iter(values))
    idle.merge(json.loads(json.dumps(learner().partial(iter(values)))))
    assert json.dumps(idle.finish()) == json.dumps(state), "expected `partial` to change nothing of its learner"
    with_refused = learn(learner, [[*values, *passed_over]])
    assert close(with_refused, state), f"expected {passed_over!r} to be passed over, but they give {with_refused}"
    return state


def learn(learner: Callable[[], Learner], groups: Sequence[Sequence[Value]]) -> Fitted:
    """The state after so many row groups, each gone over once, its partial sent as JSON."""
    total = learner()
    for values in groups:
        total.merge(json.loads(json.dumps(learner().partial(_once(values)))))
    return total.finish()


def close(one: Any, other: Any) -> bool:
    """Whether two states are the same but for roundings."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=CLOSE, atol=CLOSE, equal_nan=True))
    return bool(one == other)


def _once(values: Sequence[Value]) -> Iterator[Value]:
    yield from values


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return (one.shape, one.dtype, one.tobytes()) == (other.shape, other.dtype, other.tobytes())
