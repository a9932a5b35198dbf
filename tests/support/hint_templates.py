"""Every hint that a run may leave, as a template: read from the source, since no test can make each error happen."""

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "backupd"
# What takes part in runs of the daemon and in deploys: whose errors reach the page. Restores and the command line have
# another reader.
ROOMS = ("archive", "catalog", "gate", "remote", "sqlite", "stores", "system", "tasks", "retention.py")
NOT_IN_RUNS = (
    "gate/check.py",
    "gate/main.py",
    "gate/settings.py",
    "sqlite/history.py",
    "sqlite/swap.py",
    "sqlite/target.py",
    "sqlite/worker/restore_online.py",
    "sqlite/worker/checkpoint.py",
    "stores/sftp/url.py",
    "tasks/choice.py",
    "tasks/doctor",
    "tasks/pin.py",
    "tasks/remove.py",
    "tasks/restore/database.py",
    "tasks/restore/in_place.py",
    "tasks/restore/online.py",
    "tasks/restore/point",
    "tasks/restore/recovery.py",
    "tasks/restore/to_path.py",
)
_MOST = 60


@dataclass
class Module:
    """One file: its functions and the values of its names, by the scope in which they are bound."""

    tree: ast.Module
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    @cache
    def of(cls, path: Path) -> "Module":
        module = cls(ast.parse(path.read_text()))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef):
                module.functions[node.name] = node
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("backupd"):
                for alias in node.names:
                    module.imports[alias.asname or alias.name] = (str(node.module), alias.name)
        return module


def hint_templates() -> dict[str, str]:
    """Return each template with the place where it was found; what is filled in is `{}`."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if name.startswith(ROOMS) and not name.startswith(NOT_IN_RUNS):
            module = Module.of(path)
            for line, expression, scope in _hints(module):
                for template in _texts(expression, scope, module, frozenset()):
                    if template.replace("{}", "").strip("; ,"):
                        found.setdefault(template, f"{name}:{line}")
    return found


@cache
def _takes_hint() -> dict[str, int]:
    """Return the position of the parameter `hint` of each error, and of each function that has one."""
    nodes = [node for path in PACKAGE.rglob("*.py") for node in ast.walk(Module.of(path).tree)]
    found = {"BackupdError": 1}
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    for _ in range(len(classes)):
        bases = {name: {base.id for base in node.bases if isinstance(base, ast.Name)} for name, node in classes.items()}
        errors = {name: 1 for name, of in bases.items() if of & found.keys()}
        if errors.keys() <= found.keys():
            break
        found |= errors
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
            for position, name in enumerate(names):
                if name in ("hint", "full_hint", "otherwise"):
                    found[node.name] = position
    return found


def _hints(module: Module) -> Iterator[tuple[int, ast.expr, ast.FunctionDef | None]]:
    """Yield each expression that becomes a hint, and the function around it."""

    def visit(node: ast.AST, scope: ast.FunctionDef | None) -> Iterator[tuple[int, ast.expr, ast.FunctionDef | None]]:
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            position = _takes_hint().get(name)
            named = [keyword.value for keyword in node.keywords if keyword.arg in ("hint", "full_hint")]
            variables = [one for one in node.args if isinstance(one, ast.Name) and one.id.endswith("hint")]
            if position is not None or variables or name == "replace":
                for expression in (*named, *variables, *node.args[position or 0 :][: position is not None]):
                    yield node.lineno, expression, scope
        if isinstance(node, ast.Tuple) and len(node.elts) == 2 and scope is not None and scope.name == "hint":
            yield node.lineno, node.elts[1], scope  # of the table of a property
        for child in ast.iter_child_nodes(node):
            yield from visit(child, node if isinstance(node, ast.FunctionDef) else scope)

    yield from visit(module.tree, None)


def _texts(node: ast.expr, scope: ast.FunctionDef | None, module: Module, seen: frozenset[object]) -> list[str]:
    """Return what `node` may be, as templates."""

    def each(*nodes: ast.expr) -> list[list[str]]:
        return [_texts(one, scope, module, seen) for one in nodes]

    match node:
        case ast.Constant(value=text):
            found = [text or ""] if text is None or isinstance(text, str) else ["{}"]
        case ast.JoinedStr(values=parts):
            found = _product(each(*parts))
        case ast.FormattedValue(value=value):
            found = _texts(value, scope, module, seen)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            found = _product(each(left, right))
        case ast.IfExp(body=body, orelse=orelse):
            found = [text for texts in each(body, orelse) for text in texts]
        case ast.BoolOp(op=ast.Or(), values=values):
            found = [text for texts in each(*values) for text in texts]
        case ast.Name(id=name):
            found = _named(name, scope, module, seen)
        case _:
            found = _called(node, scope, module, seen)
    return found


def _called(node: ast.expr, scope: ast.FunctionDef | None, module: Module, seen: frozenset[object]) -> list[str]:
    """Return what a call may return, or an item of it."""
    match node:
        case ast.Call(
            func=ast.Name(id="next"), args=[ast.GeneratorExp(generators=[ast.comprehension() as loop]), other]
        ):
            found = [*_table(loop.iter, module), *_texts(other, scope, module, seen)]
        case ast.Call(func=ast.Attribute(value=ast.Name() as table, attr="get"), args=[_, other]):
            found = [*_table(table, module), *_texts(other, scope, module, seen)]
        case ast.Call(func=ast.Attribute(value=value, attr="format")):
            found = [_without_names(text) for text in _texts(value, scope, module, seen)]
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
            found = _returned(name, module, seen)
        case ast.Subscript(value=ast.Call() as call, slice=ast.Constant(value=int(index))):
            found = _returned(getattr(call.func, "id", ""), module, seen, index)
        case _:
            found = ["{}"]
    return found


def _table(node: ast.expr, module: Module) -> list[str]:
    """Return the texts in a constant that is a table; the keys of a dictionary are not among them."""
    rows = [value for value, _ in _assigned(getattr(node, "id", ""), module.tree)]
    rows = [part for row in rows for part in (row.values if isinstance(row, ast.Dict) else [row])]
    parts = [part for row in rows for part in ast.walk(row)]
    names = [
        text for part in parts if isinstance(part, ast.Name) for text in _named(part.id, None, module, frozenset())
    ]
    constants = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return [*constants, *names]


def _product(parts: list[list[str]]) -> list[str]:
    return list(dict.fromkeys("".join(choice) for choice in itertools.islice(itertools.product(*parts), _MOST)))


def _without_names(text: str) -> str:
    pieces = text.split("{")
    return pieces[0] + "".join("{}" + piece.partition("}")[2] for piece in pieces[1:])


def _named(name: str, scope: ast.FunctionDef | None, module: Module, seen: frozenset[object]) -> list[str]:
    key = (id(module), scope.name if scope else "", name)
    if key in seen:
        return ["{}"]
    for place in (scope, module.tree):
        if place is not None and (values := list(_assigned(name, place))):
            inner = scope if place is scope else None
            found = [text for value, index in values for text in _part(value, index, inner, module, seen | {key})]
            return list(dict.fromkeys(found))
    if name in module.imports:
        path, original = module.imports[name]
        other = PACKAGE.parent / f"{path.replace('.', '/')}.py"
        if other.exists():
            return _named(original, None, Module.of(other), seen | {key})
    return ["{}"]


def _part(
    value: ast.expr, index: int | None, scope: ast.FunctionDef | None, module: Module, seen: frozenset[object]
) -> list[str]:
    if index is None:
        return _texts(value, scope, module, seen)
    if isinstance(value, ast.Tuple):
        return _texts(value.elts[index], scope, module, seen)
    if isinstance(value, ast.IfExp):
        return [text for one in (value.body, value.orelse) for text in _part(one, index, scope, module, seen)]
    if isinstance(value, ast.Call):
        return _returned(getattr(value.func, "id", getattr(value.func, "attr", "")), module, seen, index)
    return ["{}"]


def _assigned(name: str, place: ast.AST) -> Iterator[tuple[ast.expr, int | None]]:
    nodes = ast.walk(place) if isinstance(place, ast.FunctionDef) else iter(getattr(place, "body", ()))
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) or value is None:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield value, None
            elif isinstance(target, ast.Tuple):
                for index, part in enumerate(target.elts):
                    if isinstance(part, ast.Name) and part.id == name:
                        yield value, index


def _returned(name: str, module: Module, seen: frozenset[object], index: int | None = None) -> list[str]:
    if name in module.imports and name not in module.functions:
        path, original = module.imports[name]
        other = PACKAGE.parent / f"{path.replace('.', '/')}.py"
        return _returned(original, Module.of(other), seen, index) if other.exists() else ["{}"]
    function = module.functions.get(name)
    if function is None or (id(module), name) in seen:
        return ["{}"]
    values = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]
    inner = seen | {(id(module), name)}
    found = [text for value in values for text in _part(value, index, function, module, inner)]
    return list(dict.fromkeys(found)) or ["{}"]
