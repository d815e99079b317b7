// Prints every Page, and then every change. PAGESYNC_URL and PAGESYNC_KEY are set.
const { PAGESYNC_URL: url, PAGESYNC_KEY: key } = process.env;
async function api(path) {
  const answer = await fetch(`${url}/v1/${path}`, { headers: { Authorization: `Bearer ${key}` } });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}
let after = (await api("changes?after=newest")).cursor;
for (let next = ""; next !== null; ) {
  const part = await api(`pages?limit=500&after=${next}`);
  for (const page of part.pages) console.log(page.id, page.name);
  next = part.next;
}
for (;;) {
  const { changes, cursor } = await api(`changes?wait=30s&after=${after}`);
  for (const change of changes) console.log(JSON.stringify(change));
  after = cursor;
}
