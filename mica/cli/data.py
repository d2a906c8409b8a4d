"""The commands about data: prepare, inspect, export, layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from mica.cli import parsers

_FILES = ("--raw", {"required": True, "help": "folder of the files as released, or a zip of it"})
_PROTOCOL = (
    "--protocol",
    {
        "default": None,
        "help": "which protocol its two parts are, e.g. cross-subject; by default as the name says",
    },
)
_DATASET = (
    "--dataset",
    {
        "default": None,
        "help": "whose class names and protocols to take, e.g. ntu60; by default by its classes",
    },
)
_LAYOUT = (
    "--layout",
    {"default": None, "help": "whose joints they are (`mica layouts`); by default by their number"},
)
_MISSING = (
    "--missing-list",
    {"default": None, "help": "the owners' list of clips without skeletons; they are found without it, too"},
)
UNITS = ("metres", "centimetres", "millimetres", "pixels", "unknown")


def _one_file(what: str) -> tuple[str, dict[str, Any]]:
    return "--raw", {"required": True, "help": what}


# What can be prepared: its description, and what it takes besides an output.
RECORDED: dict[str, tuple[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "ntu60": ("NTU RGB+D, 60 classes, from its .skeleton files.", (_FILES, _MISSING)),
    "ntu120": ("NTU RGB+D 120, 120 classes, from its .skeleton files.", (_FILES, _MISSING)),
    "pku-mmd-1": ("PKU-MMD part I: long videos, their label files and lists.", (_FILES,)),
    "pku-mmd-2": ("PKU-MMD part II: long videos, their label files and lists.", (_FILES,)),
    "nw-ucla": ("NW-UCLA from the JSON files of its CTR-GCN release (all_sqe/).", (_FILES,)),
    "utd-mhad": ("UTD-MHAD from its .mat files (Skeleton/).", (_FILES,)),
    "folder": (
        "Your own recordings: a NumPy, CSV or BVH file a clip, and a table clips.csv; see docs/own-data.md.",
        (
            (
                "--raw",
                {"required": True, "help": "folder of clips.csv and the files it names, or a zip of it"},
            ),
            ("--name", {"default": "own", "help": "what the data set is called"}),
            (
                "--layout",
                {"default": None, "help": "whose joints they are: `mica layouts` lists them; or a file"},
            ),
            ("--to-layout", {"default": None, "help": "bring all clips to the joints of this layout"}),
            ("--units", {"default": "metres", "choices": UNITS, "help": "of the coordinates"}),
            (
                "--up",
                {
                    "default": None,
                    "choices": ("y", "-y", "z"),
                    "help": parsers.UP,
                },
            ),
            ("--dimensions", {"default": None, "type": int, "help": "2: arrays hold x, y, confidence"}),
            (
                "--frame-rate",
                {"default": None, "type": float, "help": "frames a second; needed unless BVH says it"},
            ),
        ),
    ),
}
STREAMED: dict[str, tuple[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "ctr-gcn": (
        "What CTR-GCN's scripts made: an .npz of x_train, y_train, x_test, y_test.",
        (_one_file("e.g. NTU60_CS.npz"), _DATASET, _LAYOUT, _PROTOCOL),
    ),
    "pyskl": (
        "What PYSKL and MMAction2 read: a .pkl of annotations and splits. No code in it is run.",
        (_one_file("e.g. ntu60_3danno.pkl"), _DATASET, _LAYOUT),
    ),
    "agcn": (
        "What 2s-AGCN's and AimCLR's scripts made: *_data.npy beside *_label.pkl. No code in it is run.",
        (_one_file("folder with both pairs"), _DATASET, _LAYOUT, _PROTOCOL),
    ),
    "synthetic": ("Procedural motion of 16 everyday actions by 12 virtual people; needs no files.", ()),
}


def add_commands(commands: Any) -> None:
    """Give the commands about data their parsers."""
    prepare = parsers.make(
        "Read raw recordings, check every clip, write one Arrow store. All cores read; a run that was stopped "
        "or killed goes on where it was when the same command is given again."
    )
    commands.add_subcommand("prepare", prepare, help="raw recordings into one store file")
    _add_datasets(prepare)
    commands.add_subcommand("inspect", _inspect_parser(), help="what a store holds; any clip as an animation")
    commands.add_subcommand("convert", _convert_parser(), help="a store on the joints of another layout")
    commands.add_subcommand("export", _export_parser(), help="a store in the files that peers read")
    commands.add_subcommand("layouts", _layouts_parser(), help="the skeletons we know, listed and drawn")


def _add_datasets(parser: ArgumentParser) -> None:
    datasets = parser.add_subcommands(dest="subcommand", title="datasets")
    for name, (text, options) in (RECORDED | STREAMED).items():
        dataset = parsers.make(text)
        for flag, how in options:
            dataset.add_argument(flag, **({} if "choices" in how else {"type": str}) | how)
        dataset.add_argument("--out", type=str, required=True, help="the store to write, e.g. data/set.arrow")
        if name in RECORDED:
            dataset.add_argument(
                "--processes", type=int, default=None, help="how many read at a time; one a core"
            )
            dataset.add_argument(
                "--skip-broken", action="store_true", help="leave damaged files out and name them, not refuse"
            )
        parsers.add_overwrite(dataset)
        datasets.add_subcommand(name, dataset, help=text)


def _inspect_parser() -> ArgumentParser:
    parser = parsers.make("Show what a store holds and what looks wrong in it; draw a clip as an animation.")
    parser.add_argument("file", type=str, help="store that `mica prepare` wrote")
    parser.add_argument("--clip", type=str, default=None, help="a clip's name or number, to draw with --out")
    parser.add_argument(
        "--out", type=str, default=None, help="the animation: FILE.gif, or FILE.html to turn it"
    )
    parsers.add_overwrite(parser)
    return parser


def _convert_parser() -> ArgumentParser:
    parser = parsers.make(
        "Write a store on the joints of another layout, so that an encoder trained on that can read it. Joints "
        "that correspond are taken over or interpolated; what has no counterpart is named."
    )
    parsers.add_data(parser)
    parser.add_argument(
        "--to-layout", type=str, required=True, help="the layout to bring clips to; see `mica layouts`"
    )
    parser.add_argument("--out", type=str, required=True, help="the store to write")
    parsers.add_overwrite(parser)
    return parser


def _export_parser() -> ArgumentParser:
    parser = parsers.make("Write a store as the files that peers read, divided by one of its protocols.")
    parser.add_argument("format", choices=("ctr-gcn", "pyskl"), help="whose files")
    parsers.add_data(parser)
    parser.add_argument("--out", type=str, required=True, help="the .npz or .pkl to write")
    parser.add_argument(
        "--protocol", type=str, default=None, help="what divides train and test; by default the usual one"
    )
    parser.add_argument(
        "--frames", type=int, default=300, help="of ctr-gcn: frames that each clip is filled up to with zeros"
    )
    parsers.add_overwrite(parser)
    return parser


def _layouts_parser() -> ArgumentParser:
    parser = parsers.make("List the skeleton layouts, or the joints of one; draw them with --out.")
    parser.add_argument("name", type=str, nargs="?", default=None, help="one layout; by default all")
    parser.add_argument("--out", type=str, default=None, help="draw to this SVG file")
    parsers.add_overwrite(parser)
    return parser


def prepare(options: Namespace) -> None:
    from mica.data.formats import prepare

    chosen = {name: value for name, value in vars(options[options.subcommand]).items() if value is not None}
    out, raw = chosen.pop("out"), chosen.pop("raw", None)
    print(prepare(options.subcommand, raw, out, **chosen))


def inspect(options: Namespace) -> None:
    from mica.data.find import find_clip
    from mica.data.store import Store
    from mica.errors import InputError
    from mica.report.inspection import inspect
    from mica.report.motion.animation import animate

    if (options.clip is None) != (options.out is None):
        raise InputError("--clip and --out go together", hint="e.g. --clip 0 --out clip.html")
    store = Store.open(options.file)
    if options.clip is None:
        print(inspect(store))
    else:
        animate(store, find_clip(store, options.clip), Path(options.out), overwrite=options.overwrite)
        print(f"animation: {options.out}")


def export(options: Namespace) -> None:
    from mica.data.export import export
    from mica.data.store import Store

    store = Store.open(options.data)
    how = {"protocol": options.protocol, "frames": options.frames, "overwrite": options.overwrite}
    export(store, options.format, options.out, **how)
    print(f"{options.format}: {options.out}")


def layouts(options: Namespace) -> None:
    from mica.files import atomic_path
    from mica.report.figures.layouts import draw_all, draw_layout
    from mica.skeleton import get_layout, joints_table, layouts_table

    layout = None if options.name is None else get_layout(options.name)
    print(layouts_table() if layout is None else joints_table(layout))
    if options.out is not None:
        with atomic_path(options.out, options.overwrite) as temporary:
            temporary.write_text(draw_all() if layout is None else draw_layout(layout))
        print(f"drawing: {options.out}")


def convert(options: Namespace) -> None:
    from mica.data.convert import convert
    from mica.data.store import Store
    from mica.skeleton import get_layout, map_layout

    store = Store.open(options.data)
    mapping = map_layout(store.layout, get_layout(options.to_layout))
    summary = convert(store, options.to_layout, options.out, overwrite=options.overwrite, progress=True)
    print(f"{mapping}\n{summary}")
