-- Takes back what a dead node held in one room, and tells who follows it: in the room's own channel, so that it stands
-- between the leases that ended and those that a node taken for dead begins when it is back.
-- KEYS: who, held, channel
-- ARGV: 1 node  2 room  3 what goes before the version on the channel  4 what goes after it
-- Answers: how many leases there were.
local prefix, ended = ARGV[1] .. ':', {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, #prefix) == prefix then ended[#ended + 1] = field end
end
for from = 1, #ended, 1000 do
  redis.call('HDEL', KEYS[1], unpack(ended, from, math.min(from + 999, #ended)))
end
if #ended > 0 then
  local version = redis.call('HINCRBY', KEYS[1], 'v', 1)
  redis.call('SPUBLISH', KEYS[3], ARGV[3] .. struct.pack('>I6', version) .. ARGV[4])
end
redis.call('HDEL', KEYS[2], ARGV[2])
return #ended
