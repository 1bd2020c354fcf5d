-- Prolongs the places that leases hold on a capped endpoint. A lease that lost its place (Redis was wiped) gets it back: its request
-- is still running.
-- KEYS[1]  sorted set  leases held on the endpoint, by the time each ends, in Redis ms
-- ARGV[1]  time to live of a place, in ms
-- ARGV[2…] leases
-- Returns the number of leases held on the endpoint.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now_ms + ARGV[1], ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)
redis.call('PEXPIRE', KEYS[1], ARGV[1] * 2)
return redis.call('ZCARD', KEYS[1])
