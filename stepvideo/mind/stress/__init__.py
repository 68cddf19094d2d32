"""Stress tests of a node and of the links between nodes, held against what the fleet does (report §6.5)."""
