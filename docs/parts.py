"""Write the parts of pages that are also elsewhere, in the code or in a file; ``make docs`` does this first.

A part is what stands between ``<!-- part: NAME -->`` and ``<!-- end part -->``. So it can be read on GitHub, where
Sphinx's directives cannot. NAME is one of these:

- a Python file, and optionally the text with which the part begins in it
- a Markdown file, and optionally the name of its part between ``<!-- NAME -->`` and ``<!-- end NAME -->``
- a class, a function or a variable of the package: its documentation
- ``fields``, ``field-examples`` and ``exceptions``: tables, and the tree of the exceptions
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from payarc_provider.api.fields import FIELDS, clean

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS = CHECKOUT / "docs"
_PART = re.compile(r"(<!-- part: (\S+)(?: (\S+))? -->\n).*?(<!-- end part -->)", re.DOTALL)
_ITEM = re.compile(r"^:(param|returns?|raises) ?(\w*): (.+?)(?=^:|\Z)", re.DOTALL | re.MULTILINE)


def page(path: Path) -> str:
    """Return the page with new parts."""
    return _PART.sub(lambda found: f"{found[1]}\n{_part(found[2], found[3])}\n\n{found[4]}", path.read_text())


def _part(name: str, detail: str | None) -> str:
    if name in _TABLES:
        return "\n".join(_TABLES[name]())
    if name.endswith(".py"):
        code = (CHECKOUT / name).read_text()
        begin = detail or "from __future__"
        return f"```python\n{code[code.index(begin) :]}```"
    if name.endswith(".md"):
        return _markdown(name, detail)
    return "\n".join(_reference(name)).strip()


def _markdown(name: str, part: str | None) -> str:
    text = (CHECKOUT / name).read_text()
    if part:
        text = text.partition(f"<!-- {part} -->\n")[2].partition(f"<!-- end {part} -->")[0]
    to_page = re.compile(r"\]\((?!https?:|#)(docs/)?")
    return to_page.sub(lambda link: "](" if link[1] else "](../", text).strip()


# ---- documentation of code ------------------------------------------------------------------------------------------


def _reference(name: str) -> Iterator[str]:
    """The documentation of a class, a function or a variable, and of the public members of a class."""
    module, _, last = name.rpartition(".")
    tree = ast.parse((CHECKOUT / f"{module.replace('.', '/')}.py").read_text())
    for at, node in enumerate(tree.body):
        if isinstance(node, ast.Assign | ast.AnnAssign) and last in ast.unparse(node).partition("=")[0].split(":")[0]:
            yield _prose(tree.body[at + 1].value.value)  # type: ignore[attr-defined]
        elif isinstance(node, ast.FunctionDef) and node.name == last:
            yield from _function(node)
        elif isinstance(node, ast.ClassDef) and node.name == last:
            yield from (_fields(node, _choices(tree)) if _is_dataclass(node) else _class(node))


def _class(node: ast.ClassDef) -> Iterator[str]:
    [start] = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    yield from _described(ast.get_docstring(node) or "", f"{node.name}({_arguments(start)})")
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and not one.name.startswith("_") and "classmethod" not in _decorators(one):
            yield ""
            yield from _function(one)


def _function(node: ast.FunctionDef) -> Iterator[str]:
    is_property = {"property", "cached_property"} & set(_decorators(node))
    yield f"### {node.name}"
    yield ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    signature = f"{node.name}: {returns[4:]}" if is_property else f"{node.name}({_arguments(node)}){returns}"
    yield from _described(ast.get_docstring(node) or "", signature)


def _described(docstring: str, signature: str) -> Iterator[str]:
    text, items = _split(docstring)
    yield f"`{signature}`"
    yield ""
    yield _prose(text)
    if items:
        yield ""
    for kind, name, meaning in items:
        start = {"param": f"**{name}**", "raises": f"raises `{name}`"}.get(kind, "returns")
        yield f"- {start}: {_prose(meaning)}"


def _choices(tree: ast.Module) -> dict[str, list[str]]:
    """The names of the module's Literals, with their values."""
    literals = re.compile(r"(\w+) = Literal\[(.+)\]")
    found = filter(None, (literals.fullmatch(ast.unparse(node)) for node in tree.body))
    return {one[1]: one[2].replace("'", '"').split(", ") for one in found}


def _fields(node: ast.ClassDef, choices: dict[str, list[str]]) -> Iterator[str]:
    """The fields of a dataclass, as a table."""
    text, items = _split(ast.get_docstring(node) or "")
    fields = {ast.unparse(one.target): one for one in node.body if isinstance(one, ast.AnnAssign)}
    yield _prose(text)
    yield ""
    yield "| name | default | meaning |"
    yield "|---|---|---|"
    for _, name, meaning in items:
        default = _default(fields[name].value)
        others = [f"`{one}`" for one in choices.get(ast.unparse(fields[name].annotation), []) if f"`{one}`" != default]
        also = f" (or {', '.join(others)})" if 0 < len(others) < 5 else ""
        yield f"| `{name}` | {default}{also} | {_prose(meaning)} |"


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "required"
    code = ast.unparse(value).replace("'", '"')
    return "`{}`" if code.startswith("field(") else f"`{code}`"


def _split(docstring: str) -> tuple[str, list[tuple[str, str, str]]]:
    """The text of a docstring, and what it says of parameters, results and errors."""
    text = re.split(r"^:(?:param|returns?|raises)\b", docstring, maxsplit=1, flags=re.MULTILINE)[0]
    return text, [found.groups() for found in _ITEM.finditer(docstring)]  # type: ignore[misc]


def _prose(text: str) -> str:
    """A docstring's text as Markdown, each paragraph and each list item on one line."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", inspect.cleandoc(text)).replace("``", "`")
    return re.sub(r"(?<!\n)\n(?![\n|-])\s*", " ", text).strip()


def _arguments(node: ast.FunctionDef) -> str:
    text = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    return re.sub(r"(?<=\w|\])=(?=\S)", " = ", text).replace("'", '"') if ":" in text else text


def _decorators(node: ast.FunctionDef) -> list[str]:
    return [ast.unparse(one) for one in node.decorator_list]


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(ast.unparse(one).startswith("dataclass") for one in node.decorator_list)


# ---- tables ---------------------------------------------------------------------------------------------------------

_KINDS = {
    "text": "any",
    "email": "any, but no white space",
    "zip": "digits and hyphens",
    "phone": "digits; + - . ( ) / and spaces between them are removed",
}
_EXAMPLES: list[tuple[str, object]] = [
    ("name", "  Zoë O'Brien "),
    ("name", "Zo"),
    ("email", "zoe@example.com"),
    ("email", "zoe @example.com"),
    ("email", "a.very.long.first.name@subdomain.example.com"),
    ("description", "Shop"),
    ("country", "US"),
    ("country", "U"),
    ("address_1", "Rd 1"),
    ("address_2", ""),
    ("zip", 10469),
    ("zip", "K1A 0B1"),
    ("phone", "(202) 555-0101"),
    ("phone", "+1 202 555 0101"),
    ("phone", "0044 20 7946 0000"),
    ("phone", "202-555-0101 ext. 5"),
    ("phone", 2025550101.0),
    ("phone", "2025550101.0"),
    ("name", float("nan")),
    ("state", True),
    ("city", "New\nYork"),
    ("description", "Visa 4111 1111 1111 1111"),
    ("zip", Decimal("10469.5")),
]


def _field_table() -> Iterator[str]:
    yield "| field | length | characters that are accepted | characters in PayArc's guide |"
    yield "|---|---|---|---|"
    for name, rule in FIELDS.items():
        least, unit = rule.min_length, "digits" if rule.kind == "phone" else "characters"
        length = f"{least} to {rule.max_length}" if least > 1 else f"up to {rule.max_length}"
        yield f"| `{name}` | {length} {unit} | {_KINDS[rule.kind]} | {rule.characters} |"


def _example_table() -> Iterator[str]:
    yield '| field | value | `validation="guide"` | `validation="payarc"` |'
    yield "|---|---|---|---|"
    for name, value in _EXAMPLES:
        guide, payarc = _cleaned(name, value, "guide"), _cleaned(name, value, "payarc")
        yield f"| `{name}` | `{_shown(value)}` | {guide} | {'the same' if payarc == guide else payarc} |"


def _cleaned(name: str, value: object, validation: str) -> str:
    fields, errors = clean({name: value}, validation)  # type: ignore[arg-type]
    if errors:
        return f"**rejected**: {'; '.join(errors[name])}"
    return f"sent as `{fields[name]}`" if fields else "not sent"


def _shown(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\n", "\\n") + '"'
    return {"nan": 'float("nan")'}.get(str(value)) or repr(value).replace("'", '"')


def _exceptions() -> Iterator[str]:
    """The tree in the module's docstring, and the attributes of the exceptions."""
    module = ast.parse((CHECKOUT / "payarc_provider" / "exceptions.py").read_text())
    failures = ast.parse((CHECKOUT / "payarc_provider" / "operators" / "failures.py").read_text())
    tree = (ast.get_docstring(module) or "").partition("::\n\n")[2].partition("\n\n")[0]
    names = re.sub(r"(?<=\w) {2,}.*", "", inspect.cleandoc(tree))
    yield f"<!-- not run: a diagram -->\n```text\n{names}\n```"
    yield ""
    yield "| attribute | of | meaning |"
    yield "|---|---|---|"
    for node in module.body + failures.body:
        if isinstance(node, ast.ClassDef):
            for kind, name, meaning in _split(ast.get_docstring(node) or "")[1]:
                if kind == "param" and name != "message":
                    yield f"| `{name}` | `{node.name}` | {_prose(meaning)} |"


_TABLES = {"fields": _field_table, "field-examples": _example_table, "exceptions": _exceptions}


if __name__ == "__main__":
    for one in DOCS.glob("*.md"):
        one.write_text(page(one))
