"""How strong the prior is: the prior's part of a training step, and rules that choose the precision from the data.

    rule = softeq.strength.rule("fixed", model, samples=n_train, prior=Prior(residual=100.0))
    for x, y in loader:
        optimizer.zero_grad()
        with rule.perturbed():
            output = model(x)
            loss = criterion(output, y)  # of the data alone, a mean over samples
        rule.backward(loss, output)
        optimizer.step()
        rule.step(optimizer)

The prior step. A prior ``c / 2 ||w - m||^2`` in the loss is not what an adaptive optimizer makes of it: Adam divides
the gradient by its own size, so that a large c moves every weight by the learning rate whatever it weighs, and clipping
gives it the whole gradient. Here the optimizer sees the data's gradient g alone and moves w by ``- rate g / D``; then
the prior acts as its proximal map in the same metric,

    w <- m + (w - m) / (1 + rate c / D),

with D = sqrt(v_hat) + eps and rate = lr for Adam and its kin, D = 1 and rate = lr (1 - dampening) / (1 - momentum) for
SGD. Its fixed points are those of the penalised loss, ``g + c (w - m) = 0``; it never overshoots; and for c to infinity
it leaves w = m, the hard network. (Decoupled decay, as AdamW's, has other fixed points.) Optimizers: torch's SGD, Adam,
AdamW, NAdam, RAdam, in all their forms. AdamW's own decay is taken back on priced parameters: the prior wins.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.strength._dual import Dual, Validation
from softeq.strength._evidence_rules import GroupLasso, MacKay, Variational
from softeq.strength._halving import Halving
from softeq.strength._optimizers import SUPPORTED
from softeq.strength._plot import plot
from softeq.strength._remul import Remul
from softeq.strength._rule import LIKELIHOODS, Rule
from softeq.strength._schedules import Annealed, Fixed
from softeq.strength.evidence import best_run, log_evidence

_KINDS: tuple[type[Rule], ...] = (Fixed, Annealed, Variational, MacKay, GroupLasso, Dual, Remul, Validation, Halving)
RULES: dict[str, type[Rule]] = {kind.name: kind for kind in _KINDS}
"""The rules by name."""

DEFAULT = "variational"
"""The rule that stands best in the records of the benchmark, and where it does not: see the page on strength."""

__all__ = ["DEFAULT", "LIKELIHOODS", "RULES", "SUPPORTED", "Rule", "best_run", "log_evidence", "plot", "rule"]


def rule(name: str, model: nn.Module, *, samples: int, likelihood: str = "gaussian", **options: Any) -> Rule:
    """The rule with this name for a model.

    Args:
        name: one of `RULES`; ``softeq.strength.DEFAULT`` where you have no reason for another.
        model: with soft layers; wrapped (DDP, ``torch.compile``) or not. Build the rule after loading weights.
        samples: how many training samples there are.
        likelihood: ``"gaussian"`` for squared errors, ``"categorical"`` for cross-entropy.
        options: of the rule, see its class.

    Raises:
        SofteqValueError: an unknown rule or option, or a value out of its range.
        SofteqTypeError: an argument of a wrong type.
    """
    if name not in RULES:
        raise SofteqValueError(f"name: expected one of {', '.join(RULES)}, got {name!r}")
    kind = RULES[name]
    known = options_of(kind)
    if unknown := sorted(set(options) - set(known)):
        raise SofteqValueError(f"{name}: expected options among {', '.join(known)}, got {', '.join(unknown)}")
    try:
        return kind(model, samples=samples, likelihood=likelihood, **options)
    except TypeError as error:
        if isinstance(error, SofteqTypeError):
            raise
        raise SofteqTypeError(f"{name}: {error}") from error


def options_of(kind: type[Rule]) -> list[str]:
    """The names of a rule's options, those that it hands on to its base included."""
    known: list[str] = []
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = inspect.signature(base).parameters.values()
        known += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in known]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in known if name not in ("samples", "likelihood")]
