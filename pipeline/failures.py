"""The failures of a run, for people: the codes, an example of each, and the command that tries them again."""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import runners
from pipeline.options import JobConfig
from transforms.commit.layout import Layout
from transforms.elements import IMAGE
from transforms.fetching import addresses
from transforms.storage import door
from transforms.storage.other import OTHER
from transforms.storage.stores import SCHEMES

_LEDGERS = 20  # that are looked into for examples
_LEDGER_BYTES = 1 << 20  # of each
_SHOWN = 200  # characters of an example
_LARGEST_BYTES = 4 << 30  # that --max_bytes is proposed for: what is larger is hardly an image


def lines(config: JobConfig, layout: Layout, runner: str, by_code: Mapping[str, int]) -> Iterator[str]:
    """A line for each code, the most frequent first, and the command that would help; none without failures."""
    if not by_code:
        return
    examples = _examples(layout, set(by_code))
    advice: dict[str, str] = {}
    for code, count in sorted(by_code.items(), key=lambda item: (-item[1], item[0])):
        example = examples.get(code)
        if example:
            advice |= flags_for(code, example["message"], config)
            shown = f", such as {example['key']}: {example['message']}"
            yield f"  {count:,} {code}{shown if len(shown) <= _SHOWN else f'{shown[:_SHOWN]}...'}"
        else:
            yield f"  {count:,} {code}"
    may_pass = any(example["stage"] in ("fetch", "infer") for example in examples.values())
    if advice or may_pass:
        command = ["python", "-m", "pipeline.main", "--retry_failures", f"--output={config.output}"]
        command += [f"{flag}={value}" for flag, value in advice.items()]
        engine = "" if runner == runners.LOCAL else f", with the flags of {runner}"
        yield f"to try them again{engine}:"
        yield f"  {shlex.join(command)}"


def flags_for(code: str, message: str, config: JobConfig) -> dict[str, str]:
    """The flags, with values, under which a failure like this one would not happen, as far as there are some."""
    fetch, message = config.read.fetch, message.partition(IMAGE)[0]
    if code == "blocked_address":
        networks = [*fetch.allow_private_networks, *_networks(message)]
        return {"--allow_private_networks": ",".join(networks)} if _networks(message) else {}
    if code == "scheme_not_allowed":
        scheme = message.partition(":")[0]
        known = scheme in {"http", "https", "file", *SCHEMES, *OTHER.schemes}
        return {"--uri_schemes": ",".join([*fetch.uri_schemes, scheme])} if known else {}
    if code == "too_large":
        announced = re.search(r"(\d+) bytes", message)
        needed = int(announced[1]) if announced else 2 * fetch.max_bytes
        return {"--max_bytes": f"{-(-needed >> 20)}MiB"} if needed <= _LARGEST_BYTES else {}
    if code == "timeout":
        return {"--timeout": f"{2 * fetch.timeout_seconds:g}"}
    if code == "host_busy" or (code == "http_4xx" and "429" in message):
        return {"--per_host": str(max(1, fetch.per_host // 2))}
    if code == "decode_timeout":
        return {"--decode_timeout": f"{2 * config.decode.timeout_seconds:g}"}
    return {}


def _networks(message: str) -> list[str]:
    """The networks that would have to be allowed; none that no list should reach, such as metadata services."""
    found = []
    for text in re.findall(r"[0-9a-fA-F:.]*[0-9a-fA-F]", message.partition(" leads to ")[2]):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        network = addresses.private_network(address)
        if network and str(network) not in found:
            found.append(str(network))
    return found


def _examples(layout: Layout, codes: set[str]) -> dict[str, dict[str, Any]]:
    """A ledger line, as values, for each code; none for codes that only later ledgers have."""
    examples: dict[str, dict[str, Any]] = {}
    try:
        for file in door.match(layout.failures("*"))[:_LEDGERS]:
            with door.open_binary(file.path) as stream:
                *complete, _ = stream.read(_LEDGER_BYTES).split(b"\n")
            for line in map(json.loads, complete):
                examples.setdefault(line["code"], line)
            if codes <= examples.keys():
                break
    except (OSError, ValueError, KeyError):  # examples are a help, and no reason to fail
        pass
    return {code: line for code, line in examples.items() if code in codes}
