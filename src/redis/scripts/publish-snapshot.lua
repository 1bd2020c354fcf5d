-- Stores a router's snapshot of a pool, notes the router as alive, and tells the others.
-- KEYS[1]  string      the router's snapshot
-- KEYS[2]  sorted set  routers of the pool by the time each last wrote, in Redis ms
-- ARGV[1]  router id
-- ARGV[2]  snapshot, as text
-- ARGV[3]  time to live of the snapshot, in ms
-- ARGV[4]  time after which a silent router is dropped from the set, in ms
-- ARGV[5]  channel
-- Returns the number of routers in the set.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[2]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now_ms, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_ms - ARGV[4])
-- Nobody wrote in the future: a made-up entry, or one of a server whose clock ran ahead, would never be dropped.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. now_ms, '+inf')
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[2])
return redis.call('ZCARD', KEYS[2])
