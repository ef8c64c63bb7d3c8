-- Gives a message its place, keeps it and announces it: one round trip.
-- KEYS: space, room, log (persistent) or ring (recoverable), channel, [idempotency]
-- ARGV: 1 run of this connection's server  2 kind (1 recoverable, 2 persistent)  3 body  4 payload bytes
--       5 most entries  6 most bytes  7 oldest age, ms  8 the room's TTL, ms  [9 idempotency window, ms  10 message id]
-- Answers: the message's head (38 bytes); '\2' .. head .. id of the first one, if it is a repetition; 'run', if the space
-- was last written under another server, so that nothing may be written before it has been looked at (touch.lua).
-- See message.rs for the head, state.rs for the room's state.
local space = redis.call('HMGET', KEYS[1], 'e', 'run')
if space[2] ~= ARGV[1] then return 'run' end
local once = KEYS[5]
if once then
  local first = redis.call('GET', once)
  if first then return first end
end
local state = redis.call('GET', KEYS[2])
-- The first write. If memory is short or the server is read-only, it fails here, and nothing has changed.
local s = redis.call('HINCRBY', KEYS[1], 's', 1)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local o, q, lp, lc, lf, ln, rp, rc, rf, rn, began
if state and #state == 66 then
  o, q, lp, lc, lf, ln, rp, rc, rf, rn, began = struct.unpack('>I6I6I6I6I6I6I6I6I6I6I6', state)
end
-- A room not known (any more) starts at the space's number: so no offset is ever given twice in one epoch.
if not o or o >= s then
  local before = s - 1
  o, q, lp, lc, lf, ln, rp, rc, rf, rn, began = before, 0, before, 0, 0, 0, before, 0, 0, 0, before
end
o = o + 1
local persistent = ARGV[2] == '2'
local previous, bytes, first, due
if persistent then previous, bytes, first, due = lp, lc, lf, ln else previous, bytes, first, due = rp, rc, rf, rn end
bytes = bytes + ARGV[4]
local head = struct.pack('>I1I1I6I6I6I6I6I6', 1, persistent and 2 or 1, tonumber(space[1]), s, o, now, previous, bytes)
local value = head .. ARGV[3]
local id = string.format('%.0f-%.0f', s, o)
local added = redis.pcall('XADD', KEYS[3], 'MAXLEN', '=', ARGV[5], id, 'm', value)
if type(added) == 'table' and added.err then
  -- What is there is of an earlier life of the space, or not ours: a reader could not tell it from this life's.
  if not string.find(added.err, 'equal or smaller', 1, true) then return added end
  redis.call('DEL', KEYS[3])
  redis.call('XADD', KEYS[3], id, 'm', value)
  due = 0
end
local most = tonumber(ARGV[6])
if now >= due or bytes - first >= most + most / 16 then
  local age = tonumber(ARGV[7])
  local from = '-'
  for _ = 1, 64 do
    local entries = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', 64)
    local keep
    for _, entry in ipairs(entries) do
      local kept = entry[2][2]
      -- What is too short to be a message of ours goes with those before it.
      if kept and #kept >= 38 then
        local _, _, _, _, _, at, _, past = struct.unpack('>I1I1I6I6I6I6I6I6', kept)
        if at + age > now and bytes - past < most then
          keep = entry[1]
          first = past
          break
        end
      end
      from = '(' .. entry[1]
    end
    if keep then
      redis.call('XTRIM', KEYS[3], 'MINID', '=', keep)
      break
    end
    if #entries < 64 then break end
  end
  local every = math.floor(age / 64) + 1
  due = now + every
  redis.call('PEXPIRE', KEYS[3], string.format('%.0f', age + 2 * every + 1000))
end
if persistent then lp, lc, lf, ln = s, bytes, first, due else rp, rc, rf, rn = s, bytes, first, due end
redis.call('SET', KEYS[2], struct.pack('>I6I6I6I6I6I6I6I6I6I6I6', o, s, lp, lc, lf, ln, rp, rc, rf, rn, began), 'PX', ARGV[8])
if once then redis.call('SET', once, '\2' .. head .. ARGV[10], 'PX', ARGV[9]) end
redis.call('SPUBLISH', KEYS[4], value)
return head
