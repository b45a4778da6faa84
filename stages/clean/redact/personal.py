"""Find personal data in a text: email and IP addresses, phone, account and card numbers.

Names of people are not searched for: without a model no rule can tell `April` from April. Values that belong
to nobody are left alone: example.com, private and documentation addresses, 555 numbers, test cards, versions.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

from stages.clean.redact.secrets import Span

EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+@/-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@((?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,18})(?![\w@(-])"
)
IP4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.\w)")
IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])")
PHONE = re.compile(
    r"(?<![\w.+)-])(?:\+[1-9][0-9]{0,2}[ .-]\(?[0-9]{1,4}\)?(?:[ .-][0-9]{2,4}){2,4}"
    r"|(?:\+?1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}-)[2-9][0-9]{2}-[0-9]{4})(?![\w.-]?[0-9])"
)
IBAN = re.compile(r"(?<!\w)[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
CARD = re.compile(r"(?<![\w.+-])[2-6](?:[ -]?[0-9]){12,18}(?![\w.-]?[0-9A-Za-z])")

# Top-level domains of email addresses besides country codes. `x@w.shape` and python@2.7 are not addresses
TOP_DOMAINS = frozenset(
    [
        "com",
        "org",
        "net",
        "edu",
        "gov",
        "mil",
        "int",
        "info",
        "biz",
        "name",
        "pro",
        "aero",
        "coop",
        "museum",
        "app",
        "dev",
        "cloud",
        "online",
        "site",
        "tech",
        "store",
        "xyz",
        "email",
        "live",
    ]
)
PLACEHOLDER_DOMAINS = frozenset(
    [
        "example",
        "test",
        "invalid",
        "localhost",
        "local",
        "foo",
        "bar",
        "baz",
        "foobar",
        "domain",
        "mydomain",
        "yourdomain",
        "somedomain",
        "acme",
        "email",
        "company",
        "yourcompany",
        "mycompany",
        "mail",
        "abc",
        "xyz",
        "host",
        "server",
        "site",
        "website",
    ]
)
ROLE_ACCOUNTS = frozenset(["git", "noreply", "no-reply", "hg", "svn"])
TEST_CARDS = frozenset(
    [
        "4111111111111111",
        "4242424242424242",
        "4012888888881881",
        "5555555555554444",
        "5105105105105100",
        "378282246310005",
        "371449635398431",
        "6011111111111117",
        "6011000990139424",
        "3530111333300000",
        "4000056655665556",
        "5200828282828210",
    ]
)
TEST_IBANS = frozenset(
    [
        "GB82WEST12345698765432",
        "GB29NWBK60161331926819",
        "DE89370400440532013000",
        "FR1420041010050500013M02606",
    ]
)
LARGEST_VERSION_NUMBER = 30  # 1.2.3.4 with no number above this counts as a version
VERSION = re.compile(r"(?:version|ver|release|section|[=<>~!]=|[A-Za-z]/|\bv)[ \"':=]*$", re.IGNORECASE)


def find_emails(text: str) -> Iterator[Span]:
    for match in EMAIL.finditer(text):
        labels = match[1].lower().split(".")
        role = match[0].partition("@")[0].lower()
        stands_in = bool(PLACEHOLDER_DOMAINS & {*labels[-2:]}) or "example" in labels
        if (
            (labels[-1] in TOP_DOMAINS or len(labels[-1]) == 2)
            and role not in ROLE_ACCOUNTS
            and not stands_in
        ):
            yield Span(match.start(), match.end(), "email")


def find_ips(text: str) -> Iterator[Span]:
    """Find public addresses that do not look like version numbers."""
    for pattern in (IP4, IP6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            if not address.is_global or address.is_multicast:
                continue
            if address.version == 4 and max(address.packed) <= LARGEST_VERSION_NUMBER:
                continue
            if not VERSION.search(text, max(0, match.start() - 20), match.start()):
                yield Span(match.start(), match.end(), "ip")


def find_phones(text: str) -> Iterator[Span]:
    for match in PHONE.finditer(text):
        digits = re.sub(r"[^0-9]", "", match[0])
        if 10 <= len(digits) <= 15 and "555" not in (digits[-7:-4], digits[-10:-7]) and len(set(digits)) > 3:
            yield Span(match.start(), match.end(), "phone")


def find_ibans(text: str) -> Iterator[Span]:
    for match in IBAN.finditer(text):
        plain = match[0].replace(" ", "")
        number = "".join(str(int(c, 36)) for c in plain[4:] + plain[:4])
        if 15 <= len(plain) <= 34 and int(number) % 97 == 1 and plain not in TEST_IBANS:
            yield Span(match.start(), match.end(), "iban")


def find_cards(text: str) -> Iterator[Span]:
    """Find numbers with the length and first digits of a card company and a correct check digit (Luhn)."""
    for match in CARD.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        if is_card_number(digits) and has_luhn_digit(digits) and digits not in TEST_CARDS:
            yield Span(match.start(), match.end(), "card")


def is_card_number(digits: str) -> bool:
    lengths = {"4": (16, 19), "3": (14, 15, 16), "5": (16,), "2": (16,), "6": (16, 19)}
    if len(digits) not in lengths[digits[0]]:
        return False
    first = int(digits[:2])
    return (
        digits[0] == "4"
        or 51 <= first <= 55
        or 22 <= first <= 27
        or first in (30, 34, 35, 36, 37, 38, 60, 62, 64, 65)
    )


def has_luhn_digit(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + place % 2)
        total += number - 9 * (number > 9)
    return total % 10 == 0


PERSONAL_FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "email": find_emails,
    "ip": find_ips,
    "phone": find_phones,
    "iban": find_ibans,
    "card": find_cards,
}
PERSONAL_PATTERNS = {"email": (EMAIL,), "ip": (IP4, IP6), "phone": (PHONE,), "iban": (IBAN,), "card": (CARD,)}
