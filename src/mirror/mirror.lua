-- Puts a batch of events on the stream and tells those who listen.
-- KEYS[1]: the stream. ARGV: the channel, the stream's length, then for each event its room, its seq
-- and its JSON. One script, so that the order of the stream is the order of the channel, and each
-- message on the channel can say where it stands in the stream.
for i = 3, #ARGV, 3 do
    local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*',
        'room', ARGV[i], 'seq', ARGV[i + 1], 'event', ARGV[i + 2])
    -- The same event, with the stream's ID as its first key.
    redis.call('PUBLISH', ARGV[1], '{"stream_id":"' .. id .. '",' .. string.sub(ARGV[i + 2], 2))
end
return (#ARGV - 2) / 3
