"""The errors that a person can act on."""

from __future__ import annotations

from os import PathLike


class InputError(ValueError):
    """Something that the user gave us is wrong: a file, a clip in it, a field of that, a setting.

    The message names the place from coarse to fine and, where we know one, the way out. The command line prints it
    without a traceback and exits with status 2.

    >>> print(InputError("19 joints, expected 20", file="a01.json", clip="a01_s01", hint="fetch it again"))
    a01.json: clip a01_s01: 19 joints, expected 20
      hint: fetch it again
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | PathLike[str] | None = None,
        clip: str | None = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem, self.file, self.clip, self.field, self.hint = problem, file, clip, field, hint
        where = [str(file)] if file is not None else []
        where += [f"clip {clip}"] if clip is not None else []
        where += [f"field '{field}'"] if field is not None else []
        message = ": ".join([*where, problem])
        super().__init__(message if hint is None else f"{message}\n  hint: {hint}")


class Interrupted(Exception):
    """Long work was asked to stop, has saved, and can be gone on with.

    Attributes:
        status: what a shell expects of a process that a signal of this `number` ended.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number
