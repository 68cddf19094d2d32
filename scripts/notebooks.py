"""Execute the notebooks and keep what they show, without what differs from run to run.

    python scripts/notebooks.py [NAME…]            all of notebooks/, or some: run, clean, write
    python scripts/notebooks.py --check [NAME…]    run; tell where the stored answer is not what the code gives now

Every notebook ends by printing its answer as JSON, and shows one picture. Its metadata holds the digest of its code, so
that a stored picture can be told from one of other code without running anything.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
MOST_PICTURE = 150_000  # bytes: GitHub shows it, and the repository stays small
TIMEOUT_S = 600
RELATIVE, ABSOLUTE = 0.02, 0.005  # processors round differently
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(path: Path, timeout_s: int = TIMEOUT_S) -> Any:
    """The notebook of this file, run from its first cell in a kernel of its own.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    found = nbformat.read(path, as_version=4)
    for cell in _code(found):
        cell.outputs, cell.execution_count = [], None
    env = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # pictures go into the notebook
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(found, timeout=timeout_s, kernel_name="python3", resources=resources).execute(env=env)
    return found


def cleaned(notebook: Any) -> Any:
    """Without times, and with names of cells that do not change.

    Raises:
        ValueError: an output is an error or a warning, tells a place on this machine, or is too large a picture.
    """
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i + 1:02d}", {}
    for n, cell in enumerate(_code(notebook)):
        cell.execution_count = n + 1
        cell.outputs = _joined(cell.outputs)
        for output in cell.outputs:
            _check(output, cell.id)
            if output.output_type == "execute_result":
                output.execution_count = n + 1
            output.pop("metadata", None)
            if output.output_type != "stream":
                output["metadata"] = {}
    language = {"name": "python"}
    notebook.metadata = {"kernelspec": KERNEL, "language_info": language, "stepvideo": {"code": code_digest(notebook)}}
    return notebook


def answer(notebook: Any) -> dict[str, Any]:
    """What its last code cell printed."""
    texts = [o.text for o in list(_code(notebook))[-1].outputs if o.output_type == "stream"]
    return json.loads("".join(texts))


def pictures(notebook: Any) -> list[bytes]:
    """All that its cells show, as PNG."""
    shown = [o for cell in _code(notebook) for o in cell.outputs if o.output_type in ("display_data", "execute_result")]
    return [base64.b64decode(o.data["image/png"]) for o in shown if "image/png" in o.data]


def code_digest(notebook: Any) -> str:
    """Of the code, not of the words between."""
    return hashlib.sha256("\0".join(cell.source for cell in _code(notebook)).encode()).hexdigest()


def differences(stored: Any, now: Any, name: str = "answer") -> list[str]:
    """Where two answers differ by more than processors' rounding."""
    if isinstance(stored, dict) and isinstance(now, dict):
        if stored.keys() != now.keys():
            return [f"{name}: {', '.join(sorted(stored.keys() ^ now.keys()))} on one side only"]
        return [d for k in stored for d in differences(stored[k], now[k], f"{name}.{k}")]
    if isinstance(stored, list) and isinstance(now, list):
        if len(stored) != len(now):
            return [f"{name}: {len(stored)} values stored, {len(now)} now"]
        return [d for i, (a, b) in enumerate(zip(stored, now)) for d in differences(a, b, f"{name}[{i}]")]
    if isinstance(stored, float) and isinstance(now, int | float):
        same = math.isclose(stored, now, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    else:
        same = type(stored) is type(now) and stored == now
    if same:
        return []
    return [f"{name}: {stored} stored, {now} now"]


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _joined(outputs: list[Any]) -> list[Any]:
    """Text that came in pieces as one: where it was cut is chance."""
    out: list[Any] = []
    for output in outputs:
        if out and output.output_type == out[-1].output_type == "stream" and output.name == out[-1].name:
            out[-1].text += output.text
        else:
            out.append(output)
    return out


def _check(output: Any, where: str) -> None:
    if output.output_type == "error" or output.get("name") == "stderr":
        raise ValueError(f"{where} warns or fails: {output.get('text') or output.get('evalue')}")
    texts = [output.text] if output.output_type == "stream" else [v for v in output.data.values() if isinstance(v, str)]
    if any(str(FOLDER.parent) in t for t in texts):
        raise ValueError(f"{where} tells where the repository lies on this machine; print names, not paths")
    if output.output_type != "stream" and len(output.data.get("image/png", "")) * 3 / 4 > MOST_PICTURE:
        raise ValueError(f"{where} shows a picture of more than {MOST_PICTURE} bytes; make it smaller")


def main(arguments: list[str]) -> int:
    import nbformat

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="of notebooks, without .ipynb; default: all")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where an answer is another now")
    asked = parser.parse_args(arguments)
    known = {p.stem: p for p in sorted(FOLDER.glob("*.ipynb"))}
    if unknown := [n for n in asked.names if n not in known]:
        parser.error(f"no notebook {unknown[0]!r}; there are {', '.join(known)}")
    wrong = 0
    for name in asked.names or known:
        now = cleaned(execute(known[name]))
        if asked.check:
            stored = nbformat.read(known[name], as_version=4)
            found = differences(answer(stored), answer(now))
            if stored.metadata.get("stepvideo") != now.metadata["stepvideo"]:
                found.append("the code was changed since it was run")
            print(f"{name}: {'; '.join(found) or 'as stored'}")
            wrong += bool(found)
        else:
            nbformat.validate(now)
            known[name].write_text(nbformat.writes(now) + "\n", encoding="utf-8")
            print(f"{name}: {len(pictures(now)[0])} bytes of picture, {json.dumps(answer(now))[:200]}")
    if asked.check and wrong:
        print("run `python scripts/notebooks.py` and look at what changed before you commit it")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
