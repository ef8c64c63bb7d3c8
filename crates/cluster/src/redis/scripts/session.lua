-- Stores, claims or drops a session's record. Layout: node (16 hex digits), state (L live, K kept for its client's return,
-- T taken by who came to claim it, D dropped), length of the user's name (2 bytes), user, record.
-- KEYS: session, space
-- ARGV: 1 'save', 'drop' or 'claim'  2 node  3 TTL, ms  4 save: all after the node; claim: user  5 claim: run
-- Answers: save, drop: 1, or 0 if the session is another node's by now. claim: {epoch, seq, what was there} or nil, or 'run'.
local space
if ARGV[1] == 'claim' then
  space = redis.call('HMGET', KEYS[2], 'e', 's', 'run')
  if space[3] ~= ARGV[5] then return 'run' end
end
local there = redis.call('GET', KEYS[1])
if ARGV[1] == 'claim' then
  if not there then return nil end
  local state = string.sub(there, 17, 17)
  if state ~= 'L' and state ~= 'K' then return nil end
  local length = struct.unpack('>I2', there, 18)
  if string.sub(there, 20, 19 + length) ~= ARGV[4] then return nil end
  redis.call('SET', KEYS[1], ARGV[2] .. 'T' .. string.sub(there, 18), 'PX', ARGV[3])
  return {space[1], space[2], there}
end
if there and string.sub(there, 1, 16) ~= ARGV[2] then return 0 end
if ARGV[1] == 'save' then
  redis.call('SET', KEYS[1], ARGV[2] .. ARGV[4], 'PX', ARGV[3])
else
  -- The mark stays for a while: who had the session before could else store it again.
  redis.call('SET', KEYS[1], ARGV[2] .. 'D\0\0', 'PX', ARGV[3])
end
return 1
