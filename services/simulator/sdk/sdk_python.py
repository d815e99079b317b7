"""Runs Meta's SDK for Python against the simulator and checks that it answers as Facebook does.

The environment variables SIMULATOR_URL, FACEBOOK_APP_ID, FACEBOOK_APP_SECRET and
FACEBOOK_REDIRECT_URI name the simulator and its app. Each failed check is one line, and the exit
code is 1 if any check failed. The simulator keeps the Pages and subscriptions that the checks add.
"""
import hashlib
import hmac
import http.client
import http.server
import json
import os
import sys
import threading
import time
import warnings
from urllib.parse import parse_qs, urlencode, urlsplit

from facebook_business.adobjects.application import Application
from facebook_business.adobjects.page import Page
from facebook_business.adobjects.user import User
from facebook_business.api import FacebookAdsApi
from facebook_business.exceptions import FacebookRequestError
from facebook_business.session import FacebookSession

BASE = os.environ["SIMULATOR_URL"].rstrip("/")
APP_ID, SECRET = os.environ["FACEBOOK_APP_ID"], os.environ["FACEBOOK_APP_SECRET"]
REDIRECT = os.environ["FACEBOOK_REDIRECT_URI"]
V = FacebookAdsApi.API_VERSION
SCOPES = ["pages_show_list", "pages_read_engagement", "pages_manage_metadata", "business_management"]
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
PAGES = [{"id": f"1000000000010{n:02}", "name": f"Page {n}", "emails": ["a@example.org"],
          "location": {"city": "Berlin", "zip": "10115"}} for n in range(5)]
failures, deliveries = [], []

def same(sentence, found, wanted):
    """Records a failed check as one line, unless what was found is what was wanted."""
    if found != wanted:
        failures.append(f"FAILED: {sentence} Wanted: {wanted} Found: {found}".replace("\n", " ")[:400])

def attempt(sentence, call):
    """Returns the result of a call. If it raises an error, records that and returns None."""
    try:
        return call()
    except Exception as error:
        same(sentence, error.body() if isinstance(error, FacebookRequestError) else repr(error), "no error")

def error_of(call):
    """Returns the code, subcode, type and fbtrace_id of the SDK's exception that a call raises."""
    try:
        return [call()], None
    except FacebookRequestError as error:
        found = [error.api_error_code(), error.api_error_subcode(), error.api_error_type()]
        return found, error.body()["error"].get("fbtrace_id")

def proof(text):
    return hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()

def signed(token, **more):
    return {"access_token": token, "appsecret_proof": proof(token), **more}

def send(method, path, query=None, body=None, kind=FORM):
    """Sends a request without the SDK. Returns the decoded body, or the headers if it is not JSON."""
    connection = http.client.HTTPConnection(urlsplit(BASE).netloc, timeout=20)
    if not isinstance(body, (str, type(None))):
        body = json.dumps(body) if kind == JSON else urlencode(body)
    target = path + ("?" + urlencode(query) if query else "")
    connection.request(method, target, body, {"Content-Type": kind} if body else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    return json.loads(text) if text.startswith(("{", "[")) else answer.headers

def api_of(token):
    return FacebookAdsApi(FacebookSession(APP_ID, SECRET, token))

def own_page(api, at=0):
    """Returns a Page of the checks with its own token, and the token."""
    token = Page(PAGES[at]["id"], api=api).api_get(fields=["access_token"])["access_token"]
    return Page(PAGES[at]["id"], api=api_of(token)), token

def subscribed(page):
    """Returns the fields of this app's subscription to a Page, or None if there is none."""
    apps = {app["id"]: app for app in page.get_subscribed_apps(fields=["id", "subscribed_fields"])}
    return sorted(apps[APP_ID]["subscribed_fields"]) if APP_ID in apps else None

class Callback(http.server.BaseHTTPRequestHandler):
    """The webhook address of the app. It answers the verification and keeps each delivery."""

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        deliveries.extend([json.loads(body)] if body else [])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(parse_qs(urlsplit(self.path).query).get("hub.challenge", [""])[0].encode())

    do_GET = do_POST = answer
    log_message = lambda *_: None

def log_in():
    """Logs in with the dialog, exchanges the code and the token. Returns the long-lived token."""
    query = {"client_id": APP_ID, "redirect_uri": REDIRECT, "state": "s", "scope": ",".join(SCOPES)}
    location = send("POST", f"/{V}/dialog/oauth", query, {"decision": "approve"})["location"]
    app = {"client_id": APP_ID, "client_secret": SECRET}
    form = {**app, "redirect_uri": REDIRECT, "code": parse_qs(urlsplit(location).query)["code"][0]}
    short = send("POST", f"/{V}/oauth/access_token", body=form)["access_token"]
    second = send("POST", f"/{V}/oauth/access_token", body=form).get("error", {})
    same("A code can be exchanged once.", [second.get("code"), second.get("error_subcode")], [100, 36009])
    exchange = {**app, "grant_type": "fb_exchange_token", "fb_exchange_token": short}
    long = api_of(short).call("GET", ("oauth", "access_token"), exchange).json()
    found = [long["token_type"], long["expires_in"] // 86400 in (59, 60)]
    same("fb_exchange_token returns a bearer token for about 60 days.", found, ["bearer", True])
    return long["access_token"]

def check_tokens(api, token, me):
    def debug(text):
        app = api_of(f"{APP_ID}|{SECRET}")
        return app.call("GET", ("debug_token",), {"input_token": text}).json()["data"]
    person, page, other = debug(token), debug(own_page(api)[1]), debug("nonsense")
    found = [person["type"], person["is_valid"], person["user_id"], set(SCOPES) <= set(person["scopes"])]
    same("debug_token describes the token of a person.", found, ["USER", True, me, True])
    found = [page["type"], page["expires_at"], page["profile_id"]]
    same("The Page token of a long-lived token never expires.", found, ["PAGE", 0, PAGES[0]["id"]])
    same("debug_token describes an invalid token.", [other["is_valid"], other["error"]["code"]], [False, 190])

def check_proof(api, token, me):
    def code(text, **time_of_proof):
        query = {"access_token": token, **time_of_proof, **({"appsecret_proof": proof(text)} if text else {})}
        return send("GET", f"/{V}/me", query).get("error", {}).get("code")
    same("The SDK sends the proof.", api._session.requests.params.get("appsecret_proof"), proof(token))
    same("A missing proof is refused.", code(None), 100)
    same("A wrong proof is refused.", code("other"), 100)
    recent, old = (str(int(time.time()) - seconds) for seconds in (5, 900))
    same("A proof with a recent appsecret_time is accepted.", code(f"{token}|{recent}", appsecret_time=recent), None)
    same("A proof with an old appsecret_time is refused.", code(f"{token}|{old}", appsecret_time=old), 100)

def check_paging(api, token, me):
    ids = sorted(page["id"] for page in send("GET", "/_sim/pages"))
    cursor = User("me", api=api).get_accounts(fields=["id", "access_token"], params={"limit": 2})
    total, pages = cursor.total(), list(cursor)
    same("The SDK's iterator returns each Page once.", [total, *sorted(page["id"] for page in pages)], [len(ids), *ids])
    same("Each listed Page has its own token.", len({page.get("access_token") for page in pages} - {None}), len(ids))
    sentence = "The list can be read with the person's id instead of `me`."
    attempt(sentence, lambda: same(sentence, len(list(User(me, api=api).get_accounts(fields=["id"]))), len(ids)))

    def read(**more):
        answer = api.call("GET", ("me", "accounts"), {"limit": 2, "fields": "id,phone", **more}).json()
        return [page["id"] for page in answer["data"]], answer["paging"]
    _, paging_1 = read()
    second, paging_2 = read(after=paging_1["cursors"]["after"])
    same("Only the second result page has `previous`.", ["previous" in paging_1, "previous" in paging_2], [False, True])
    _, paging_3 = read(after=paging_2["cursors"]["after"])
    same("`before` returns the entries in front of it.", read(before=paging_3["cursors"]["before"])[0], second)
    address, query = paging_1["next"].split("?")
    same("paging.next names the called host, the version and the person.", address, f"{BASE}/{V}/{me}/accounts")
    found = {name: values[0] for name, values in parse_qs(query).items()}
    found = [found.get(name) for name in ("access_token", "fields", "limit", "appsecret_proof")]
    same("paging.next has the call's own parameters, but no proof.", found, [token, "id,phone", "2", None])

def check_reads_and_errors(api, token, me):
    found = own_page(api)[0].api_get(fields=["id", "name", "emails", "location{city}"]).export_all_data()
    city = found.pop("location")
    same("A Page's token reads the requested fields.", found, {n: PAGES[0][n] for n in ("id", "name", "emails")})
    same("A read returns the requested subfields only.", city, {"city": "Berlin"})
    same("`fields` restricts `/me`.", User("me", api=api).api_get(fields=["id"]).export_all_data(), {"id": me})
    field, trace_1 = error_of(lambda: own_page(api)[0].api_get(fields=["id", "nonsense"]))
    missing, trace_2 = error_of(lambda: Page("123", api=api).api_get(fields=["id"]))
    invalid, trace_3 = error_of(lambda: Page("123", api=api_of("nonsense")).api_get(fields=["id"]))
    same("An unknown field is code 100.", field, [100, None, "OAuthException"])
    same("An unknown object is code 100/33.", missing, [100, 33, "GraphMethodException"])
    same("An invalid token is code 190.", invalid, [190, None, "OAuthException"])
    same("Each error has another fbtrace_id.", len({trace_1, trace_2, trace_3} - {None}), 3)
    page, _ = own_page(api, 4)
    send("DELETE", "/_sim/tokens", body={"page": page["id"], "subcode": 460}, kind=JSON)
    invalid, _ = error_of(lambda: page.api_get(fields=["id"]))
    same("A token that became invalid is code 190 with a subcode.", invalid, [190, 460, "OAuthException"])

def check_subscriptions(api, token, me):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Callback)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    app, page = Application(APP_ID, api=api_of(f"{APP_ID}|{SECRET}")), own_page(api)[0]
    wanted = {"object": "page", "callback_url": f"http://127.0.0.1:{server.server_port}/webhook",
              "verify_token": "v", "include_values": 1}
    app.create_subscription(params={**wanted, "fields": ["name", "website"]})
    found = [sorted(field["name"] for field in one["fields"]) for one in app.get_subscriptions()]
    same("The app subscription has the SDK's list of fields.", found, [["name", "website"]])
    app.create_subscription(params={**wanted, "fields": "name,website"})
    page.create_subscribed_app(params={"subscribed_fields": "name"})
    send("PATCH", f"/_sim/pages/{page['id']}", body={"name": "A new name"}, kind=JSON)
    for _ in range(100):
        time.sleep(0 if deliveries else 0.1)
    found = deliveries[-1]["entry"][0].get("changes") if deliveries else "no delivery"
    same("include_values=1 sends values.", found, [{"field": "name", "value": "A new name"}])
    params = {"subscribed_fields": [Page.SubscribedFields.name, Page.SubscribedFields.website]}
    attempt("The SDK subscribes to a Page.", lambda: page.create_subscribed_app(params=params))
    same("A Page subscription has the SDK's list of fields.", subscribed(page), ["name", "website"])
    page.delete_subscribed_apps()
    same("A Page subscription is deleted.", subscribed(page), None)

def check_batches(api, token, me):
    page, page_token = own_page(api)
    answers, batch = [], api.new_batch()
    for read in (User("me", api=api), Page(page["id"], api=api), Page("123", api=api)):
        read.api_get(fields=["id"], batch=batch, success=answers.append, failure=answers.append)
    batch.execute()
    found = [[one.status(), one.json().get("id")] for one in answers]
    same("Each call in the SDK's batch is answered.", found, [[200, me], [200, page["id"]], [400, None]])
    form = urlencode(signed(page_token, subscribed_fields="phone"))
    address = f"{V}/{page['id']}/subscribed_apps"
    parts = [{"method": "post", "relative_url": address, "body": form}] + [
        {"method": method, "relative_url": f"{address}?{form}"} for method in ("get", "delete")]
    found = send("POST", f"/{V}/", body=signed(token, batch=json.dumps(parts), include_headers="false"))
    same("A batch may have lower-case methods and other tokens.", [part["code"] for part in found], [200] * 3)
    same("include_headers=false leaves out the headers.", ["headers" in part for part in found], [False] * 3)

def check_forms_of_requests(api, token, me):
    page, page_token = own_page(api)
    address, own, both = f"/{V}/{page['id']}/subscribed_apps", signed(page_token), ["name", "website"]
    as_text = {**own, "subscribed_fields": json.dumps(both)}
    part = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'.format
    multipart = "".join(part(*pair) for pair in as_text.items()) + "--x--\r\n"
    for sentence, query, body, kind in (
            ("a list as JSON text", None, as_text, FORM),
            ("a list as name[0]", own, "subscribed_fields[0]=name&subscribed_fields[1]=website", FORM),
            ("a list as name[]", own, "subscribed_fields[]=name&subscribed_fields[]=website", FORM),
            ("a JSON body", None, {**own, "subscribed_fields": both}, JSON),
            ("a multipart body", None, multipart, "multipart/form-data; boundary=x")):
        page.delete_subscribed_apps()
        send("POST", address, query, body, kind)
        same(f"A Page subscription may be sent with {sentence}.", subscribed(page), both)
    for query, body in (({**own, "method": "delete"}, None), (None, {**own, "method": "DELETE"})):
        page.create_subscribed_app(params={"subscribed_fields": "name"})
        send("POST", address, query, body)
        same("The parameter `method=delete` deletes.", subscribed(page), None)
    found = send("POST", f"/{V}/me", body=signed(token, method="get", fields="id"))
    same("The parameter `method=get` reads.", found.get("id"), me)

def main():
    FacebookSession.GRAPH = BASE
    warnings.simplefilter("ignore")
    send("POST", "/_sim/pages", body=PAGES, kind=JSON)
    token = log_in()
    api = api_of(token)
    me = User("me", api=api).api_get(fields=["id"])["id"]
    for name, section in [pair for pair in globals().items() if pair[0].startswith("check_")]:
        attempt(f"{name} reaches its end.", lambda: section(api, token, me))
    print("\n".join(failures) or "Every check of the SDK for Python passed.")
    sys.exit(1 if failures else 0)

main()
