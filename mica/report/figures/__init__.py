"""Pictures: charts, maps and bodies on one canvas."""
