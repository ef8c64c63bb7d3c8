-- Messages of one of a room's logs by offset.
-- KEYS: space, room, log or ring
-- ARGV: 1 'after' or 'before'  2 offset ('' for the newest)  3 most messages
-- Answers: {epoch or '', room's state or '', now, {messages, oldest first for 'after', newest first for 'before'}}.
local space = redis.call('HGET', KEYS[1], 'e')
local state = redis.call('GET', KEYS[2])
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local function offset_of(entry) return tonumber(string.match(entry[1], '%-(%d+)$')) end
-- The id of the first entry with an offset of at least this. Offsets and numbers grow together: halve until it is found.
local function first_from(wanted)
  local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
  if not last or offset_of(last) < wanted then return nil end
  local first = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
  local low, high = tonumber(string.match(first[1], '^(%d+)')), tonumber(string.match(last[1], '^(%d+)'))
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = redis.call('XRANGE', KEYS[3], string.format('%.0f', middle), '+', 'COUNT', 1)[1]
    if offset_of(entry) >= wanted then high = middle else low = tonumber(string.match(entry[1], '^(%d+)')) + 1 end
  end
  return string.format('%.0f', high)
end
local entries = {}
if ARGV[1] == 'after' then
  local from = ARGV[2] == '0' and '-' or first_from(tonumber(ARGV[2]) + 1)
  if from then entries = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', ARGV[3]) end
else
  local upto = '+'
  if ARGV[2] ~= '' then
    local from = first_from(tonumber(ARGV[2]))
    if from then upto = '(' .. from .. '-0' end
  end
  entries = redis.call('XREVRANGE', KEYS[3], upto, '-', 'COUNT', ARGV[3])
end
local values = {}
for n, entry in ipairs(entries) do values[n] = entry[2][2] end
return {space or '', state or '', now, values}
