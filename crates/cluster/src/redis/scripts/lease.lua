-- Says that a user is in a room by way of a node, or (no presence) no more, and tells who follows the room.
-- KEYS: who, held, channel
-- ARGV: 1 node (16 hex digits)  2 user  3 presence or ''  4 TTL, ms  5 room  6 what goes before the version on the channel
--       7 what goes after it
local field = ARGV[1] .. ':' .. ARGV[2]
if ARGV[3] ~= '' then
  if redis.call('HSET', KEYS[1], field, ARGV[3]) == 1 then redis.call('HINCRBY', KEYS[2], ARGV[5], 1) end
elseif redis.call('HDEL', KEYS[1], field) == 0 then
  return 0
elseif redis.call('HINCRBY', KEYS[2], ARGV[5], -1) <= 0 then
  redis.call('HDEL', KEYS[2], ARGV[5])
end
local version = redis.call('HINCRBY', KEYS[1], 'v', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('SPUBLISH', KEYS[3], ARGV[6] .. struct.pack('>I6', version) .. ARGV[7])
return version
