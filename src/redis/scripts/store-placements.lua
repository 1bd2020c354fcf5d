-- Appends exceptions (sessions that live elsewhere than at home, or came home) to a pool's bounded stream.
-- KEYS[1]  stream  exceptions of the pool
-- ARGV[1]  entries kept, about
-- ARGV[2]  time to live of the stream, in ms
-- ARGV[3…] pairs of session key (hex) and address; an empty address: at home again
-- Returns the number of entries appended.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'stream' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local n = 0
for i = 3, #ARGV, 2 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'k', ARGV[i], 'a', ARGV[i + 1])
  n = n + 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return n
