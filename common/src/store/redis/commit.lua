-- Executes one commit: if all expected versions match, everything is written, otherwise nothing.
-- Redis does not undo the writes of a script that fails, so the script checks the types of all keys
-- before it writes.
-- KEYS contains every key that the commit touches. The commit in ARGV[1] is JSON and refers to keys
-- by their index in KEYS, from 1. Versions and times are strings, because Lua would round large
-- numbers. Durations are in milliseconds. Due times are in milliseconds since the UNIX epoch, on
-- the clock of the caller; one that is too far ahead of the clock of this server is lowered. Expiry times are in milliseconds since the UNIX epoch, on the clock
-- of this server.
local commit = cjson.decode(ARGV[1])

local function has_type(key, wanted)
  return redis.call('TYPE', key).ok == wanted
end

-- Returns whether INCR and HINCRBY accept a text, and cannot overflow.
local function is_integer(text)
  return text == '0' or (#text <= 16 and string.match(text, '^-?[1-9]%d*$') ~= nil)
end

local function version(key)
  if not has_type(key, 'hash') then return '0' end
  -- A version that is not a number counts as 0, as in `reply.rs`.
  return string.match(redis.call('HGET', key, '_version') or '', '^[1-9]%d*$') or '0'
end

for _, expectation in ipairs(commit.expect) do
  if version(KEYS[expectation.key]) ~= expectation.version then return 'stale' end
end

-- A key that all commits share and that another program has overwritten is an error of the
-- database. A key of one Page or record is replaced instead, so that the others are not affected.
local shared = {}
for _, record in ipairs(commit.records) do
  shared[record.index], shared[record.expiry] = 'zset', 'zset'
end
for _, due in ipairs(commit.due) do
  for _, other in ipairs(due.others) do shared[other] = 'zset' end
  if due.queue then shared[due.queue] = 'zset' end
end
local page = commit.page
if page then
  shared[page.index], shared[page.status_index], shared[page.page_index] = 'zset', 'zset', 'zset'
  for _, other in ipairs(page.other_status_indexes) do shared[other] = 'zset' end
  shared[page.feed], shared[page.feed_position], shared[page.feed_changes] = 'stream', 'string', 'hash'
end
for key, wanted in pairs(shared) do
  local found = redis.call('TYPE', KEYS[key]).ok
  if found ~= wanted and found ~= 'none' then
    return redis.error_reply('ERR ' .. KEYS[key] .. ' contains a ' .. found .. ' instead of a ' .. wanted)
  end
end
if page then
  local position = redis.call('GET', KEYS[page.feed_position]) or '0'
  if not is_integer(position) then
    return redis.error_reply('ERR ' .. KEYS[page.feed_position] .. ' does not contain a number')
  end
end

local function next_version(key)
  return string.format('%d', tonumber(version(key)) + 1)
end

-- Deletes a key that contains a value of another type. DEL is called only if there is something to
-- delete. A full Redis refuses HSET but not DEL, and after a first write it executes the rest of a
-- script in any case.
local function delete_unless(key, wanted)
  if not has_type(key, wanted) and redis.call('EXISTS', key) == 1 then redis.call('DEL', key) end
end

-- Returns the members of a Page in the index of clients, connections and unpublished Pages.
local function index_members(attributes)
  local members = {}
  local function add(kind, value) members[kind .. '\0' .. value .. '\0' .. page.id] = true end
  if attributes['_client'] then add('client', attributes['_client']) end
  if attributes['is_published'] == 'false' then add('unpublished', '') end
  local is_json, people = pcall(cjson.decode, attributes['_connections'] or '[]')
  if is_json and type(people) == 'table' then
    for _, person in ipairs(people) do
      if type(person) == 'string' then add('connection', person) end
    end
  end
  return members
end

if page then
  local key = KEYS[page.key]
  local new_version = next_version(key)
  local stored = {}
  delete_unless(key, 'hash')
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do stored[flat[i]] = flat[i + 1] end
  -- Only attributes that changed are written, which keeps the append-only file small.
  local changed, removed = { '_version', new_version }, {}
  for name, text in pairs(page.attributes) do
    if stored[name] ~= text then changed[#changed + 1] = name; changed[#changed + 1] = text end
  end
  for name in pairs(stored) do
    if name ~= '_version' and page.attributes[name] == nil then removed[#removed + 1] = name end
  end
  redis.call('HSET', key, unpack(changed))
  if #removed > 0 then redis.call('HDEL', key, unpack(removed)) end
  redis.call('ZADD', KEYS[page.index], 0, page.id)
  if stored['_status'] ~= page.attributes['_status'] then
    for _, other in ipairs(page.other_status_indexes) do redis.call('ZREM', KEYS[other], page.id) end
    redis.call('ZADD', KEYS[page.status_index], 0, page.id)
  end
  local function differs(name) return stored[name] ~= page.attributes[name] end
  if differs('_client') or differs('_connections') or differs('is_published') then
    local before, after = index_members(stored), index_members(page.attributes)
    for member in pairs(before) do
      if not after[member] then redis.call('ZREM', KEYS[page.page_index], member) end
    end
    for member in pairs(after) do redis.call('ZADD', KEYS[page.page_index], 0, member) end
  end
  if page.delete_history then redis.call('DEL', KEYS[page.history]) end
  local has_changes = #page.entries > 0
  if has_changes then
    delete_unless(KEYS[page.history], 'list')
    for _, entry in ipairs(page.entries) do redis.call('LPUSH', KEYS[page.history], entry) end
    redis.call('LTRIM', KEYS[page.history], 0, page.max_history - 1)
  end
  -- A new Page without a value is no change.
  local is_new = next(stored) == nil
  local has_new_status = stored['_status'] ~= page.attributes['_status']
  local former_client = stored['_client']
  -- The client of an erased Page is not stored, but its entry names it.
  local has_new_client = former_client ~= page.client
  if has_changes or (not is_new and (has_new_status or has_new_client)) then
    local position = redis.call('INCR', KEYS[page.feed_position])
    local fields = { 'entry', page.feed_entry }
    if has_new_client and not is_new then fields[3], fields[4] = 'former_client', former_client or '' end
    redis.call('XADD', KEYS[page.feed], 'MAXLEN', '~', page.max_feed, string.format('%d-0', position), unpack(fields))
    if has_changes then redis.call('HSET', KEYS[page.feed_changes], string.format('%d', position), page.changes) end
    redis.call('HDEL', KEYS[page.feed_changes], string.format('%d', position - page.max_feed))
  end
end

for _, record in ipairs(commit.records) do
  local key, index, expiry = KEYS[record.key], KEYS[record.index], KEYS[record.expiry]
  -- TIME returns seconds, and microseconds within the second.
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  -- Redis deletes an expired record, but its id stays in the index. Each write removes up to eight
  -- such ids.
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', expiry, '-inf', string.format('%.0f', now_ms), 'LIMIT', 0, 8)) do
    redis.call('ZREM', index, id)
    redis.call('ZREM', expiry, id)
  end
  if record.op == 'put' then
    delete_unless(key, 'hash')
    redis.call('HSET', key, '_version', next_version(key), 'body', record.body)
    redis.call('ZADD', index, 0, record.id)
    if record.ttl then
      redis.call('PEXPIRE', key, record.ttl)
      redis.call('ZADD', expiry, string.format('%.0f', now_ms + tonumber(record.ttl)), record.id)
    else
      redis.call('PERSIST', key)
      redis.call('ZREM', expiry, record.id)
    end
  elseif record.op == 'delete' then
    redis.call('DEL', key)
    redis.call('ZREM', index, record.id)
    redis.call('ZREM', expiry, record.id)
  else
    -- A body that is not a whole number was written by a newer version, and stays as it is.
    local body = '0'
    if redis.call('EXISTS', key) == 1 then
      body = has_type(key, 'hash') and redis.call('HGET', key, 'body') or ''
    end
    if is_integer(body) then
      redis.call('HSET', key, '_version', next_version(key))
      redis.call('HINCRBY', key, 'body', record.n)
      redis.call('ZADD', index, 0, record.id)
    end
  end
end

-- A host whose clock is wrong must not postpone a poll for ever.
local latest
if #commit.due > 0 then
  local time = redis.call('TIME')
  latest = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(commit.max_due_ahead)
  latest = math.max(latest, tonumber(commit.earliest_limit))
end
for _, due in ipairs(commit.due) do
  for _, other in ipairs(due.others) do redis.call('ZREM', KEYS[other], due.subject) end
  if due.queue then
    local at = due.at
    if tonumber(at) > latest then at = string.format('%.0f', latest) end
    redis.call('ZADD', KEYS[due.queue], at, due.subject)
  end
end

return 'applied'
