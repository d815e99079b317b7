-- Takes what is due: KEYS[1] the due index of a queue, ARGV: now, now + lease, at most how many.
-- Answers subject, when it was due, subject, ...
local taken = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #taken, 2 do redis.call('ZADD', KEYS[1], 'XX', ARGV[2], taken[i]) end
return taken
