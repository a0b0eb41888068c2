-- Keeps a node's lease, or takes it if nobody has it.
-- KEYS[1]: the lease. ARGV: the holder's token, the lease's life in ms, and optionally a token that
-- may be replaced because its holder is dead. Returns the token that holds the lease.
local holder = redis.call('GET', KEYS[1])
if holder == false or holder == ARGV[1] or holder == ARGV[3] then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return ARGV[1]
end
return holder
