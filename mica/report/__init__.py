"""Self-contained HTML pages about a run, or several: numbers, curves, confusions, embeddings and gates."""

from mica.report.compare import write_comparison
from mica.report.page import write_report

__all__ = ["write_comparison", "write_report"]
