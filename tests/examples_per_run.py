"""How many random examples a property test tries: few and always the same, or many new ones.

`make test` tries the few. `make test-all` sets TFAP_EXAMPLES: every property test then tries its fraction of
that number, drawn from the seed that `make` prints.
"""

import os

LONG = int(os.environ.get("TFAP_EXAMPLES", "0"))


def examples(few, fraction=1.0):
    """Returns the examples of a property test: `few`, or a fraction of TFAP_EXAMPLES if it is set."""
    return max(few, round(fraction * LONG)) if LONG else few
