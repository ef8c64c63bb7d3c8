-- A node's number of connections of a user, or of all users.
-- KEYS: seats (number by node), index of the node's seats
-- ARGV: 1 node  2 number  3 the most that the sum may be, or ''  4 what the index calls the seats  5 TTL, ms
-- Answers: 1, or 0 if the sum would be above: then nothing has changed.
local held = tonumber(ARGV[2])
if ARGV[3] ~= '' then
  local sum, seats = held, redis.call('HGETALL', KEYS[1])
  for i = 1, #seats, 2 do
    if seats[i] ~= ARGV[1] then sum = sum + (tonumber(seats[i + 1]) or 0) end
  end
  if sum > tonumber(ARGV[3]) then return 0 end
end
if held > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('HSET', KEYS[2], ARGV[4], 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[4])
end
return 1
