"""Checkpoints: which of a file's tensors are the network's weights, and whether they can be.

The tensors of a file have dotted names, through its dictionaries: ``state_dict.module.conv.weight``. What training
scripts nest and wrappers prefix is one thing then: whatever comes before a name of the network's own. A beginning
*fits* when every name of the network follows it, with the shape that it has there, and nothing else does.

The rule of choice, when several fit: an exponential moving average comes first (a beginning with the word ``ema``,
``averaged``, ``swa`` or the like, as timm takes it), then the beginnings that are made of `_USUAL` alone, in that
order. What it does not decide is refused, and ``key`` names the one to take. The choice is told in words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from softeq.errors import SofteqError, SofteqValueError
from softeq.measure.loading.files import shard_of
from softeq.measure.loading.tensors import COUNTER, weight, words

_USUAL = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "backbone")
"""The keys and wrappers under which networks are kept, in the order in which they are taken."""
_AVERAGED = frozenset(("ema", "averaged", "average", "avg", "swa", "polyak", "shadow"))
_INNER = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put before the names of the modules that they wrap."""


@dataclass(frozen=True)
class _Fit:
    """A beginning, and how the names behind it agree with the network's."""

    start: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other_shapes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.other_shapes)

    @property
    def averaged(self) -> bool:
        return bool(words(self.start) & _AVERAGED)

    @property
    def place(self) -> str:
        return self.start.rstrip(".") or "the names at the top"

    @property
    def rank(self) -> tuple[int, ...]:
        """What comes first is taken: averages, then the usual beginnings, in order."""
        parts = [part for part in self.start.split(".") if part]
        usual = all(part in _USUAL for part in parts)
        return (not self.averaged, not usual, *((_USUAL.index(part) for part in parts) if usual else ()))


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: str | Path, key: str | None = None) -> str:
    """Put the weights among a checkpoint's tensors into a module, whole or not at all.

    Args:
        module: the network.
        state: tensors by dotted name, as of `read_state_dict`.
        path: where they come from, for the messages.
        key: take what is under this name (``state_dict_ema``, ``state_dict.model``) and nothing else.

    Returns: in words what was taken, by which rule, and what was left.

    Raises:
        SofteqValueError: nothing is under ``key``.
        SofteqError: names or shapes differ, several parts of the file fit equally, or a tensor cannot be a weight
            (NaN, integers, quantised, without values); the message names the first of them.
    """
    if key is not None:
        state = _under(state, key, path)
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    if not own:
        raise SofteqError(f"weights: {type(module).__name__} has no weights that {path} could fill")
    bare = {_INNER.sub("", name): name for name in own}
    given = {_INNER.sub("", name): name for name in state}
    if len(bare) != len(own) or len(given) != len(state):  # two names that differ in a wrapper alone
        bare, given = {name: name for name in own}, {name: name for name in state}
    wanted = {name: own[full] for name, full in bare.items()}
    found = {name: state[full] for name, full in given.items()}
    fits = _fits(wanted, found)
    if not any(fit.fits for fit in fits):  # the network may be wrapped where the file's was not
        shorter = _without_wrapper(wanted)
        others = _fits(shorter, found) if shorter is not None else []
        if shorter is not None and any(fit.fits for fit in others):
            bare = dict(zip(shorter, bare.values(), strict=True))
            wanted, fits = shorter, others
    chosen = _chosen(fits, found, wanted, module, path)
    values = {
        bare[name]: weight(found[chosen.start + name], like, chosen.start + name, path)
        for name, like in wanted.items()
        if chosen.start + name in found
    }
    module.load_state_dict({name: values.get(name, value) for name, value in module.state_dict().items()})
    return _told(chosen, fits, found, key)


def _under(state: Mapping[str, Tensor], key: str, path: str | Path) -> dict[str, Tensor]:
    start = key.rstrip(".") + "."
    held = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    if not held:
        tops = dict.fromkeys(name.partition(".")[0] for name in state if "." in name)
        listed = ", ".join(list(tops)[:8]) or "none"
        raise SofteqValueError(f"weights-key: {path} has nothing under {key!r}; expected one of its keys: {listed}")
    return held


def _without_wrapper(wanted: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The names without a ``module.`` that all of them carry."""
    if not all(name.startswith("module.") for name in wanted):
        return None
    return {name.removeprefix("module."): value for name, value in wanted.items()}


def _fits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[_Fit]:
    """Every beginning that any of the network's names follows, the best first; an ordinal is no wrapper's name."""
    hits: Counter[str] = Counter()
    for name in found:
        parts = name.split(".")
        for i in range(len(parts)):
            start = "".join(f"{part}." for part in parts[:i])
            if ".".join(parts[i:]) in wanted and not any(part.isdecimal() for part in parts[:i]):
                hits[start] += 1
    most = max(hits.values(), default=0)
    likely = [start for start, count in hits.items() if 2 * count >= most][:64]  # layers of the network's own kind
    fits = [_fit(start, wanted, found) for start in likely]
    return sorted(fits, key=lambda fit: (not fit.fits, *((fit.rank) if fit.fits else (-hits[fit.start],))))


def _fit(start: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> _Fit:
    behind = [name.removeprefix(start) for name in found if name.startswith(start)]
    return _Fit(
        start,
        tuple(name for name in wanted if start + name not in found and not name.endswith(COUNTER)),
        tuple(name for name in behind if name not in wanted and not name.endswith(COUNTER)),
        tuple(
            name
            for name, like in wanted.items()
            if start + name in found and found[start + name].shape != like.shape and not name.endswith(COUNTER)
        ),
    )


def _chosen(
    fits: list[_Fit],
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    module: nn.Module,
    path: str | Path,
) -> _Fit:
    good = [fit for fit in fits if fit.fits]
    if not good:
        best = fits[0] if fits else _Fit("", tuple(wanted), tuple(found), ())
        raise SofteqError(_misfit(best, found, wanted, module, path))
    first, equal = good[0], [fit for fit in good if fit.rank == good[0].rank]
    if any(not _same(first, fit, found, wanted) for fit in equal[1:]):
        listed = ", ".join(fit.place for fit in equal)
        raise SofteqError(
            f"weights: several parts of {path} fit {type(module).__name__} ({listed}) and nothing says which is meant:"
            f" name one, as with --weights-key {equal[0].place}"
        )
    return first


def _same(a: _Fit, b: _Fit, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    pairs = [(found.get(a.start + name), found.get(b.start + name)) for name in wanted]
    return all(x is y or (x is not None and y is not None and x.dtype == y.dtype and _equal(x, y)) for x, y in pairs)


def _equal(a: Tensor, b: Tensor) -> bool:
    plain = not any(t.is_meta or t.is_quantized or t.layout != torch.strided for t in (a, b))
    return plain and torch.equal(a, b)


def _misfit(
    fit: _Fit, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], module: nn.Module, path: str | Path
) -> str:
    shard = shard_of(path)
    if shard is not None and fit.missing:
        return f"weights: {path} does not fit {type(module).__name__}: {shard}"
    behind = f", behind the prefix {fit.start!r}" if fit.start else ""
    if fit.missing or fit.unexpected:
        return (
            f"weights: {path} does not fit {type(module).__name__}{behind}: {len(fit.missing)} missing"
            f" ({_some(fit.missing)}), {len(fit.unexpected)} unexpected ({_some(fit.unexpected)})"
        )
    name = fit.other_shapes[0]
    came = tuple(found[fit.start + name].shape)
    return f"weights: {path}: expected {name} of shape {tuple(wanted[name].shape)}, got {came}{behind}"


def _told(chosen: _Fit, fits: list[_Fit], found: Mapping[str, Tensor], key: str | None) -> str:
    """The choice in words; nothing of a file that holds nothing but the weights under their own names."""
    others = [fit for fit in fits if fit.fits and fit is not chosen]
    parts = [f"under {key}"] if key is not None else []
    if chosen.start:
        parts.append(f"{chosen.place}" + (" (averaged weights come first)" if chosen.averaged and others else ""))
    if others:
        parts.append(f"not taken: {', '.join(fit.place for fit in others)}")
    unused = _unused_averages(chosen, fits, found)
    if unused:
        parts.append(f"averaged weights under {', '.join(unused)} do not fit and were not taken")
    seen = tuple(fit.start for fit in [chosen, *others]) if chosen.start else ()
    rest = [name for name in found if seen and not name.startswith(seen)]
    rest = [name for name in rest if not any(name.startswith(f"{place}.") for place in unused)]
    if rest:
        parts.append(f"{len(rest)} other tensors left ({_some(tuple(rest))})")
    return "; ".join(parts)


def _unused_averages(chosen: _Fit, fits: list[_Fit], found: Mapping[str, Tensor]) -> list[str]:
    """Where averages are that nobody could use: without names, or without some of the network's."""
    if not chosen.start or chosen.averaged or any(fit.fits and fit.averaged for fit in fits):
        return []
    places: dict[str, None] = {}
    for name in found:
        parts = name.split(".")[:-1]
        if not name.startswith(chosen.start):
            places |= dict.fromkeys(".".join(parts[: i + 1]) for i, part in enumerate(parts) if words(part) & _AVERAGED)
    return [place for place in places if not any(place.startswith(f"{other}.") for other in places)]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "") if names else "none"
