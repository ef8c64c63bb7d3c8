-- Takes back what a dead node held in one room.
-- KEYS: who, held
-- ARGV: 1 node  2 room
-- Answers: how many leases there were.
local prefix, ended = ARGV[1] .. ':', {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, #prefix) == prefix then ended[#ended + 1] = field end
end
for from = 1, #ended, 1000 do
  redis.call('HDEL', KEYS[1], unpack(ended, from, math.min(from + 999, #ended)))
end
if #ended > 0 then redis.call('HINCRBY', KEYS[1], 'v', 1) end
redis.call('HDEL', KEYS[2], ARGV[2])
return #ended
