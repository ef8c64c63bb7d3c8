-- Looks at a space's counters from a connection to a server, before anything is written there, and now and then after.
-- KEYS: space
-- ARGV: 1 run of this connection's server  2 epoch known ('' if none)  3 highest seq seen in it  4 run under which that was
--       seen  5 an epoch to use if a new one is needed  6 TTL, ms
-- Answers: {epoch, seq}.
local known = redis.call('HMGET', KEYS[1], 'e', 's', 'run', 'prev', 'base')
local e, s, run, prev, base = known[1], known[2], known[3], known[4], known[5]
if not (e and s and run) then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'e', ARGV[5], 's', 0, 'run', ARGV[1], 'prev', '', 'base', 0)
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
  return {ARGV[5], '0'}
end
if run ~= ARGV[1] then
  -- Restarted or failed over: what was beyond this number is lost, and whoever has seen it can prove it.
  prev, run, base = run, ARGV[1], s
  redis.call('HSET', KEYS[1], 'prev', prev, 'run', run, 'base', base)
end
if ARGV[2] == e then
  local seen = tonumber(ARGV[3])
  local lost = seen > tonumber(s)
  if not lost and ARGV[4] ~= run and seen > 0 then
    -- Seen under a server before the last one: what became of it nobody can say.
    lost = seen > tonumber(base) or ARGV[4] ~= prev
  end
  if lost then
    e = ARGV[5]
    redis.call('HSET', KEYS[1], 'e', e)
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return {e, s}
