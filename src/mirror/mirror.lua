-- Puts a batch of events on the stream and tells those who listen.
-- KEYS[1]: the stream; KEYS[2]: whose Redis this is. ARGV: the channel, the stream's length, the
-- log's id, 1 if a Redis that is nobody's may be taken for it (FLUSHALL), then for each event its
-- room, its seq, its JSON and its seal. One script, so that the order of the stream is the order of
-- the channel, and each message on the channel can say where it stands in the stream.
local owner = redis.call('GET', KEYS[2])
if owner == false and ARGV[4] == '1' then
    redis.call('SET', KEYS[2], ARGV[3])
elseif owner ~= ARGV[3] then
    return redis.error_reply('FOREIGN this Redis belongs to another log, or to none yet')
end
for i = 5, #ARGV, 4 do
    local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*',
        'room', ARGV[i], 'seq', ARGV[i + 1], 'event', ARGV[i + 2], 'seal', ARGV[i + 3])
    -- The same event, behind its seal and the stream's ID.
    redis.call('PUBLISH', ARGV[1], '{"seal":"' .. ARGV[i + 3] .. '","stream_id":"' .. id .. '",'
        .. string.sub(ARGV[i + 2], 2))
end
return (#ARGV - 4) / 4
