"""The end of a study: no more votes, then the truth beside what was said."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import Connection, insert

from stepvideo.evaluation.votes import write_votes
from stepvideo.preference.session import Session, closed
from stepvideo.preference.store import meta
from stepvideo.preference.study import EXPORTS
from stepvideo.preference.table import IMPORTED, imported_files, vote_rows

VOTES = "votes.csv"


def close(session: Session, folder: Path) -> Path | None:
    """Take no more votes and write `exports/votes.csv` with the models' names; again, it writes the same.

    Returns:
        The table's path; None for labels, which are no votes.

    Raises:
        ArtifactError: it cannot be written; the study is closed all the same.
    """

    def freeze(connection: Connection) -> None:
        if not closed(connection):
            imported = json.dumps(imported_files(folder), sort_keys=True)
            connection.execute(insert(meta).values(name=IMPORTED, value=imported))
            connection.execute(insert(meta).values(name="closed", value=str(session.clock())))

    session.store.write(freeze)
    if session.study.kind == "label":
        return None
    path = folder / EXPORTS / VOTES
    write_votes(path, vote_rows(session, folder, blind=False))
    return path
