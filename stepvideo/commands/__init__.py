"""Commands of the pipeline: `flows` and `tasks`, which lie beside the package in a checkout, imported when called.

A module a subject, each with `COMMANDS`. Nothing heavy is imported here: `--help` reads all of them.
"""
