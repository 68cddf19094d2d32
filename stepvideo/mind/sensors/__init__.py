"""What a node agent reads; each sensor gives a part of the snapshot, and nothing where its hardware is not there."""
