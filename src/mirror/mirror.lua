-- Appends a batch of events to the stream, and publishes each on the channel.
-- KEYS[1]: the stream; KEYS[2]: the id of the log that owns this Redis. ARGV: the channel, the
-- stream's maximum length, the log's id, 1 if a Redis without an owner may be claimed (after
-- FLUSHALL), then for each event its room, seq, JSON and seal. One script, so that stream and
-- channel have the same order, and each message on the channel can carry its stream ID.
local owner = redis.call('GET', KEYS[2])
if owner == false and ARGV[4] == '1' then
    redis.call('SET', KEYS[2], ARGV[3])
elseif owner ~= ARGV[3] then
    return redis.error_reply('FOREIGN this Redis belongs to another log, or to none yet')
end
for i = 5, #ARGV, 4 do
    local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*',
        'room', ARGV[i], 'seq', ARGV[i + 1], 'event', ARGV[i + 2], 'seal', ARGV[i + 3])
    -- The same event, after its seal and stream ID.
    redis.call('PUBLISH', ARGV[1], '{"seal":"' .. ARGV[i + 3] .. '","stream_id":"' .. id .. '",'
        .. string.sub(ARGV[i + 2], 2))
end
return (#ARGV - 4) / 4
