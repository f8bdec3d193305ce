"""Rules that do not look at the data: a fixed prior, and one that is loosened and tightened by a schedule."""

from __future__ import annotations

from softeq.strength._rule import Rule


class Fixed(Rule):
    """The prior that is given, ``prior=Prior(...)``, through the prior step (Finzi, Benton, Wilson 2021).

    Hard layers and free ones take it too, so that baselines run through the same loop. Two free numbers.
    """

    name = "fixed"
