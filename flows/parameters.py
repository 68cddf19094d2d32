"""What the parameters of flows may be, for Prefect's UI and API (JSON Schema), and how they become settings.

Their explanations are in the docstrings of the flows, where Prefect looks for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from flows.compose import ROOT, chosen, near

GROUPS = ("profile", "cluster", "tracking")
NAME_LENGTH = 100  # characters of a flow run's name
_PLACES = ("store", "work", "data", "graph", "runtime", *GROUPS)  # settings that say where and how, and not what


def choices(group: str) -> list[str]:
    """The files of a group of `conf/`."""
    return sorted(p.stem for p in (ROOT / "conf" / group).glob("*.yaml"))


def _known(group: str) -> AfterValidator:
    known = choices(group)

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"{group} is {value!r}{near(value, known)}")
        return value

    return AfterValidator(check)


def _shown(group: str) -> Any:
    return Field(json_schema_extra={"enum": list(choices(group))})


Setting = Annotated[str, Field(pattern=r"^(~\S+|[^\s=]+=[\s\S]*)$", json_schema_extra={"placeholder": "key=value"})]
Overrides = list[Setting] | None
Until = str | None
Profile = Annotated[str, _known("profile"), _shown("profile")]
Cluster = Annotated[str, _known("cluster"), _shown("cluster")]
Tracking = Annotated[str, _known("tracking"), _shown("tracking")]


def settings(overrides: Sequence[str] | None, **groups: str) -> list[str]:
    """Overrides with a choice of each group in front; what `overrides` chooses wins."""
    given = list(overrides or [])
    return [f"{k}={v}" for k, v in groups.items() if not chosen(given, k, "")] + given


def groups(overrides: Sequence[str]) -> dict[str, str]:
    """What `overrides` choose of each group, for the parameters of that name."""
    return {name: value for name in GROUPS if (value := chosen(list(overrides), name, ""))}


def in_words(overrides: Sequence[str] | None, until: str | None = None, **groups: str) -> str:
    """The name of a run: its profile, what is set apart from it, where it ends: "smoke sft.steps=50 until sft"."""
    given = settings(overrides, **groups)
    said = [chosen(given, "profile", "micro")]
    cluster = chosen(given, "cluster", "local")
    said += [f"on {cluster}"] if cluster != "local" else []
    said += [o.removeprefix("stages.") for o in given if re.split("[.=]", o)[0] not in _PLACES]
    end = f" until {until}" if until else ""
    name = " ".join(said)
    return (name if len(name + end) <= NAME_LENGTH else name[: NAME_LENGTH - len(end) - 2] + " …") + end
