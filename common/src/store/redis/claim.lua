-- Claims the due subjects of a queue: makes each due again when its lease ends.
-- KEYS[1] is the due index of the queue. ARGV contains now, now + lease, and the maximum number.
-- Returns each subject, followed by the time at which it was due.
local taken = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #taken, 2 do redis.call('ZADD', KEYS[1], 'XX', ARGV[2], taken[i]) end
return taken
