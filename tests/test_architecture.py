"""The layout of the package: who may import whom, and what may touch files, the screen and torch."""

import ast
import subprocess
import sys
from pathlib import Path

import deepgsr_cli

PACKAGE = Path(deepgsr_cli.__file__).parent
# A file imports from its own floor and those below it. The face, `__init__`, is above them all.
FLOORS = (
    ("errors", "interrupts", "version", "words"),
    ("files", "compute"),
    ("formats", "reports", "models", "weights"),
    ("tomography", "jobs", "evaluation", "training"),
    ("pictures", "ct"),
    ("mar", "phase"),
    ("tasks",),
    ("cli", "__main__"),
    ("",),
)
FORMATS = {"PIL", "pydicom", "tifffile", "h5py", "imagecodecs"}
# What is left to mend. These sets may only shrink.
UPWARD: set[tuple[str, str]] = set()
READS_FILES = {
    "ct.projections",  # names the type of a DICOM header
    "ct.results",  # writes reconstructions as TIFF
    "phase.jobs",  # makes a picture of a curve
    "pictures.scenes",  # draws scenes by Pillow
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


FILES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def imported(tree: ast.Module) -> set[str]:
    """Modules that a file imports anywhere, by their full names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{a.name}" for a in node.names}
            files = {name for name in inner if name.removeprefix("deepgsr_cli.") in FILES}
            found |= files | ({str(node.module)} if inner - files else set())
    return found


ARROWS = {
    name: {
        m.removeprefix("deepgsr_cli").lstrip(".") for m in imported(tree) if m.split(".")[0] == "deepgsr_cli"
    }
    for name, tree in FILES.items()
}


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name.split(".")[0] in rooms)


def test_imports_point_down():
    upward = {(name, other) for name in FILES for other in ARROWS[name] if floor(other) > floor(name)}
    assert upward == UPWARD


def test_no_file_imports_itself_through_others():
    left = {name: set(others) for name, others in ARROWS.items()}
    while done := {name for name, others in left.items() if not others & left.keys() - {""}}:
        left = {name: others for name, others in left.items() if name not in done}
    assert not left


def test_private_names_stay_in_their_file():
    private = {
        (name, a.name)
        for name, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("deepgsr_cli")
        for a in node.names
        if a.name.startswith("_") and a.name != "__version__"
    }
    assert not private


def test_no_function_takes_more_than_eight_arguments():
    long = []
    for name, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if sum(argument.arg not in ("self", "cls") for argument in given) > 8:
                    long.append(f"{name}.{node.name}")
    assert not long


def test_only_the_command_line_knows_typer():
    knows = {
        name for name, tree in FILES.items() if {m.split(".")[0] for m in imported(tree)} & {"typer", "rich"}
    }
    assert {name.split(".")[0] for name in knows} == {"cli"}


def opens(tree: ast.Module) -> bool:
    """Whether a file opens files itself, or by a library of a file format."""
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return "open" in calls or bool({m.split(".")[0] for m in imported(tree)} & FORMATS)


def test_files_are_read_in_few_places():
    rooms = ("files", "formats", "reports", "weights")
    reading = {name for name, tree in FILES.items() if name.split(".")[0] not in rooms and opens(tree)}
    assert reading == READS_FILES


def test_help_imports_no_torch():
    code = (
        "import sys\nsys.argv[1:] = ['--help']\nfrom deepgsr_cli.cli import app\n"
        "try: app()\nfinally: assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_command_imports_no_other_commands_options():
    code = (
        "import sys\nfrom deepgsr_cli.cli import app\n"
        "try: app(['denoise', '--help'])\nexcept SystemExit: pass\n"
        "others = {'train', 'evaluate', 'ct_recon', 'mar', 'phase', 'doctor', 'weights'}\n"
        "assert not {f'deepgsr_cli.cli.{name}' for name in others} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_computes_imports_only_what_it_uses():
    code = (
        "import sys\nimport deepgsr_cli.models, deepgsr_cli.pictures.jobs, deepgsr_cli.weights.load\n"
        "unused = {'numba', 'scipy', 'jinja2', 'huggingface_hub', 'matplotlib', 'pydicom', 'rich'}\n"
        "assert not unused & set(sys.modules)\n"
        "import deepgsr_cli.tomography.radon\nassert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "deepgsr_cli", "--version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert deepgsr_cli.__version__ in done.stdout
