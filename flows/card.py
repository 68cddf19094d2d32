"""`stepvideo card`: a model card or a data card from an artifact's lineage."""

from __future__ import annotations

from pathlib import Path

from flows.card_data import data_card
from flows.card_model import model_card
from flows.lineage import find
from flows.status import store_of
from stepvideo import storage
from stepvideo.errors import ArtifactError

DATA_KINDS = ("raw", "render", "curate", "tags", "captions", "labels", "subsets", "shards", "latents")


def card_command(folder: str | None, ref: str, out: str | None) -> int:
    """Print a card, or write it as README.md into the folder `out`, where model hubs look for it.

    Raises:
        ArtifactError: the name stands for nothing, for neither a model nor data, or the file cannot be written.
    """
    store = store_of(folder)
    artifact = find(store, ref)
    kind = artifact.manifest["kind"]
    if kind in DATA_KINDS:
        text = data_card(store, artifact)
    elif any(n.startswith("transformer/") for n in artifact.manifest["files"]):
        text = model_card(store, artifact)
    else:
        raise ArtifactError(
            f"{ref} is of kind {kind}: neither a model nor data; name a model such as `average`, or `subsets`"
        )
    if out is None:
        print(text, end="")
        return 0
    path = Path(out) / "README.md"
    storage.write_atomic(path, text)
    print(f"{path}\nnext: stepvideo lineage {ref} --clips")
    return 0
