"""What test_choices.py shows by running, read off the source: where the labels of test clips may go."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mica.evaluation

SINKS = {"score", "rank_measures", "zero_shot_scores"}
"""They sum up what has been predicted, or predict without anything to fit or choose."""
EXEMPT = {("retrieval", "text_retrieval_scores")}
"""Here test clips are the answers and not the questions, so that their labels are what is found."""


def is_test_labels(node: ast.AST) -> bool:
    """`features.test_labels`, `store.labels[division.test]`."""
    if isinstance(node, ast.Attribute):
        return node.attr == "test_labels"
    if not (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute)):
        return False
    places = ast.walk(node.slice)
    return node.value.attr == "labels" and any(getattr(place, "attr", "") == "test" for place in places)


def strays(function: ast.FunctionDef) -> list[str]:
    """Uses of test labels in a function that are no argument of `SINKS`, directly or by a name given to them."""
    parents = {child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}

    def way_up(node: ast.AST) -> Iterator[ast.AST]:
        while node is not function:
            yield node
            node = parents[node]

    def sinks(node: ast.AST) -> bool:
        return any(isinstance(n, ast.Call) and ast.unparse(n.func) in SINKS for n in way_up(node))

    def name_given(node: ast.AST) -> str | None:
        assigned = [n for n in way_up(node) if isinstance(n, ast.Assign)]
        target = assigned[0].targets[0] if assigned else None
        return target.id if isinstance(target, ast.Name) else None

    lost = [node for node in ast.walk(function) if is_test_labels(node) and not sinks(node)]
    named = {name_given(node) for node in lost}
    uses = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in named
    ]
    nameless = [node for node in lost if name_given(node) is None]
    return [ast.unparse(node) for node in (*nameless, *(use for use in uses if not sinks(use)))]


FUNCTIONS = [
    (file.stem, node)
    for file in sorted(Path(mica.evaluation.__path__[0]).glob("*.py"))
    for node in ast.walk(ast.parse(file.read_text()))
    if isinstance(node, ast.FunctionDef)
]


def test_labels_of_test_clips_go_nowhere_but_into_scores() -> None:
    found = {
        f"{module}.{function.name}": strays(function)
        for module, function in FUNCTIONS
        if (module, function.name) not in EXEMPT
    }
    assert not {name: uses for name, uses in found.items() if uses}


def test_guard_finds_test_labels_and_lets_none_stray() -> None:
    users = {module for module, function in FUNCTIONS if any(map(is_test_labels, ast.walk(function)))}
    assert {"linear", "knn", "retrieval", "finetune", "semi", "ensemble"} <= users, "nothing to guard"
    for body, expected in (
        ("score('SGD', found, features.test_labels, names)", []),
        ("truth = torch.from_numpy(store.labels[division.test])\n score('SGD', found, truth, names)", []),
        ("choose(predicted, features.test_labels)", ["features.test_labels"]),
        ("truth = features.test_labels\n score(found, truth)\n choose(found, truth)", ["truth"]),
        ("clips = where[store.labels[division.test] > 3]\n fit(clips)", ["clips"]),
        ("fit(store.labels[division.test])", ["store.labels[division.test]"]),
        ("a, b = features.test_labels, 1", ["features.test_labels"]),
    ):
        function = ast.parse(f"def f():\n {body}").body[0]
        assert isinstance(function, ast.FunctionDef)
        assert strays(function) == expected, body
