-- Gives places on a capped endpoint back. Idempotent.
-- KEYS[1]  sorted set  leases held on the endpoint, by the time each ends, in Redis ms
-- ARGV[1…] leases
-- Returns the number of places given back.
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then return 0 end
return redis.call('ZREM', KEYS[1], unpack(ARGV))
