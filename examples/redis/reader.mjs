// Prints the name of a Page and its last change from Redis. Needs the package redis; REDIS_URL names the
// user reader.
import { createRequire } from "node:module";
const { createClient } = createRequire(process.cwd() + "/")("redis");
const store = await createClient({ url: process.env.REDIS_URL }).connect();
const page = process.argv[2];
console.log(await store.hGet(`{pagesync}:page:${page}`, "name"));
for (const entry of await store.lRange(`{pagesync}:history:${page}`, 0, 0)) {
  console.log(JSON.parse(entry).after);
}
await store.quit();
