"""Python functions of realistic shape, drawn from a grammar: about 20 lines and 550 characters, all different, all parse.

Structure (statements, attributes, strings, numbers, called functions) and local names are drawn from two streams: the
same structure with other names is an alpha-renamed copy.
"""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def listed(words: str) -> list[str]:
    return words.split()


NOUNS = listed(
    """value item node key count index row user name path data line token result total size entry group event
message record table field column batch edge order score point price weight limit offset label state source target
range window buffer cache query request response session account product invoice customer payment category document
page image pixel frame matrix vector tensor layer filter sample signal channel device sensor reading report summary
metric counter bucket queue stack graph tree leaf branch parent child cluster region city country address phone number
digit letter word sentence paragraph text pattern rule grammar parser lexer symbol variable function module package
version release commit author diff patch file folder archive block sector disk memory register cycle clock
timer interval schedule task worker thread process lock handler listener callback hook plugin option setting
profile theme color shape circle square triangle polygon angle radius height width depth volume area mass force speed
distance route station ticket seat flight hotel booking guest room meal recipe ingredient dish menu chef garden plant
seed flower river mountain season month week day hour minute second year era team player match goal tournament medal
card deck hand dealer bet chip board piece move turn level quest monster weapon armor spell potion inventory"""
)
ADJECTIVES = listed(
    """new old first last next current previous valid invalid empty full open closed active hidden visible
local global total partial final raw clean sorted unique common rare minimum maximum average median upper lower inner
outer left right top bottom short long deep flat sparse dense weighted pending failed expired cached stale fresh
nested merged split shared private public remote default custom optional required known missing extra spare"""
)
VERBS = listed(
    """get find count merge split load parse build make check collect compute update remove filter group sort
join select convert format render resolve apply reduce expand flatten index rank match trim pad scale shift rotate
encode decode validate normalize estimate balance schedule assign distribute compress extract insert replace search
scan walk visit trace record restore archive publish collate partition sample project align attach detach"""
)
TYPES = ("", "", "", ": int", ": str", ": list", ": dict", ": float", ": bool")
COMPARE = ("<", ">", "<=", ">=", "==", "!=", "<", ">")
CALLS = ("len", "sum", "max", "min", "sorted", "list", "set", "abs", "str", "tuple", "any", "all")
METHODS = ("append", "add", "extend", "update", "discard", "insert_at", "push", "write", "send", "remove")
QUERIES = ("strip", "lower", "copy", "items", "keys", "values", "split", "upper", "title", "isdigit")


class Writer:
    """Writes one function. `structure` and `names` are seeds; equal seeds give equal text."""

    def __init__(self, structure: int, names: int) -> None:
        self.draw = random.Random(structure).random
        self.naming = random.Random(names).random
        self.scope: list[str] = []
        self.taken: set[str] = set()

    def pick(self, words: Sequence[T]) -> T:
        return words[int(self.draw() * len(words))]

    def common(self, words: list[str]) -> str:
        """One of `words`, the first ones more often: square of a uniform number."""
        return words[int(self.draw() ** 2 * len(words))]

    def new(self) -> str:
        """A local name that is not taken yet."""
        naming = self.naming
        while True:
            kind, name = naming(), NOUNS[int(naming() ** 2 * len(NOUNS))]
            if kind > 0.6:
                first = ADJECTIVES if kind < 0.8 else NOUNS
                name = f"{first[int(naming() * len(first))]}_{name}"
            elif kind < 0.1:
                name = name[0]
            if name not in self.taken:
                self.taken.add(name)
                return name

    def bind(self) -> str:
        """A new local that later statements may use; of the expression that it is bound to, write that first."""
        name = self.new()
        self.scope.append(name)
        return name

    def var(self) -> str:
        return self.scope[-1 - int(self.draw() ** 1.5 * len(self.scope))]

    def attribute(self) -> str:
        return self.common(NOUNS) if self.draw() < 0.6 else f"{self.pick(ADJECTIVES)}_{self.common(NOUNS)}"

    def number(self) -> str:
        at = self.draw()
        if at < 0.6:
            return str(int(self.draw() * 4))
        return str(int(self.draw() ** 3 * 1000)) if at < 0.92 else f"{self.draw():.2f}"

    def string(self) -> str:
        at = self.draw()
        text = self.common(NOUNS) if at < 0.6 else f"{self.pick(ADJECTIVES)} {self.common(NOUNS)}"
        return f'"{text}"' if at < 0.9 else f'"{text}: %s"'

    def called(self) -> str:
        return self.pick(CALLS) if self.draw() < 0.45 else f"{self.pick(VERBS)}_{self.common(NOUNS)}"

    def condition(self) -> str:
        return self.pick(CONDITIONS)(self)

    def expression(self) -> str:
        return self.pick(EXPRESSIONS)(self)

    def simple(self) -> str:
        if self.draw() < 0.62:
            value = self.expression()
            return f"{self.bind()} = {value}"
        return self.pick(ACTIONS)(self)

    def block(self, statements: int, depth: int, indent: str) -> list[str]:
        """Lines of that many statements; a compound one takes some of them for its body."""
        lines: list[str] = []
        while statements > 0:
            if statements < 3 or depth > 2 or self.draw() < 0.62:
                lines.append(indent + self.simple())
                statements -= 1
                continue
            inner = 1 + int(self.draw() * min(4, statements - 1))
            visible = len(self.scope)
            lines += self.compound(inner, depth, indent)
            del self.scope[visible:]
            statements -= inner + 1
        return lines

    def compound(self, inner: int, depth: int, indent: str) -> list[str]:
        kind, deeper = self.draw(), indent + "    "
        if kind < 0.42:
            targets, over = LOOPS[int(self.draw() * len(LOOPS))]
            iterable = over(self)
            bound = ", ".join([self.bind() for _ in range(targets)])
            return [f"{indent}for {bound} in {iterable}:", *self.block(inner, depth + 1, deeper)]
        if kind < 0.8:
            lines = [f"{indent}if {self.condition()}:", *self.block(inner, depth + 1, deeper)]
            if kind < 0.55:
                lines += [indent + "else:", deeper + self.pick(ACTIONS)(self)]
            elif kind < 0.62:
                lines += [f"{deeper}return {self.var()}"]
            return lines
        if kind < 0.88:
            head = f"{indent}while {self.condition()}:"
            return [head, *self.block(inner, depth + 1, deeper), f"{deeper}{self.var()} -= 1"]
        if kind < 0.95:
            error = self.pick(("ValueError", "KeyError", "TypeError", "IndexError"))
            handler = self.pick(ACTIONS)(self)
            return [
                indent + "try:",
                *self.block(inner, depth + 1, deeper),
                f"{indent}except {error}:",
                deeper + handler,
            ]
        return [f"{indent}# {self.sentence()}", *self.block(inner, depth, indent)]

    def sentence(self) -> str:
        """Words about it, drawn with the names: prose goes with names, not with structure."""
        naming, words = self.naming, []
        for bank in SENTENCES[int(naming() * len(SENTENCES))]:
            words.append(bank if isinstance(bank, str) else bank[int(naming() ** 2 * len(bank))])
        return " ".join(words)

    def function(self) -> tuple[str, str, str]:
        """(head with docstring, body, what it is about)."""
        statements = max(5, min(26, int(11.5 + 5 * (self.draw() + self.draw() + self.draw() - 1.5))))
        parameters = ", ".join(self.bind() + self.pick(TYPES) for _ in range(1 + int(self.draw() * 3)))
        name = f"{VERBS[int(self.naming() * len(VERBS))]}_{self.new()}"
        about = self.sentence()
        about = about[0].upper() + about[1:]
        head = f'def {name}({parameters}):\n    """{about}.'
        if self.draw() < 0.4:
            head += f"\n\n    {self.sentence().capitalize()}.\n    "
        body = self.block(statements, 0, "    ")
        body.append(f"    return {self.expression() if self.draw() < 0.4 else self.var()}")
        return head + '"""\n', "\n".join(body) + "\n", about


Piece = Callable[[Writer], str]
SENTENCES: list[tuple["str | list[str]", ...]] = [
    (VERBS, "the", ADJECTIVES, NOUNS, "of each", NOUNS, "and", VERBS, "it by", NOUNS),
    ("return every", NOUNS, "whose", NOUNS, "is", ADJECTIVES, "in the", ADJECTIVES, NOUNS),
    (VERBS, "a", NOUNS, "from its", NOUNS, "unless the", NOUNS, "is", ADJECTIVES),
    ("the", ADJECTIVES, NOUNS, "between two", NOUNS, "after the", NOUNS, "was", ADJECTIVES),
    (VERBS, "all", ADJECTIVES, NOUNS, "entries that a", NOUNS, "holds, the", ADJECTIVES, "ones first"),
    ("how many", NOUNS, "a", ADJECTIVES, NOUNS, "has once the", NOUNS, "and the", NOUNS, "are known"),
]
EXPRESSIONS: list[Piece] = [
    lambda w: f"{w.var()}.{w.attribute()}",
    lambda w: f"{w.called()}({w.var()})",
    lambda w: f"{w.called()}({w.var()}, {w.var()})",
    lambda w: f"{w.var()}.get({w.string()}, {w.number()})",
    lambda w: f"{w.var()}[{w.number()}]",
    lambda w: f"{w.var()}[{w.var()}]",
    lambda w: f"{w.var()} + {w.var()}",
    lambda w: f"{w.var()} * {w.number()} + {w.var()}",
    lambda w: f"{w.var()} % {w.number()}",
    lambda w: f"({w.var()} - {w.var()}) / {w.called()}({w.var()})",
    lambda w: "[]",
    lambda w: "{}",
    lambda w: w.number(),
    lambda w: f"{w.var()}.{w.pick(QUERIES)}()",
    lambda w: f"{w.called()}({w.var()}.{w.attribute()}, {w.number()})",
    lambda w: f"[x.{w.attribute()} for x in {w.var()} if x.{w.attribute()} {w.pick(COMPARE)} {w.number()}]",
    lambda w: f"[{w.called()}(x) for x in {w.var()}]",
    lambda w: f"sum(x {w.pick(COMPARE)} {w.number()} for x in {w.var()})",
    lambda w: f"{{x: {w.called()}(x) for x in {w.var()} if x not in {w.var()}}}",
    lambda w: f"sorted({w.var()}, key=lambda x: x.{w.attribute()})",
    lambda w: f"{w.var()}[{w.number()}:] + {w.var()}[:{w.number()}]",
    lambda w: f"{w.var()} if {w.condition()} else {w.number()}",
    lambda w: f"{w.string()}.join(str(x) for x in {w.var()})",
    lambda w: f"max({w.var()}, {w.number()})",
    lambda w: f"dict(zip({w.var()}, {w.var()}))",
    lambda w: f"self_{w.attribute()}({w.var()}, {w.string()})",
]
CONDITIONS: list[Piece] = [
    lambda w: f"{w.var()} {w.pick(COMPARE)} {w.number()}",
    lambda w: f"{w.var()} {w.pick(COMPARE)} {w.var()}",
    lambda w: f"not {w.var()}",
    lambda w: f"{w.var()} is None",
    lambda w: f"{w.var()} in {w.var()}",
    lambda w: f"len({w.var()}) {w.pick(COMPARE)} {w.number()}",
    lambda w: f"{w.var()}.{w.attribute()} and {w.var()} {w.pick(COMPARE)} {w.number()}",
    lambda w: f"isinstance({w.var()}, {w.pick(('int', 'str', 'list', 'dict', 'float'))})",
    lambda w: f"{w.called()}({w.var()}) {w.pick(COMPARE)} {w.number()}",
    lambda w: f"{w.var()}[{w.number()}] {w.pick(COMPARE)} {w.var()}",
]
ACTIONS: list[Piece] = [
    lambda w: f"{w.var()}.{w.pick(METHODS)}({w.var()})",
    lambda w: f"{w.var()}.{w.pick(METHODS)}(({w.var()}, {w.var()}))",
    lambda w: f"{w.var()} += {w.number()}",
    lambda w: f"{w.var()} -= {w.var()}",
    lambda w: f"{w.var()}[{w.var()}] = {w.var()}",
    lambda w: f"{w.var()}[{w.string()}] = {w.called()}({w.var()})",
    lambda w: f"{w.var()}.{w.attribute()} = {w.var()}",
    lambda w: f"{w.var()}.setdefault({w.var()}, []).append({w.var()})",
    lambda w: f"{w.called()}({w.var()}, {w.attribute()}={w.number()})",
    lambda w: f"{w.var()}, {w.var()} = {w.var()}, {w.var()}",
]
LOOPS: list[tuple[int, Piece]] = [  # how many targets, over what
    (1, Writer.var),
    (1, lambda w: f"range({w.number()}, len({w.var()}))"),
    (1, lambda w: f"range({w.var()})"),
    (2, lambda w: f"enumerate({w.var()})"),
    (2, lambda w: f"{w.var()}.items()"),
    (2, lambda w: f"zip({w.var()}, {w.var()})"),
]
