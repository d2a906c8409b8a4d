"""What the names of joints say: on which side of the body a joint lies, in which limb, and which joint it is.

Our own names are words, "left shoulder". Files name joints as their makers liked: "mixamorig:LeftUpLeg", "rfemur",
"l_knee", "arm.L", "Bip01 L Thigh". Motion capture names a joint after the bone that begins in it, so that its "LeftLeg"
is the knee.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

Side = Literal["left", "right", ""]
SIDES = ("left", "right")

_SIDE_WORDS: dict[str, Side] = {"left": "left", "l": "left", "right": "right", "r": "right"}
_WORD = re.compile(r"^[LR](?=[A-Z][A-Z]?[a-z])|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")

_LEG = (
    *("hip", "thigh", "femur", "upleg", "leg", "knee", "shin", "calf", "tibia", "fibula"),
    *("ankle", "foot", "heel", "toe", "ball"),
)
_ARM = (
    *("collar", "clavicle", "scapula", "shoulder", "shldr", "arm", "humerus", "elbow", "radius", "ulna"),
    *("wrist", "hand", "palm", "finger", "thumb", "index", "middle", "ring", "pinky"),
)
_OTHER = ("up", "low", "fore", "eye", "ear", "brow")
# "lfemur": a side glued to a word that we know, which "lowerback" is not.
_GLUED = re.compile(rf"(left|right|[lr](?={'|'.join((*_LEG, *_ARM, *_OTHER))}))(.+)")

# For each joint of a limb the names it may have, most telling first; what one joint took is not free for the next.
_LIMB_JOINTS = {
    "shoulder": ("upperarm", "uparm", "uarm", "arm", "humerus", "shldr", "shoulder"),
    "collar": ("collar", "clavicle", "shoulder"),
    "elbow": ("elbow", "forearm", "lowerarm", "farm", "radius"),
    "wrist": ("wrist", "hand"),
    "hip": ("upleg", "upperleg", "uleg", "thigh", "femur", "hip"),
    "knee": ("knee", "lowerleg", "shin", "calf", "tibia", "leg"),
    "ankle": ("ankle", "foot"),
    "foot": ("foot", "toebase", "toes", "toe"),
}


class Parsed(NamedTuple):
    """A joint's name taken apart: the side it names, "" if none, and its other words in lower case."""

    side: Side
    words: tuple[str, ...]


@lru_cache(maxsize=1024)
def parse(name: str) -> Parsed:
    """Find the side in a joint's name.

    >>> parse("mixamorig:LeftUpLeg")
    Parsed(side='left', words=('up', 'leg'))
    >>> parse("rfemur"), parse("LowerBack")
    (Parsed(side='right', words=('femur',)), Parsed(side='', words=('lower', 'back')))
    """
    words = tuple(word.lower() for word in _WORD.findall(name.rsplit(":", 1)[-1]))
    places = [at for at, word in enumerate(words) if word in _SIDE_WORDS]
    if len(places) == 1:
        at = places[0]
        # What stands before a side in the middle names the rig: "Bip01 L Thigh".
        others = words[at + 1 :] if at < len(words) - 1 else words[:at]
        if any(len(word) > 1 and word.isalpha() for word in others):  # "L5" is a vertebra
            return Parsed(_SIDE_WORDS[words[at]], others)
    if not places and words and (glued := _GLUED.fullmatch(words[0])):
        return Parsed(_SIDE_WORDS[glued[1]], (glued[2], *words[1:]))
    return Parsed("", words)


def limb(name: str) -> Literal["arm", "leg", ""]:
    """Return the limb that a name speaks of, "" if none.

    >>> limb("left foot index"), limb("LeftForeArm"), limb("left ear")
    ('leg', 'arm', '')
    """
    text = "".join(parse(name).words)
    if any(word in text for word in _LEG):
        return "leg"
    return "arm" if any(word in text for word in _ARM) else ""


def standard_names(joints: Sequence[str]) -> tuple[str, ...]:
    """Return what we would call the joints of one body; a name that we do not know becomes its words.

    >>> standard_names(["Hips", "LeftShoulder", "LeftArm", "LeftForeArm", "LeftHand"])
    ('hips', 'left collar', 'left shoulder', 'left elbow', 'left wrist')
    >>> standard_names(["left shoulder", "left wrist", "left hand"])
    ('left shoulder', 'left wrist', 'left hand')
    """
    parsed = [parse(name) for name in joints]
    spelt = [" ".join((side, *words) if side else words) for side, words in parsed]
    names = [words or name for words, name in zip(spelt, joints, strict=True)]
    for side in SIDES:
        free = {"".join(words): joint for joint, (own, words) in enumerate(parsed) if own == side}
        for standard, candidates in _LIMB_JOINTS.items():
            found = next((word for word in candidates if word in free), None)
            if found is not None:
                names[free.pop(found)] = f"{side} {standard}"
    if "spine 1" in names:  # the first of a chain of spines lies lower than what we call the spine
        names = ["spine 0" if name == "spine" else name for name in names]
    return tuple(names)
