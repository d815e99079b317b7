-- Corrects the entries of some Pages in the indexes by status, and adds missing ones to the index of
-- clients, connections and unpublished Pages. KEYS[1] is the index of the Pages that cannot be decoded; the other keys are
-- the indexes in the order of the names in ARGV[1], the index of clients and connections, and then the
-- Pages in the order of the ids in ARGV[2]. Both arguments are JSON lists.
local names, ids = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local page_index = KEYS[2 + #names]
for i, id in ipairs(ids) do
  local page, status, client, connections, published = KEYS[2 + #names + i], '', false, false, false
  if redis.call('TYPE', page).ok == 'hash' then
    status, client, connections, published = unpack(redis.call('HMGET', page, '_status', '_client', '_connections', 'is_published'))
  end
  if published == 'false' then
    redis.call('ZADD', page_index, 0, 'unpublished\0\0' .. id)
  else
    redis.call('ZREM', page_index, 'unpublished\0\0' .. id)
  end
  if client then redis.call('ZADD', page_index, 0, 'client\0' .. client .. '\0' .. id) end
  local is_json, people = pcall(cjson.decode, connections or '[]')
  if is_json and type(people) == 'table' then
    for _, person in ipairs(people) do
      if type(person) == 'string' then redis.call('ZADD', page_index, 0, 'connection\0' .. person .. '\0' .. id) end
    end
  end
  local index = KEYS[1]
  for at, name in ipairs(names) do
    if name == status then index = KEYS[1 + at] end
  end
  for at = 1, 1 + #names do
    if KEYS[at] ~= index then redis.call('ZREM', KEYS[at], id) end
  end
  redis.call('ZADD', index, 0, id)
end
