"""Data sets of Axolotl's configuration as sources of fetch and a prompt style."""

import re
from typing import Any

from stages.migrate.migration import CARRIED, Migration
from stages.migrate.places import carry_source, carry_styles

CHAT_TYPES = ("chat_template", "sharegpt", "messages")
ALPACA_TYPES = ("alpaca", "alpaca_instruct", "alpaca_w_system", "alpaca_chat", "gpteacher", "jeopardy", "oasst", "reflection", "summarizetldr", "explainchoice", "concisechoice")  # fmt: skip
TURN_FIELDS = {"role": ("role", "from"), "content": ("content", "value")}


def carry_datasets(m: Migration, ask: bool) -> None:
    """Carry datasets or pretraining_dataset: places, types, columns, and what of a row is trained on."""
    head = "datasets" if m.get("datasets") else "pretraining_dataset"
    entries = m.get(head, [])
    entries = [{"path": entries}] if isinstance(entries, str) else entries
    if not entries:
        m.refuse("datasets", "no data set is named")
    styles = {}
    for number, entry in enumerate(entries):
        key = f"{head}[{number}]"
        styles[f"{key}.type"] = carry_dataset(m, key, dict(entry), head == "pretraining_dataset", ask)
    style = carry_styles(m, styles)
    if m.get("train_on_inputs"):
        m.carry("train_on_inputs", "prompt.loss", "text")
    elif "train_on_inputs" in m.given:
        m.needless("train_on_inputs", "questions are not trained on here either")
    if style == "chat":
        m.settings.setdefault("prompt.loss", "all")
        if system := m.get("default_system_message"):
            m.carry("default_system_message", "prompt.system", system)
        if (template := m.get("chat_template")) == "tokenizer_default":
            m.carry("chat_template", "prompt", "chat")
        elif template:
            m.lose("chat_template", "the tokenizer's own chat template is used: compare `python -m stages.pack.show`; a base without one needs prompt: template, or chat_template.jinja in a local copy")  # fmt: skip
    elif m.get("chat_template"):
        m.needless("chat_template", "no data set is a conversation")


def carry_dataset(m: Migration, key: str, entry: dict[str, Any], is_text: bool, ask: bool) -> str:
    """Carry one data set and return its prompt style."""
    path, files = str(entry.pop("path", "") or ""), entry.pop("data_files", None)
    files = [files] if isinstance(files, str) else list(files or [])
    kind = entry.pop("ds_type", None)
    if path in ("json", "csv", "parquet", "arrow", "text", "") and files:
        path, files = str(files[0]), files[1:]
        if files:
            m.lose(f"{key}.data_files", f"one file a source: add sources for {', '.join(map(str, files))}")
            files = []
    source = carry_source(m, key, path, entry.pop("revision", None), ask)
    if files and source["kind"] == "hub":
        source["data_files"] = files
        m.tell(f"{key}.data_files", CARRIED, f"data_files of source {source['name']}")
    elif files:
        m.lose(f"{key}.data_files", "a folder is read whole; name the file as the source's path")
    if kind:
        m.needless(f"{key}.ds_type", "a file is recognised by its bytes")
    if configuration := entry.pop("name", None):
        source["configuration"] = configuration
        m.tell(f"{key}.name", CARRIED, f"configuration of source {source['name']}")
    carry_split(m, key, str(entry.pop("split", None) or "train"), source)
    style = carry_type(m, key, entry.pop("type", "pretrain" if is_text else None), entry, source)
    carry_columns(m, key, entry, source, style)
    for name, value in entry.items():
        if value not in (None, False, "", [], {}):
            m.lose(f"{key}.{name}", "no such setting of a source; docs/data.md says what one can say")
    return style


def carry_split(m: Migration, key: str, split: str, source: dict[str, Any]) -> None:
    if source["kind"] != "hub":
        return
    name, part = re.fullmatch(r"([^\[]+)(\[.*\])?", split).groups()  # type: ignore[union-attr]
    if name != "train":
        source["split"] = name
        m.tell(f"{key}.split", CARRIED, f"split: {name} of source {source['name']}")
    if part and (first := re.fullmatch(r"\[:(\d+)\]", part)):
        source["max_rows"] = int(first[1])
        m.tell(f"{key}.split", CARRIED, f"max_rows: {first[1]}, chosen by row id instead of the first")
    elif part:
        m.lose(f"{key}.split", f"the part {part}: set max_rows of source {source['name']}")


def carry_type(m: Migration, key: str, given: Any, entry: dict[str, Any], source: dict[str, Any]) -> str:
    """Return the prompt style of a data set's type; a type of the user's own becomes a template."""
    if isinstance(given, dict):
        return carry_own_type(m, key, given, source)
    named = str(given)
    head = re.split(r"[.:]", named)[0]
    if given is None or head == "input_output":
        m.refusals.append(f"{key}.type: {given}: rows must be texts, not tokens or segments with labels")
        return "completion"
    if head in CHAT_TYPES:
        style, note = "chat", "the tokenizer's own chat template; every answer is trained on"
    elif head in ("completion", "pretrain"):
        style, note = "completion", "the whole text is trained on; pack.overlong: split, as there"
        m.settings["pack.overlong"] = "split"
    elif named == "alpaca":
        style, note = "alpaca", "a row's input follows its instruction, without a heading of its own"
    elif head in ALPACA_TYPES:
        m.lose(f"{key}.type", "its own wording is not offered: prompt: alpaca; prompt.template can spell it")
        return "alpaca"
    else:
        m.lose(
            f"{key}.type",
            "unknown here: columns are recognised by their names, and prompt: alpaca renders them",
        )
        return "alpaca"
    m.tell(f"{key}.type", CARRIED, f"{named} -> prompt: {style} ({note})")
    return style


def carry_own_type(m: Migration, key: str, given: dict[str, Any], source: dict[str, Any]) -> str:
    """Carry `type: {field_instruction, field_output, format, ...}`: columns, and the format as prompt.template."""
    instruction = given.get("field_instruction") or "instruction"
    source["columns"] = {"prompt": instruction, "completion": given.get("field_output") or "output"}
    wording = str(given.get("no_input_format") or given.get("format") or "{instruction}")
    system = given.get("system_prompt") or ""
    system = str(given.get("system_format") or "{system}").replace("{system}", system) if system else ""
    text = system + wording.replace("{input}", "")
    if field_input := given.get("field_input"):
        del source["columns"]["prompt"]
        join = f"{{{{ {instruction} }}}}{{% if {field_input} %}}\n\n{{{{ {field_input} }}}}{{% endif %}}"
        source["template"] = {"prompt": join}
        m.lose(
            f"{key}.type.format", f"a row's {field_input} follows its {instruction}, wherever `format` has it"
        )
    m.settings["prompt.template"] = text.replace("{instruction}", "{{ prompt }}")
    m.tell(f"{key}.type", CARRIED, "columns of the source, and prompt.template")
    if given.get("field_system"):
        m.lose(f"{key}.type.field_system", "add it to the source's columns as system")
    return "template"


def carry_columns(m: Migration, key: str, entry: dict[str, Any], source: dict[str, Any], style: str) -> None:
    """Carry the names of columns, of turns and of roles."""
    if messages := entry.pop("field_messages", None):
        source["columns"] = {"messages": messages}
        m.tell(f"{key}.field_messages", CARRIED, f"columns: {{messages: {messages}}}")
    if field := entry.pop("field", None) or entry.pop("text_column", None):
        if field != "text":
            source["columns"] = {"completion": field}
        m.tell(f"{key}.field", CARRIED, f"columns: {{completion: {field}}}")
    names = dict(entry.pop("message_property_mappings", None) or {})
    names |= {part: name for part in TURN_FIELDS if (name := entry.pop(f"message_field_{part}", None))}
    odd = {part: name for part, name in names.items() if name not in TURN_FIELDS.get(part, (part,))}
    if odd:
        m.lose(f"{key}.message_property_mappings", f"rename these fields of turns in the data: {odd}")
    elif names:
        m.needless(f"{key}.message_property_mappings", "role or from, content or value are read as they are")
    if roles := entry.pop("roles", None):
        m.needless(
            f"{key}.roles", f"known names of roles are read, others are an error that lists them: {roles}"
        )
    trained = entry.pop("roles_to_train", None)
    if trained and set(trained) - {"assistant", "gpt"}:
        m.settings["prompt.loss"] = "text"
        m.lose(
            f"{key}.roles_to_train", "answers alone (prompt.loss: all), or every token: prompt.loss is text"
        )
    elif trained:
        m.tell(f"{key}.roles_to_train", CARRIED, "prompt.loss: all")
    if (ends := entry.pop("train_on_eos", None)) not in (None, "turn", "all"):
        m.lose(f"{key}.train_on_eos", f"{ends}: the end of every answer is trained on here")
    elif ends:
        m.needless(f"{key}.train_on_eos", "the end of every answer is trained on here")
