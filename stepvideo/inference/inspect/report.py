"""A survey for people."""

from __future__ import annotations

from stepvideo.inference.inspect.gpu import Verdict
from stepvideo.inference.inspect.survey import Part, Survey

GIB = 2**30


def report(found: Survey, verdicts: list[Verdict]) -> str:
    """Several lines: what it is, a paragraph a part, the verdict."""
    lines = [f"{found.root}: {found.kind}", ""]
    for part in found.parts:
        lines += _part(part)
    if found.others:
        lines += ["also: " + ", ".join(found.others)]
    lines += ["", *(_verdict(v) for v in verdicts)]
    if found.ok:
        lines.append(f"complete; usable for: {'; '.join(found.usable) or 'nothing alone'}")
    else:
        lines += [f"damaged or not matching, {len(found.problems)} problems:", *(f"  {p}" for p in found.problems)]
    return "\n".join(lines)


def _part(part: Part) -> list[str]:
    where = f" ({part.folder}/)" if part.folder else ""
    lines = [f"{part.name}{where}: {_files(part)}"]
    if part.dtypes:
        shares = ", ".join(f"{k}" if len(part.dtypes) == 1 else f"{k} {n:,}" for k, n in part.dtypes.items())
        lines[0] += f", {part.parameters:,} parameters, {shares}"
    if part.unlike_released:
        differs = ", ".join(f"{k} {here} ({there})" for k, (here, there) in part.unlike_released.items())
        lines.append(f"  config, where it is not the released one: {differs}")
    elif part.unlike_released is not None:
        lines.append("  config: the released one")
    if not part.folder:
        lines.append("  " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in part.config.items()))
    if part.deep:
        lines.append(f"  sha256 of all tensors {part.deep['sha256']}")
    lines += [f"  {note}" for note in part.notes]
    lines += [f"  PROBLEM {problem}" for problem in part.problems]
    return lines


def _files(part: Part) -> str:
    size = f"{part.size / 1e9:.2f} GB" if part.size >= 1e8 else f"{part.size / 1e6:.2f} MB"
    return f"{part.files} file{'s' * (part.files != 1)}, {size}"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _verdict(v: Verdict) -> str:
    if v.fits is None:
        return f"{v.job} on {v.gpu:g} GB cannot be predicted: {v.how}"
    fits = "fits" if v.fits else "does not fit"
    given = f" (taken: {', '.join(v.assumed)})" if v.assumed else ""
    return f"{v.job} {fits} {v.gpu:g} GB: {_gib(v.needs)} predicted; {v.how}{given}"
