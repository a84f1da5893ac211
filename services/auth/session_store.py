"""Sessions in Redis: they end by themselves, and a refresh is one atomic script.

A session is a hash; the sessions of a user are a sorted set beside it. Both keys carry the user's
id as hash tag, so that they live on one node of a cluster. Only hashes of refresh tokens are kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis

from services.auth.clocks import from_ms
from services.auth.domain.model import Client, Session

# A user with more open sessions than this loses the oldest.
SESSIONS_MAX = 50
_INDEX = "tidebook:auth:{{{}}}:sessions"

_ROTATE = """
local kept = redis.call('HMGET', KEYS[1], 'family', 'refresh', 'account_id', 'created_ms')
if not kept[1] then return {'ENDED', '', 0} end
if kept[1] ~= ARGV[1] then return {'UNKNOWN', '', 0} end
-- The client library tries again when a connection dies: the new token in place was then ours.
if kept[2] ~= ARGV[2] and kept[2] ~= ARGV[3] then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[4])
  return {'REUSED', '', 0}
end
local left = math.min(tonumber(ARGV[8]), tonumber(kept[4]) + tonumber(ARGV[9]) - tonumber(ARGV[5]))
if left <= 0 then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[4])
  return {'ENDED', '', 0}
end
redis.call('HSET', KEYS[1], 'refresh', ARGV[3], 'last_used_ms', ARGV[5],
           'ip', ARGV[6], 'user_agent', ARGV[7])
redis.call('PEXPIRE', KEYS[1], left)
redis.call('PEXPIRE', KEYS[2], ARGV[8])
return {'ROTATED', kept[3], left}
"""


class Rotation(StrEnum):
    """What became of a refresh token."""

    ROTATED = "ROTATED"
    # The session was ended or is too old.
    ENDED = "ENDED"
    # Never a token of this session.
    UNKNOWN = "UNKNOWN"
    # A token that was spent before: the session is ended now.
    REUSED = "REUSED"


class RedisSessions:
    """Keeps sessions until some time after their last use."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._rotate = redis.register_script(_ROTATE)

    async def add(
        self, session: Session, *, family_hash: bytes, refresh_hash: bytes, ttl_ms: int
    ) -> list[str]:
        """Keep a new session for `ttl_ms`; returns the ids of those that are too many."""
        created_ms = _ms(session)
        key, index = _key(session.user_id, session.session_id), _index(session.user_id)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(
                key,
                mapping={
                    "account_id": session.account_id,
                    "created_ms": created_ms,
                    "last_used_ms": created_ms,
                    "ip": session.client.ip,
                    "user_agent": session.client.user_agent,
                    "family": family_hash,
                    "refresh": refresh_hash,
                },
            )
            pipe.pexpire(key, ttl_ms)
            pipe.zadd(index, {session.session_id: created_ms})
            pipe.pexpire(index, ttl_ms)
            pipe.zrange(index, 0, -SESSIONS_MAX - 1)
            results = await pipe.execute()
        return [_text(old) for old in results[-1]]

    async def rotate(
        self,
        user_id: str,
        session_id: str,
        *,
        family_hash: bytes,
        old_hash: bytes,
        new_hash: bytes,
        now_ms: int,
        client: Client,
        ttl_ms: int,
        most_ms: int,
    ) -> tuple[Rotation, int, int]:
        """Replace the refresh token by a new one; keep the session for `ttl_ms` more, but never
        longer than `most_ms` in all. Returns what happened, the account, and the ms it is kept.
        """
        outcome, account_id, left_ms = await self._rotate(
            keys=[_key(user_id, session_id), _index(user_id)],
            args=[
                family_hash,
                old_hash,
                new_hash,
                session_id,
                now_ms,
                client.ip,
                client.user_agent,
                ttl_ms,
                most_ms,
            ],
        )
        return Rotation(_text(outcome)), int(account_id or 0), int(left_ms)

    async def is_open(self, user_id: str, session_id: str) -> bool:
        """Whether the session has not ended."""
        return bool(await self._redis.exists(_key(user_id, session_id)))

    async def of_user(self, user_id: str) -> list[Session]:
        """Open sessions, newest first."""
        ids = [_text(raw) for raw in await self._redis.zrevrange(_index(user_id), 0, -1)]
        async with self._redis.pipeline(transaction=False) as pipe:
            for session_id in ids:
                pipe.hgetall(_key(user_id, session_id))
            found = await pipe.execute()
        # The index may still name sessions that have expired.
        return [
            _session(user_id, session_id, fields)
            for session_id, fields in zip(ids, found, strict=True)
            if fields
        ]

    async def remove(self, user_id: str, session_ids: list[str]) -> int:
        """End sessions; returns how many there were."""
        if not session_ids:
            return 0
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(*(_key(user_id, session_id) for session_id in session_ids))
            pipe.zrem(_index(user_id), *session_ids)
            deleted, _ = await pipe.execute()
        return int(deleted)

    async def ids_of(self, user_id: str) -> list[str]:
        """The ids of a user's sessions."""
        return [_text(raw) for raw in await self._redis.zrange(_index(user_id), 0, -1)]

    async def user_ids(self) -> AsyncIterator[str]:
        """All who have sessions, some perhaps twice."""
        async for key in self._redis.scan_iter(match=_INDEX.format("*"), count=1000):
            yield _text(key).partition("{")[2].partition("}")[0]


def _key(user_id: str, session_id: str) -> str:
    return f"tidebook:auth:{{{user_id}}}:session:{session_id}"


def _index(user_id: str) -> str:
    return _INDEX.format(user_id)


def _text(raw: Any) -> str:
    """The client answers in bytes, whatever its types allow."""
    return bytes(raw).decode()


def _ms(session: Session) -> int:
    return round(session.created_at.timestamp() * 1000)


def _session(user_id: str, session_id: str, fields: dict[bytes, Any]) -> Session:
    return Session(
        session_id=session_id,
        user_id=user_id,
        account_id=int(fields[b"account_id"]),
        created_at=from_ms(int(fields[b"created_ms"])),
        last_used_at=from_ms(int(fields[b"last_used_ms"])),
        client=Client(fields[b"ip"].decode(), fields[b"user_agent"].decode()),
    )
