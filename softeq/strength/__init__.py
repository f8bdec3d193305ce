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
from softeq.strength._optimizers import SUPPORTED
from softeq.strength._rule import LIKELIHOODS, Rule
from softeq.strength._schedules import Fixed

RULES: dict[str, type[Rule]] = {kind.name: kind for kind in (Fixed,)}
"""The rules by name."""

DEFAULT = "fixed"
"""The rule that stands best over all families of the benchmark."""

__all__ = ["DEFAULT", "LIKELIHOODS", "RULES", "SUPPORTED", "Rule", "rule"]


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
    known = [p for p in inspect.signature(kind).parameters if p not in ("model", "samples", "likelihood")]
    if unknown := sorted(set(options) - set(known)):
        raise SofteqValueError(f"{name}: expected options among {', '.join(known)}, got {', '.join(unknown)}")
    try:
        return kind(model, samples=samples, likelihood=likelihood, **options)
    except TypeError as error:
        if isinstance(error, SofteqTypeError):
            raise
        raise SofteqTypeError(f"{name}: {error}") from error
