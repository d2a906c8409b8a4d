"""Made-up people performing everyday actions, for examples and tests that need no download."""

from mica.data.synthetic.actions import CLASS_NAMES
from mica.data.synthetic.generate import generate

__all__ = ["CLASS_NAMES", "generate"]
