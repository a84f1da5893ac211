"""Checks that the exchange never rewrote its log: `python check_proof.py URL`. Needs only Python.

`GET /v1/proof` gives links, one for each log entry: link = sha256(link before || sha-256 of the
entry || hash of the log there). Every link is computed again. The last good one is kept in a file,
and the next run goes on from it: if anything before it had been changed, added or removed since,
the chain would not fit any more, and nobody can make it fit. Who runs this now and then needs to
trust nobody.

    python check_proof.py http://127.0.0.1:8080 --state links.json

Where there are several shards each has a chain of its own (`--shard 1`): keep a file for each.

Exit code 0: the whole chain fits. 1: it does not; keep the file, it is the evidence. 2: there was
no answer, or the arguments are wrong.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

GENESIS = bytes(32)
PAGE = 1000


class Broken(Exception):
    """The chain does not fit; the message says where."""


class Unanswered(Exception):
    """The exchange did not say; the message says why."""


def check(links: Iterable[Mapping[str, Any]], seq: int, link: bytes) -> tuple[int, bytes]:
    """Follow links (as the HTTP API has them) after position `seq` and its `link`.

    Returns position and link of the last. Raises `Broken`.
    """
    for one in links:
        seq += 1
        if int(one["seq"]) != seq:
            raise Broken(f"entry {seq} is missing: {one['seq']} comes next")
        payload, log_hash = _bytes(one["payloadSha256"]), _bytes(one["hash"])
        link = hashlib.sha256(link + payload + log_hash).digest()
        if _bytes(one["link"]) != link:
            raise Broken(f"entry {seq} does not continue the chain")
    return seq, link


def check_all(url: str, seq: int, link: bytes, shard: int = 0) -> tuple[int, bytes]:
    """Check everything after a position that the exchange has by now."""
    while True:
        page = _get(url, seq + 1, shard)
        if page is None:
            return seq, link
        before = _bytes(page.get("previousLink", ""))
        if before != link:
            raise Broken(f"entry {seq} is not the one that was checked before: it was rewritten")
        seq, link = check(page["links"], seq, link)
        print(f"{seq} of {page.get('newestSeq', seq)} entries", file=sys.stderr)


def _get(url: str, first: int, shard: int) -> dict[str, Any] | None:
    """A page of the proof from entry `first` on; None when there is no such entry yet."""
    address = f"{url.rstrip('/')}/v1/proof?fromSeq={first}&count={PAGE}&shard={shard}"
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        if error.code == 404 and "shard" not in _fields_at_fault(error.read()):
            return None
        raise Unanswered(f"{address} answered {error.code}") from None
    except (OSError, ValueError) as error:
        raise Unanswered(f"{address} cannot be asked: {error}") from None


def _fields_at_fault(body: bytes) -> list[str]:
    """What a refusal is about: no such shard is a mistake, no such entry the end of the chain."""
    try:
        details = json.loads(body)["details"]
    except (ValueError, KeyError):
        return []
    return [detail.get("metadata", {}).get("field", "") for detail in details]


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def main() -> int:
    """Go on from the kept link, check, keep the new one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="the exchange, such as http://127.0.0.1:8080")
    parser.add_argument("--state", type=Path, help="file that keeps the last link between runs")
    parser.add_argument("--shard", type=int, default=0, help="whose log; 0 unless said otherwise")
    arguments = parser.parse_args()
    seq, link, shard = 0, GENESIS, arguments.shard
    if arguments.state and arguments.state.exists():
        try:
            kept = json.loads(arguments.state.read_text())
            of_shard, seq, link = kept.get("shard", 0), kept["seq"], bytes.fromhex(kept["link"])
        except (ValueError, KeyError, TypeError, AttributeError):
            parser.error(f"{arguments.state} does not keep a link of an earlier run")
        if of_shard != shard:
            parser.error(f"{arguments.state} is of shard {of_shard}")
    try:
        # What was checked before must still be there.
        if seq and _get(arguments.url, seq, shard) is None:
            raise Broken(f"entry {seq} was there before and is not any more")
        seq, link = check_all(arguments.url, seq, link, shard)
    except Broken as broken:
        print(f"BROKEN: {broken}")
        return 1
    except Unanswered as error:
        print(error, file=sys.stderr)
        return 2
    print(f"the chain fits: {seq} entries, link {link.hex()}")
    if arguments.state:
        arguments.state.write_text(json.dumps({"seq": seq, "link": link.hex(), "shard": shard}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
