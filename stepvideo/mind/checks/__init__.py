"""Health checks of a node: small, named, each with a bound on its time and the command that mends what it finds."""
