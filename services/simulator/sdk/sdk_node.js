// Runs Meta's SDK for Node against the simulator and checks that it answers as Facebook does.
//
// The environment variables SIMULATOR_URL, FACEBOOK_APP_ID, FACEBOOK_APP_SECRET and
// FACEBOOK_REDIRECT_URI name the simulator and its app. Each failed check is one line, and the exit
// code is 1 if any check failed. The simulator keeps the Pages and subscriptions that the checks add.
'use strict';
const crypto = require('crypto');
const http = require('http');
const { isDeepStrictEqual } = require('util');
const sdk = require('facebook-nodejs-business-sdk');
const { APIRequest, Application, FacebookAdsApi, FacebookAdsApiBatch, Page, User } = sdk;

const { FACEBOOK_APP_ID: APP_ID, FACEBOOK_APP_SECRET: SECRET, FACEBOOK_REDIRECT_URI } = process.env;
const BASE = process.env.SIMULATOR_URL.replace(/\/$/, '');
const APP_TOKEN = `${APP_ID}|${SECRET}`;
const V = FacebookAdsApi.VERSION;
const SCOPES = 'pages_show_list,pages_read_engagement,pages_manage_metadata,pages_messaging,business_management';
const PAGES = [0, 1, 2, 3, 4].map((n) => ({ id: `10000000000200${n}`, name: `Page ${n}`, emails: ['a@example.org'] }));
const failures = [];

// Records a failed check as one line, unless what was found is what was wanted.
function same(sentence, found, wanted) {
  if (isDeepStrictEqual(found, wanted)) return;
  const line = `FAILED: ${sentence} Wanted: ${JSON.stringify(wanted)} Found: ${JSON.stringify(found)}`;
  failures.push(line.replace(/\n/g, ' ').slice(0, 2000));
}

// Returns the result of a call. If it fails, records that and returns null.
async function attempt(sentence, call) {
  try {
    return await call();
  } catch (error) {
    const body = error.response && (error.response.data || error.response);
    same(sentence, body || String(error), 'no error');
    return null;
  }
}

// Returns the SDK's exception with which a call fails.
const errorOf = (call) => call().then((found) => ({ name: 'no error', response: found }), (error) => error);
const codes = ({ name, response }) => [name, (response || {}).code, (response || {}).error_subcode];
const proof = (text) => crypto.createHmac('sha256', SECRET).update(text).digest('hex');
const apiOf = (token) => new FacebookAdsApi(token, 'en_US', false);
const pageOf = (id, api) => new Page(id, {}, null, api);

// Sends a request without the SDK and returns the decoded body. URLSearchParams and FormData are
// sent as forms; any other body is sent as JSON.
async function send(method, path, query = {}, body = undefined) {
  const isForm = !body || body instanceof URLSearchParams || body instanceof FormData;
  const content = isForm ? { body } : { body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } };
  const target = `${BASE}${path}?${new URLSearchParams(query)}`;
  const answer = await fetch(target, { method, redirect: 'manual', ...content });
  if (answer.headers.has('location')) return new URL(answer.headers.get('location'));
  const text = await answer.text();
  return /^[[{]/.test(text) ? JSON.parse(text) : text;
}

// Fails if an address names another host, so that the SDK does not call the real Facebook.
function refuseOtherHost(address) {
  if (!address.startsWith(BASE)) throw new Error(`paging names ${address}`);
}

// Logs in with the dialog, exchanges the code and the token. Returns the long-lived token.
async function logIn() {
  const query = { client_id: APP_ID, redirect_uri: FACEBOOK_REDIRECT_URI, state: 's', scope: SCOPES };
  const address = await send('POST', `/${V}/dialog/oauth`, query, new URLSearchParams({ decision: 'approve' }));
  const app = { client_id: APP_ID, client_secret: SECRET };
  const login = { ...app, redirect_uri: FACEBOOK_REDIRECT_URI, code: address.searchParams.get('code') };
  const short = await send('GET', `/${V}/oauth/access_token`, login);
  const exchange = { ...app, grant_type: 'fb_exchange_token', fb_exchange_token: short.access_token };
  const long = await apiOf(APP_TOKEN).call('GET', ['oauth', 'access_token'], exchange);
  same('fb_exchange_token returns a token for about 60 days.', Math.round(long.expires_in / 86400), 60);
  return long.access_token;
}

// Returns a Page of the checks with its own token, and the token.
async function ownPage(api) {
  const { access_token: token } = await pageOf(PAGES[0].id, api).read(['access_token']);
  return [pageOf(PAGES[0].id, apiOf(token)), token];
}

// Returns the fields of this app's subscription to a Page, or null if there is none.
async function subscribed(page) {
  const apps = await page.getSubscribedApps(['id', 'subscribed_fields']);
  const own = apps.find((app) => app.id === APP_ID);
  return own ? [...own._data.subscribed_fields].sort() : null;
}

// This check is the last one. It turns on "Require App Secret", which is the default of the simulator.
// The SDK for Node sends no proof of its own, so the other checks need the setting to be off.
async function checkProof({ api, token }) {
  const me = new User('me', {}, null, api);
  const refused = ['FacebookRequestError', 100, undefined];
  await send('PUT', '/_sim/graph-faults', {}, { require_proof: true });
  same('A missing proof is refused.', codes(await errorOf(() => me.get(['id']))), refused);
  const wrong = await errorOf(() => me.get(['id'], { appsecret_proof: proof('other') }));
  same('A wrong proof is refused.', codes(wrong), refused);
  const first = await me.getAccounts(['id'], { limit: 2, appsecret_proof: proof(token) });
  same('A right proof is accepted.', first.length, 2);
  // Users of this SDK report it: facebook/facebook-nodejs-business-sdk#316.
  const next = await errorOf(async () => refuseOtherHost(first.paging.next) || first.next());
  same('paging.next has no proof and is refused.', codes(next), refused);
}

async function checkTokens({ api, token, me }) {
  const { data } = await apiOf(APP_TOKEN).call('GET', ['debug_token'], { input_token: token });
  same('debug_token describes a token.', [data.type, data.is_valid, data.user_id], ['USER', true, me]);
  const answer = await attempt('The SDK asks for the app of its own token.', () => api.getAppID());
  if (answer) same('getAppID returns the app of the token.', answer.data.data.app_id, APP_ID);
}

async function checkPaging({ api }) {
  const ids = (await send('GET', '/_sim/pages')).map((page) => page.id).sort();
  const cursor = await new User('me', {}, null, api).getAccounts(['id', 'access_token'], { limit: 2 });
  const listed = [...cursor];
  same('The first result page has no `previous`.', cursor.hasPrevious(), false);
  await attempt('The SDK follows paging.next to the end.', async () => {
    while (cursor.hasNext()) {
      refuseOtherHost(cursor.paging.next);
      await cursor.next();
      listed.push(...cursor);
    }
  });
  same('The SDK lists each Page once.', listed.map((page) => page.id).sort(), ids);
  same('Each listed Page has its own token.', new Set(listed.map((page) => page.access_token || '')).size, ids.length);
  await attempt('The SDK follows paging.previous.', async () => {
    const again = await new User('me', {}, null, api).getAccounts(['id'], { limit: 2 });
    refuseOtherHost(again.paging.next);
    const second = (await again.next()).map((page) => page.id);
    await again.next();
    same('paging.previous returns the entries in front.', (await again.previous()).map((page) => page.id), second);
  });
}

async function checkReadsAndErrors({ api }) {
  const [page, token] = await ownPage(api);
  same("A Page's token reads the requested fields.", (await page.get(['id', 'name', 'emails']))._data, PAGES[0]);
  const field = await errorOf(() => page.get(['id', 'nonsense']));
  const missing = await errorOf(() => pageOf('123', api).get(['id']));
  const invalid = await errorOf(() => pageOf('123', apiOf('nonsense')).get(['id']));
  same('An unknown field is code 100.', codes(field), ['FacebookRequestError', 100, undefined]);
  same('An unknown object is code 100/33.', codes(missing), ['FacebookRequestError', 100, 33]);
  same('An invalid token is code 190.', codes(invalid), ['FacebookRequestError', 190, undefined]);
  const traces = new Set([field, missing, invalid].map((error) => error.response.fbtrace_id || ''));
  same('Each error has another fbtrace_id.', [traces.size, traces.has('')], [3, false]);
  const absent = ['www-authenticate', 'x-fb-request-id', 'x-fb-trace-id'].filter((name) => !(name in field.headers));
  same('An error has the headers of Facebook.', absent, []);
  const several = await send('GET', `/${V}/`, { access_token: token, ids: page.id });
  same('The read of `ids` without a node is an error since 2026-10-27.', 'error' in several, true);
  const unknown = [];
  for (const name of Object.values(Page.Fields)) {
    const { error } = await send('GET', `/${V}/${page.id}`, { access_token: token, fields: name });
    if (error && error.message.includes('nonexisting')) unknown.push(name);
  }
  same('A read knows each field of the SDK.', unknown, []);
}

async function checkSubscriptions({ api }) {
  const deliveries = [];
  const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', (part) => { body += part; });
    request.on('end', () => {
      if (body) deliveries.push(JSON.parse(body));
      response.end(new URL(request.url, BASE).searchParams.get('hub.challenge') || '');
    });
  });
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  const app = new Application(APP_ID, {}, null, apiOf(APP_TOKEN));
  const callback = `http://127.0.0.1:${server.address().port}/webhook`;
  const both = ['name', 'phone'];
  const wanted = { object: 'page', callback_url: callback, verify_token: 'v', include_values: 1, fields: both };
  await attempt('The SDK subscribes the app.', () => app.createSubscription([], wanted));
  const names = (await app.getSubscriptions([])).map((one) => one._data.fields.map((field) => field.name).sort());
  same('The app subscription has the list of fields.', names, [both]);
  const [page, token] = await ownPage(api);
  await attempt('The SDK subscribes to a Page.', () => page.createSubscribedApp([], { subscribed_fields: both }));
  same('The Page subscription has the list of fields.', await subscribed(page), both);
  await send('PATCH', `/_sim/pages/${page.id}`, {}, { name: 'A new name' });
  for (let i = 0; i < 50 && !deliveries.length; i += 1) await new Promise((resolve) => { setTimeout(resolve, 100); });
  const changes = deliveries.length ? deliveries[0].entry[0].changes : 'no delivery';
  same('include_values=1 sends values.', changes, [{ field: 'name', value: 'A new name' }]);
  const shown = (await page.getSubscribedApps(['id'])).map((one) => Object.keys(one._data));
  same('A list of apps has the requested fields only.', [...new Set(shown.flat())], ['id']);
  await page.deleteSubscribedApps();
  same('The Page subscription is deleted.', await subscribed(page), null);
  const address = `/${V}/${page.id}/subscribed_apps`;
  const subscribe = (fields) => send('POST', address, { access_token: token, subscribed_fields: fields });
  const message = (await subscribe('website,nonsense')).error.message;
  same('The error names the place in the list that was sent.', message.match(/\[\d+\]/)[0], '[1]');
  const unknown = [];
  for (const name of Object.values(Page.SubscribedFields)) {
    const { error } = await subscribe(name);
    if (error && error.code === 100) unknown.push(name);
  }
  same('A Page subscription knows each webhook field of the SDK.', unknown, []);
}

async function checkBatches({ api, token, me }) {
  const answers = [];
  const keep = (answer) => answers.push(answer.body.id || answer.body.error.code);
  const batch = new FacebookAdsApiBatch(api);
  batch.addRequest(new APIRequest(me, 'GET', '').addField('id'), keep, keep);
  batch.addRequest(new APIRequest(PAGES[1].id, 'GET', '').addField('id'), keep, keep);
  batch.add('get', 'me?fields=id', null, null, keep, keep);
  batch.add('GET', ['123'], null, null, keep, keep);
  await attempt('The SDK sends a batch.', () => batch.execute());
  same("Each call in the SDK's batch is answered.", answers, [me, PAGES[1].id, me, 100]);
  const parts = [{ method: 'GET', name: 'list', relative_url: 'me/accounts?limit=1&fields=id' },
    { method: 'GET', relative_url: '{result=list:$.data.*.id}?fields=id' }];
  const [named, user] = await send('POST', `/${V}/`, { access_token: token, batch: JSON.stringify(parts) });
  same('A batch uses the result of a named call and leaves that out.', [named, user && user.code], [null, 200]);
}

async function checkFormsOfRequests({ api }) {
  const [page, token] = await ownPage(api);
  const [own, address, both] = [{ access_token: token }, `/${V}/${page.id}/subscribed_apps`, ['name', 'phone']];
  const multipart = new FormData();
  multipart.append('subscribed_fields', '["name","phone"]');
  const form = (fields) => new URLSearchParams({ subscribed_fields: fields });
  const cases = [['with a list as JSON text', address, form(JSON.stringify(both))],
    ['with a JSON body', address, { subscribed_fields: both }], ['with a multipart body', address, multipart],
    ['to `me` as the Page', `/${V}/me/subscribed_apps`, form('name,phone')]];
  for (const [sentence, path, body] of cases) {
    await page.deleteSubscribedApps();
    await send('POST', path, own, body);
    same(`A Page subscription may be sent ${sentence}.`, await subscribed(page), both);
  }
  await send('POST', address, { ...own, subscribed_fields: 'name' });
  await send('POST', address, { ...own, method: 'delete' });
  same('The parameter `method=delete` deletes.', await subscribed(page), null);
}

async function main() {
  Object.defineProperty(FacebookAdsApi, 'GRAPH', { get: () => BASE });
  await send('POST', '/_sim/pages', {}, PAGES);
  await send('PUT', '/_sim/graph-faults', {}, { require_proof: false });
  const token = await logIn();
  const api = apiOf(token);
  const { id: me } = await new User('me', {}, null, api).get(['id']);
  const reads = [checkTokens, checkPaging, checkReadsAndErrors];
  for (const section of [...reads, checkSubscriptions, checkBatches, checkFormsOfRequests, checkProof]) {
    await attempt(`${section.name} reaches its end.`, () => section({ api, token, me }));
  }
  console.log(failures.join('\n') || 'Every check of the SDK for Node passed.');
  process.exit(failures.length ? 1 : 0);
}

main();
