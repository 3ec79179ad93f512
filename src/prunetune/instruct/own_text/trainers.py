"""Describe kept.jsonl to LLaMA-Factory (dataset_info.json) and to Axolotl (a part of its YAML).

Source of the keys: data/README.md of hiyouga/LLaMA-Factory, and the pages "Dataset formats" of Axolotl's documentation.
Neither program was run on these files.
"""

from typing import Any

import yaml

from prunetune.instruct.corpus.forms import known_columns
from prunetune.instruct.corpus.messages import ROLES
from prunetune.instruct.own_text.subset import TextSubset

KEPT = "kept.jsonl"
NOTE = "# A part of a configuration of Axolotl. Put it into yours; prunetune did not run it.\n"


def llama_factory(subset: TextSubset) -> dict[str, Any] | None:
    """Return the content of dataset_info.json, or None for rows that LLaMA-Factory does not describe."""
    names = columns_of(subset)
    entry: dict[str, Any] = {"file_name": KEPT}
    if _is_chat(subset) and not _has_lists(subset, names[subset.form]):
        return None
    if _is_chat(subset):
        entry |= {"formatting": "sharegpt", "columns": {"messages": names[subset.form]}, "tags": _tags(subset, names)}
    elif subset.form == "text":
        entry["columns"] = {"prompt": names["text"]}
    else:
        pair = _prompt_and_response(subset, names)
        if pair is None:
            return None
        entry["columns"] = {"prompt": pair[0], "response": pair[1]}
        if "input" in names and names["input"] != pair[0]:
            entry["columns"]["query"] = names["input"]
    beside = {"system": "system", "history": "history", "tools": "tools"}
    entry["columns"] |= {key: names[name] for key, name in beside.items() if name in names}
    return {subset.name: entry}


def axolotl(subset: TextSubset) -> dict[str, Any] | None:
    """Return the key `datasets` of Axolotl's configuration, or None for rows that it does not describe."""
    names = columns_of(subset)
    entry: dict[str, Any] = {"path": KEPT, "ds_type": "json"}
    if _is_chat(subset) and not _has_lists(subset, names[subset.form]):
        return None
    if _is_chat(subset):
        tags = _tags(subset, names)
        own: dict[str, list[str]] = {}
        for role in _roles(subset, names[subset.form]):
            own.setdefault(ROLES[role.lower()], []).append(role)
        entry |= {"type": "chat_template", "field_messages": names[subset.form]}
        entry["message_property_mappings"] = {"role": tags["role_tag"], "content": tags["content_tag"]}
        entry["roles"] = own
    elif subset.form == "text":
        entry |= {"type": "completion", "field": names["text"]}
    else:
        pair = _prompt_and_response(subset, names)
        if pair is None:
            return None
        fields = {"field_instruction": pair[0], "field_output": pair[1]}
        if "input" in names and names["input"] != pair[0]:
            fields["field_input"] = names["input"]
        if "system" in names:
            fields["field_system"] = names["system"]
        entry["type"] = {**fields, "format": "{instruction}\n{input}", "no_input_format": "{instruction}"}
    return {"datasets": [entry]}


def axolotl_text(subset: TextSubset) -> str | None:
    """Return the YAML of `axolotl`."""
    described = axolotl(subset)
    return None if described is None else NOTE + yaml.safe_dump(described, sort_keys=False, allow_unicode=True)


def columns_of(subset: TextSubset) -> dict[str, str]:
    """Return the user's column for each name that prunetune knows and the rows have."""
    keys = list(dict.fromkeys(key for row in subset.kept_rows for key in row))
    return known_columns(keys, subset.columns)


def _is_chat(subset: TextSubset) -> bool:
    return subset.form in ("messages", "conversations")


def _has_lists(subset: TextSubset, column: str) -> bool:
    """Return whether chats are lists. In a csv file they are texts, which the trainers do not read."""
    return all(isinstance(row.get(column), list | tuple) for row in subset.kept_rows)


def _prompt_and_response(subset: TextSubset, names: dict[str, str]) -> tuple[str, str] | None:
    """Return the columns of prompt and response, or None for preference pairs and for messages in two columns."""
    prompt, _, response = subset.form.partition(" and ")
    if prompt == "chosen" or any(not isinstance(row.get(names[prompt]), str | None) for row in subset.kept_rows):
        return None
    return names[prompt], names[response]


def _tags(subset: TextSubset, names: dict[str, str]) -> dict[str, str]:
    """Return the names of the keys of messages and of the roles, as LLaMA-Factory calls them."""
    column = names[subset.form]
    message = next((one for row in subset.kept_rows for one in _messages(row, column)), {})
    role_tag, content_tag = ("role", "content") if "role" in message else ("from", "value")
    tags = {"role_tag": role_tag, "content_tag": content_tag}
    kinds = {"user": "user_tag", "assistant": "assistant_tag", "tool": "observation_tag", "system": "system_tag"}
    for role in _roles(subset, column):
        key = "function_tag" if role.lower() == "function_call" else kinds.get(ROLES[role.lower()])
        if key is not None:
            tags.setdefault(key, role)
    return tags


def _roles(subset: TextSubset, column: str) -> list[str]:
    """Return the words for roles that occur, in the order of their first occurrence."""
    found: dict[str, None] = {}
    for row in subset.kept_rows:
        for message in _messages(row, column):
            found[str(message.get("role", message.get("from"))).strip()] = None
    return list(found)


def _messages(row: dict[str, Any], column: str) -> list[dict[str, Any]]:
    value = row.get(column)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list | tuple) else []
