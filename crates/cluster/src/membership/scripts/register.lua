-- Makes a node a member, under a number that no other has.
-- KEYS: seen, info, numbers, cooling, dead, changed, version, since, channel
-- ARGV: 1 id  2 record  3 number that it had, or 0  4.. numbers to try
-- Answers: {'wait'} while what it held in an earlier membership is being taken back, {'full'} if no number is free, or
-- {'member', number}.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local id = ARGV[1]
local claimed = redis.call('ZSCORE', KEYS[5], id)
if claimed and tonumber(claimed) > now then return {'wait'} end
-- Nobody has begun to take anything back: it still holds what it held.
redis.call('ZREM', KEYS[5], id)
local function free(number)
  if number == 0 then return false end
  local taken = redis.call('HGET', KEYS[3], number)
  if taken then return taken == id end
  local cooling = redis.call('HGET', KEYS[4], number)
  if not cooling then return true end
  local till, holder = string.match(cooling, '^(%d+):(.*)$')
  return holder == id or not till or tonumber(till) <= now
end
local number = nil
for index = 3, #ARGV do
  if free(tonumber(ARGV[index])) then number = tonumber(ARGV[index]) break end
end
if not number then
  for candidate = 1, 65535 do
    if free(candidate) then number = candidate break end
  end
end
if not number then return {'full'} end
local old = string.match(redis.call('HGET', KEYS[2], id) or '', '^%d+')
if old and redis.call('HGET', KEYS[3], old) == id then redis.call('HDEL', KEYS[3], old) end
redis.call('HSET', KEYS[3], number, id)
redis.call('HDEL', KEYS[4], number)
redis.call('ZADD', KEYS[1], now, id)
redis.call('HSET', KEYS[8], id, now)
redis.call('HSET', KEYS[2], id, number .. ':' .. ARGV[2])
local version = redis.call('INCR', KEYS[7])
redis.call('ZADD', KEYS[6], version, id)
redis.call('SPUBLISH', KEYS[9], version)
return {'member', tostring(number)}
