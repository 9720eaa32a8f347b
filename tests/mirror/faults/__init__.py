"""The faults of the mirror by kind: one small class each. `tests/mirror/scenarios.py` names them."""
