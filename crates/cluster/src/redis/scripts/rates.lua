-- Adds requests to buckets that all nodes share.
-- KEYS: the buckets of one limit
-- ARGV: 1 thousandths of a request per second  then of each bucket the requests to add
-- Answers: how far each is ahead of its rate then, in thousandths of a request.
-- As nginx counts: the first request of a key at rest is not ahead of anything. A bucket that has leaked out is forgotten.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local rate = tonumber(ARGV[1])
local ahead = {}
for i, key in ipairs(KEYS) do
  local added = ARGV[i + 1] * 1000
  local bucket = redis.call('GET', key)
  local excess = math.max(0, added - 1000)
  if bucket and #bucket == 14 then
    local before, last = struct.unpack('>I8I6', bucket)
    excess = math.max(0, before + added - math.floor(rate * math.max(0, now - last) / 1000))
  end
  local left = math.ceil((excess + 1000) * 1000 / rate) + 1000
  redis.call('SET', key, struct.pack('>I8I6', excess, now), 'PX', string.format('%.0f', left))
  ahead[i] = excess
end
return ahead
