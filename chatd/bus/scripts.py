"""What Redis does in one step, in its own Lua: take from a budget, keep and add up the counts of connections.

Times are Redis's own, so that nodes whose clocks differ agree. A script is called by its hash; `redis` sends its text
to a Redis that does not know it (any more).
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final


class Script:
    """A text with the hash by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.hash = sha1(text.encode(), usedforsecurity=False).hexdigest()


#: Takes ARGV[3] from the budget KEYS[1] of ARGV[1] at once, refilled over ARGV[2] seconds; 0, or milliseconds to wait.
#: The arithmetic of `limits.rates.spend`. A key lives as long as its budget is not full. Should the clock of Redis go
#: back, nobody waits longer than for an empty budget.
TAKE: Final = Script("""
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local burst, per_s, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full_at = tonumber(redis.call('GET', KEYS[1]) or 0) or 0
local would_be = math.max(math.min(full_at, now + per_s + 0.001), now) + count * per_s / burst
local over_s = would_be - now - per_s
if over_s > 0.001 then
    return math.floor(over_s * 1000) + 1
end
redis.call('SET', KEYS[1], string.format('%.6f', would_be), 'PX', math.ceil((would_be - now) * 1000) + 1)
return 0
""")

#: Writes a node's counts: the hash KEYS[1], which lives ARGV[1] milliseconds, then user and count in turn; 0 is none.
WRITE_COUNTS: Final = Script("""
for i = 2, #ARGV, 2 do
    if ARGV[i + 1] == '0' then
        redis.call('HDEL', KEYS[1], ARGV[i])
    else
        redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
""")

#: Says that node ARGV[1] lives, for another ARGV[2] milliseconds, in the set KEYS[1], and keeps its counts KEYS[2] as
#: long; how many users are in them.
BEAT: Final = Script("""
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)
redis.call('ZADD', KEYS[1], now_ms + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return redis.call('HLEN', KEYS[2])
""")

#: Adds up the counts of the users ARGV[3] and on, over all nodes of the set KEYS[1] that live but ARGV[1]; ARGV[2] is
#: how the names of their hashes begin.
SUM_COUNTS: Final = Script("""
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local sums = {}
for i = 3, #ARGV do
    sums[i - 2] = 0
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now_ms), '+inf')) do
    if node ~= ARGV[1] and #sums > 0 then
        for i, count in ipairs(redis.call('HMGET', ARGV[2] .. node, unpack(ARGV, 3))) do
            if count then
                sums[i] = sums[i] + count
            end
        end
    end
end
return sums
""")
