-- Claims the due subjects of a queue: makes each due again when its lease ends.
-- KEYS[1] is the due index of the queue. ARGV contains now, now + lease, and the maximum number of
-- subjects. All times are in milliseconds since the UNIX epoch, on the clock of the caller.
-- Returns each subject, followed by the time at which it was due.
local claimed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #claimed, 2 do redis.call('ZADD', KEYS[1], 'XX', ARGV[2], claimed[i]) end
return claimed
