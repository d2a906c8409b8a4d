"""One self-contained HTML page about a run: its numbers, curves, confusions, embeddings and gate."""

from mica.report.page import write_report

__all__ = ["write_report"]
