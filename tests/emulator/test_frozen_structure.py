"""The structure of the cost model is frozen: what costs are computed from does not change unnoticed.

Held-out errors do not correct for a structure that was chosen on the same files (docs/decisions/012-step-emulator.md),
so every change of it is counted, with the errors it gave, in `structures.yaml` beside this file.
"""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stepvideo.emulator import fit, measured, validate
from stepvideo.emulator.calibration import Calibration, ranges

EMULATOR = Path(validate.__file__).parent
RECORD = Path(__file__).with_name("structures.yaml")
MODULES = {  # None: all of it
    "compute": None,
    "communication": None,
    "step": None,
    "schedule": ("valid", "pipeline_time"),
    "workload": None,
    "networks": None,
    "plan": ("Plan",),
    "measured": ("_gpt", "_gpt_plan", "_llama", "_llama_plan", "_activations_overflow"),
    "fit": ("predict", "solve"),
}


def bare(source: str, names: tuple[str, ...] | None) -> str:
    """The code without comments, docstrings, imports and what is beside the `names`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    kept = [n for n in tree.body if not isinstance(n, ast.Import | ast.ImportFrom)]
    if names is not None:
        kept = [n for n in kept if getattr(n, "name", "") in names]
        assert {n.name for n in kept} == set(names), f"gone: {set(names) - {n.name for n in kept}}"  # type: ignore
    return ast.unparse(ast.Module(kept, []))


def digest() -> str:
    code = {m: bare((EMULATOR / f"{m}.py").read_text(), names) for m, names in MODULES.items()}
    constants = {n: (getattr(Calibration(), n), *limits) for n, limits in ranges().items()}
    forms = [(dict(f.known), f.fitted, f.may_recompute, f.by_layout) for f in measured.FORMS]
    told = json.dumps([code, constants, forms, measured.BETWEEN_NODES, fit.ROW, fit.PRIOR], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def test_the_structure_is_the_one_whose_errors_are_on_record():
    record: Any = OmegaConf.to_container(OmegaConf.load(RECORD))
    last = record[-1]
    assert digest() == last["digest"], (
        "A cost of the Step Emulator changed. Run `stepvideo emulate validate` on the three files of "
        f"shared/emulator_data and add an entry to {RECORD.name}: variant {last['variant'] + 1}, digest {digest()}, "
        "why, and the three errors; count it in `VARIANTS` (stepvideo/emulator/validate.py) and name it in "
        "docs/decisions/012-step-emulator.md. "
        "If only the form of the code changed and all three errors are the same to the last digit, replace the digest."
    )
    assert validate.VARIANTS == last["variant"]


def test_the_digest_sees_costs_and_not_comments():
    source = 'import x\nA = 1  # why\ndef f(y):\n    """Says."""\n    return 2 * y\n'
    assert bare(source, None) == bare(source.replace("# why", "").replace("Says", "Tells"), None)
    assert bare(source, None) != bare(source.replace("2 * y", "3 * y"), None)
    assert bare(source, ("f",)) == bare(source.replace("A = 1", "A = 2"), ("f",))
