"""What differs between runs or artifacts: settings, curves, metrics, videos, cost, lineage. See docs/comparing.md."""
