-- Values under names, with an index of the names by their end.
-- KEYS: index, [value]
-- ARGV: 1 'keep', 'set', 'remove', 'take' or 'list'  2 name, or how many  3 value, or the beginning of values' keys  4 TTL, ms
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local what = ARGV[1]
if what == 'list' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
  local listed = {}
  for _, name in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, ARGV[2] - 1)) do
    local value = redis.call('GET', ARGV[3] .. name)
    if value then
      listed[#listed + 1] = name
      listed[#listed + 1] = value
    end
  end
  return listed
end
if what == 'take' or what == 'remove' then
  redis.call('ZREM', KEYS[1], ARGV[2])
  if what == 'take' then return redis.call('GETDEL', KEYS[2]) end
  redis.call('DEL', KEYS[2])
  return nil
end
if what == 'keep' then
  local there = redis.call('GET', KEYS[2])
  if there then return there end
end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
local ends = now + tonumber(ARGV[4])
redis.call('ZADD', KEYS[1], string.format('%.0f', ends), ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
-- The index lives as long as its longest-lived value.
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return nil
