"""The `mica` command. It reads arguments and calls; everything it does can be called from Python too."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from mica.cli import comparison, data, evaluation, models, parsers
from mica.errors import InputError, Interrupted

COMMANDS = {
    "prepare": data.prepare,
    "inspect": data.inspect,
    "convert": data.convert,
    "export": data.export,
    "layouts": data.layouts,
    "compare": comparison.compare,
    "evaluate": evaluation.evaluate,
    "embed": models.embed,
    "predict": models.predict,
    "export-encoder": models.export_encoder,
    "report": models.report,
}
PRETRAIN = (
    "Pretrain on the training part of a store. Start from a recipe and override what you like: "
    "mica pretrain --config mica/nw-ucla --data nw-ucla.arrow --out runs/a --optimizer.epochs 20. "
    "On several GPUs: accelerate launch -m mica pretrain ..., or torchrun --nproc-per-node 8 -m mica pretrain .... "
    "After a kill, a crash or Ctrl-C: the same command with --resume (docs/scaling.md)."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `mica` with `argv`; exits with status 2 on bad input, without a traceback."""
    with _while_someone_reads():
        _main(list(sys.argv[1:] if argv is None else argv))


@contextmanager
def _while_someone_reads() -> Iterator[None]:
    """End quietly where what we print goes to a program that has gone, as `head` does once it has seen enough."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # else Python does so on its way out, and complains
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _main(arguments: list[str]) -> None:
    try:
        run(make_parser(arguments).parse_args(_with_recipe_files(arguments)))
    except InputError as error:
        print(f"mica: error: {error}", file=sys.stderr)
        sys.exit(2)
    except ArgumentError as error:
        problem = " ".join(str(error).split())
        print(f"mica: error: {problem}\n  hint: add --help to see what is accepted", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"mica: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mica: stopped", file=sys.stderr)
        sys.exit(130)
    except Interrupted as interrupted:
        if _is_first_process():
            print(f"\nmica: {interrupted}\n  go on with: {_resuming(arguments)}", file=sys.stderr)
        sys.exit(interrupted.status)


def _resuming(arguments: list[str]) -> str:
    """The command that goes on with what `arguments` began."""
    if arguments[0] == "compare":
        return f"the same command: mica {shlex.join(arguments)}"
    kept = [argument for argument in arguments if argument not in ("--overwrite", "--resume")]
    if arguments[0] == "demo":
        return f"the same command, which begins anew: mica {shlex.join([*kept, '--overwrite'])}"
    processes = os.environ.get("WORLD_SIZE", "1")
    launch = "" if processes == "1" else f"(launched on {processes} processes as before, or on any number) "
    return f"{launch}mica {shlex.join([*kept, '--resume'])}"


def run(arguments: Namespace) -> None:
    """Call what the parsed arguments ask for. Heavy modules are imported here, so that --help answers at once."""
    command, options = arguments.subcommand, arguments[arguments.subcommand]
    if command == "doctor":
        from mica.doctor import examine

        print(examine())
    elif command == "demo":
        from mica.demo import demo

        demo(options.out, overwrite=options.overwrite)
    elif command == "pretrain":
        _pretrain(options)
    else:
        COMMANDS[command](options)


def _pretrain(options: Namespace) -> None:
    from mica.configs import read_config
    from mica.data.store import Store
    from mica.training.loop import pretrain

    config, store = read_config(options), Store.open(options.data)
    pretrain(
        config,
        store,
        Path(options.out),
        overwrite=options.overwrite,
        resume=options.resume,
        profile=options.profile,
    )
    if _is_first_process():
        command = ["mica", "evaluate", "linear", "--run", options.out, "--data", options.data]
        print(f"run: {options.out}\nnext: {shlex.join(command)}")


def _is_first_process() -> bool:
    """Of those that `accelerate launch` or `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def make_parser(arguments: Sequence[str] = ("pretrain",)) -> ArgumentParser:
    """Return the parser of all commands; that of `pretrain` knows its settings only if `arguments` ask for it.

    They come from the model's own classes, and so from PyTorch, which takes seconds to load: other commands, and the
    processes that read raw files, do without.
    """
    parser = parsers.make("Language-skeleton contrastive pretraining for action recognition.", prog="mica")
    commands = parser.add_subcommands(dest="subcommand", title="commands")
    commands.add_subcommand("demo", _demo_parser(), help="pretrain, evaluate and explain, on made-up motion")
    data.add_commands(commands)
    pretrain = parsers.make(PRETRAIN)
    commands.add_subcommand("pretrain", pretrain, help="train an encoder on a store")
    if "pretrain" in arguments:
        _add_settings(pretrain)
    evaluation.add_command(commands)
    comparison.add_command(commands)
    models.add_commands(commands)
    examined = parsers.make("Show versions, the device, and which kernels run, and why.")
    commands.add_subcommand("doctor", examined, help="versions, device, and which kernels run, and why")
    return parser


def _demo_parser() -> ArgumentParser:
    parser = parsers.make("The whole method on synthetic motion, in a few minutes on two cores.")
    parser.add_argument(
        "--out", type=str, default="runs/demo", help="directory for the store, run and report"
    )
    parsers.add_overwrite(parser)
    return parser


def _add_settings(parser: ArgumentParser) -> None:
    from mica.configs import add_config, datasets, methods

    recipes = f"METHOD ({', '.join(methods())}), a slash, DATASET ({', '.join(datasets())}) or a YAML file"
    parser.add_argument(
        "--config", action="config", help=f"a recipe: {recipes}; or a YAML file that says all"
    )
    parsers.add_data(parser)
    parser.add_argument("--out", type=str, required=True, help="run directory to create")
    parsers.add_overwrite(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out from its last save, or begin it",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="measure ten steps: profile.txt and trace.json in the run directory",
    )
    add_config(parser)


def _with_recipe_files(arguments: list[str]) -> list[str]:
    """Replace the name of a shipped recipe behind --config by its files, checked, so that an error names one."""
    out: list[str] = []
    for argument in arguments:
        if out and out[-1] == "--config":
            out[-1:] = _checked_recipe(argument)
        elif argument.startswith("--config="):
            out += _checked_recipe(argument.removeprefix("--config="))
        else:
            out.append(argument)
    return out


def _checked_recipe(name: str) -> list[str]:
    from mica.configs import find_recipe, load_config

    load_config(name)
    return [f"--config={file}" for file in find_recipe(name)]
