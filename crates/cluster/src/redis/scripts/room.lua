-- Where a room stands, who is in it, and what was published in it after a number: for following and catching up.
-- KEYS: space, room, log, ring, who, [channel of the asking node: the room's record is made then, so that the first message
--       after this can be told from one that was missed]
-- ARGV: 1 run  2 after this seq ('' if no messages are wanted)  3 up to this seq  4 most messages of each log
--       5 the room's TTL, ms  6 a mark, told on the channel: all before it comes before this answer, all after it after
-- Answers: 'run', or {epoch, seq, room's state, the log's first head or '', the ring's, now,
--          {messages of the log}, {messages of the ring}, {who, as a flat hash}, 1 if there is more than an answer may hold}.
local space = redis.call('HMGET', KEYS[1], 'e', 'run', 's')
if space[2] ~= ARGV[1] then return 'run' end
local s = tonumber(space[3])
local state = redis.call('GET', KEYS[2])
if not state or #state ~= 66 or struct.unpack('>I6', state) > s then
  state = struct.pack('>I6I6I6I6I6I6I6I6I6I6I6', s, 0, s, 0, 0, 0, s, 0, 0, 0, s)
  if KEYS[6] then redis.call('SET', KEYS[2], state, 'PX', ARGV[5]) end
elseif KEYS[6] then
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
end
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local firsts, found = {}, {}
local most, cut = tonumber(ARGV[4]), 0
for i = 1, 2 do
  local key = KEYS[2 + i]
  local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  firsts[i] = first and string.sub(first[2][2] or '', 1, 38) or ''
  local values = {}
  if ARGV[2] ~= '' and first then
    local after, bytes = '(' .. ARGV[2] .. '-18446744073709551615', 0
    while #values < most do
      local count = math.min(256, most - #values)
      local entries = redis.call('XRANGE', key, after, ARGV[3], 'COUNT', count)
      for _, entry in ipairs(entries) do
        values[#values + 1] = entry[2][2]
        bytes = bytes + #entry[2][2]
      end
      if #entries < count then break end
      if bytes > 16777216 then
        cut = 1
        break
      end
      after = '(' .. entries[#entries][1]
    end
  end
  found[i] = values
end
local who = redis.call('HGETALL', KEYS[5])
if KEYS[6] then
  if #who > 0 then redis.call('PEXPIRE', KEYS[5], ARGV[5]) end
  if ARGV[6] ~= '' then redis.call('SPUBLISH', KEYS[6], ARGV[6]) end
end
return {space[1], space[3], state, firsts[1], firsts[2], now, found[1], found[2], who, cut}
