"""Find personal data in a text: email and IP addresses, phone, account and card numbers.

Names of people are not searched for: without a model no rule can tell `April` from April. Values that belong
to nobody are left alone: example.com, private and documentation addresses, 555 numbers, test cards, versions.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence

from stages.clean.redact.secrets import Span

EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+@/$-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@((?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,18})(?![\w@(-])"
)
USER_INFO = re.compile(r"://[^\s/@]*$")
IP4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.\w)")
IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])")
PHONE = re.compile(
    r"(?<![\w.+)-])(?:\+[1-9][0-9]{0,2}[ .-]\(?[0-9]{1,4}\)?(?:[ .-][0-9]{2,4}){2,4}"
    r"|(?:\+?1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}-)[2-9][0-9]{2}-[0-9]{4})(?![\w.-]?[0-9])"
)
IBAN = re.compile(r"(?<!\w)[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
CARD = re.compile(r"(?<![\w.+-])[2-6](?:[ -]?[0-9]){12,18}(?![\w.-]?[0-9A-Za-z])")

# Top-level domains of email addresses besides country codes. `x@w.shape` and python@2.7 are not addresses
TOP_DOMAINS = frozenset((
    "com", "org", "net", "edu", "gov", "mil", "int", "info", "biz", "name", "pro", "aero", "coop", "museum",
    "app", "dev", "cloud", "online", "site", "tech", "store", "xyz", "email", "live",
))  # fmt: skip
PLACEHOLDER_DOMAINS = frozenset((
    "example", "test", "invalid", "localhost", "local", "foo", "bar", "baz", "foobar", "domain", "mydomain",
    "yourdomain", "somedomain", "acme", "email", "company", "yourcompany", "mycompany", "mail", "abc",
    "xyz", "host", "server", "site", "website",
))  # fmt: skip
ROLE_ACCOUNTS = frozenset(["git", "noreply", "no-reply", "hg", "svn"])
TEST_CARDS = frozenset((
    "4111111111111111", "4242424242424242", "4012888888881881", "5555555555554444", "5105105105105100",
    "378282246310005", "371449635398431", "6011111111111117", "6011000990139424", "3530111333300000",
    "4000056655665556", "5200828282828210",
))  # fmt: skip
TEST_IBANS = frozenset((
    "GB82WEST12345698765432", "GB29NWBK60161331926819", "DE89370400440532013000",
    "FR1420041010050500013M02606",
))  # fmt: skip
LARGEST_VERSION_NUMBER = 30  # 1.2.3.4 with no number above this counts as a version
VERSION = re.compile(r"(?:version|ver|release|section|[=<>~!]=|[A-Za-z]/|\bv)[ \"':=(]*$", re.IGNORECASE)


def find_personal(text: str, kinds: Sequence[str]) -> Iterator[Span]:
    for kind in kinds:
        patterns, belongs_to_somebody = PERSONAL[kind]
        for pattern in patterns:
            for match in pattern.finditer(text):
                if belongs_to_somebody(match):
                    yield Span(match.start(), match.end(), kind)


def is_email(match: re.Match[str]) -> bool:
    if USER_INFO.search(match.string, max(0, match.start() - 100), match.start()):
        return False  # a password or a variable in a URL
    labels = match[1].lower().split(".")
    role = match[0].partition("@")[0].lower()
    stands_in = bool(PLACEHOLDER_DOMAINS & {*labels[-2:]}) or "example" in labels
    is_domain = labels[-1] in TOP_DOMAINS or len(labels[-1]) == 2
    return is_domain and role not in ROLE_ACCOUNTS and not stands_in


def is_public_ip(match: re.Match[str]) -> bool:
    """Whether this is a public address that does not look like a version number."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    if not address.is_global or address.is_multicast:
        return False
    if address.version == 4 and (max(address.packed) <= LARGEST_VERSION_NUMBER or not address.packed[3]):
        return False  # 1.2.3.4 is a version, and so is 1.128.1.0: no host ends in 0
    return not VERSION.search(match.string, max(0, match.start() - 20), match.start())


def is_phone(match: re.Match[str]) -> bool:
    digits = re.sub(r"[^0-9]", "", match[0])
    return 10 <= len(digits) <= 15 and "555" not in (digits[-7:-4], digits[-10:-7]) and len(set(digits)) > 3


def is_iban(match: re.Match[str]) -> bool:
    plain = match[0].replace(" ", "")
    number = "".join(str(int(c, 36)) for c in plain[4:] + plain[:4])
    return 15 <= len(plain) <= 34 and int(number) % 97 == 1 and plain not in TEST_IBANS


def is_card(match: re.Match[str]) -> bool:
    """Whether a number has the length and first digits of a card company and a correct check digit (Luhn)."""
    digits = re.sub(r"[ -]", "", match[0])
    return is_card_number(digits) and has_luhn_digit(digits) and digits not in TEST_CARDS


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


PERSONAL: dict[str, tuple[tuple[re.Pattern[str], ...], Callable[[re.Match[str]], bool]]] = {
    "email": ((EMAIL,), is_email),
    "ip": ((IP4, IP6), is_public_ip),
    "phone": ((PHONE,), is_phone),
    "iban": ((IBAN,), is_iban),
    "card": ((CARD,), is_card),
}
