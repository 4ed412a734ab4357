"""What Redis does in one step, in its own Lua: take from a budget, keep the roll of who is there over all nodes.

The roll: the set of `nodes` by when they count as dead; for each a hash of its users' counts of connections; the set of
users who are `online`, by when that is looked after next; those of them who are `leaving`, by when their grace is over;
and the roll's `mark`, made with it, by which a node knows that Redis has forgotten it since.

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

#: Writes a node's counts, and who of its users is seen online by that. KEYS: the node's hash, nodes, online, leaving,
#: mark. ARGV: the node, how the names of hashes begin, milliseconds that the hash and the roll are kept and after which
#: somebody online is looked after, the mark that the node knows; then in threes a user, the count (0 is none), and
#: `new` for one who appeared, `known` for one of whom Redis was told before, `quiet` for one whom it has forgotten, a
#: grace in milliseconds for one who departed, or `-`. Returns the mark, and those whom nobody saw online before; of the
#: known ones only if it was not Redis who forgot them. One who comes and goes between two calls was never seen.
WRITE_COUNTS: Final = Script("""
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local mark = redis.call('GET', KEYS[5])
if not mark then
    mark = ARGV[1] .. ' ' .. string.format('%.0f', now_ms)
end
local news, users, graces = {}, {}, {}
local is_roll_touched = false
for i = 7, #ARGV, 3 do
    local user, count, becomes = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if count == '0' then
        redis.call('HDEL', KEYS[1], user)
    else
        redis.call('HSET', KEYS[1], user, count)
    end
    if becomes == 'new' or becomes == 'known' or becomes == 'quiet' then
        is_roll_touched = true
        redis.call('ZREM', KEYS[4], user)
        local is_added = redis.call('ZADD', KEYS[3], 'NX', now_ms + ARGV[5], user) == 1
        if is_added and (becomes == 'new' or (becomes == 'known' and mark == ARGV[6])) then
            news[#news + 1] = user
        end
    elseif becomes ~= '-' then
        users[#users + 1] = user
        graces[#graces + 1] = tonumber(becomes)
    end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if #users > 0 then
    is_roll_touched = true
    local counted = {}
    for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], string.format('(%.0f', now_ms), '+inf')) do
        if node ~= ARGV[1] then
            for i, count in ipairs(redis.call('HMGET', ARGV[2] .. node, unpack(users))) do
                counted[i] = counted[i] or count
            end
        end
    end
    for i, user in ipairs(users) do
        if not counted[i] and (redis.call('ZSCORE', KEYS[3], user) or (ARGV[6] ~= '' and mark ~= ARGV[6])) then
            redis.call('ZADD', KEYS[3], 'NX', now_ms + ARGV[5], user)
            redis.call('ZADD', KEYS[4], now_ms + graces[i], user)
        end
    end
end
if is_roll_touched then
    redis.call('SET', KEYS[5], mark, 'PX', ARGV[4])
    redis.call('PEXPIRE', KEYS[3], ARGV[4])
    redis.call('PEXPIRE', KEYS[4], ARGV[4])
end
return {mark, news}
""")

#: Says that node ARGV[1] lives, for another ARGV[2] milliseconds, in the set KEYS[1]; keeps that and its counts KEYS[2]
#: for ARGV[3], so that others find out who was there, and the rest of the roll, the other keys, for ARGV[4]. How many
#: users are in the counts.
BEAT: Final = Script("""
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now_ms + ARGV[2], ARGV[1])
for i, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, i <= 2 and ARGV[3] or ARGV[4])
end
return redis.call('HLEN', KEYS[2])
""")

#: Adds up the counts of the users ARGV[3] and on, over all nodes of the set KEYS[1] that live but ARGV[1]; ARGV[2] is
#: how the names of their hashes begin. Behind the sums, for each of them: 1 for one who is online in KEYS[2] and whose
#: grace in KEYS[3], if any, is not over; else 0.
SUM_COUNTS: Final = Script("""
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
local users = #ARGV - 2
for i = 1, users do
    found[i] = 0
    local due = redis.call('ZSCORE', KEYS[3], ARGV[i + 2])
    local is_over = due and tonumber(due) <= now_ms
    found[users + i] = redis.call('ZSCORE', KEYS[2], ARGV[i + 2]) and not is_over and 1 or 0
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now_ms), '+inf')) do
    if node ~= ARGV[1] and users > 0 then
        for i, count in ipairs(redis.call('HMGET', ARGV[2] .. node, unpack(ARGV, 3))) do
            if count then
                found[i] = found[i] + count
            end
        end
    end
end
return found
""")

#: Finds who is seen offline by now, and takes them off the roll, so that nobody else finds them. KEYS: nodes, online,
#: leaving. ARGV: how the names of hashes begin, milliseconds after which somebody online is looked after again, the
#: grace of one who is found without a connection then, and how many are looked after at once. Returns 1 if there may be
#: more, and the users. Those of a node that is dead have had their grace while it was silent.
CLAIM_OFFLINE: Final = Script("""
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local most = tonumber(ARGV[4])
local now = string.format('%.0f', now_ms)
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
local function counted(users)
    local found = {}
    for _, node in ipairs(live) do
        for i, count in ipairs(#users > 0 and redis.call('HMGET', ARGV[1] .. node, unpack(users)) or {}) do
            found[i] = found[i] or count
        end
    end
    return found
end
local has_more = 0
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)) do
    has_more = 1
    local cursor, users = '0', {}
    repeat
        local page = redis.call('HSCAN', ARGV[1] .. node, cursor, 'COUNT', most)
        cursor = page[1]
        for i = 1, #page[2], 2 do
            users[#users + 1] = page[2][i]
        end
    until cursor == '0' or #users >= most
    local found = counted(users)
    for i, user in ipairs(users) do
        redis.call('HDEL', ARGV[1] .. node, user)
        if not found[i] and redis.call('ZSCORE', KEYS[2], user) then
            redis.call('ZADD', KEYS[3], 'NX', now_ms, user)
        end
    end
    if redis.call('HLEN', ARGV[1] .. node) == 0 then
        redis.call('ZREM', KEYS[1], node)
    end
end
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, most)
local found = counted(due)
for i, user in ipairs(due) do
    redis.call('ZADD', KEYS[2], now_ms + ARGV[2], user)
    if not found[i] then
        redis.call('ZADD', KEYS[3], 'NX', now_ms + ARGV[3], user)
    end
end
local left = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, most)
found = counted(left)
local gone = {}
for i, user in ipairs(left) do
    redis.call('ZREM', KEYS[3], user)
    if not found[i] then
        redis.call('ZREM', KEYS[2], user)
        gone[#gone + 1] = user
    end
end
if #due == most or #left == most then
    has_more = 1
end
return {has_more, gone}
""")
