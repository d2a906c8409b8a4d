"""The spectral gate: a learned filter over temporal frequencies with an exact off-switch."""
