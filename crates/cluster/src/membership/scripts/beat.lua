-- Says that a node lives, takes up the work of the dead, and tells what has changed.
-- KEYS: seen, info, numbers, cooling, dead, changed, version, since, load, channel
-- ARGV: 1 id  2 version known  3 node timeout, ms  4 for how long a number is not given to another node, ms  5 for how long a
--       claim holds, ms  6 record, or '' if it is as before  7 load  8 TTL of the keys, ms  9 '1' if it takes up the work of
--       the dead
-- Answers: {'gone'} if the node is no member (any more), or {'member', number, version, how far back the longest silent
-- member was heard, ms, whole or part, claimed, ..., '', changed, its entry or '', ...}.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local id, timeout = ARGV[1], tonumber(ARGV[3])
local last = redis.call('ZSCORE', KEYS[1], id)
local entry = redis.call('HGET', KEYS[2], id)
local number = entry and string.match(entry, '^%d+')
if not (last and number) or redis.call('HGET', KEYS[3], number) ~= id then
  return {'gone'}
end
redis.call('ZADD', KEYS[1], now, id)
-- Who was silent for long has no right to judge others: it may be Redis that nobody could reach.
if now - tonumber(last) > timeout then redis.call('HSET', KEYS[8], id, now) end
redis.call('HSET', KEYS[9], id, ARGV[7])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[2], id, number .. ':' .. ARGV[6])
  redis.call('ZADD', KEYS[6], redis.call('INCR', KEYS[7]), id)
end
local before = redis.call('GET', KEYS[7]) or '0'
local answer = {'member', number, '', '', ''}
if now - (tonumber(redis.call('HGET', KEYS[8], id)) or now) >= timeout then
  local silent = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%d', now - timeout), 'LIMIT', 0, 8)
  for _, dead in ipairs(silent) do
    local held = string.match(redis.call('HGET', KEYS[2], dead) or '', '^%d+')
    redis.call('ZREM', KEYS[1], dead)
    redis.call('HDEL', KEYS[2], dead)
    redis.call('HDEL', KEYS[8], dead)
    redis.call('HDEL', KEYS[9], dead)
    if held and redis.call('HGET', KEYS[3], held) == dead then
      redis.call('HDEL', KEYS[3], held)
      redis.call('HSET', KEYS[4], held, string.format('%d', now + tonumber(ARGV[4])) .. ':' .. dead)
    end
    redis.call('ZADD', KEYS[5], string.format('%d', now), dead)
    redis.call('ZADD', KEYS[6], redis.call('INCR', KEYS[7]), dead)
  end
end
-- Newly dead; or whoever claimed them has died over it.
local burials = {}
if ARGV[9] == '1' then
  burials = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', string.format('%d', now), 'LIMIT', 0, 8)
end
for _, dead in ipairs(burials) do
  redis.call('ZADD', KEYS[5], string.format('%d', now + tonumber(ARGV[5])), dead)
  answer[#answer + 1] = dead
end
answer[#answer + 1] = ''
local version = tonumber(redis.call('GET', KEYS[7]) or '0')
local known = tonumber(ARGV[2])
local oldest = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')[2]
if known > version or known == 0 or not oldest or known + 1 < tonumber(oldest) then
  answer[5] = 'whole'
  for _, value in ipairs(redis.call('HGETALL', KEYS[2])) do answer[#answer + 1] = value end
else
  answer[5] = 'part'
  for _, changed in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], '(' .. known, '+inf')) do
    answer[#answer + 1] = changed
    answer[#answer + 1] = redis.call('HGET', KEYS[2], changed) or ''
  end
end
-- Of nodes that are gone, the newest changes are enough: who knows less is told the whole.
redis.call('ZREMRANGEBYRANK', KEYS[6], 0, -4097)
answer[3] = string.format('%d', version)
answer[4] = string.format('%d', now - tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]))
if before ~= answer[3] then redis.call('SPUBLISH', KEYS[10], answer[3]) end
for index = 1, 9 do redis.call('PEXPIRE', KEYS[index], ARGV[8]) end
return answer
