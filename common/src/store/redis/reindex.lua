-- Corrects the entries of some Pages in the indexes by status. KEYS[1] is the index of the Pages that
-- cannot be decoded; the other keys are the indexes in the order of the names in ARGV[1], and then the
-- Pages in the order of the ids in ARGV[2]. Both arguments are JSON lists.
local names, ids = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
for i, id in ipairs(ids) do
  local page, status = KEYS[1 + #names + i], ''
  if redis.call('TYPE', page).ok == 'hash' then status = redis.call('HGET', page, '_status') or '' end
  local index = KEYS[1]
  for at, name in ipairs(names) do
    if name == status then index = KEYS[1 + at] end
  end
  for at = 1, 1 + #names do
    if KEYS[at] ~= index then redis.call('ZREM', KEYS[at], id) end
  end
  redis.call('ZADD', index, 0, id)
end
