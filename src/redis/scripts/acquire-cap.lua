-- Takes a place on the first capped endpoint that has one. Idempotent: a lease that holds a place there keeps it.
-- KEYS[i]  sorted set  leases held on the i-th endpoint, by the time each ends, in Redis ms
-- ARGV[1]  lease
-- ARGV[2]  time to live of a place, in ms
-- ARGV[2+i] places on the i-th endpoint
-- Returns the index (from 1) of the endpoint taken, or 0 when all are full.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[i]) end
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now_ms)
  -- No place ends that late: written by a server whose clock ran ahead. Its holder takes it again when it renews.
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '(' .. (now_ms + ARGV[2] * 2), '+inf')
  if redis.call('ZSCORE', KEYS[i], ARGV[1]) or redis.call('ZCARD', KEYS[i]) < tonumber(ARGV[2 + i]) then
    redis.call('ZADD', KEYS[i], now_ms + ARGV[2], ARGV[1])
    redis.call('PEXPIRE', KEYS[i], ARGV[2] * 2)
    return i
  end
end
return 0
