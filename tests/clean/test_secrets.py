"""Redaction: what is found, what is left alone, that code still parses, and that the prefilter misses nothing."""

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.clean.redact import personal, prefilter, redact, secrets
from stages.clean.settings import PERSONAL_KINDS, SECRET_PLUGINS, CleanSettings, Redaction
from stages.clean.transform import transform_records
from tests.helpers.clean_rows import record

GUESSING = {"KeywordDetector", "Base64HighEntropyString", "HexHighEntropyString"}  # noise on code
A = "x7Kq9Zp2Lm4Vt8Rb1Nc6Hw3Jd5Fg0SyTuEaQoXiP"  # letters and digits in no order; 40 characters
HEX = "9f3b7c1e5a8d2046b0e4f6a1c3d5978e"
# One line for each plugin, put together here so that no scanner of repositories takes them for real
LINES = {
    "ArtifactoryDetector": f'token = "AKC{A[:20]}"',
    "AWSKeyDetector": 'key = "' + "AK" + 'IA2E0A8F3B244C9986"',
    "AzureStorageKeyDetector": '"Account' + f'Key={A}{A}{A[:8]}"',
    "BasicAuthDetector": 'url = "https://bob:' + 'hunter2fish@db.corp.io/x"',
    "CloudantDetector": f'cloudant_password = "{HEX}{HEX}"',
    "DiscordBotTokenDetector": f'"M{A[:23]}.{A[:6]}.{A[:27]}"',
    "GitHubTokenDetector": '"gh' + f'p_{A[:36]}"',
    "GitLabTokenDetector": '"gl' + f'pat-{A[:20]}"',
    "IbmCloudIamDetector": f'ibm_api_key = "{A}{A[:4]}"',
    "IbmCosHmacDetector": f'cos_hmac_secret_access_key = "{HEX}{HEX[:16]}"',
    "JwtTokenDetector": '"ey' + 'JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcd"',
    "MailchimpDetector": f'"{HEX}-us1"',
    "NpmDetector": f"# //registry.example.org/:_authToken=npm_{A[:30]}",
    "OpenAIDetector": '"s' + f'k-{A[:20]}T3BlbkFJ{A[20:]}"',
    "PypiTokenDetector": '"py' + f'pi-AgEIcHlwaS5vcmc{A}{A}"',
    "SendGridDetector": f'"SG.{A[:22]}.{A}{A[:3]}"',
    "SlackDetector": '"xo' + f'xb-1234567890-{A[:20].lower()}"',
    "SoftlayerDetector": f'softlayer_api_key = "{HEX}{HEX}"',
    "SquareOAuthDetector": '"sq0' + f'csp-{A}{A[:3]}"',
    "StripeDetector": '"s' + f'k_live_{A[:24]}"',
    "TelegramBotTokenDetector": f'"110201543:{A[:35]}"',
    "TwilioKeyDetector": '"A' + f'C{HEX}"',
}


def redacted(text: str, layout: str = "whole", **others: Any) -> str:
    return redacted_rows([record("r", "", text)], layout, **others)[0][0]["completion"]


def redacted_rows(
    records: list[dict[str, Any]], layout: str = "whole", **others: Any
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    return transform_records(records, CleanSettings(layout=layout, redact=Redaction(**others)))


@pytest.mark.parametrize("name", LINES)
def test_each_plugin_alone_replaces_its_secret_and_the_line_still_parses(name: str) -> None:
    line = LINES[name]
    new = redacted(line + "\n", plugins=[name], personal=[]).rstrip()
    assert ("<PASSWORD>" if name == "BasicAuthDetector" else "<KEY>") in new
    assert not re.search(r"[A-Za-z0-9]{16}", new.replace("secret_access_key", "")), new
    ast.parse(new)
    assert redacted(line, plugins=[p for p in SECRET_PLUGINS if p != name][:1], personal=[]) == line
    assert redacted(line, secrets=False, personal=[]) == line


def test_there_is_a_line_for_each_plugin_that_is_on() -> None:
    assert set(LINES) | {"PrivateKeyDetector"} == set(SECRET_PLUGINS)
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    known = {cls.__name__ for cls in get_mapping_from_secret_type_to_class().values()}
    assert known == {*SECRET_PLUGINS, *GUESSING, "IPPublicDetector"}, (
        "detect-secrets has a plugin that nobody decided about"
    )


@pytest.mark.parametrize("name", LINES)
def test_whatever_detect_secrets_finds_is_replaced(name: str) -> None:
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import transient_settings

    with transient_settings({"plugins_used": [{"name": name}]}):
        found = [secret.secret_value for secret in scan_line(LINES[name])]
    assert found, "the line is none that detect-secrets knows"
    new = redacted(LINES[name], plugins=[name], personal=[])
    assert not any(str(value) in new for value in found)


# The prefilter


ASCII = st.characters(max_codepoint=127)


def matching(pattern: re.Pattern[str]) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, alphabet=ASCII).filter(lambda text: "\n" not in text)


@lru_cache(maxsize=1)
def all_redaction_patterns() -> list[str]:
    return list(redact.prefilter_patterns(SECRET_PLUGINS, PERSONAL_KINDS))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SECRET_PLUGINS, *PERSONAL_KINDS])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_prefilter_passes_every_line_in_which_a_pattern_matches(name: str, data: st.DataObject) -> None:
    patterns = (
        list(personal.PERSONAL[name][0]) if name in PERSONAL_KINDS else secrets.detector_patterns((name,))
    )
    pattern = data.draw(st.sampled_from(patterns))
    line = data.draw(st.text(max_size=5)) + data.draw(matching(pattern)) + data.draw(st.text(max_size=5))
    for part in line.split("\n"):
        if pattern.search(part):
            column = pa.array([part.encode("utf-8", "replace").decode()])
            wide = prefilter.widened(pattern)
            assert pc.match_substring_regex(column, wide)[0].as_py(), (pattern.pattern, part)
            text = pa.array([f"a\n{column[0]}\nb"])
            assert any(pc.match_substring_regex(text, p)[0].as_py() for p in all_redaction_patterns())


def test_the_prefilter_passes_every_line_of_real_code_in_which_a_pattern_matches() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    files = [
        folder / name for name in ("smtplib.py", "urllib/request.py", "ipaddress.py", "netrc.py", "string.py")
    ]
    files += [Path(__file__), Path(personal.__file__)]
    lines = [line for file in files for line in file.read_text("utf-8").split("\n")] + list(LINES.values())
    column = pa.array(lines)
    patterns = [
        *secrets.detector_patterns(SECRET_PLUGINS),
        *(p for found, _ in personal.PERSONAL.values() for p in found),
    ]
    hits = 0
    for pattern in patterns:
        passed = pc.match_substring_regex(column, prefilter.widened(pattern)).to_pylist()
        matched = [bool(pattern.search(line)) for line in lines]
        hits += sum(matched)
        assert [line for line, p, m in zip(lines, passed, matched, strict=True) if m and not p] == []
    assert hits > 150


TOKENS = [
    "ey" + f"JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.{A}-_3",
    "ey" + "JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.",
    "ey" + f"JlbmMiOiJBMjU2R0NNIiwiYWxnIjoiZGlyIn0..QmFzZTY0.{A}.QmFzZTY0",
    "github" + f"_pat_{A[:22]}_{A}",
    "gh" + f"p_{A}",
    "hf" + "_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh",
    "sk" + f"-proj-{A}_{A}",
    "sk" + f"-ant-api03-{A}-{A}AA",
    "AI" + f"za{A[:35]}",
    "xo" + f"xb-1234567890-1234567890-{A[:24]}",
    "https://hooks." + f"slack.com/services/T{A[:9].upper()}/B{A[:9].upper()}/{A[:24]}",
    "AK" + "IA2E0A8F3B244C9986",
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    "shape", ["x = '{}'\n", "Use {}, please.", "curl -H 'Authorization: Bearer {}'", "See {}.\n"]
)
def test_a_token_is_replaced_whole(token: str, shape: str) -> None:
    assert redacted(shape.format(token), "fenced") == shape.format("<KEY>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://bob:p@ss!w0rd#1@db.corp.io/x", "postgres://bob:<PASSWORD>@db.corp.io/x"),
        ("redis://:s3cr3tw0rd@cache:6379/0", "redis://:<PASSWORD>@cache:6379/0"),
        ("https://bob:hunter2fish@db.corp.io/x", "https://bob:<PASSWORD>@db.corp.io/x"),
        ("f'mysql://{user}:{password}@{host}'", "f'mysql://{user}:{password}@{host}'"),
        ("https://host:8080/@scope/name", "https://host:8080/@scope/name"),
        ("postgres://bob:mypass-77f@db.corp.io/x", "postgres://bob:<PASSWORD>@db.corp.io/x"),
    ],
)
def test_passwords_in_addresses(text: str, expected: str) -> None:
    assert redacted(text, "fenced", personal=[]) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "postgres://admin:password@db.corp.io/x",
            "mysql://root:changeme@db/x",
            "mongodb://a:your_password@b/",
        ),
        *(
            "amqp://guest:guest@queue:5672//",
            "ftp://anonymous:anonymous@ftp.corp.io",
            "http://u:xxxxxx@h.corp.io",
        ),
        *("https://bob:$GITHUB_TOKEN@github.com/a/b", "https://bob:${TOKEN}@github.com/a/b"),
        *(
            "key = 'AK" + "IAIOSFODNN7EXAMPLE'",
            "gh" + "p_" + "x" * 36,
            "sk" + "-proj-" + "x" * 24,
            "hf_" + "x" * 34,
        ),
        "ey" + "JhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...",
    ],
)
def test_what_documentation_writes_for_a_secret_is_left_alone(text: str) -> None:
    assert redacted(text, "fenced") == text


def test_secrets_in_tool_calls_reasoning_and_tools() -> None:
    token = TOKENS[3]
    call = {
        "type": "function",
        "function": {"name": "login", "arguments": {"key": token, "n": 1, "s": ['"a"\n']}},
    }
    extra = json.dumps({"reasoning_content": f"It is\n{token}", "tool_calls": [call]}, sort_keys=True)
    tools = json.dumps([{"type": "function", "function": {"name": "login", "description": f"as {token}"}}])
    messages = [{"role": "assistant", "content": "", "extra": extra}]
    rows, counts = redacted_rows([record("r", None, None, messages=messages, tools=tools)])
    assert json.loads(rows[0]["messages"][0]["extra"]) == json.loads(extra.replace(token, "<KEY>"))
    assert json.loads(rows[0]["tools"]) == json.loads(tools.replace(token, "<KEY>"))
    assert counts == {"key": 1, "key_places": 3}


@pytest.mark.slow
@pytest.mark.timeout(120)  # each place against each other takes minutes
@pytest.mark.parametrize(
    "line", ["'jane{}@acmeworks.com',\n", "k = '{}" + TOKENS[3] + "'\n", "# +49 731 9876 54{}"]
)
def test_many_places_cost_time_in_proportion(line: str) -> None:
    text = "x = [\n" + "".join(line.format(n % 90 + 10) for n in range(20_000)) + "]\n"
    redacted(text)


@pytest.mark.timeout(120)  # tried from each place to the end of the line this takes many minutes
@pytest.mark.parametrize("filler", ["//ab", "://u:", "a.b."])
def test_a_long_line_costs_time_in_proportion(filler: str) -> None:
    assert "<KEY>" in redacted(filler * 300_000 + LINES["AWSKeyDetector"], "fenced")


# Private keys


def test_of_a_private_key_what_stands_between_its_lines_goes() -> None:
    body = "\n".join([A + A[:24]] * 3 + ["Zm9v"])
    text = (
        f'KEY = """-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\n"""\nx = "{A}"\n'
    )
    expected = (
        f'KEY = """-----BEGIN RSA PRIVATE KEY-----\n<KEY>\n-----END RSA PRIVATE KEY-----\n"""\nx = "{A}"\n'
    )
    assert redacted(text) == expected
    one_line = (
        'KEY = "-----BEGIN RSA PRIVATE KEY-----\\n'
        + body.replace("\n", "\\n")
        + '\\n-----END RSA PRIVATE KEY-----"'
    )
    assert (
        redacted(one_line)
        == 'KEY = "-----BEGIN RSA PRIVATE KEY-----\\n<KEY>\\n-----END RSA PRIVATE KEY-----"'
    )
    assert redacted('if "BEGIN RSA PRIVATE KEY" in text:\n    pass\n') == (
        'if "BEGIN RSA PRIVATE KEY" in text:\n    pass\n'
    )


# Personal data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# jane.doe+x@mail.uni-ulm.de wrote this", "# <EMAIL> wrote this"),
        ("__author__ = 'Jane <jane@acmeworks.com>'", "__author__ = 'Jane <<EMAIL>>'"),
        ("HOST = '93.184.215.14:8080'", "HOST = '<IP_ADDRESS>:8080'"),
        ("# seen 2606:2800:21f:cb07:6820:80da:af6b:8b2c", "# seen <IP_ADDRESS>"),
        ("call = '+49 731 9876 5432'", "call = '<PHONE_NUMBER>'"),
        ("# (415) 867-5309", "# <PHONE_NUMBER>"),
        ("pay = 'DE75 5121 0800 1245 1261 99'", "pay = '<IBAN>'"),
        ("pay = '4539 5787 6362 1486'", "pay = '<CREDIT_CARD>'"),
    ],
)
def test_personal_data_are_replaced(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert redacted(expected) == expected
    assert redacted(text, personal=[]) == text


@pytest.mark.parametrize(
    "text",
    [
        *("# joe@example.com", "# a@b.example", "# x@test", "# git@github.com:a/b.git", "# me@foo.com"),
        *("y = w@x.shape", "# python@2.7", "@app.route\ndef f(): pass", "# noreply@github.com"),
        *(
            "'127.0.0.1'",
            "'0.0.0.0'",
            "'192.168.1.77'",
            "'10.20.30.40'",
            "'255.255.255.255'",
            "'203.0.113.9'",
        ),
        *(
            "# version 93.184.215.14",
            "'pkg==93.184.215.14'",
            "# 1.2.3.4",
            "## [1.128.1.0] - 2026",
            'AssemblyVersion("93.184.215.14")',
            "# OID 1.3.6.1.4.1.99",
            "'8.8.8.8'",
        ),
        *("# 12:34:56:78", "x[::2]", "# ::1", "# fe80::1ff:fe23:4567:890a", "# 300.400.500.600"),
        *("# 555-867-5309", "# 2024-01-15 10:20", "x = 415-867-5309", "# 123-456-7890"),
        *("# DE75 5121 0800 1245 1261 98", "# GB82 WEST 1234 5698 7654 32"),
        *("'4539 5787 6362 1487'", "'4111111111111111'", "x = 4539578763621486", "# 1234567890123456"),
    ],
)
def test_what_stands_for_no_one_is_left_alone(text: str) -> None:
    assert redacted(text) == text


def test_kinds_are_chosen_one_by_one() -> None:
    text = "# jane@acmeworks.com 93.184.215.14"
    assert redacted(text, personal=["ip"]) == "# jane@acmeworks.com <IP_ADDRESS>"


# Code still parses


def test_a_number_that_computes_stays_and_what_is_in_quotes_beside_it_goes() -> None:
    text = 'n = 4539578763621486\nmail = "jane@acmeworks.com"\nx = b@c.io\n'
    assert redacted(text) == 'n = 4539578763621486\nmail = "<EMAIL>"\nx = b@c.io\n'
    assert redacted("so call 4539578763621486 now") == "so call <CREDIT_CARD> now", "prose need not parse"


def test_prompt_and_completion_are_one_module() -> None:
    prompt, completion = (
        'def f():\n    """Ask jane@acmeworks.com."""\n',
        "    return 4539578763621486, 'jo@acmeworks.com'\n",
    )
    rows, counts = redacted_rows([record("r", prompt, completion)])
    assert rows[0]["prompt"] == 'def f():\n    """Ask <EMAIL>."""\n'
    assert rows[0]["completion"] == "    return 4539578763621486, '<EMAIL>'\n"
    assert counts == {"email": 1, "email_places": 2}


def test_fenced_code_still_parses_and_prose_around_it_is_replaced() -> None:
    text = "Card 4539578763621486:\n\n```python\nn = 4539578763621486\ns = '4539578763621486'\n```\n"
    expected = "Card <CREDIT_CARD>:\n\n```python\nn = 4539578763621486\ns = '<CREDIT_CARD>'\n```\n"
    assert redacted(text, "fenced") == expected
    messages = [
        {"role": "user", "content": "I am jane@acmeworks.com", "extra": None},
        {"role": "assistant", "content": text, "extra": None},
    ]
    rows, counts = redacted_rows([record("r", None, None, messages=messages, tests="# jo@acmeworks.com\n")])
    assert [m["content"] for m in rows[0]["messages"]] == ["I am <EMAIL>", expected]
    assert rows[0]["tests"] == "# <EMAIL>\n"
    assert counts == {"card": 1, "card_places": 2, "email": 1, "email_places": 2}


SNIPPETS = st.sampled_from(
    [
        *LINES.values(),
        "jane@acmeworks.com",
        "4539578763621486",
        "93.184.215.14",
        "+49 731 9876 5432",
        "x = 1",
        "b@c.io",
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(SNIPPETS, st.sampled_from(["{}", "# {}", "a = {!r}", 'b = """{}"""', "f(rb'''{}''')"]))
    )
)
def test_what_parses_before_parses_after(pieces: list[tuple[str, str]]) -> None:
    text = "\n".join(shape.format(piece) for piece, shape in pieces)
    try:
        ast.parse(text)
    except SyntaxError:
        return
    ast.parse(redacted(text))


def test_rows_do_not_depend_on_the_batch_they_are_in() -> None:
    records = [record(f"{n:02}", "", line) for n, line in enumerate(LINES.values())]
    alone = [redacted_rows([r])[0][0] for r in records]
    together, counts = redacted_rows(records)
    assert alone == together
    assert counts["key"] == counts["key_places"] == len(LINES) - 1


def test_detect_secrets_is_imported_only_where_redaction_is_on() -> None:
    code = (
        "import sys\n"
        "from stages.clean.settings import CleanSettings, Redaction\n"
        "from stages.clean.transform import transform_records\n"
        "transform_records([], CleanSettings(redact=Redaction(False, [])))\n"
        "print(any(name.startswith('detect_secrets') for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "False"


def test_settings_name_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match=r"clean\.redact\.personal is 'name'"):
        Redaction(personal=["name"])
    with pytest.raises(ValueError, match=r"clean\.redact\.plugins is 'IPPublicDetector'"):
        Redaction(plugins=["IPPublicDetector"])
