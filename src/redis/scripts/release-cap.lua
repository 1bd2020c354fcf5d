-- Gives places on a capped endpoint back. Idempotent.
-- KEYS[1]  sorted set  leases held on the endpoint, by the time each ends, in Redis ms
-- ARGV[1…] leases
-- Returns the number of places given back.
return redis.call('ZREM', KEYS[1], unpack(ARGV))
