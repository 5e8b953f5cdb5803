-- Renews the lease of a node.
-- KEYS[1] the nodes; ARGV: own entry, lease in ms, how long ended leases stay in ms.
-- Answers the time of Redis in ms, whether the own entry was there, and the nodes with a lease.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local was = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2] + ARGV[3])
return {now, was, redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf', 'LIMIT', 0, 300)}
