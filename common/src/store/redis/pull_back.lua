-- Makes entries due now that lie further ahead than a maximum, up to 1,000 of each due index.
-- KEYS contains the due indexes. ARGV[1] is the maximum in milliseconds. The clock is that of this
-- server. Returns the number of entries.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local latest = string.format('(%.0f', now + tonumber(ARGV[1]))
local count = 0
for _, key in ipairs(KEYS) do
  for _, subject in ipairs(redis.call('ZRANGEBYSCORE', key, latest, '+inf', 'LIMIT', 0, 1000)) do
    redis.call('ZADD', key, 'XX', string.format('%.0f', now), subject)
    count = count + 1
  end
end
return count
