-- Ends a node's membership by its own will. What it may still hold is taken back by the next member that looks.
-- KEYS: seen, info, numbers, cooling, dead, changed, version, since, load, channel
-- ARGV: 1 id  2 for how long its number is not given to another node, ms
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local id = ARGV[1]
local held = string.match(redis.call('HGET', KEYS[2], id) or '', '^%d+')
if redis.call('ZREM', KEYS[1], id) == 0 then return 0 end
redis.call('HDEL', KEYS[2], id)
redis.call('HDEL', KEYS[8], id)
redis.call('HDEL', KEYS[9], id)
if held and redis.call('HGET', KEYS[3], held) == id then
  redis.call('HDEL', KEYS[3], held)
  redis.call('HSET', KEYS[4], held, string.format('%d', now + tonumber(ARGV[2])) .. ':' .. id)
end
redis.call('ZADD', KEYS[5], string.format('%d', now), id)
local version = redis.call('INCR', KEYS[7])
redis.call('ZADD', KEYS[6], version, id)
redis.call('SPUBLISH', KEYS[10], version)
return 1
