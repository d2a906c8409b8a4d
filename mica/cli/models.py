"""The commands that use a pretrained model: embed, predict, export-encoder, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from mica.cli import parsers
from mica.cli.data import UNITS

_MODEL = "run directory, checkpoint directory, or id on the Hugging Face hub"
_FILES = "a clip each: .npy, .npz, .csv or .bvh, or .skeleton (NTU RGB+D), .json (NW-UCLA), .mat (UTD-MHAD)"


def add_commands(commands: Any) -> None:
    """Give the commands that use a model their parsers."""
    commands.add_subcommand("embed", _embed_parser(), help="features of a store or of your own clips")
    commands.add_subcommand("predict", _predict_parser(), help="what a clip shows, by words or a head")
    commands.add_subcommand(
        "export-encoder", _export_parser(), help="the encoder for ONNX Runtime and others"
    )
    commands.add_subcommand("report", _report_parser(), help="one HTML page about a run, or several")


def _embed_parser() -> ArgumentParser:
    parser = parsers.make("Write the features of every clip to a file for other programs.")
    _add_clips(parser)
    parser.add_argument("--out", type=str, required=True, help="FILE.npz or FILE.parquet")
    parser.add_argument(
        "--what",
        choices=("features", "text-space"),
        default="features",
        help="what evaluations use, or where skeletons meet words",
    )
    parsers.add_overwrite(parser)
    return parser


def _predict_parser() -> ArgumentParser:
    parser = parsers.make("Name what clips show: by a trained head, by the classes' words, or by any words.")
    _add_clips(parser)
    parser.add_argument("--clip", type=str, default=None, help="of --data: a clip's name or number")
    parser.add_argument(
        "--by",
        choices=("head", "words"),
        default=None,
        help="a head of `mica evaluate linear`, or words; by default the head where there is one",
    )
    parser.add_argument(
        "--texts", type=str, nargs="+", default=[], help="sentences to choose among, in place of the classes"
    )
    parser.add_argument("--text-path", type=str, default=None, help="where the text encoder's weights lie")
    parser.add_argument("--head", type=str, default=None, help="a head's file; by default the run's")
    parser.add_argument("--top", type=int, default=5, help="how many to name")
    return parser


def _add_clips(parser: ArgumentParser) -> None:
    """What both take: a model, and clips of a store or files of one's own, with how to read them."""
    parser.add_argument("--model", type=str, required=True, help=_MODEL)
    parser.add_argument("--data", type=str, default=None, help="store that `mica prepare` wrote")
    parser.add_argument("--files", type=str, nargs="+", default=[], help=_FILES)
    parser.add_argument(
        "--layout", type=str, default=None, help="whose joints the files hold; by default the model's"
    )
    parser.add_argument("--units", choices=UNITS, default="metres", help="of the coordinates in files")
    parser.add_argument("--up", choices=("y", "-y", "z"), default=None, help=parsers.UP)
    parser.add_argument("--dimensions", type=int, default=None, help="2: arrays hold x, y, confidence")


def _export_parser() -> ArgumentParser:
    parser = parsers.make(
        "Write the encoder as ONNX, any number of clips at a time, compared with PyTorch before it is kept."
    )
    parser.add_argument("--model", type=str, required=True, help=_MODEL)
    parser.add_argument(
        "--out", type=str, required=True, help="FILE.onnx, or FILE.pt2 for PyTorch's own format"
    )
    parser.add_argument(
        "--frames", type=int, default=None, help="frames a clip; by default those it was pretrained with"
    )
    parsers.add_overwrite(parser)
    return parser


def _report_parser() -> ArgumentParser:
    parser = parsers.make(
        "Write a page about a run (curves, results, confusion, maps, what the FreST gate keeps, retrieved clips), "
        "or, given several runs, one that compares them."
    )
    parser.add_argument(
        "--run", type=str, nargs="+", required=True, help="run directories that `mica pretrain` wrote"
    )
    parser.add_argument("--data", type=str, default=None, help="of one run: the store that it was trained on")
    parser.add_argument(
        "--out", type=str, default=None, help="the page; of one run RUN/report.html by default"
    )
    parsers.add_overwrite(parser)
    return parser


def embed(options: Namespace) -> None:
    from mica.inference.commands import embed_command

    print(embed_command(**vars(options)))


def predict(options: Namespace) -> None:
    from mica.inference.commands import predict_command

    print(predict_command(**vars(options)))


def export_encoder(options: Namespace) -> None:
    from mica.inference.commands import open_model
    from mica.models.export import export_encoder

    model = open_model(options.model)
    print(export_encoder(model, options.out, frames=options.frames, overwrite=options.overwrite))


def report(options: Namespace) -> None:
    from mica.data.store import Store
    from mica.errors import InputError
    from mica.report import write_comparison, write_report

    if len(options.run) > 1:
        if options.data is not None or options.out is None:
            problem = "a comparison of runs reads no store, and needs a name"
            raise InputError(problem, hint="mica report --run RUN RUN --out comparison.html")
        page = write_comparison(options.run, options.out, overwrite=options.overwrite)
    else:
        if options.data is None:
            raise InputError(
                "which store was the run trained on?", field="data", hint="add --data STORE.arrow"
            )
        run = Path(options.run[0])
        replaces = options.overwrite or options.out is None
        page = write_report(run, Store.open(options.data), options.out, overwrite=replaces)
    print(f"report: {page}")
