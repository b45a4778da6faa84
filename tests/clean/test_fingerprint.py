"""Canonical text and fingerprint of code: what keeps them, what alters them, and code that no person wrote."""

import ast
import re
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clean.code import syntax
from stages.clean.code.fingerprint import MAX_TREE_DEPTH, CanonicalWriter, fingerprints
from stages.clean.code.syntax import MAX_PARSED_CHARACTERS, TOO_DEEP, read_fenced_code, read_module_code
from tests.helpers.clean_rows import row

# A program in parts: names in capitals are bound by it, and are the ones that a renaming may change.
TEMPLATE = """import math
from os import path as p

def FIRST(ARG, OTHER=3, *REST, KEY=None, **MORE):
    {docstring}
    TOTAL = {constant}
    for ITEM in REST:
        TOTAL {operator}= ITEM.{attribute} if ARG < OTHER else math.pi
    with p(ARG) as HANDLE, KEY as (LEFT, *RIGHT):
        try:
            LATER = [INNER + TOTAL for INNER in RIGHT if INNER]
        except {error} as CAUGHT:
            raise CAUGHT from None
    NESTED = lambda X, Y=TOTAL: (X, Y, HANDLE)
    while (SEEN := NESTED(LEFT, {keyword}=LATER)):
        del SEEN
    match ARG:
        case [ONE, *MANY] | {{"k": ONE, **MANY}}:
            return ONE, MANY
        case {{"k": VALUE, **OTHERS}} if VALUE:
            return OTHERS
    return {{A: B for A, B in MORE.items()}}, free

class CLASS(Base):
    {docstring}
    field: int = {constant}
    def method(SELF, GIVEN):
        global CLASS
        return SELF.field {operator} GIVEN

async def SECOND(WHO):
    async for TURN in WHO:
        yield await FIRST(TURN, CLASS)
"""
PARTS = {
    "docstring": '"""Say."""',
    "constant": "1",
    "operator": "+",
    "attribute": "size",
    "error": "ValueError",
    "keyword": "key",
}
NAMES = sorted(
    {word for word in "".join(c if c.isalnum() else " " for c in TEMPLATE).split() if word.isupper()}
)


def program(names: dict[str, str] | None = None, **parts: str) -> str:
    words = TEMPLATE.format(**{**PARTS, **parts})
    for name, other in (names or {}).items():
        words = "".join(other if word == name else word for word in re.split(r"(\W+)", words))
    return words


def digest(source: str) -> str:
    return fingerprints(ast.parse(source))[0]


@given(
    st.permutations([f"v{i}" for i in range(len(NAMES))]),
    st.sampled_from(['"""Other."""', "'x'", '"a"; "b"']),
)
def test_other_names_and_words_keep_the_fingerprint(others: list[str], docstring: str) -> None:
    renamed = program(dict(zip(NAMES, others, strict=True)), docstring=docstring)
    assert digest(renamed) == digest(program())


@pytest.mark.parametrize(
    "part", [{"constant": "2"}, {"constant": "1.0"}, {"constant": "True"}, {"operator": "-"}, {"attribute": "len"},
             {"error": "TypeError"}, {"keyword": "k"}],
)  # fmt: skip
def test_another_operator_constant_attribute_keyword_or_free_name_alters_it(part: dict[str, str]) -> None:
    assert digest(program(**part)) != digest(program())


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("def f(a, b): return a - b", "def f(a, b): return a - a", False),
        ("def f(a, b): return a - b", "def f(b, a): return b - a", True),
        ("def f(a, b): return a - b", "def f(a, b): return b - a", False),
        ("def f(a): return lambda b: a", "def f(a): return lambda a: a", False),
        ("def f(a): return [b for b in a]", "def f(a): return [a for a in a]", True),
        ("def f(a): return a + g", "def f(g): return g + a", False),
        ("def f(a: int) -> str: return a", "def f(a): return a", True),
        ("def f(a): return a", "async def f(a): return a", False),
    ],
)
def test_names_of_one_scope_stay_distinct(one: str, other: str, equal: bool) -> None:
    assert (digest(one) == digest(other)) is equal


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "def f(a, *b, c=1, **d):\n    'Doc.'\n    return a.x[b:c, ...](d, k=None, **d)",
            "[FunctionDef $0 [Constant(1)]([]|[$1]|$2|[$3]|$4)[Return(Call(Subscript(Attribute($1,'x'),Tuple([Slice($2,$3,None),Constant(Ellipsis)])),[$4],[keyword('k',Constant(None)),keyword(None,$4)]))]]",
        ),
        (
            "for i, (j, *k) in x:\n    i += -j ** 2.5\nelse:\n    del k",
            "[For(Tuple([$0,Tuple([$1,Starred($2)])]),x,[AugAssign($0,Add(),UnaryOp(USub(),BinOp($1,Pow(),Constant(2.5))))],[Delete([$2])])]",
        ),
        (
            "try:\n    pass\nexcept (A, B) as e:\n    raise e from None\nfinally:\n    assert not z, f'{z!r:>{z}}'",
            "[Try([Pass()],[ExceptHandler(Tuple([A,B]),'$0',[Raise($0,Constant(None))])],[],[Assert(UnaryOp(Not(),z),JoinedStr([FormattedValue(z,114,JoinedStr([Constant('>'),FormattedValue(z,-1,None)]))]))])]",
        ),
        (
            "class C(B, metaclass=M):\n    n: int = 0\n    def m(self):\n        return n, self.n",
            "[class $0 [B,keyword('metaclass',M)][AnnAssign(n,int,Constant(0),1),FunctionDef m []([]|[$1]|None|[]|None)[Return(Tuple([n,Attribute($1,'n')]))]]]",
        ),
        (
            "def f():\n    x = 1\n    def g():\n        nonlocal x\n        global y\n        x, y = y, x\n    return g",
            "[FunctionDef $0 []([]|[]|None|[]|None)[Assign([$1],Constant(1)),FunctionDef $2 []([]|[]|None|[]|None)[Nonlocal(['$1']),Global(['y']),Assign([Tuple([$1,y])],Tuple([y,$1]))],Return($2)]]",
        ),
        (
            "a = [b for b in c for d in b if d]\ne = {**a, 'k': b'v'}",
            "[Assign([$0],ListComp(c,$2,[$2,0],[$3,$3,0],$2)),Assign([$1],Dict([None,Constant('k')],[$0,Constant(b'v')]))]",
        ),
        (
            "match x:\n    case {'k': [a, *b], **c} | C(d=1) as e:\n        f = lambda *, g=1: g if a else (yield)",
            "[Match(x,[match_case(MatchAs(MatchOr([MatchMapping([Constant('k')],[MatchSequence([MatchAs(None,'$2'),MatchStar('$3')])],'$1'),MatchClass(C,[],['d'],[MatchValue(Constant(1))])]),'$0'),None,[Assign([$4],lambda [Constant(1)]([]|[]|None|[$5]|None)IfExp($2,$5,Yield(None)))])])]",
        ),
        (
            "import m\nm.x = m\nasync def f():\n    async with m as n:\n        await n",
            "[Import([alias('m',None)]),Assign([Attribute(m,'x')],m),AsyncFunctionDef $0 []([]|[]|None|[]|None)[AsyncWith([withitem(m,$1)],[Expr(Await($1))])]]",
        ),
    ],
)
def test_canonical_text(source: str, text: str) -> None:
    assert CanonicalWriter().module(ast.parse(textwrap.dedent(source)).body) == text


PLAIN = "def f(n, k):\n    return n if n < k else f(n - 1, k) + g(n)\n"
INNER = {
    "A.f": "class A:\n    def f(self, n, k):\n        return n if n < k else self.f(n - 1, k) + self.g(n)\n",
    "B.f": "class B:\n    @classmethod\n    def f(cls, a, /, b):\n        return a if a < b else cls.f(a - 1, b) + B.g(a)\n",
    "C.f": "class C:\n    x = 1\n    @staticmethod\n    def f(a, b):\n        return a if a < b else C.f(a - 1, b) + g(a)\n",
    "main.f": "def main():\n    def f(a, b):\n        return a if a < b else f(a - 1, b) + g(a)\n    return f(1, 2)\n",
    "main.D.f.f": "def main():\n    class D:\n        def f(self):\n            def f(a, b):\n                return a if a < b else f(a - 1, b) + g(a)\n            return f\n",
    "f": "try:\n    import g\nexcept ImportError:\n    if True:\n        def f(a, b):\n            return a if a < b else f(a - 1, b) + g(a)\n",
}


@pytest.mark.parametrize(("name", "source"), INNER.items(), ids=INNER)
def test_a_function_inside_reads_as_it_would_outside(name: str, source: str) -> None:
    texts = dict(read_module_code(source).functions)
    plain = dict(read_module_code(PLAIN).functions)["f"]
    assert texts[name] == (plain.replace("]|[$1,$2]|", "$1]|[$2]|") if "/" in source else plain)


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    def f(self, n, k):\n        return n if n < k else self.f(n - 1, k) + k.g(n)\n",
        "class A:\n    def f(n, self, k):\n        return n if n < k else self.f(n - 1, k) + self.g(n)\n",
        "class A:\n    @cache\n    def f(self, n, k):\n        return n if n < k else self.f(n - 1, k) + self.g(n)\n",
    ],
)
def test_a_method_that_is_another_function_has_another_text(source: str) -> None:
    assert dict(read_module_code(source).functions)["A.f"] != dict(read_module_code(PLAIN).functions)["f"]


def test_functions_inside_change_no_fingerprint_and_no_tree() -> None:
    for source in INNER.values():
        tree = ast.parse(source)
        before = ast.dump(tree)
        digests = {fingerprints(tree, inner=inner)[0] for inner in (False, True)}
        assert digests == {read_module_code(source).fingerprint}
        assert ast.dump(tree) == before


def test_functions_nested_too_deeply_are_left_out_and_equal_ones_listed_once() -> None:
    nested = "".join(f"{' ' * n}def f{n}():\n" for n in range(9)) + " " * 9 + "pass\n"
    assert [name.count(".") for name, _ in read_module_code(nested).functions] == [0, 1, 2, 3, 4, 5]
    assert len(read_module_code("def f():\n    pass\n" * 9).functions) == 1
    assert len(read_module_code("def f():\n    pass\ndef f():\n    return 1\n").functions) == 2


def test_walrus_binds_around_comprehensions() -> None:
    text = CanonicalWriter().module(ast.parse("a = [(b := c) for c in d if (e := c)]\nf((g := 1))").body)
    assert [f"${n}" in text for n in range(6)] == [True] * 5 + [False]
    assert ",d," not in text
    assert "d" in text
    assert read_module_code("x = (y := 1)").fingerprint == read_module_code("a = (b := 1)").fingerprint


def test_imports_are_sorted_and_stay_distinct() -> None:
    sources = ["import a, b", "import a as b", "import a", "from a import b", "from .a import b", "from . import b",
               "from .. import b", "from a import b as c", "from a import *"]  # fmt: skip
    assert len({digest(source) for source in sources}) == len(sources)
    assert digest("import b\nx = 1\nimport a") == digest("import a\nimport b\ny = 1")


DEEP = {
    "operators": lambda n: "+".join(["a"] * (n + 1)),
    "attributes": lambda n: "a" + ".b" * n,
    "calls": lambda n: "a" + "()" * n,
    "nots": lambda n: "not " * n + "a",
    "elifs": lambda n: "if a:\n    b\n" + "elif a:\n    b\n" * n,
    "lambdas": lambda n: "lambda: " * n + "a",
    "indentation": lambda n: "".join(" " * i + "if a:\n" for i in range(n)) + " " * n + "a",
    "brackets": lambda n: "[" * n + "]" * n,
    "comprehensions": lambda n: "[" * n + "a" + " for b in c]" * n,
    "functions": lambda n: "".join(" " * i + "def f():\n" for i in range(n)) + " " * n + "a",
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", DEEP)
def test_code_is_too_deep_at_any_call_depth(shape: str) -> None:
    """The same rows are dropped on every engine, however much of the stack is used before."""

    def error_at_depth(levels: int, source: str) -> str:
        return error_at_depth(levels - 1, source) if levels else read_module_code(source).error

    for depth in (90, MAX_TREE_DEPTH + 10, 2000, 30_000):
        source = DEEP[shape](depth)
        assert error_at_depth(0, source) == error_at_depth(400, source)
        if depth > MAX_TREE_DEPTH:
            assert read_module_code(source).error
    assert sys.getrecursionlimit() == 1000
    if shape in ("operators", "attributes", "elifs"):
        assert not read_module_code(DEEP[shape](MAX_TREE_DEPTH - 10)).error
        assert read_module_code(DEEP[shape](MAX_TREE_DEPTH + 10)).error == TOO_DEEP


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("x = 1\x00", "source code string cannot contain null bytes"),
        ("x = '\ud800'", "UnicodeEncodeError"),
        ("x = " + "9" * 5000, "integer string conversion"),
        ("x = 0x" + "f" * 50_000, "integer string conversion"),
        ("x = 1\n" * (MAX_PARSED_CHARACTERS // 5), "too long to parse"),
        ("def f(:", "SyntaxError"),
        ("(" * 1000, "SyntaxError"),
        ("\\" * 1000, "SyntaxError"),
        ("x = 1\n  y = 2", "IndentationError"),
        ("\ufeff\ufeffx", "SyntaxError"),
    ],
)
def test_what_python_cannot_read_is_an_error_of_the_row(source: str, error: str) -> None:
    code = read_module_code(source)
    assert error in code.error
    assert (code.fingerprint, code.functions, code.tree) == ("", [], None)


LONG = 400_000
HOSTILE = {
    "fence without an end": "`" * LONG,
    "fence and a word without an end": "```" + "a" * LONG,
    "fence, spaces": "```" + " " * LONG,
    "fences never closed": "```\n" * (LONG // 4),
    "fences of growing length": "\n".join("`" * n for n in range(3, 900)),
    "tildes and backticks": "~~~\n```\n" * (LONG // 8),
    "spaces": (" " * 999 + "\n") * (LONG // 1000),
    "one line": "x" * LONG,
    "one word again": "x " * (LONG // 2),
    "many functions": "def f(a, b): return a + b\n" * (LONG // 26),
    "functions in functions": "".join(f"{' ' * n}def f{n}(x):\n" for n in range(90))
    + (" " * 90 + "x += 1\n") * 4_000,
    "many methods": "class A:\n" + "    def f(self): return self.f()\n" * (LONG // 33),
    "many names": "".join(f"v{i} = {i}\n" for i in range(24_000)),
    "many lambdas": "".join(f"v{i} = lambda: {i}\n" for i in range(16_000)),
    "one string": "x = '" + "y" * (LONG - 100) + "'",
    "a list": "x = [" + "1," * (LONG // 2 - 10) + "]",
}


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_long_text_of_anything_is_read_in_seconds(text: str) -> None:
    """Quadratic time would be many minutes for each."""
    made = row(text, layout="fenced")
    assert isinstance(read_fenced_code(text).error, str)
    assert isinstance(read_module_code(text).error, str)
    assert isinstance(made.functions, list)


@settings(max_examples=100)
@given(st.text(st.sampled_from("`~ \n\tpython#")))
def test_fences_are_found_as_by_the_plain_pattern(text: str) -> None:
    plain = r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)"
    assert syntax.FENCED_BLOCK.findall(text) == re.findall(plain, text, syntax.FENCED_BLOCK.flags)


def test_many_scopes_beside_each_other_are_not_deep() -> None:
    code = read_module_code("".join(f"v{n} = lambda x: x + {n}\n" for n in range(2 * MAX_TREE_DEPTH)))
    assert not code.error
    assert code.fingerprint
