-- Tries every command that the other scripts use, on a key of its own, so that a missing permission shows at once and by its name.
-- KEYS[1]  any  the key to try on; gone afterwards
-- ARGV[1]  channel to tell an empty message to
-- ARGV[2]  time to live of the key should it stay after all, in ms
-- Returns what was refused, each as the command and the server's words; empty when nothing was.
local refused = {}
local function try(command, ...)
  local reply = redis.pcall(command, ...)
  local err = type(reply) == 'table' and reply.err
  -- Redis up to 7.0, and later versions and Valkey. Other errors (read-only, out of memory) say nothing of permissions.
  if err and (string.find(err, 'executing the script', 1, true) or string.find(err, 'ACL failure', 1, true)) then
    refused[#refused + 1] = command .. ': ' .. err
  end
end
try('TIME')
try('TYPE', KEYS[1])
try('SET', KEYS[1], '', 'PX', ARGV[2])
try('DEL', KEYS[1])
try('ZADD', KEYS[1], 0, 'x')
try('PEXPIRE', KEYS[1], ARGV[2])
try('ZSCORE', KEYS[1], 'x')
try('ZCARD', KEYS[1])
try('ZREMRANGEBYSCORE', KEYS[1], 1, 2)
try('ZREM', KEYS[1], 'x')
try('XADD', KEYS[1], 'MAXLEN', '~', 1, '*', 'k', '')
try('PEXPIRE', KEYS[1], ARGV[2])
redis.pcall('DEL', KEYS[1])
try('PUBLISH', ARGV[1], '')
return refused
