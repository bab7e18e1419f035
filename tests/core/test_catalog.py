"""The catalog holds the fixed list, and the frame's imports stay cheap and one-way."""

import ast
import json
import subprocess
import sys

import pytest

from paperlab.catalog import FAMILIES, ROOT, families, paper, papers

# An arrow to the right is allowed, one to the left is not. Core: the modules at the top of the package.
LAYERS = {
    "core": {"core", "catalog"},
    "catalog": {"catalog"},
    "tools": {"tools", "core", "catalog"},
    "figures": {"figures", "core", "catalog"},
    "widgets": {"widgets", "figures", "tools", "core", "catalog"},
    "authoring": {"authoring", "core", "catalog"},
    "family": {"family", "widgets", "figures", "tools", "core", "catalog"},
}


def test_all_314_papers():
    assert len(papers()) == len({entry.id for entry in papers()}) == 314
    assert len(FAMILIES) == len(families()) == 21
    assert sum(len(papers(family)) for family in FAMILIES) == 314
    for entry in papers():
        assert entry.title
        assert entry.id.isidentifier()
        assert entry.year is None or 1990 < entry.year < 2100
        assert entry.authors, f"{entry.id}: no authors"


def test_same_ids_as_the_list_beside_the_repository():
    """Runs where the shared list is at hand, as in CI; elsewhere the count above is the check."""
    shared = ROOT.parent / "shared" / "catalog.json"
    listed = {row["id"]: row["family"] for row in json.loads(shared.read_text())} if shared.exists() else None
    assert listed in (None, {entry.id: entry.family for entry in papers()})


def test_unknown_names_get_the_nearest():
    with pytest.raises(
        ValueError, match="id='sinkhorn_newton' is not in the catalog; did you mean sinkhorn_newton_sparse"
    ):
        paper("sinkhorn_newton")
    with pytest.raises(ValueError, match="family='transports' is unknown; did you mean transport"):
        papers("transports")


def test_citation():
    assert paper("rectified_flow_ot").citation == "Qiang Liu, 2022, arXiv 2209.14577"
    assert paper("sliced_control_variates").citation == "Khai Nguyen and Nhat Ho, 2023, arXiv 2305.00402"
    assert paper("eora").citation == "Shih-Yang Liu et al., 2024, arXiv 2410.21271"


def layer(name: str) -> str:
    parts = name.split(".")
    if len(parts) < 3 and not (ROOT / "paperlab" / parts[-1]).is_dir():
        return "core"
    return "family" if parts[1] in FAMILIES else parts[1]


def test_arrows_point_one_way():
    """paper -> widgets -> figures -> core, paper -> tools -> core, widgets -> tools."""
    for path in (ROOT / "paperlab").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        # The package's own front door and the commands use everything.
        if name in ("paperlab.__init__", "paperlab.cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paperlab."):
                target = layer(node.module)
                assert target in LAYERS[layer(name)] | {"core"}, f"{name} imports {node.module}: the arrow points back"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import paperlab", ["torch", "plotly", "sklearn", "scipy"]),
        ("import paperlab.widgets", ["torch", "plotly"]),
        ("import paperlab.transport.sinkhorn_newton_sparse", ["torch", "plotly", "sklearn", "ipywidgets"]),
        (
            "from paperlab.widgets import Explorer; import plotly.graph_objects as go; go.FigureWidget()",
            ["rfc3987_syntax"],
        ),
    ],
)
def test_imports_are_cheap(statement, absent):
    """rfc3987_syntax is the grammar that makes FigureWidget 2.5 s slower: jsonschema < 4.25 does not have it."""
    code = f"import sys; {statement}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
