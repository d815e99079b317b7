# Prints the name of a Page and its last change from Redis. Needs the package redis; REDIS_URL names the
# user reader.
import json, os, sys, redis

store = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
page = sys.argv[1]
print(store.hget("{pagesync}:page:" + page, "name"))
for entry in store.lrange("{pagesync}:history:" + page, 0, 0):
    print(json.loads(entry)["after"])
